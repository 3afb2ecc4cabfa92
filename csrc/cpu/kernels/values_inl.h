// Values of a product's sums.
#pragma once

#include <cstdint>

#include "cpu/kernels/gelu_inl.h"
#include "cpu/kernels/one_double.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/unroll.h"

namespace bitinfer {
namespace {

// scale * S + bias of V::kDoubles neighbours, each step rounded.
template <class V>
BITINFER_INLINE inline typename V::Doubles affine_some(const ScaledSums& from, const int32_t* sums,
                                                       int64_t i) {
  const auto product = V::mul(V::load(from.scale + i), V::convert(sums + i));
  return V::add(product, V::load(from.bias + i));
}

template <class V>
void affine(const ScaledSums& from, int64_t rows, int64_t n, double* out) {
  const ScaledSums copy = from;
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t* sums = copy.sums + row * n;
    double* to = out + row * n;
    int64_t i = 0;
    for (; i + V::kDoubles <= n; i += V::kDoubles) V::store(to + i, affine_some<V>(copy, sums, i));
    for (; i < n; ++i) to[i] = affine_some<OneDouble>(copy, sums, i);
  }
}

template <class V, Activation kActivation>
BITINFER_INLINE inline typename V::Doubles value_some(const Values& values, const int32_t* sums,
                                                      int64_t i) {
  auto x = affine_some<V>(values.from, sums, i);
  if constexpr (kActivation == Activation::kRelu) {
    // Added: -0 becomes 0, whichever of both zeros the processor takes for the larger one.
    x = V::add(V::max(x, V::set_all(0)), V::set_all(0));
  }
  if constexpr (kActivation == Activation::kGelu) x = Gelu<V>::of(x);
  return V::add(x, V::load(values.shift + i));
}

template <class V, Activation kActivation>
double values_of(const Values& values, int64_t rows, int64_t n, double* out) {
  const Values copy = values;
  auto least = V::set_all(__builtin_inf());
  double least_left = __builtin_inf();
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t* sums = copy.from.sums + row * n;
    double* to = out + row * n;
    int64_t i = 0;
    for (; i + V::kDoubles <= n; i += V::kDoubles) {
      const auto value = value_some<V, kActivation>(copy, sums, i);
      V::store(to + i, value);
      least = V::min(value, least);
    }
    for (; i < n; ++i) {
      to[i] = value_some<OneDouble, kActivation>(copy, sums, i);
      least_left = OneDouble::min(to[i], least_left);
    }
  }
  double lanes[V::kDoubles];
  V::store(lanes, least);
  for (const double lane : lanes) least_left = OneDouble::min(lane, least_left);
  return least_left + 0.0;  // of -0 and 0 the minimum may be either
}

template <class V>
double values(const Values& of, int64_t rows, int64_t n, double* out) {
  if (of.activation == Activation::kRelu) {
    return values_of<V, Activation::kRelu>(of, rows, n, out);
  }
  return values_of<V, Activation::kGelu>(of, rows, n, out);
}

}  // namespace
}  // namespace bitinfer
