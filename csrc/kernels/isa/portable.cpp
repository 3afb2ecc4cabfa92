// Any CPU: 64-bit integer arithmetic. A word holds two channels; bits are counted into bytes by the
// classic tree of masks (Warren, Hacker's Delight, 5-1), since baseline x86-64 has no popcount.
#include "kernels/bgemm_inl.h"
#include "kernels/isa/isa.h"
#include "kernels/rows_inl.h"

namespace bitinfer {
namespace {

struct Portable {
  using Word = uint64_t;
  using Counter = uint64_t;  // eight bytes
  struct Sum {
    int32_t lane[2];
  };
  static constexpr int kLanes = 2;
  static constexpr int kParts = kPanelWidth / kLanes;
  static constexpr int kTileRows = 2;
  static constexpr int kTilePanels = 1;
  static constexpr int64_t kMaxSteps = 31;

  static Word load(const uint32_t* p) {
    Word word;
    std::memcpy(&word, p, sizeof word);
    return word;
  }
  static Word broadcast(uint32_t word) { return word * 0x100000001u; }
  static Word bit_xor(Word a, Word b) { return a ^ b; }
  static Word bit_and(Word a, Word b) { return a & b; }
  static Counter count(Counter counter, Word word) {
    word -= (word >> 1) & 0x5555555555555555u;
    word = (word & 0x3333333333333333u) + ((word >> 2) & 0x3333333333333333u);
    return counter + ((word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fu);
  }
  static void opaque(Word& word) { __asm__ volatile("" : "+r"(word)); }
  static Counter begin(Sum) { return 0; }
  static Sum end(Sum sum, Counter counter) {
    const uint64_t pairs = (counter & 0x00ff00ff00ff00ffu) + ((counter >> 8) & 0x00ff00ff00ff00ffu);
    const uint64_t lanes = (pairs & 0x0000ffff0000ffffu) + ((pairs >> 16) & 0x0000ffff0000ffffu);
    return {{sum.lane[0] + static_cast<int32_t>(lanes & 0xffffffffu),
             sum.lane[1] + static_cast<int32_t>(lanes >> 32)}};
  }
  static Sum zero() { return set_sums(0); }
  static Sum set_sums(int32_t value) { return {{value, value}}; }
  static Sum load_sums(const int32_t* p) { return {{p[0], p[1]}}; }
  static Sum add(Sum a, Sum b) { return {{a.lane[0] + b.lane[0], a.lane[1] + b.lane[1]}}; }
  static Sum sub(Sum a, Sum b) { return {{a.lane[0] - b.lane[0], a.lane[1] - b.lane[1]}}; }
  static void store(int32_t* out, Sum sum) { std::memcpy(out, sum.lane, sizeof sum.lane); }
  static void store_u16(uint16_t* out, Sum sum) {
    out[0] = static_cast<uint16_t>(sum.lane[0]);
    out[1] = static_cast<uint16_t>(sum.lane[1]);
  }
  static uint32_t less(Sum sum, const int32_t* limit) {
    return (sum.lane[0] < limit[0]) | (sum.lane[1] < limit[1]) << 1;
  }
  static uint32_t greater(Sum sum, const int32_t* limit) {
    return (sum.lane[0] > limit[0]) | (sum.lane[1] > limit[1]) << 1;
  }
  static uint64_t less_u16(const uint16_t* x, uint16_t limit) {
    uint64_t bits = 0;
    for (int j = 0; j < 64; ++j) bits |= static_cast<uint64_t>(x[j] < limit) << j;
    return bits;
  }

  using Doubles = double;
  static constexpr int kDoubles = 1;
  static Doubles load(const double* p) { return *p; }
  static void store(double* p, Doubles x) { *p = x; }
  static Doubles set_all(double x) { return x; }
  static Doubles convert(const int32_t* p) { return *p; }
  static Doubles add(Doubles a, Doubles b) { return a + b; }
  static Doubles sub(Doubles a, Doubles b) { return a - b; }
  static Doubles mul(Doubles a, Doubles b) { return a * b; }
  static uint32_t greater(Doubles a, Doubles b) { return a > b; }
  static uint32_t equal(Doubles a, Doubles b) { return a == b; }
};

constexpr Kernels kTable = kernel_table<Portable>("portable");

}  // namespace

const Kernels& portable_kernels() { return kTable; }

}  // namespace bitinfer
