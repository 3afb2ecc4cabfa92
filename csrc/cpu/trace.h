// The codes at every binarization point of one sequence, written by the same code that predicts.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "cpu/kernels/kernel_table.h"
#include "cpu/weights.h"

namespace bitinfer {

enum Point {
  kQueryIn,
  kKeyIn,
  kValueIn,
  kQuery,
  kKey,
  kValue,
  kProbs,  // [heads][tokens][tokens]; every other point: [tokens][width]
  kAttentionOutputIn,
  kIntermediateIn,
  kOutputIn,
  kPointCount
};

struct Trace {
  // Room for `tokens` tokens; runs from layer `first_layer` on.
  Trace(const Config& config, int64_t tokens, int64_t first_layer = 0);

  int64_t first_layer;
  const double* initial_hidden = nullptr;  // [tokens][hidden] instead of the embeddings, or null
  std::vector<std::array<std::vector<int8_t>, kPointCount>> layers;
  std::vector<std::vector<double>> hidden;  // [layers + 1]; empty before first_layer
  std::vector<int8_t> pooler_in;
};

// Decodes the first `width` codes of every row of `words` to out[row * out_stride + k].
void decode_rows(const Rows& rows, Words words, int64_t width, int8_t* out, int64_t out_stride);

}  // namespace bitinfer
