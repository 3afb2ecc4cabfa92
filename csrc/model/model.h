// What a model is: checked views of the tensors of a packed file, put together as the layers of a
// BERT. No device and no thread knows it; a device prepares what it runs from it, and then it can
// go.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/codes.h"
#include "model/config.h"
#include "model/tensors.h"

namespace bitinfer {

// How a point that one integer sum S decides becomes codes: for each boundary between two codes,
// the code lies above it where S > rise or S < fall.
struct Boundaries {
  PointCodes point;
  int levels;  // boundaries a column; signs that are never 0 have one
  int64_t columns;
  std::vector<int32_t> rises;  // [levels][columns]
  std::vector<int32_t> falls;  // the same, or empty: nothing lies below a dip

  // The codes that come out: of signs those with zeros where there are two boundaries.
  Codes codes() const;
  // The planes (bit j: plane j) that differ between the codes on both sides of a boundary.
  uint8_t toggles(int level) const;
};

// A linear of +-1 weights: value n is `scale[n] * step * S + bias[n]`, S the sum over the products
// of codes. Its input is coded after `shift` is added.
struct Linear {
  BitMatrix weight;
  std::vector<double> scale;  // of every row
  const float* bias;          // [rows]
  const float* shift;         // [depth]
  double step;                // of the input's codes
};

struct LayerNorm {
  const float *weight, *bias;
};

// A layer's points that are decided by sums have boundaries; the others are decided by value.
struct Layer {
  Linear query, key, value, attention_output, intermediate, output;
  LayerNorm attention_norm, output_norm;
  double query_step, key_step, value_step, probs_step;
  Boundaries query_boundaries, key_boundaries, value_boundaries;
  std::optional<Boundaries> context_boundaries;  // attention.output.in
  std::optional<Boundaries> ffn_boundaries;      // output.in
};

struct Embedding {
  BitMatrix word;
  std::vector<double> scale;  // of every word
  const float *position, *token_type;
  LayerNorm norm;
};

// What follows the last layer: the pooler, whatever the head reads, and the head's matrix.
struct Tail {
  Linear pooler;
  const float *weight, *bias;  // [outputs][hidden], [outputs]
};

struct Model {
  // FormatError names the tensor or setting, what was found and what was expected.
  Model(const Config& config, const TensorMap& tensors);

  Config config;
  Embedding embedding;
  std::vector<Layer> layers;
  Tail tail;
};

}  // namespace bitinfer
