// The codes at every point of one sequence, written by the same code that predicts.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "model/config.h"

namespace bitinfer {

struct Trace {
  // Room for `tokens` tokens; runs from layer `first_layer` on.
  Trace(const Config& config, int64_t tokens, int64_t first_layer = 0);

  int64_t first_layer;
  const double* initial_hidden = nullptr;  // [tokens][hidden] instead of the embeddings, or null
  // kProbs: [heads][tokens][tokens]; every other point: [tokens][width].
  std::vector<std::array<std::vector<int8_t>, kLayerPoints>> layers;
  std::vector<std::vector<double>> hidden;  // [layers + 1]; empty before first_layer
  std::vector<int8_t> pooler_in;
};

}  // namespace bitinfer
