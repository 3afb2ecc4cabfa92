#include "cpu/trace.h"

#include <algorithm>

#include "base/bits.h"

namespace bitinfer {

Trace::Trace(const Config& config, int64_t tokens, int64_t first_layer)
    : first_layer(first_layer),
      layers(static_cast<size_t>(config.layers)),
      hidden(static_cast<size_t>(config.layers + 1)),
      pooler_in(static_cast<size_t>(config.hidden)) {
  for (int64_t i = first_layer; i <= config.layers; ++i) {
    hidden[i].resize(static_cast<size_t>(tokens * config.hidden));
  }
  for (int64_t i = first_layer; i < config.layers; ++i) {
    for (int point = 0; point < kPointCount; ++point) {
      const int64_t width = point == kProbs      ? config.heads * tokens
                            : point == kOutputIn ? config.intermediate
                                                 : config.hidden;
      layers[i][point].resize(static_cast<size_t>(tokens * width));
    }
  }
}

void decode_rows(const Rows& rows, Words words, int64_t width, int8_t* out, int64_t out_stride) {
  std::vector<uint64_t> codes(static_cast<size_t>(words_for(width)));
  for (int64_t row = 0; row < rows.count; ++row) {
    std::copy_n(rows.bits + row * rows.stride, codes.size(), codes.data());
    if (words == Words::kRunning) to_codes(codes.data(), static_cast<int64_t>(codes.size()));
    for (int64_t k = 0; k < width; ++k) {
      int8_t code = bit_at(codes.data(), k) ? 1 : (rows.is_unsigned ? 0 : -1);
      if (rows.nonzero != nullptr && !bit_at(rows.nonzero + row * rows.stride, k)) code = 0;
      out[row * out_stride + k] = code;
    }
  }
}

}  // namespace bitinfer
