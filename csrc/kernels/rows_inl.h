// Row kernels around the products, in double precision and one order of operations for every vector
// width: sums are sixteen partial sums (i mod 16), halved pairwise. No fused multiply-add.
//
// V::Doubles is a vector of V::kDoubles values (1, 2, 4 or 8); masks have bit i for lane i.
#pragma once

#include "kernels/bgemm_inl.h"
#include "kernels/kernel_table.h"

namespace bitinfer {
namespace {

inline constexpr int kPartialSums = 16;
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
  typename V::Doubles registers[kRegisters];
  for (auto& r : registers) r = V::set_all(0.0);
  const typename V::Doubles means = V::set_all(mean);
  int64_t i = 0;
  for (; i + kPartialSums <= n; i += kPartialSums) {
    for (int r = 0; r < kRegisters; ++r) {
      registers[r] =
          V::add(registers[r], Term::template apply<V>(V::load(x + i + r * V::kDoubles), means));
    }
  }
  double partial[kPartialSums];
  for (int r = 0; r < kRegisters; ++r) V::store(partial + r * V::kDoubles, registers[r]);
  for (int j = 0; i + j < n; ++j) partial[j] += Term::apply(x[i + j], mean);
  for (int width = kPartialSums / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) partial[j] += partial[j + width];
  }
  return partial[0];
}

template <class V>
void layer_norm(const double* x, int64_t n, const double* weight, const double* bias, double* out) {
  const double mean = sum_of<V, Identity>(x, n, 0.0) / static_cast<double>(n);
  const double variance = sum_of<V, SquaredDeviation>(x, n, mean) / static_cast<double>(n);
  const double scale = 1.0 / __builtin_sqrt(variance + kLayerNormEpsilon);
  const typename V::Doubles means = V::set_all(mean), scales = V::set_all(scale);
  int64_t i = 0;
  for (; i + V::kDoubles <= n; i += V::kDoubles) {
    const auto normal = V::mul(V::sub(V::load(x + i), means), scales);
    V::store(out + i, V::add(V::mul(normal, V::load(weight + i)), V::load(bias + i)));
  }
  for (; i < n; ++i) out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

// Calls word(first, count) -> uint64_t for every 64 values of a row.
template <class Word>
inline void for_each_word(int64_t n, uint64_t* bits, Word word) {
  for (int64_t first = 0; first < n; first += 64) {
    *bits++ = word(first, n - first < 64 ? n - first : 64);
  }
}

template <class V>
bool pack_greater(const double* x, const double* threshold, int64_t n, uint64_t* bits) {
  uint64_t any_equal = 0, running = 0;
  for_each_word(n, bits, [&](int64_t first, int64_t count) {
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
    return running = running_word(word, running);
  });
  return any_equal != 0;
}

// Only rows in which pack_greater met equality come here.
template <class V>
void pack_not_equal(const double* x, const double* threshold, int64_t n, uint64_t* bits) {
  for_each_word(n, bits, [&](int64_t first, int64_t count) {
    uint64_t word = 0;
    for (int64_t j = 0; j < count; ++j) {
      const double limit = threshold != nullptr ? threshold[first + j] : 0.0;
      word |= static_cast<uint64_t>(x[first + j] != limit) << j;
    }
    return word;
  });
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
