#include "cpu/kernels/reference.h"

#include "base/bits.h"

namespace bitinfer::reference {

int code(const Codes& matrix, int64_t row, int64_t k, int64_t depth) {
  const int64_t offset = row * words_for(depth);
  if (matrix.nonzero != nullptr && !bit_at(matrix.nonzero + offset, k)) return 0;
  const bool bit = bit_at(matrix.bits + offset, k);
  return matrix.is_unsigned ? bit : (bit ? 1 : -1);
}

void bgemm(const Codes& a, const Codes& b, int64_t depth, int32_t* out) {
  for (int64_t m = 0; m < a.rows; ++m) {
    for (int64_t n = 0; n < b.rows; ++n) {
      int32_t sum = 0;
      for (int64_t k = 0; k < depth; ++k) sum += code(a, m, k, depth) * code(b, n, k, depth);
      out[m * b.rows + n] = sum;
    }
  }
}

}  // namespace bitinfer::reference
