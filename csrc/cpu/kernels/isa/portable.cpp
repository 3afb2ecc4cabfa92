// Any CPU: vectors of the compiler's own, which become the baseline's (SSE2 on x86-64) or plain
// arithmetic. Bits are counted into bytes by the classic tree of masks (Warren, Hacker's Delight,
// 5-1), since the baseline has no popcount.
#include "cpu/kernels/isa/isa.h"
#include "cpu/kernels/table_inl.h"

namespace bitinfer {
namespace {

struct Portable {
  using Word = uint32_t __attribute__((vector_size(16)));
  using Counter = Word;  // sixteen bytes
  using Sum = int32_t __attribute__((vector_size(16)));
  using Lanes = Sum;  // all ones or zeros
  static constexpr bool kIsVector = false;
  static constexpr bool kSumsTerms = false;
  static constexpr int kLanes = 4;
  static constexpr int kParts = kPanelWidth / kLanes;
  static constexpr int kTileRows = 1;
  static constexpr bool kHasTallTile = false;
  static constexpr int kTilePanels = 1;
  static constexpr int64_t kMaxCounts = 31;
  using Dots = Sum;
  static constexpr int kDotRows = 1;
  static constexpr int64_t kMostDots = int64_t{1} << 40;

  static Word load(const uint32_t* p) { return read<Word>(p); }
  static Word broadcast(uint32_t word) { return Word{word, word, word, word}; }
  static Word bit_xor(Word a, Word b) { return a ^ b; }
  static Word no_bits() { return Word{}; }
  static Word carry(Word parity, Word first, Word second) {
    return parity ^ (first & ~(parity ^ second));  // first ? ~second : parity
  }
  static Counter count(Counter counter, Word word) {
    word -= (word >> 1) & 0x55555555u;
    word = (word & 0x33333333u) + ((word >> 2) & 0x33333333u);
    return counter + ((word + (word >> 4)) & 0x0f0f0f0fu);
  }
  static void opaque(Word& word) { __asm__ volatile("" : "+m"(word)); }
  static Counter begin(Sum) { return Word{}; }
  static Sum end(Sum sum, Counter counter) {
    const Word pairs = (counter & 0x00ff00ffu) + ((counter >> 8) & 0x00ff00ffu);
    return sum + reinterpret_cast<Sum>((pairs & 0x0000ffffu) + (pairs >> 16));
  }
  static Dots no_dots() { return Sum{}; }
  // Products of int16: the baseline has no others.
  static Dots dot(Dots dots, Word left, Word right) {
    const Shorts even =
        reinterpret_cast<Shorts>(left & 0x00ff00ffu) * (reinterpret_cast<Shorts>(right << 8) >> 8);
    const Shorts odd =
        reinterpret_cast<Shorts>(left >> 8 & 0x00ff00ffu) * (reinterpret_cast<Shorts>(right) >> 8);
    const Sum pairs = reinterpret_cast<Sum>(even + odd);
    return dots + (pairs << 16 >> 16) + (pairs >> 16);
  }
  static Sum sum_of(Dots dots) { return dots; }
  static Sum zero() { return Sum{}; }
  static Sum set_sums(int32_t value) { return Sum{value, value, value, value}; }
  static Sum load_sums(const int32_t* p) { return read<Sum>(p); }
  static Sum add(Sum a, Sum b) { return a + b; }
  static Sum sub(Sum a, Sum b) { return a - b; }
  static Sum multiply(Sum a, Sum b) { return a * b; }
  static Sum half(Sum sum) { return sum >> 1; }
  static void store(int32_t* out, Sum sum) { std::memcpy(out, &sum, sizeof sum); }
  static void store_u16(uint16_t* out, Sum sum) {
    for (int lane = 0; lane < kLanes; ++lane) out[lane] = static_cast<uint16_t>(sum[lane]);
  }
  static Lanes below(Sum sum, Sum limit) { return sum < limit; }
  static uint32_t bits_of(Lanes lanes) { return mask(lanes); }
  static Sum choose(Lanes lanes, Sum then, Sum otherwise) {
    return (lanes & then) | (~lanes & otherwise);
  }
  static Sum xor_where(Lanes lanes, Sum codes, Sum toggles) { return codes ^ (lanes & toggles); }
  template <int kBit>
  static uint32_t bits_at(Sum sum) {
    return mask(sum >> kBit);
  }
  static uint64_t less_u16(const uint16_t* x, uint16_t limit) {
    uint64_t bits = 0;
    for (int j = 0; j < 64; ++j) bits |= static_cast<uint64_t>(x[j] < limit) << j;
    return bits;
  }

  using Doubles = double __attribute__((vector_size(16)));
  static constexpr int kDoubles = 2;
  static Doubles load(const double* p) { return read<Doubles>(p); }
  static void store(double* p, Doubles x) { std::memcpy(p, &x, sizeof x); }
  static Doubles set_all(double x) { return Doubles{x, x}; }
  static Doubles convert(const int32_t* p) {
    return Doubles{static_cast<double>(p[0]), static_cast<double>(p[1])};
  }
  static Doubles add(Doubles a, Doubles b) { return a + b; }
  static Doubles sub(Doubles a, Doubles b) { return a - b; }
  static Doubles mul(Doubles a, Doubles b) { return a * b; }
  static Doubles div(Doubles a, Doubles b) { return a / b; }
  static Doubles min(Doubles a, Doubles b) { return a < b ? a : b; }
  static Doubles max(Doubles a, Doubles b) { return a > b ? a : b; }
  // Without an instruction for it, the C library computes it: slow, but IEEE 754 leaves no choice
  // of the result.
  static Doubles fma(Doubles a, Doubles b, Doubles c) {
    return Doubles{__builtin_fma(a[0], b[0], c[0]), __builtin_fma(a[1], b[1], c[1])};
  }
  static uint32_t greater(Doubles a, Doubles b) {
    return static_cast<uint32_t>(a[0] > b[0]) | static_cast<uint32_t>(a[1] > b[1]) << 1;
  }
  static uint32_t equal(Doubles a, Doubles b) {
    return static_cast<uint32_t>(a[0] == b[0]) | static_cast<uint32_t>(a[1] == b[1]) << 1;
  }
  static Doubles where_less(Doubles a, Doubles b, Doubles then, Doubles otherwise) {
    return a < b ? then : otherwise;
  }
  static Doubles masked(Doubles x, uint64_t mask) {
    return reinterpret_cast<Doubles>(reinterpret_cast<Bits>(x) & mask);
  }
  static Doubles merged(Doubles a, Doubles b) {
    return reinterpret_cast<Doubles>(reinterpret_cast<Bits>(a) | reinterpret_cast<Bits>(b));
  }
  static Doubles power_of_two(Doubles x) {
    return reinterpret_cast<Doubles>((reinterpret_cast<Bits>(x) << 52) + (uint64_t{1023} << 52));
  }
  template <int kBit>
  static uint32_t bits_at(Doubles x) {
    const Bits bits = reinterpret_cast<Bits>(x) >> kBit & 1;
    return static_cast<uint32_t>(bits[0] | bits[1] << 1);
  }

  // All ones where the low 29 bits, which a float's significand lacks, are 0.
  using Short = int64_t __attribute__((vector_size(16)));
  static Short no_short() { return Short{}; }
  static Short note_short(Short shorts, Doubles x) {
    return shorts | ((reinterpret_cast<Short>(x) & 0x1fffffff) == 0);
  }
  static bool any_short(Short shorts) { return (shorts[0] | shorts[1]) != 0; }

 private:
  using Bits = uint64_t __attribute__((vector_size(16)));
  using Shorts = int16_t __attribute__((vector_size(16)));
  template <class T>
  static T read(const void* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
  }
  static uint32_t mask(Sum lanes) {
    uint32_t bits = 0;
    for (int lane = 0; lane < kLanes; ++lane) bits |= (lanes[lane] & 1u) << lane;
    return bits;
  }
};

constexpr Kernels kTable = kernel_table<Portable>("portable");

}  // namespace

const Kernels& portable_kernels() { return kTable; }

}  // namespace bitinfer
