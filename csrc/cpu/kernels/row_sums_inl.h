// Sums over the columns of rows, in one order for every vector width: 32 partial sums (i mod 32),
// halved pairwise.
//
// V::Doubles is a vector of V::kDoubles values (2, 4 or 8), here and in all kernels of rows; fused
// multiply-adds are where they are written, on every processor.
#pragma once

#include <cstdint>

#include "cpu/kernels/unroll.h"

namespace bitinfer {
namespace {

inline constexpr int kPartialSumsLog2 = 5;
inline constexpr int kPartialSums = 1 << kPartialSumsLog2;

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

}  // namespace
}  // namespace bitinfer
