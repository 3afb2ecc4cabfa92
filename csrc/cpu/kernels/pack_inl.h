// Bits and codes of values.
#pragma once

#include <cstdint>

#include "cpu/kernels/code_words_inl.h"
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

// A float below 16 is off by 2^-21 at most; what it is compared with, by 2^-26.
inline constexpr double kFloatTolerance = 0x1p-20;

template <class V>
void quantize(const double* x, const double* shift, int64_t rows, int64_t n,
              const Quantizer& quantizer, const PlaneRows& to) {
  const Quantizer by = quantizer;
  for (int64_t row = 0; row < rows; ++row) {
    const double* values = x + row * n;
    const auto in_steps = [&](int64_t k) BITINFER_INLINE {
      return static_cast<float>((values[k] + shift[k] - by.offset) * by.inverse_step);
    };
    const auto exact = [&](int64_t k) BITINFER_INLINE { return code_of(values[k] + shift[k], by); };
    code_row<V>(n, by, kFloatTolerance, in_steps, exact, to, row);
  }
}

}  // namespace
}  // namespace bitinfer
