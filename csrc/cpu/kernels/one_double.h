// Single doubles with the operations of V::Doubles: for what is left of a row, and for values on
// their own. Every operation rounds as it does in a vector.
#pragma once

#include <cstdint>
#include <cstring>

namespace bitinfer {
namespace {

struct OneDouble {
  using Doubles = double;
  static constexpr int kDoubles = 1;
  static Doubles load(const double* p) { return *p; }
  static void store(double* p, Doubles x) { *p = x; }
  static Doubles set_all(double x) { return x; }
  static Doubles convert(const int32_t* p) { return *p; }
  static Doubles add(Doubles a, Doubles b) { return a + b; }
  static Doubles sub(Doubles a, Doubles b) { return a - b; }
  static Doubles mul(Doubles a, Doubles b) { return a * b; }
  static Doubles div(Doubles a, Doubles b) { return a / b; }
  static Doubles min(Doubles a, Doubles b) { return a < b ? a : b; }
  static Doubles max(Doubles a, Doubles b) { return a > b ? a : b; }
  static uint32_t greater(Doubles a, Doubles b) { return a > b; }
  static Doubles where_less(Doubles a, Doubles b, Doubles then, Doubles otherwise) {
    return a < b ? then : otherwise;
  }
  static Doubles masked(Doubles x, uint64_t mask) { return from_bits(bits(x) & mask); }
  static Doubles merged(Doubles a, Doubles b) { return from_bits(bits(a) | bits(b)); }
  // 2^k of 1.5 * 2^52 + k.
  static Doubles power_of_two(Doubles x) {
    return from_bits((bits(x) << 52) + (uint64_t{1023} << 52));
  }
  template <int kBit>
  static uint32_t bits_at(Doubles x) {
    return bits(x) >> kBit & 1;
  }

 private:
  static uint64_t bits(double x) {
    uint64_t word;
    std::memcpy(&word, &x, sizeof word);
    return word;
  }
  static double from_bits(uint64_t word) {
    double x;
    std::memcpy(&x, &word, sizeof x);
    return x;
  }
};

}  // namespace
}  // namespace bitinfer
