// What the kernels mean: plain loops over decoded codes, no bit tricks. Tests compare every
// instruction set with it, and bitinfer.ops.bgemm_reference exposes it.
#pragma once

#include <cstdint>

namespace bitinfer::reference {

// One operand in the row-major layout of base/bits.h; the code of value k is 0 where `nonzero` has
// no bit, else +1 or -1 by `bits` (1 or 0 where `is_unsigned`).
struct Codes {
  const uint64_t* bits;
  const uint64_t* nonzero;  // or null
  int64_t rows;
  bool is_unsigned;
};

int code(const Codes& matrix, int64_t row, int64_t k, int64_t depth);

// out[m * b.rows + n] = sum over k < depth of a[m][k] * b[n][k].
void bgemm(const Codes& a, const Codes& b, int64_t depth, int32_t* out);

}  // namespace bitinfer::reference
