#include "model/trace.h"

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
    for (int point = 0; point < kLayerPoints; ++point) {
      const int64_t width = point == kProbs      ? config.heads * tokens
                            : point == kOutputIn ? config.intermediate
                                                 : config.hidden;
      layers[i][point].resize(static_cast<size_t>(tokens * width));
    }
  }
}

}  // namespace bitinfer
