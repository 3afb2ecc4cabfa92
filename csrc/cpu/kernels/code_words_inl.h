// Codes of values by floats, and by doubles only where floats cannot tell: a word of 64 values at a
// time. The loops over floats are left to the compiler to vectorize: what they get wrong by less
// than the tolerance changes no code.
#pragma once

#include <cstdint>

#include "cpu/kernels/running_words.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/unroll.h"

namespace bitinfer {
namespace {

inline constexpr int64_t kWordValues = 64;

// Of the codes of a word, bit j goes to words[j].
template <class V>
BITINFER_INLINE inline void pack_word(const int32_t* codes, int planes, uint64_t* words) {
  unroll<kMostPlanes>([&](auto j) BITINFER_INLINE {
    if (j >= planes) return;
    uint64_t word = 0;
    for (int64_t i = 0; i < kWordValues; i += V::kLanes) {
      word |= static_cast<uint64_t>(V::template bits_at<j>(V::load_sums(codes + i))) << i;
    }
    words[j] = word;
  });
}

template <class V, class InSteps, class Exact>
BITINFER_INLINE inline void code_word(int64_t first, int64_t count, const Quantizer& to,
                                      double tolerance, const InSteps& in_steps, const Exact& exact,
                                      uint64_t* words) {
  constexpr float kRoundToInteger = 12582912.0f;  // 1.5 * 2^23
  const float low = static_cast<float>(to.low), high = static_cast<float>(to.high);
  const float sure = static_cast<float>(0.5 - tolerance);
  int32_t codes[kWordValues], signs = 0;
  for (int64_t i = 0; i < count; ++i) {
    float x = in_steps(first + i);
    x = x > low ? x : low;
    x = x < high ? x : high;
    const float nearest = (x + kRoundToInteger) - kRoundToInteger;
    const int32_t is_unsure = -static_cast<int32_t>(__builtin_fabsf(x - nearest) >= sure);
    codes[i] = static_cast<int32_t>(nearest - low) | is_unsure;
    signs |= codes[i];
  }
  for (int64_t i = 0; signs < 0 && i < count; ++i) {
    if (codes[i] < 0) codes[i] = exact(first + i) - to.low;
  }
  for (int64_t i = count; i < kWordValues; ++i) codes[i] = 0;
  pack_word<V>(codes, to.planes, words);
}

// Codes of a row of n values: `in_steps(k)` is value k less the offset, over the step, as a float
// that is off by less than `tolerance` where that is within the codes; `exact(k)` is its code.
template <class V, class InSteps, class Exact>
BITINFER_INLINE inline void code_row(int64_t n, const Quantizer& quantizer, double tolerance,
                                     const InSteps& in_steps, const Exact& exact,
                                     const PlaneRows& to, int64_t row) {
  const Quantizer by = quantizer;
  uint64_t* bits = to.bits + row * to.stride;
  uint64_t running[kMostPlanes] = {};
  for (int64_t first = 0; first < n; first += kWordValues) {
    const int64_t left = n - first;
    uint64_t words[kMostPlanes];
    code_word<V>(first, left < kWordValues ? left : kWordValues, by, tolerance, in_steps, exact,
                 words);
    for (int plane = 0; plane < by.planes; ++plane) {
      running[plane] = running_word(words[plane], running[plane]);
      bits[plane * to.plane_stride + first / kWordValues] = running[plane];
    }
  }
}

}  // namespace
}  // namespace bitinfer
