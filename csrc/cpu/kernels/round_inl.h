// Codes of values, as the quantizers of several bits round them.
#pragma once

#include <cstdint>

#include "cpu/kernels/table.h"
#include "cpu/kernels/unroll.h"

namespace bitinfer {
namespace {

// The nearest integer, half to even, for |x| < 2^51: there the sum has no bits after the point.
template <class V>
BITINFER_INLINE inline typename V::Doubles nearest_integer(typename V::Doubles x) {
  const auto shift = V::set_all(6755399441055744.0);  // 1.5 * 2^52
  return V::sub(V::add(x, shift), shift);
}

// round((x - offset) * inverse_step) between low and high, each step rounded. What lies within
// 2^-40 of half an odd number counts as exactly there: then half of it rounds to half the even one.
template <class V>
BITINFER_INLINE inline typename V::Doubles code_of(typename V::Doubles x, const Quantizer& to) {
  constexpr double kTie = 0.5 - 0x1p-40;
  constexpr uint64_t kAllButSign = ~uint64_t{0} >> 1;
  const auto value = V::mul(V::sub(x, V::set_all(to.offset)), V::set_all(to.inverse_step));
  const auto nearest = nearest_integer<V>(value);
  const auto distance = V::masked(V::sub(value, nearest), kAllButSign);
  const auto half = nearest_integer<V>(V::mul(value, V::set_all(0.5)));
  const auto rounded = V::where_less(distance, V::set_all(kTie), nearest, V::add(half, half));
  return V::min(V::max(rounded, V::set_all(to.low)), V::set_all(to.high));
}

}  // namespace
}  // namespace bitinfer
