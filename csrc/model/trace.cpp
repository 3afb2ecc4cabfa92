#include "model/trace.h"

#include "base/bits.h"

namespace bitinfer {

void decode_rows(const Rows& rows, int64_t width, int8_t* out, int64_t out_stride) {
  for (int64_t row = 0; row < rows.count; ++row) {
    const uint64_t* bits = rows.bits + row * rows.stride;
    for (int64_t k = 0; k < width; ++k) {
      int8_t code = bit_at(bits, k) ? 1 : (rows.is_unsigned ? 0 : -1);
      if (rows.nonzero != nullptr && !bit_at(rows.nonzero + row * rows.stride, k)) code = 0;
      out[row * out_stride + k] = code;
    }
  }
}

}  // namespace bitinfer
