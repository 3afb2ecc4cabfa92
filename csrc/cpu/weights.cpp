#include "cpu/weights.h"

#include <algorithm>

#include "base/bits.h"
#include "base/error.h"
#include "base/math.h"

namespace bitinfer {
namespace {

void check_size(const char* name, int64_t value, int64_t most) {
  if (value < 1 || value > most) {
    throw FormatError(std::string("config '") + name + "': found " + std::to_string(value) +
                      ", expected 1 to " + std::to_string(most));
  }
}

template <class T>
AlignedBuffer<T> copy(const T* values, int64_t count) {
  AlignedBuffer<T> result(static_cast<size_t>(count));
  std::copy_n(values, count, result.data());
  return result;
}

AlignedBuffer<double> widen(const float* values, int64_t count) {
  AlignedBuffer<double> result(static_cast<size_t>(count));
  std::copy_n(values, count, result.data());
  return result;
}

LayerNorm read_norm(TensorReader& reader, const std::string& name, int64_t size) {
  return {widen(reader.floats(name + ".weight", {size}), size),
          widen(reader.floats(name + ".bias", {size}), size)};
}

Linear read_linear(TensorReader& reader, const std::string& name, int64_t rows, int64_t depth) {
  const TensorReader::Matrix matrix = reader.matrix(name, rows, depth);
  PackedMatrix packed(matrix.bits, rows, depth, matrix.zeros);
  const double step = reader.positive_float(name + ".step");
  const std::vector<double> scales = reader.scales(name, rows);
  AlignedBuffer<double> scale(static_cast<size_t>(rows));
  for (int64_t n = 0; n < rows; ++n) scale[n] = step * scales[n];
  AlignedBuffer<double> threshold = widen(reader.floats(name + ".shift", {depth}), depth);
  for (int64_t k = 0; k < depth; ++k) threshold[k] = -threshold[k];
  AlignedBuffer<double> bias = widen(reader.floats(name + ".bias", {rows}), rows);
  return {std::move(packed), std::move(threshold), std::move(scale), std::move(bias)};
}

// `point`.threshold and, if the file has it, `point`.threshold_low.
struct PointThresholds {
  const int32_t* threshold;
  const int32_t* low;
};

PointThresholds read_thresholds(TensorReader& reader, const std::string& point, int64_t size) {
  const std::string low = point + ".threshold_low";
  return {reader.integers(point + ".threshold", {size}),
          reader.has(low) ? reader.integers(low, {size}) : nullptr};
}

ThresholdLinear read_threshold_linear(TensorReader& reader, const std::string& name,
                                      const std::string& point, int64_t rows, int64_t depth) {
  Linear linear = read_linear(reader, name, rows, depth);
  const PointThresholds point_thresholds = read_thresholds(reader, point, rows);
  CodeLimits limits = CodeLimits::of(linear.matrix, /*unsigned_rows=*/false,
                                     point_thresholds.threshold, point_thresholds.low);
  return {std::move(linear), std::move(limits)};
}

Layer read_layer(TensorReader& reader, const std::string& name, const Config& config) {
  const int64_t hidden = config.hidden;
  const auto projection = [&](const char* part) {
    const std::string point = name + "." + part;
    return read_threshold_linear(reader, point, point, hidden, hidden);
  };
  ThresholdLinear query = projection("query"), key = projection("key"), value = projection("value");
  const double query_step = reader.positive_float(name + ".query.code_step");
  const double key_step = reader.positive_float(name + ".key.code_step");
  reader.positive_float(name + ".value.code_step");  // is inside the context's thresholds
  const double probs_step = reader.positive_float(name + ".attention.probs.step");
  const double score_scale =
      query_step * key_step / __builtin_sqrt(static_cast<double>(config.head_size()));
  const PointThresholds context = read_thresholds(reader, name + ".attention.output.in", hidden);

  return {std::move(query),
          std::move(key),
          std::move(value),
          ExpScores(score_scale, config.head_size(), 2, config.positions),
          ExpScores(score_scale, config.head_size(), 1, config.positions),
          0.5 * probs_step,
          bounded(context.threshold, hidden, config.positions),
          context.low != nullptr ? bounded(context.low, hidden, config.positions)
                                 : std::vector<int32_t>(),
          read_linear(reader, name + ".attention.output", hidden, hidden),
          read_norm(reader, name + ".attention.norm", hidden),
          read_threshold_linear(reader, name + ".intermediate", name + ".output.in",
                                config.intermediate, hidden),
          read_linear(reader, name + ".output", hidden, config.intermediate),
          read_norm(reader, name + ".output.norm", hidden)};
}

Embedding read_embedding(TensorReader& reader, const Config& config) {
  const int64_t hidden = config.hidden, words = words_for(hidden);
  const std::string name = "embeddings.word";
  const TensorReader::Matrix matrix = reader.matrix(name, config.vocab, hidden);
  Embedding embedding;
  embedding.bits = copy(matrix.bits, config.vocab * words);
  embedding.scale = reader.scales(name, config.vocab);
  embedding.zero_rows.assign(matrix.zeros.rows, matrix.zeros.rows + matrix.zeros.count);
  embedding.nonzero = copy(matrix.zeros.nonzero, matrix.zeros.count * words);
  embedding.position = copy(reader.floats("embeddings.position", {config.positions, hidden}),
                            config.positions * hidden);
  embedding.token_type = copy(reader.floats("embeddings.token_type", {config.token_types, hidden}),
                              config.token_types * hidden);
  embedding.norm = read_norm(reader, "embeddings.norm", hidden);
  return embedding;
}

size_t bytes_of(const LayerNorm& norm) { return norm.weight.bytes() + norm.bias.bytes(); }
size_t bytes_of(const Linear& linear) {
  return linear.matrix.bytes() + linear.input_threshold.bytes() + linear.scale.bytes() +
         linear.bias.bytes();
}
size_t bytes_of(const ThresholdLinear& part) { return bytes_of(part.linear) + part.limits.bytes(); }
size_t bytes_of(const Layer& layer) {
  const size_t context = layer.context_threshold.size() + layer.context_low.size();
  return bytes_of(layer.query) + bytes_of(layer.key) + bytes_of(layer.value) +
         layer.pm1_scores.bytes() + layer.ternary_scores.bytes() + context * sizeof(int32_t) +
         bytes_of(layer.attention_output) + bytes_of(layer.attention_norm) +
         bytes_of(layer.intermediate) + bytes_of(layer.output) + bytes_of(layer.output_norm);
}
size_t bytes_of(const Embedding& embedding) {
  return embedding.bits.bytes() + embedding.scale.size() * sizeof(double) +
         embedding.zero_rows.size() * sizeof(int32_t) + embedding.nonzero.bytes() +
         embedding.position.bytes() + embedding.token_type.bytes() + bytes_of(embedding.norm);
}

}  // namespace

void check_config(const Config& config) {
  check_size("hidden", config.hidden, 1 << 16);
  check_size("layers", config.layers, 1 << 10);
  check_size("heads", config.heads, config.hidden);
  check_size("intermediate", config.intermediate, 1 << 18);
  check_size("vocab", config.vocab, 1 << 24);
  // More would make the fixed-point sums of attention coarser than the promise of exactness.
  check_size("positions", config.positions, 1 << 12);
  check_size("token_types", config.token_types, 1 << 10);
  check_size("labels", config.labels, 1 << 20);
  if (config.hidden % config.heads != 0) {
    throw FormatError("config 'heads': found " + std::to_string(config.heads) +
                      ", expected a divisor of hidden = " + std::to_string(config.hidden));
  }
  // Distances of attention are 16-bit, 2 * head_size at most, and 0xffff is no distance.
  check_size("head size (hidden / heads)", config.head_size(), 32000);
  if (config.head == Head::kSpan && config.labels != 2) {
    throw FormatError("config 'labels': found " + std::to_string(config.labels) +
                      ", expected 2 (start and end) for a span head");
  }
}

ExpScores::ExpScores(double score_scale, int64_t head_size, int64_t step, int64_t positions)
    : size_(2 * head_size / step + 1), value_(size_), fixed_(size_) {
  // positions * 2^fraction_bits must not exceed 2^63, nor e(0) = 2^fraction_bits its bytes.
  int fraction_bits = 8 * kExpBytes - 1;
  while ((int64_t{1} << (63 - fraction_bits)) < positions) --fraction_bits;
  unit_ = 1.0 / static_cast<double>(uint64_t{1} << fraction_bits);
  for (int64_t i = 0; i < size_; ++i) {
    const double term = exp(-static_cast<double>(i * step) * score_scale);
    // Rounding could lift a term above the one before it; the search relies on the order.
    value_[i] = i > 0 ? std::min(term, value_[i - 1]) : term;
    const double scaled = value_[i] / unit_;
    // From 2^52 on a double is an integer already.
    fixed_[i] = static_cast<uint64_t>(scaled < 4503599627370496.0 ? scaled + 0.5 : scaled);
  }
  if (size_ >= kExpByteColumns) return;
  fixed_bytes_ = AlignedBuffer<uint8_t>(kExpBytes * kExpByteColumns);
  for (int64_t i = 0; i < size_; ++i) {
    for (int b = 0; b < kExpBytes; ++b) {
      fixed_bytes_[b * kExpByteColumns + i] = static_cast<uint8_t>(fixed_[i] >> (8 * b));
    }
  }
}

const uint64_t* Embedding::nonzero_row(int32_t word, int64_t words) const {
  const auto found = std::lower_bound(zero_rows.begin(), zero_rows.end(), word);
  if (found == zero_rows.end() || *found != word) return nullptr;
  return nonzero.data() + (found - zero_rows.begin()) * words;
}

Weights::Weights(const Config& config, const TensorMap& tensors) : config(config) {
  check_config(config);
  TensorReader reader(tensors);
  const int64_t hidden = config.hidden;
  embedding = read_embedding(reader, config);
  for (int64_t i = 0; i < config.layers; ++i) {
    layers.push_back(read_layer(reader, "layer." + std::to_string(i), config));
  }
  pooler = read_linear(reader, "pooler", hidden, hidden);
  head_weight =
      widen(reader.floats("head.weight", {config.labels, hidden}), config.labels * hidden);
  head_bias = widen(reader.floats("head.bias", {config.labels}), config.labels);
  reader.refuse_unread();

  bytes = bytes_of(embedding) + bytes_of(*pooler) + head_weight.bytes() + head_bias.bytes();
  for (const Layer& layer : layers) bytes += bytes_of(layer);
}

}  // namespace bitinfer
