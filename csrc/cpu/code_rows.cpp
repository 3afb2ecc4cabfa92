#include "cpu/code_rows.h"

#include <algorithm>
#include <vector>

namespace bitinfer {

void decode_rows(const Rows& rows, const LeftCodes& left, Words words, int64_t width, int8_t* out,
                 int64_t out_stride) {
  std::vector<uint64_t> plane(static_cast<size_t>(words_for(width)));
  for (int64_t row = 0; row < rows.count; ++row) {
    int8_t* codes = out + row * out_stride;
    std::fill_n(codes, width, static_cast<int8_t>(left.c0));
    for (int j = 0; j < left.planes; ++j) {
      std::copy_n(rows.bits + row * rows.stride + j * rows.plane_stride, plane.size(),
                  plane.data());
      if (words == Words::kRunning) to_codes(plane.data(), static_cast<int64_t>(plane.size()));
      const int32_t c = left.factor * left.coefficient[j];
      for (int64_t k = 0; k < width; ++k) {
        if (bit_at(plane.data(), k)) codes[k] = static_cast<int8_t>(codes[k] + c);
      }
    }
  }
}

}  // namespace bitinfer
