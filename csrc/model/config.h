// Sizes and kinds of a model.
#pragma once

#include <array>
#include <cstdint>

#include "model/codes.h"

namespace bitinfer {

// Where values become codes: ten points of a layer and one of the tail.
enum Point {
  kQueryIn,
  kKeyIn,
  kValueIn,
  kQuery,
  kKey,
  kValue,
  kProbs,
  kAttentionOutputIn,
  kIntermediateIn,
  kOutputIn,
  kPoolerIn,
  kPointCount
};
inline constexpr int kLayerPoints = kPoolerIn;
// As files and traces call them.
const char* name_of(Point point);

enum class HiddenActivation { kRelu, kGelu };

// What the head's matrix reads.
enum class Reads { kNothing, kPooled, kTokens };

struct Config {
  int64_t hidden, layers, heads, intermediate, vocab, positions, token_types, labels;
  HiddenActivation activation;
  Reads reads;
  std::array<PointCodes, kPointCount> codes;

  int64_t head_size() const { return hidden / heads; }
};

// Refuses, as FormatError, sizes that are not positive, too large to be a model, or do not divide,
// and codes that the points cannot have.
void check_config(const Config& config);

}  // namespace bitinfer
