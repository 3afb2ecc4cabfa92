// A model as the CPU runs it: interleaved weights, limits on the kernels' T, tables of exp.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/aligned_buffer.h"
#include "cpu/columns.h"
#include "cpu/kernels/table.h"
#include "model/model.h"

namespace bitinfer {

// A product of one kind of left codes with some columns.
struct Product {
  LeftCodes left;
  AlignedBuffer<int32_t> constants;  // A of every column; empty where limits are all it takes
  Limits limits;                     // of the codes that come out; none if sums do

  size_t bytes() const { return constants.bytes() + limits.bytes(); }
};

// How the input of a linear becomes codes where that is a state (or another value): signs are taken
// by thresholds -shift, for x + shift > 0 <=> x > -shift, exactly; other codes by a quantizer.
struct InputCodes {
  InputCodes(const PointCodes& point, const Linear& linear);

  int planes() const { return are_signs ? 2 : quantizer.planes; }  // at most
  size_t bytes() const { return threshold.bytes() + shift.bytes(); }

  bool are_signs;
  AlignedBuffer<double> threshold, shift;  // the one that is needed
  Quantizer quantizer;
};

// A linear: codes in, codes or sums out.
struct PreparedLinear {
  Columns columns;
  InputCodes input;
  // By the codes that come in: signs of states are without zeros, or, where an exact 0 has
  // occurred, with them; all other points have one kind of codes.
  Product product;
  std::optional<Product> with_zeros;
  AlignedBuffer<double> scale, bias;  // per output
  // What inputs of 1 add to every output, where codes of the input begin at its minimum.
  AlignedBuffer<double> of_ones;

  const Product& for_planes(int planes) const {
    return planes == product.left.planes ? product : *with_zeros;
  }
  ScaledSums scaled(const int32_t* sums) const { return {sums, scale.data(), bias.data()}; }
  size_t bytes() const;
};

struct PreparedNorm {
  explicit PreparedNorm(const LayerNorm& norm, int64_t size);

  AlignedBuffer<double> weight, bias;
};

// exp of attention scores by their distance from the largest score there can be; `step` scores lie
// between two distances.
class ExpScores {
 public:
  ExpScores(double score_scale, int64_t distances, int64_t step, int64_t positions);
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

// What attention multiplies: codes of both sides, and what becomes of the probabilities.
struct PreparedAttention {
  PreparedAttention(const Config& config, const Layer& layer);

  Codes query, key, value, probs, context;
  int64_t largest_score;  // S
  ExpScores scores;
  Quantizer quantizer;  // of probabilities
  bool from_min;        // probabilities begin at their minimum, contexts are decided by value
  double probs_step, value_step;
  std::optional<Boundaries> boundaries;  // of the context's sums

  bool are_bits() const { return quantizer.planes == 1; }
  size_t bytes() const;
};

// The values between two linears, where they become codes by value: those of the first one's sums,
// activated and shifted as the second one says.
class PreparedValues {
 public:
  PreparedValues(const Config& config, const PreparedLinear& from, const PreparedLinear& to);

  Values of(const int32_t* sums) const;
  size_t bytes() const { return scale_.bytes() + bias_.bytes() + shift_.bytes(); }

 private:
  const double *exact_scale_, *exact_bias_, *exact_shift_;
  Activation activation_;
  AlignedBuffer<float> scale_, bias_, shift_;
  double magnitude_;
};

struct PreparedLayer {
  PreparedLayer(const Config& config, const Layer& layer);

  PreparedLinear query, key, value;
  PreparedAttention attention;
  PreparedLinear attention_output;
  PreparedNorm attention_norm;
  PreparedLinear intermediate, output;
  std::optional<PreparedValues> ffn_values;
  PreparedNorm output_norm;

  size_t bytes() const;
};

struct PreparedEmbedding {
  PreparedEmbedding(const Config& config, const Embedding& embedding);

  // The non-zero plane of a token's row, or null.
  const uint64_t* nonzero_row(int32_t id) const;
  size_t bytes() const;

  AlignedBuffer<uint64_t> bits;  // row-major, as in the file
  std::vector<double> scale;
  std::vector<int32_t> zero_rows;
  int64_t row_words;
  AlignedBuffer<uint64_t> nonzero;
  AlignedBuffer<float> position, token_type;
  PreparedNorm norm;
};

struct PreparedModel {
  explicit PreparedModel(const Model& model);

  // Whether some point takes a minimum over whole sequences.
  bool needs_sequences() const {
    return config.codes[kProbs].from_min || config.codes[kOutputIn].from_min;
  }

  Config config;
  PreparedEmbedding embedding;
  std::vector<PreparedLayer> layers;
  PreparedLinear pooler;
  AlignedBuffer<double> head_weight, head_bias;
  size_t bytes;
};

}  // namespace bitinfer
