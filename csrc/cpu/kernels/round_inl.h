// Codes of values, as the quantizers of several bits round them.
#pragma once

#include <cstdint>

#include "cpu/kernels/table.h"

namespace bitinfer {
namespace {

// The nearest integer, half to even, for |x| < 2^51: there the sum has no bits after the point.
inline double nearest_integer(double x) {
  constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52
  return (x + kShift) - kShift;
}

// round((x - offset) * inverse_step) between low and high, each step rounded. What lies within
// 2^-40 of half an odd number counts as exactly there: then half of it rounds to half the even one.
inline int32_t code_of(double x, const Quantizer& to) {
  constexpr double kTie = 0.5 - 0x1p-40;
  const double value = (x - to.offset) * to.inverse_step;
  double code = nearest_integer(value);
  if (!(__builtin_fabs(value - code) < kTie)) code = 2 * nearest_integer(value * 0.5);
  if (!(code > to.low)) return to.low;
  return code < to.high ? static_cast<int32_t>(code) : to.high;
}

}  // namespace
}  // namespace bitinfer
