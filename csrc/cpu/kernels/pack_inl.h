// Bits and codes of values.
#pragma once

#include <cstdint>

#include "cpu/kernels/one_double.h"
#include "cpu/kernels/round_inl.h"
#include "cpu/kernels/running_words.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/unroll.h"

namespace bitinfer {
namespace {

template <class V>
bool pack_greater(const double* x, const double* threshold, int64_t n, uint64_t* bits) {
  uint64_t any_equal = 0, running = 0;
  for (int64_t first = 0; first < n; first += 64) {
    const int64_t count = n - first < 64 ? n - first : 64;
    uint64_t word = 0;
    int64_t j = 0;
    for (; j + V::kDoubles <= count; j += V::kDoubles) {
      const auto value = V::load(x + first + j);
      const auto limit = threshold != nullptr ? V::load(threshold + first + j) : V::set_all(0.0);
      word |= static_cast<uint64_t>(V::greater(value, limit)) << j;
      any_equal |= V::equal(value, limit);
    }
    for (; j < count; ++j) {
      const double limit = threshold != nullptr ? threshold[first + j] : 0.0;
      word |= static_cast<uint64_t>(x[first + j] > limit) << j;
      any_equal |= x[first + j] == limit;
    }
    *bits++ = running = running_word(word, running);
  }
  return any_equal != 0;
}

// Only rows in which an equal value was met come here.
template <class V>
void pack_not_less(const double* x, const double* threshold, int64_t n, uint64_t* bits) {
  uint64_t running = 0;
  for (int64_t first = 0; first < n; first += 64) {
    uint64_t word = 0;
    for (int64_t j = 0; j < 64 && first + j < n; ++j) {
      const double limit = threshold != nullptr ? threshold[first + j] : 0.0;
      word |= static_cast<uint64_t>(x[first + j] >= limit) << j;
    }
    *bits++ = running = running_word(word, running);
  }
}

// Bits of the codes of V::kDoubles values go to bit j of the planes' words.
template <class V>
BITINFER_INLINE inline void quantize_some(const double* x, const double* shift, const Quantizer& to,
                                          int64_t j, uint64_t* words) {
  auto value = V::load(x + j);
  if (shift != nullptr) value = V::add(value, V::load(shift + j));
  // The code above the lowest one, in the lowest bits of the significand.
  const auto from_low = V::sub(code_of<V>(value, to), V::set_all(to.low));
  const auto code = V::add(from_low, V::set_all(0x1p52));
  unroll<kMostPlanes>([&](auto plane) BITINFER_INLINE {
    words[plane] |= static_cast<uint64_t>(V::template bits_at<plane>(code)) << j;
  });
}

template <class V>
void quantize(const double* x, const double* shift, int64_t rows, int64_t n,
              const Quantizer& quantizer, const PlaneRows& to) {
  const Quantizer copy = quantizer;
  for (int64_t row = 0; row < rows; ++row) {
    uint64_t running[kMostPlanes] = {};
    for (int64_t first = 0; first < n; first += 64) {
      const int64_t count = n - first < 64 ? n - first : 64;
      const double* values = x + row * n + first;
      const double* shifts = shift != nullptr ? shift + first : nullptr;
      uint64_t words[kMostPlanes] = {};
      int64_t j = 0;
      for (; j + V::kDoubles <= count; j += V::kDoubles) {
        quantize_some<V>(values, shifts, copy, j, words);
      }
      for (; j < count; ++j) quantize_some<OneDouble>(values, shifts, copy, j, words);
      for (int plane = 0; plane < copy.planes; ++plane) {
        running[plane] = running_word(words[plane], running[plane]);
        to.bits[row * to.stride + plane * to.plane_stride + first / 64] = running[plane];
      }
    }
  }
}

}  // namespace
}  // namespace bitinfer
