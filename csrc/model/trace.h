// The codes at every binarization point of one sequence, written by the same code that predicts.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/kernel_table.h"

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
  int64_t first_layer = 0;                 // run from here on,
  const double* initial_hidden = nullptr;  // with these states [tokens][hidden], or the embeddings'
  std::vector<std::array<std::vector<int8_t>, kPointCount>> layers;
  std::vector<std::vector<double>> hidden;  // [layers + 1]; empty before first_layer
  std::vector<int8_t> pooler_in;
};

// Decodes the first `width` codes of every row to out[row * out_stride + k].
void decode_rows(const Rows& rows, int64_t width, int8_t* out, int64_t out_stride);

}  // namespace bitinfer
