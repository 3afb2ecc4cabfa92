#include "cpu/kernels/reference.h"

#include "base/bits.h"

namespace bitinfer::reference {

int32_t value(const Matrix& matrix, int64_t row, int64_t k) {
  int32_t sum = matrix.c0;
  for (int j = 0; j < matrix.planes; ++j) {
    const uint64_t* bits = matrix.bits + j * matrix.plane_stride + row * words_for(matrix.depth);
    sum += matrix.c[j] * bit_at(bits, k);
  }
  return sum;
}

void bgemm(const Matrix& a, const Matrix& b, int32_t* out) {
  for (int64_t m = 0; m < a.rows; ++m) {
    for (int64_t n = 0; n < b.rows; ++n) {
      int32_t sum = 0;
      for (int64_t k = 0; k < a.depth; ++k) sum += value(a, m, k) * value(b, n, k);
      out[m * b.rows + n] = sum;
    }
  }
}

}  // namespace bitinfer::reference
