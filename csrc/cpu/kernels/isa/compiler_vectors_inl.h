// Vectors of the compiler's own, as wide as one likes. Bits are counted into bytes by the classic
// tree of masks (Warren, Hacker's Delight, 5-1), since the baseline has no popcount. Whoever uses
// them adds the shapes of tiles.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/kernels/table.h"

namespace bitinfer {
namespace {

// `typedef`, because GCC takes the width of an alias declaration before it is known.
template <int kBytes>
struct CompilerVectors {
  typedef uint32_t Word __attribute__((vector_size(kBytes)));
  using Counter = Word;  // of bytes
  typedef int32_t Sum __attribute__((vector_size(kBytes)));
  using Lanes = Sum;  // all ones or zeros
  static constexpr bool kIsVector = false;
  static constexpr bool kSumsTerms = false;
  static constexpr int kLanes = kBytes / 4;
  static constexpr int kParts = kPanelWidth / kLanes;
  static constexpr int64_t kMaxCounts = 31;
  using Dots = Sum;
  static constexpr int64_t kMostDots = int64_t{1} << 40;

  static Word load(const uint32_t* p) { return read<Word>(p); }
  static Word broadcast(uint32_t word) { return word - Word{}; }
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
  static Sum set_sums(int32_t value) { return value - Sum{}; }
  static Sum load_sums(const int32_t* p) { return read<Sum>(p); }
  static Sum add(Sum a, Sum b) { return a + b; }
  static Sum sub(Sum a, Sum b) { return a - b; }
  static Sum multiply(Sum a, Sum b) { return a * b; }
  static Sum half(Sum sum) { return sum >> 1; }
  static void store(int32_t* out, Sum sum) { std::memcpy(out, &sum, sizeof sum); }
  static void store_u16(uint16_t* out, Sum sum) {
    int32_t lanes[kLanes];
    store(lanes, sum);
    for (int lane = 0; lane < kLanes; ++lane) out[lane] = static_cast<uint16_t>(lanes[lane]);
  }
  static Lanes below(Sum sum, Sum limit) { return sum < limit; }
  static uint32_t bits_of(Lanes lanes) { return mask(lanes, kLanes); }
  static Sum choose(Lanes lanes, Sum then, Sum otherwise) {
    return (lanes & then) | (~lanes & otherwise);
  }
  static Sum xor_where(Lanes lanes, Sum codes, Sum toggles) { return codes ^ (lanes & toggles); }
  template <int kBit>
  static uint32_t bits_at(Sum sum) {
    return mask(sum >> kBit, kLanes);
  }
  static uint64_t less_u16(const uint16_t* x, uint16_t limit) {
    uint64_t bits = 0;
    for (int j = 0; j < 64; ++j) bits |= static_cast<uint64_t>(x[j] < limit) << j;
    return bits;
  }

  typedef double Doubles __attribute__((vector_size(kBytes)));
  static constexpr int kDoubles = kBytes / 8;
  static Doubles load(const double* p) { return read<Doubles>(p); }
  static void store(double* p, Doubles x) { std::memcpy(p, &x, sizeof x); }
  static Doubles set_all(double x) { return x - Doubles{}; }
  static Doubles convert(const int32_t* p) {
    double lanes[kDoubles];
    for (int lane = 0; lane < kDoubles; ++lane) lanes[lane] = p[lane];
    return load(lanes);
  }
  static Doubles add(Doubles a, Doubles b) { return a + b; }
  static Doubles sub(Doubles a, Doubles b) { return a - b; }
  static Doubles mul(Doubles a, Doubles b) { return a * b; }
  // Without an instruction for it, the C library computes it: slow, but IEEE 754 leaves no choice
  // of the result.
  static Doubles fma(Doubles a, Doubles b, Doubles c) {
    double x[kDoubles], y[kDoubles], z[kDoubles];
    store(x, a);
    store(y, b);
    store(z, c);
    for (int lane = 0; lane < kDoubles; ++lane) x[lane] = __builtin_fma(x[lane], y[lane], z[lane]);
    return load(x);
  }
  static uint32_t greater(Doubles a, Doubles b) { return mask(a > b, kDoubles); }
  static uint32_t equal(Doubles a, Doubles b) { return mask(a == b, kDoubles); }

  // All ones where the low 29 bits, which a float's significand lacks, are 0.
  typedef int64_t Short __attribute__((vector_size(kBytes)));
  static Short no_short() { return Short{}; }
  static Short note_short(Short shorts, Doubles x) {
    return shorts | ((reinterpret_cast<Short>(x) & 0x1fffffff) == 0);
  }
  static bool any_short(Short shorts) { return mask(shorts, kDoubles) != 0; }

 private:
  typedef int16_t Shorts __attribute__((vector_size(kBytes)));
  template <class T>
  static T read(const void* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
  }
  template <class T>
  static uint32_t mask(T lanes, int count) {
    uint32_t bits = 0;
    for (int lane = 0; lane < count; ++lane)
      bits |= (static_cast<uint32_t>(lanes[lane]) & 1) << lane;
    return bits;
  }
};

}  // namespace
}  // namespace bitinfer
