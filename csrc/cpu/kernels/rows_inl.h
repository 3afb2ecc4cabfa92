// Row kernels around the products, in double precision and one order of operations for every vector
// width: sums are 32 partial sums (i mod 32), halved pairwise; fused multiply-adds are where they
// are written, on every processor.
//
// V::Doubles is a vector of V::kDoubles values (2, 4 or 8); masks have bit i for lane i.
#pragma once

#include "cpu/kernels/bgemm_inl.h"
#include "cpu/kernels/kernel_table.h"

namespace bitinfer {
namespace {

inline constexpr int kPartialSumsLog2 = 5;
inline constexpr int kPartialSums = 1 << kPartialSumsLog2;
inline constexpr double kLayerNormEpsilon = 1e-12;

// Sums over n columns of kRows rows. vector(i, sums) adds columns i .. i + V::kDoubles - 1 of each
// row to its sum, scalar(i, r, sum) gives the sum with column i of row r.
template <class V, int kRows, class Vector, class Scalar>
BITINFER_INLINE inline void sum_rows(int64_t n, Vector vector, Scalar scalar, double* out) {
  using Doubles = typename V::Doubles;
  constexpr int kRegisters = kPartialSums / V::kDoubles;
  Doubles sums[kRegisters * kRows];
  unroll<kRegisters * kRows>([&](auto i) BITINFER_INLINE { sums[i] = V::set_all(0.0); });
  int64_t i = 0;
  for (; i + kPartialSums <= n; i += kPartialSums) {
    unroll<kRegisters>(
        [&](auto part) BITINFER_INLINE { vector(i + part * V::kDoubles, sums + part * kRows); });
  }
  unroll<kRows>([&](auto r) BITINFER_INLINE {
    double partial[kPartialSums];
    if (i < n) {
      unroll<kRegisters>([&](auto part) BITINFER_INLINE {
        V::store(partial + part * V::kDoubles, sums[part * kRows + r]);
      });
      for (int64_t j = i; j < n; ++j) partial[j - i] = scalar(j, r, partial[j - i]);
      unroll<kRegisters>([&](auto part) BITINFER_INLINE {
        sums[part * kRows + r] = V::load(partial + part * V::kDoubles);
      });
    }
    // Halves: whole registers first, then lanes.
    unroll<kPartialSumsLog2>([&](auto step) BITINFER_INLINE {
      constexpr int half = kRegisters >> (step + 1);
      unroll<half>([&](auto part) BITINFER_INLINE {
        constexpr int to = part * kRows + r;
        sums[to] = V::add(sums[to], sums[to + half * kRows]);
      });
    });
    V::store(partial, sums[r]);
    for (int width = V::kDoubles / 2; width > 0; width /= 2) {
      for (int j = 0; j < width; ++j) partial[j] += partial[j + width];
    }
    out[r] = partial[0];
  });
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

// Only rows in which an equal value was met come here.
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
__attribute__((noinline)) void normalize_some(const Columns& columns, int64_t row,
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

__attribute__((noinline)) bool meets_threshold(const Columns& columns, int64_t row,
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
      const Columns columns{rows, signs, first, left < 64 ? left : 64};
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

template <class V>
void affine(const ScaledSums& from, int64_t rows, int64_t n, double* out) {
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t* sums = from.sums + row * n;
    double* to = out + row * n;
    int64_t i = 0;
    for (; i + V::kDoubles <= n; i += V::kDoubles) {
      const auto product = V::mul(V::load(from.scale + i), V::convert(sums + i));
      V::store(to + i, V::add(product, V::load(from.bias + i)));
    }
    for (; i < n; ++i) to[i] = from.scale[i] * sums[i] + from.bias[i];
  }
}

inline uint64_t sum_terms_one_by_one(const uint16_t* distances, int64_t count, uint16_t nearest,
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

// How many terms are above the limit: the first ones, because the table falls. Without a branch
// that depends on the limit.
template <class V>
int64_t terms_above(const ExpTable& table, double limit) {
  const typename V::Doubles limits = V::set_all(limit);
  int64_t count = 0, t = 0;
  for (; t + V::kDoubles <= table.size; t += V::kDoubles) {
    count += __builtin_popcount(V::greater(V::load(table.value + t), limits));
  }
  for (; t < table.size; ++t) count += table.value[t] > limit;
  return count;
}

inline uint16_t smallest(const uint16_t* values, int64_t count) {
  uint16_t least = 0xffff;
  for (int64_t j = 0; j < count; ++j) least = values[j] < least ? values[j] : least;
  return least;
}

template <class V>
BITINFER_INLINE inline uint64_t sum_terms(const uint16_t* distances, int64_t count,
                                          uint16_t nearest, const ExpTable& table) {
  if constexpr (V::kSumsTerms) {
    if (table.fixed_bytes != nullptr) {
      return V::sum_terms_by_bytes(distances, (count + 63) / 64 * 64, nearest, table.fixed_bytes);
    }
  }
  return sum_terms_one_by_one(distances, count, nearest, table.fixed);
}

// p_j = e(t_j) / sum e > half_step, with t_j the distance from the row's nearest key. The largest
// term is e(0) = 1, and a term is off by half a unit of the table at most, so the sum's relative
// error is below keys * unit / 2: 1.5e-14 for 512 keys, 9e-13 for 4096.
//
// The steps of one row wait for one another, so some rows take each step together.
template <class V>
void probability_bits(const ScoreRows& scores, const ExpTable& table, double half_step) {
  constexpr int64_t kTogether = 16;
  const int64_t words = (scores.keys + 63) / 64;
  for (int64_t begin = 0; begin < scores.rows; begin += kTogether) {
    const int64_t left = scores.rows - begin, rows = left < kTogether ? left : kTogether;
    const uint16_t* distances = scores.distances + begin * scores.stride;
    uint16_t nearest[kTogether], below[kTogether];
    uint64_t sums[kTogether];
    for (int64_t r = 0; r < rows; ++r) {
      nearest[r] = smallest(distances + r * scores.stride, words * 64);
    }
    for (int64_t r = 0; r < rows; ++r) {
      sums[r] = sum_terms<V>(distances + r * scores.stride, scores.keys, nearest[r], table);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const double limit = half_step * (static_cast<double>(sums[r]) * table.unit);
      const int64_t end = nearest[r] + terms_above<V>(table, limit);
      below[r] = static_cast<uint16_t>(end < 0xffff ? end : 0xffff);
    }
    for (int64_t r = 0; r < rows; ++r) {
      uint64_t* bits = scores.bits + (begin + r) * scores.bits_stride;
      uint64_t running = 0;
      for (int64_t w = 0; w < words; ++w) {
        const uint64_t word = V::less_u16(distances + r * scores.stride + w * 64, below[r]);
        bits[w] = running = running_word(word, running);
      }
    }
  }
}

// Left to the compiler, which vectorizes it with each file's instructions: a code's sign moves into
// the sign bit of the scale.
template <int64_t kCount>
BITINFER_INLINE inline void embed_word(const EmbeddingRow& row, int64_t first, int64_t count,
                                       double* out) {
  constexpr uint64_t kSignBit = uint64_t{1} << 63;
  const uint64_t minus = ~row.bits[first / 64];
  const float *position = row.position + first, *segment = row.segment + first;
  for (int64_t j = 0; j < (kCount > 0 ? kCount : count); ++j) {
    uint64_t word;
    std::memcpy(&word, &row.scale, sizeof word);
    word ^= (minus >> j) << 63 & kSignBit;
    double value;
    std::memcpy(&value, &word, sizeof value);
    out[first + j] = value + static_cast<double>(position[j]) + static_cast<double>(segment[j]);
  }
}

template <class V>
void embed(const EmbeddingRow& row, double* out) {
  const EmbeddingRow copy = row;
  int64_t first = 0;
  for (; first + 64 <= copy.n; first += 64) embed_word<64>(copy, first, 64, out);
  if (first < copy.n) embed_word<0>(copy, first, copy.n - first, out);
  for (int64_t k = 0; copy.nonzero != nullptr && k < copy.n; ++k) {
    if ((copy.nonzero[k / 64] >> (k % 64) & 1) != 0) continue;
    out[k] = static_cast<double>(copy.position[k]) + static_cast<double>(copy.segment[k]);
  }
}

template <class V>
constexpr Kernels kernel_table(const char* name) {
  return Kernels{name,          products_run,    popcount_probe<V>,
                 store_sums<V>, pack_codes<V>,   store_distances<V>,
                 embed<V>,      pack_greater<V>, pack_not_equal<V>,
                 affine<V>,     layer_norm<V>,   probability_bits<V>};
}

}  // namespace
}  // namespace bitinfer
