// What the kernels mean: plain loops over decoded codes, no bit tricks. Tests compare every
// instruction set with it, and bitinfer._core.bgemm_reference exposes it.
#pragma once

#include <cstdint>

#include "base/planes.h"

namespace bitinfer::reference {

// One operand: value k of a row is c0 + sum_j c_j plane_j. Planes are row-major, in the layout of
// base/bits.h.
struct Matrix {
  const uint64_t* bits;
  int64_t rows, depth;
  int64_t plane_stride;  // words from a plane to the next
  int planes;
  int32_t c0;
  int32_t c[kMostPlanes];
};

int32_t value(const Matrix& matrix, int64_t row, int64_t k);

// out[m * b.rows + n] = sum over k of a[m][k] * b[n][k].
void bgemm(const Matrix& a, const Matrix& b, int32_t* out);

}  // namespace bitinfer::reference
