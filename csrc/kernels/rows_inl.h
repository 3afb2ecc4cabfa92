// Row kernels around the products, in double precision and one order of operations for every vector
// width: sums are 32 partial sums (i mod 32), halved pairwise. No fused multiply-add.
//
// V::Doubles is a vector of V::kDoubles values (1, 2, 4 or 8); masks have bit i for lane i.
#pragma once

#include "kernels/bgemm_inl.h"
#include "kernels/kernel_table.h"

namespace bitinfer {
namespace {

inline constexpr int kPartialSumsLog2 = 5;
inline constexpr int kPartialSums = 1 << kPartialSumsLog2;
inline constexpr double kLayerNormEpsilon = 1e-12;

struct Identity {
  template <class V>
  static typename V::Doubles apply(typename V::Doubles x, typename V::Doubles) {
    return x;
  }
  static double apply(double x, double) { return x; }
};

struct SquaredDeviation {
  template <class V>
  static typename V::Doubles apply(typename V::Doubles x, typename V::Doubles mean) {
    const typename V::Doubles d = V::sub(x, mean);
    return V::mul(d, d);
  }
  static double apply(double x, double mean) { return (x - mean) * (x - mean); }
};

template <class V, class Term>
double sum_of(const double* x, int64_t n, double mean) {
  constexpr int kRegisters = kPartialSums / V::kDoubles;
  typename V::Doubles sums[kRegisters];
  unroll<kRegisters>([&](auto r) BITINFER_INLINE { sums[r] = V::set_all(0.0); });
  const typename V::Doubles means = V::set_all(mean);
  int64_t i = 0;
  for (; i + kPartialSums <= n; i += kPartialSums) {
    unroll<kRegisters>([&](auto r) BITINFER_INLINE {
      const auto value = V::load(x + i + r * V::kDoubles);
      sums[r] = V::add(sums[r], Term::template apply<V>(value, means));
    });
  }
  if (i < n) {
    double partial[kPartialSums];
    unroll<kRegisters>([&](auto r)
                           BITINFER_INLINE { V::store(partial + r * V::kDoubles, sums[r]); });
    for (int j = 0; i + j < n; ++j) partial[j] += Term::apply(x[i + j], mean);
    unroll<kRegisters>([&](auto r)
                           BITINFER_INLINE { sums[r] = V::load(partial + r * V::kDoubles); });
  }
  // Halves: whole registers first, then lanes.
  unroll<kPartialSumsLog2>([&](auto step) BITINFER_INLINE {
    constexpr int half = kRegisters >> (step + 1);
    unroll<half>([&](auto r) BITINFER_INLINE { sums[r] = V::add(sums[r], sums[r + half]); });
  });
  double lanes[V::kDoubles];
  V::store(lanes, sums[0]);
  for (int width = V::kDoubles / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  }
  return lanes[0];
}

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

struct Moments {
  double mean, scale;
};

template <class V>
Moments moments(const double* x, int64_t n) {
  const double mean = sum_of<V, Identity>(x, n, 0.0) / static_cast<double>(n);
  const double variance = sum_of<V, SquaredDeviation>(x, n, mean) / static_cast<double>(n);
  return {mean, 1.0 / __builtin_sqrt(variance + kLayerNormEpsilon)};
}

// 64 columns: what makes one word of bits in every row.
struct Columns {
  const NormRows& rows;
  const Signs* signs;
  int64_t first, count;

  double* x(int64_t row) const { return rows.x + row * rows.n + first; }
};

// Normalizes kRows rows and puts their bits into words[row][sign]. True if some value has at most
// the 24 significant bits of a float32: no other can equal a threshold, and hardly any has.
template <class V, int kRows, int kSigns>
BITINFER_INLINE inline bool normalize_whole(const Columns& columns, int64_t row,
                                            const Moments* of_row, uint64_t (*words)[kMostSigns]) {
  // Copies: what is stored could change anything behind a reference.
  const double *weights = columns.rows.weight + columns.first,
               *biases = columns.rows.bias + columns.first;
  typename V::Doubles means[kRows], scales[kRows];
  double* x[kRows];
  unroll<kRows>([&](auto r) BITINFER_INLINE {
    means[r] = V::set_all(of_row[r].mean);
    scales[r] = V::set_all(of_row[r].scale);
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
      y[r] = V::mul(V::sub(V::load(x[r] + j), means[r]), scales[r]);
      y[r] = V::add(V::mul(y[r], weight), bias);
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
__attribute__((noinline)) void normalize_some(const Columns& columns, int64_t row,
                                              const Moments* of_row,
                                              uint64_t (*words)[kMostSigns]) {
  for (int r = 0; r < kRows; ++r) {
    double* x = columns.x(row + r);
    for (int64_t j = 0; j < columns.count; ++j) {
      const int64_t k = columns.first + j;
      x[j] =
          (x[j] - of_row[r].mean) * of_row[r].scale * columns.rows.weight[k] + columns.rows.bias[k];
      for (int s = 0; s < kSigns; ++s) {
        words[r][s] |= static_cast<uint64_t>(x[j] > columns.signs[s].threshold[k]) << j;
      }
    }
  }
}

__attribute__((noinline)) bool any_equal(const Columns& columns, int64_t row,
                                         const double* threshold) {
  bool equal = false;
  for (int64_t j = 0; j < columns.count; ++j) {
    equal |= columns.x(row)[j] == threshold[columns.first + j];
  }
  return equal;
}

template <class V, int kRows, int kSigns>
BITINFER_INLINE inline void normalize_word(const Columns& columns, int64_t row,
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
    if (may_equal) signs[s].any_equal |= any_equal(columns, row + r, signs[s].threshold);
  });
}

// Rows pass by 64 columns at a time, two by two: weights, biases and thresholds together are larger
// than L1, and as many loads as the values.
template <class V, int kSigns>
void normalize_rows(const NormRows& rows, Signs* signs) {
  constexpr int64_t kBlock = 32;
  for (int64_t begin = 0; begin < rows.rows; begin += kBlock) {
    const int64_t end = rows.rows - begin < kBlock ? rows.rows : begin + kBlock;
    Moments of_row[kBlock];
    for (int64_t row = begin; row < end; ++row) {
      of_row[row - begin] = moments<V>(rows.x + row * rows.n, rows.n);
    }
    for (int64_t first = 0; first < rows.n; first += 64) {
      const int64_t left = rows.n - first;
      const Columns columns{rows, signs, first, left < 64 ? left : 64};
      int64_t row = begin;
      for (; row + 2 <= end; row += 2) {
        normalize_word<V, 2, kSigns>(columns, row, of_row + (row - begin), signs);
      }
      if (row < end) normalize_word<V, 1, kSigns>(columns, row, of_row + (row - begin), signs);
    }
  }
}

template <class V>
void layer_norm(const NormRows& rows, Signs* signs, int count) {
  if (count == 0) return normalize_rows<V, 0>(rows, signs);
  if (count == 1) return normalize_rows<V, 1>(rows, signs);
  if (count == 2) return normalize_rows<V, 2>(rows, signs);
  static_assert(kMostSigns == 3, "one line for each count");
  normalize_rows<V, 3>(rows, signs);
}

// Only rows in which pack_greater met equality come here.
template <class V>
void pack_not_equal(const double* x, const double* threshold, int64_t n, uint64_t* bits) {
  for (int64_t first = 0; first < n; first += 64) {
    uint64_t word = 0;
    for (int64_t j = 0; j < 64 && first + j < n; ++j) {
      const double limit = threshold != nullptr ? threshold[first + j] : 0.0;
      word |= static_cast<uint64_t>(x[first + j] != limit) << j;
    }
    *bits++ = word;
  }
}

inline uint64_t sum_terms(const uint16_t* distances, int64_t count, uint16_t nearest,
                          const uint64_t* fixed) {
  // Four scalar sums: compilers would gather or insert vectors here, which is slower on every CPU.
  uint64_t partial[4] = {};
  int64_t j = 0;
  for (; j + 4 <= count; j += 4) {
    for (int i = 0; i < 4; ++i) {
      partial[i] += fixed[distances[j + i] - nearest];
      __asm__ volatile("" : "+r"(partial[i]));
    }
  }
  for (; j < count; ++j) partial[0] += fixed[distances[j] - nearest];
  return partial[0] + partial[1] + partial[2] + partial[3];
}

// How many terms are above the limit: the first ones, because the table falls.
template <class V>
int64_t terms_above(const ExpTable& table, double limit) {
  const typename V::Doubles limits = V::set_all(limit);
  int64_t t = 0;
  for (; t + V::kDoubles <= table.size; t += V::kDoubles) {
    const uint32_t above = V::greater(V::load(table.value + t), limits);
    if (above != (1u << V::kDoubles) - 1) return t + __builtin_popcount(above);
  }
  while (t < table.size && table.value[t] > limit) ++t;
  return t;
}

// p_j = e(t_j) / sum e > half_step, with t_j the distance from the row's nearest key. The largest
// term is e(0) = 1, and a term is off by half a unit of the table at most, so the sum's relative
// error is below keys * unit / 2: 1.5e-14 for 512 keys, 9e-13 for 4096.
template <class V>
void probability_bits(const uint16_t* distances, int64_t count, const ExpTable& table,
                      double half_step, uint64_t* bits) {
  const int64_t words = (count + 63) / 64;
  uint16_t nearest = 0xffff;
  for (int64_t j = 0; j < words * 64; ++j) {
    nearest = distances[j] < nearest ? distances[j] : nearest;
  }
  uint64_t sum;
  if constexpr (V::kSumsTerms) {
    sum = table.fixed_bytes != nullptr
              ? V::sum_terms(distances, words * 64, nearest, table.fixed_bytes)
              : sum_terms(distances, count, nearest, table.fixed);
  } else {
    sum = sum_terms(distances, count, nearest, table.fixed);
  }
  const double limit = half_step * (static_cast<double>(sum) * table.unit);
  const int64_t end = nearest + terms_above<V>(table, limit);
  uint64_t running = 0;
  for (int64_t w = 0; w < words; ++w) {
    const uint16_t below = static_cast<uint16_t>(end < 0xffff ? end : 0xffff);
    running = running_word(V::less_u16(distances + w * 64, below), running);
    bits[w] = running;
  }
}

template <class V>
constexpr Kernels kernel_table(const char* name) {
  return Kernels{name,
                 products_run,
                 popcount_probe<V>,
                 store_sums<V>,
                 affine<V>,
                 pack_codes<V>,
                 store_distances<V>,
                 pack_greater<V>,
                 pack_not_equal<V>,
                 layer_norm<V>,
                 probability_bits<V>};
}

}  // namespace
}  // namespace bitinfer
