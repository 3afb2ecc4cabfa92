// LayerNorm of rows with what is added to them before, and the signs of what comes out.
#pragma once

#include "cpu/kernels/row_sums_inl.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/unroll.h"

namespace bitinfer {
namespace {

inline constexpr double kLayerNormEpsilon = 1e-12;

struct Moments {
  double mean, scale;
};

// Adds what is to be added to kRows rows of n values, and sums them.
template <class V, int kRows, bool kAdds>
BITINFER_INLINE inline void add_and_sum(double* x, int64_t n, const ScaledSums& added,
                                        double* sum) {
  using Doubles = typename V::Doubles;
  sum_rows<V, kRows>(
      n,
      [&](int64_t i, Doubles* sums) BITINFER_INLINE {
        Doubles scale, bias;
        if constexpr (kAdds) {
          scale = V::load(added.scale + i);
          bias = V::load(added.bias + i);
        }
        unroll<kRows>([&](auto r) BITINFER_INLINE {
          double* const at = x + r * n + i;
          Doubles value = V::load(at);
          if constexpr (kAdds) {
            const Doubles product = V::convert(added.sums + r * n + i);
            value = V::add(value, V::fma(scale, product, bias));
            V::store(at, value);
          }
          sums[r] = V::add(sums[r], value);
        });
      },
      [&](int64_t i, int r, double partial) {
        double& value = x[r * n + i];
        if constexpr (kAdds) {
          const double product = added.sums[r * n + i];
          value += __builtin_fma(added.scale[i], product, added.bias[i]);
        }
        return partial + value;
      },
      sum);
}

// Sums of squares of what kRows rows of n values differ from their means by.
template <class V, int kRows>
BITINFER_INLINE inline void sum_squares(const double* x, int64_t n, const double* mean,
                                        double* sum) {
  using Doubles = typename V::Doubles;
  Doubles means[kRows];
  unroll<kRows>([&](auto r) BITINFER_INLINE { means[r] = V::set_all(mean[r]); });
  sum_rows<V, kRows>(
      n,
      [&](int64_t i, Doubles* sums) BITINFER_INLINE {
        unroll<kRows>([&](auto r) BITINFER_INLINE {
          const Doubles deviation = V::sub(V::load(x + r * n + i), means[r]);
          sums[r] = V::fma(deviation, deviation, sums[r]);
        });
      },
      [&](int64_t i, int r, double partial) {
        const double deviation = x[r * n + i] - mean[r];
        return __builtin_fma(deviation, deviation, partial);
      },
      sum);
}

// Adds what is to be added and takes the moments of each row.
template <class V, int kRows, bool kAdds>
void add_and_measure(const NormRows& rows, int64_t row, Moments* of_row) {
  const int64_t n = rows.n;
  double* const x = rows.x + row * n;
  ScaledSums added = rows.added;
  if constexpr (kAdds) added.sums += row * n;
  double sum[kRows], mean[kRows];
  add_and_sum<V, kRows, kAdds>(x, n, added, sum);
  const double count = static_cast<double>(n);
  unroll<kRows>([&](auto r) BITINFER_INLINE { mean[r] = sum[r] / count; });
  sum_squares<V, kRows>(x, n, mean, sum);
  for (int r = 0; r < kRows; ++r) {
    of_row[r].scale = 1.0 / __builtin_sqrt(sum[r] / count + kLayerNormEpsilon);
    of_row[r].mean = mean[r];
  }
}

// 64 columns: what makes one word of bits in every row.
struct WordOfColumns {
  const NormRows& rows;
  const Signs* signs;
  int64_t first, count;

  double* x(int64_t row) const { return rows.x + row * rows.n + first; }
};

// Normalizes kRows rows and puts their bits into words[row][sign]. True if some value has at most
// the 24 significant bits of a float32: no other can equal a threshold, and hardly any has.
template <class V, int kRows, int kSigns>
BITINFER_INLINE inline bool normalize_whole(const WordOfColumns& columns, int64_t row,
                                            const Moments* of_row, uint64_t (*words)[kMostSigns]) {
  // Copies: what is stored could change anything behind a reference.
  const double *weights = columns.rows.weight + columns.first,
               *biases = columns.rows.bias + columns.first;
  typename V::Doubles means[kRows], scales[kRows];
  double* x[kRows];
  unroll<kRows>([&](auto r) BITINFER_INLINE {
    scales[r] = V::set_all(of_row[r].scale);
    means[r] = V::set_all(of_row[r].mean);
    x[r] = columns.x(row + r);
  });
  const double* thresholds[kSigns + 1];
  unroll<kSigns>(
      [&](auto s) BITINFER_INLINE { thresholds[s] = columns.signs[s].threshold + columns.first; });
  typename V::Short shorts = V::no_short();
  unroll<64 / V::kDoubles>([&](auto i) BITINFER_INLINE {
    constexpr int j = i * V::kDoubles;
    const auto weight = V::load(weights + j), bias = V::load(biases + j);
    typename V::Doubles y[kRows];
    unroll<kRows>([&](auto r) BITINFER_INLINE {
      const auto normal = V::mul(V::sub(V::load(x[r] + j), means[r]), scales[r]);
      y[r] = V::fma(normal, weight, bias);
      V::store(x[r] + j, y[r]);
      if (kSigns > 0) shorts = V::note_short(shorts, y[r]);
    });
    unroll<kSigns>([&](auto s) BITINFER_INLINE {
      const auto limit = V::load(thresholds[s] + j);
      unroll<kRows>([&](auto r) BITINFER_INLINE {
        words[r][s] |= static_cast<uint64_t>(V::greater(y[r], limit)) << j;
      });
    });
  });
  return V::any_short(shorts);
}

template <int kRows, int kSigns>
__attribute__((noinline)) void normalize_some(const WordOfColumns& columns, int64_t row,
                                              const Moments* of_row,
                                              uint64_t (*words)[kMostSigns]) {
  for (int r = 0; r < kRows; ++r) {
    double* x = columns.x(row + r);
    for (int64_t j = 0; j < columns.count; ++j) {
      const int64_t k = columns.first + j;
      const double normal = (x[j] - of_row[r].mean) * of_row[r].scale;
      x[j] = __builtin_fma(normal, columns.rows.weight[k], columns.rows.bias[k]);
      for (int s = 0; s < kSigns; ++s) {
        words[r][s] |= static_cast<uint64_t>(x[j] > columns.signs[s].threshold[k]) << j;
      }
    }
  }
}

__attribute__((noinline)) bool meets_threshold(const WordOfColumns& columns, int64_t row,
                                               const double* threshold) {
  bool equal = false;
  for (int64_t j = 0; j < columns.count; ++j) {
    equal |= columns.x(row)[j] == threshold[columns.first + j];
  }
  return equal;
}

template <class V, int kRows, int kSigns>
BITINFER_INLINE inline void normalize_word(const WordOfColumns& columns, int64_t row,
                                           const Moments* of_row, Signs* signs) {
  uint64_t words[kRows][kMostSigns] = {};
  bool may_equal = true;
  if (columns.count == 64) {
    may_equal = normalize_whole<V, kRows, kSigns>(columns, row, of_row, words);
  } else {
    normalize_some<kRows, kSigns>(columns, row, of_row, words);
  }
  unroll<kRows * kSigns>([&](auto i) BITINFER_INLINE {
    constexpr int r = i / (kSigns > 0 ? kSigns : 1), s = i % (kSigns > 0 ? kSigns : 1);
    uint64_t* bits = signs[s].bits + (row + r) * signs[s].stride + columns.first / 64;
    *bits = running_word(words[r][s], columns.first > 0 ? bits[-1] : 0);
    if (may_equal) signs[s].any_equal |= meets_threshold(columns, row + r, signs[s].threshold);
  });
}

// Rows pass by 64 columns at a time, two by two: weights, biases and thresholds together fill most
// of L1, and are as many loads as the values.
template <class V, bool kAdds, int kSigns>
void normalize_rows(const NormRows& rows, Signs* signs) {
  constexpr int64_t kBlock = 32;
  constexpr int kTogether = V::kDoubles >= 8 ? 2 : 1;  // or the partial sums fill all registers
  for (int64_t begin = 0; begin < rows.rows; begin += kBlock) {
    const int64_t end = rows.rows - begin < kBlock ? rows.rows : begin + kBlock;
    Moments of_row[kBlock];
    int64_t row = begin;
    for (; row + kTogether <= end; row += kTogether) {
      add_and_measure<V, kTogether, kAdds>(rows, row, of_row + (row - begin));
    }
    for (; row < end; ++row) add_and_measure<V, 1, kAdds>(rows, row, of_row + (row - begin));
    for (int64_t first = 0; first < rows.n; first += 64) {
      const int64_t left = rows.n - first;
      const WordOfColumns columns{rows, signs, first, left < 64 ? left : 64};
      for (row = begin; row + 2 <= end; row += 2) {
        normalize_word<V, 2, kSigns>(columns, row, of_row + (row - begin), signs);
      }
      if (row < end) normalize_word<V, 1, kSigns>(columns, row, of_row + (row - begin), signs);
    }
  }
}

template <class V, bool kAdds>
void normalize_and_sign(const NormRows& rows, Signs* signs, int count) {
  if (count == 0) return normalize_rows<V, kAdds, 0>(rows, signs);
  if (count == 1) return normalize_rows<V, kAdds, 1>(rows, signs);
  if (count == 2) return normalize_rows<V, kAdds, 2>(rows, signs);
  static_assert(kMostSigns == 3, "one line for each count");
  normalize_rows<V, kAdds, 3>(rows, signs);
}

template <class V>
void layer_norm(const NormRows& rows, Signs* signs, int count) {
  if (rows.added.sums != nullptr) return normalize_and_sign<V, true>(rows, signs, count);
  normalize_and_sign<V, false>(rows, signs, count);
}

}  // namespace
}  // namespace bitinfer
