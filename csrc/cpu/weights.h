// A model at rest: everything a forward pass reads, in the form it reads it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "cpu/packed_matrix.h"
#include "model/tensors.h"

namespace bitinfer {

enum class Head { kClassification, kSpan };

struct Config {
  int64_t hidden, layers, heads, intermediate, vocab, positions, token_types, labels;
  Head head;

  int64_t head_size() const { return hidden / heads; }
};

// Refuses, as FormatError, sizes that are not positive, too large to be a model, or do not divide.
void check_config(const Config& config);

struct LayerNorm {
  AlignedBuffer<double> weight, bias;
};

// A binarized linear: output scale * S + bias. Where its input is a state x, and not codes that
// thresholds have made, the input's code is sign(x + shift).
struct Linear {
  PackedMatrix matrix;
  AlignedBuffer<double> input_threshold;  // -shift: x + shift > 0 <=> x > -shift, exactly
  AlignedBuffer<double> scale, bias;      // per output

  ScaledSums scaled(const int32_t* sums) const { return {sums, scale.data(), bias.data()}; }
};

// A linear whose output is only ever compared: Q, K, V and the first half of the FFN.
struct ThresholdLinear {
  Linear linear;
  CodeLimits limits;
};

// exp of attention scores by distance; `step` is 2 for codes without zeros (scores share a parity).
class ExpScores {
 public:
  ExpScores(double score_scale, int64_t head_size, int64_t step, int64_t positions);
  size_t bytes() const { return value_.bytes() + fixed_.bytes() + fixed_bytes_.bytes(); }
  ExpTable table() const {
    const uint8_t* bytes = size_ < kExpByteColumns ? fixed_bytes_.data() : nullptr;
    return {value_.data(), fixed_.data(), bytes, size_, unit_};
  }

 private:
  int64_t size_;
  double unit_;
  AlignedBuffer<double> value_;
  AlignedBuffer<uint64_t> fixed_;
  AlignedBuffer<uint8_t> fixed_bytes_;
};

struct Layer {
  ThresholdLinear query, key, value;
  ExpScores pm1_scores, ternary_scores;
  double half_probs_step;
  // Thresholds of attention.output.in on the context's sums; low is empty where no code can be 0.
  std::vector<int32_t> context_threshold, context_low;
  Linear attention_output;
  LayerNorm attention_norm;
  ThresholdLinear intermediate;
  Linear output;
  LayerNorm output_norm;
};

struct Embedding {
  AlignedBuffer<uint64_t> bits;  // row-major, as in the file
  std::vector<double> scale;
  std::vector<int32_t> zero_rows;
  AlignedBuffer<uint64_t> nonzero;
  AlignedBuffer<float> position, token_type;
  LayerNorm norm;

  // The non-zero plane of a word's row, or null.
  const uint64_t* nonzero_row(int32_t word, int64_t words) const;
};

struct Weights {
  Weights(const Config& config, const TensorMap& tensors);

  Config config;
  Embedding embedding;
  std::vector<Layer> layers;
  std::optional<Linear> pooler;
  AlignedBuffer<double> head_weight, head_bias;
  size_t bytes;
};

}  // namespace bitinfer
