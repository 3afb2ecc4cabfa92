#include "cpu/prepared.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/bits.h"
#include "base/math.h"

namespace bitinfer {
namespace {

template <class T>
AlignedBuffer<T> copy(const T* values, int64_t count) {
  AlignedBuffer<T> result(static_cast<size_t>(count));
  std::copy_n(values, count, result.data());
  return result;
}

AlignedBuffer<float> narrow(const AlignedBuffer<double>& values, int64_t count) {
  AlignedBuffer<float> result(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) result[i] = static_cast<float>(values[i]);
  return result;
}

AlignedBuffer<double> widen(const float* values, int64_t count, double sign = 1.0) {
  AlignedBuffer<double> result(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) result[i] = sign * values[i];
  return result;
}

Quantizer quantizer_of(const PointCodes& point, double step) {
  const Codes codes = point.codes();
  return {0.0, 1.0 / step, codes.low(), codes.high(), codes.planes};
}

// Without boundaries the product gives sums, for which it needs A.
Product prepare_product(const Columns& columns, const Codes& codes, const Boundaries* boundaries) {
  Product product{LeftCodes(codes), {}, {}};
  AlignedBuffer<int32_t> constants = columns.constants(product.left);
  if (boundaries != nullptr) {
    product.limits.reserve(columns.count(), *boundaries);
    const Panels panels = columns.panels();
    product.limits.set(*boundaries, 0, product.left.factor, constants.data(), columns.count(),
                       &panels);
  } else {
    product.constants = std::move(constants);
  }
  return product;
}

// `input` are the codes that come in, `point` how values become them.
PreparedLinear prepare(const Linear& linear, const PointCodes& point, const Codes& input,
                       const Boundaries* boundaries) {
  const int64_t rows = linear.weight.rows;
  Columns columns(linear.weight);
  Product product = prepare_product(columns, input, boundaries);
  AlignedBuffer<double> scale(static_cast<size_t>(rows));
  for (int64_t n = 0; n < rows; ++n) scale[n] = linear.step * linear.scale[n];
  AlignedBuffer<double> of_ones;
  if (point.from_min) {
    of_ones.reserve(static_cast<size_t>(rows));
    for (int64_t n = 0; n < rows; ++n) {
      of_ones[n] = linear.scale[n] * static_cast<double>(columns.row_sum(n));
    }
  }
  return {std::move(columns), InputCodes(point, linear), std::move(product), std::nullopt,
          std::move(scale),   widen(linear.bias, rows),  std::move(of_ones)};
}

// A linear that reads states.
PreparedLinear prepare(const Linear& linear, const PointCodes& point,
                       const Boundaries* boundaries) {
  PreparedLinear prepared = prepare(linear, point, point.codes(), boundaries);
  if (point.are_signs()) {
    prepared.with_zeros = prepare_product(prepared.columns, signs_with_zeros(), boundaries);
  }
  return prepared;
}

const Boundaries* pointer(const std::optional<Boundaries>& boundaries) {
  return boundaries ? &*boundaries : nullptr;
}

// The largest product of a code of each: of the two smallest or of the two largest ones.
int64_t largest_product(const Codes& a, const Codes& b) {
  return std::max<int64_t>(int64_t{a.low()} * b.low(), int64_t{a.high()} * b.high());
}
int64_t smallest_product(const Codes& a, const Codes& b) {
  return std::min<int64_t>(int64_t{a.low()} * b.high(), int64_t{a.high()} * b.low());
}

ExpScores prepare_scores(const Config& config, const Layer& layer) {
  const Codes query = layer.query_boundaries.codes(), key = layer.key_boundaries.codes();
  // Scores of signs share a parity.
  const int64_t step = query.planes == 1 && key.planes == 1 ? 2 : 1;
  const int64_t spread =
      config.head_size() * (largest_product(query, key) - smallest_product(query, key));
  const double scale =
      layer.query_step * layer.key_step / __builtin_sqrt(static_cast<double>(config.head_size()));
  return ExpScores(scale, spread / step, step, config.positions);
}

size_t bytes_of(const PreparedNorm& norm) { return norm.weight.bytes() + norm.bias.bytes(); }

}  // namespace

InputCodes::InputCodes(const PointCodes& point, const Linear& linear)
    : are_signs(point.are_signs()), quantizer(quantizer_of(point, linear.step)) {
  const int64_t depth = linear.weight.depth;
  if (are_signs) {
    threshold = widen(linear.shift, depth, -1.0);
  } else {
    shift = widen(linear.shift, depth);
  }
}

size_t PreparedLinear::bytes() const {
  const size_t products = product.bytes() + (with_zeros ? with_zeros->bytes() : 0);
  return columns.bytes() + input.bytes() + products + scale.bytes() + bias.bytes() +
         of_ones.bytes();
}

PreparedNorm::PreparedNorm(const LayerNorm& norm, int64_t size)
    : weight(widen(norm.weight, size)), bias(widen(norm.bias, size)) {}

ExpScores::ExpScores(double score_scale, int64_t distances, int64_t step, int64_t positions)
    : size_(distances + 1), value_(size_), fixed_(size_) {
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

PreparedAttention::PreparedAttention(const Config& config, const Layer& layer)
    : query(layer.query_boundaries.codes()),
      key(layer.key_boundaries.codes()),
      value(layer.value_boundaries.codes()),
      probs(config.codes[kProbs].codes()),
      context(layer.context_boundaries ? layer.context_boundaries->codes()
                                       : config.codes[kAttentionOutputIn].codes()),
      largest_score(config.head_size() * largest_product(query, key)),
      scores(prepare_scores(config, layer)),
      quantizer(quantizer_of(config.codes[kProbs], layer.probs_step)),
      from_min(config.codes[kProbs].from_min),
      probs_step(layer.probs_step),
      value_step(layer.value_step),
      boundaries(layer.context_boundaries) {}

size_t PreparedAttention::bytes() const {
  const size_t levels = boundaries ? boundaries->rises.size() + boundaries->falls.size() : 0;
  return scores.bytes() + levels * sizeof(int32_t);
}

PreparedValues::PreparedValues(const Config& config, const PreparedLinear& from,
                               const PreparedLinear& to)
    : exact_scale_(from.scale.data()),
      exact_bias_(from.bias.data()),
      exact_shift_(to.input.shift.data()),
      activation_(config.activation == HiddenActivation::kRelu ? Activation::kRelu
                                                               : Activation::kGelu),
      scale_(narrow(from.scale, config.intermediate)),
      bias_(narrow(from.bias, config.intermediate)),
      shift_(narrow(to.input.shift, config.intermediate)),
      magnitude_(0) {
  const Codes codes = config.codes[kIntermediateIn].codes();
  const double reach = static_cast<double>(config.hidden * codes.magnitude());
  for (int64_t n = 0; n < config.intermediate; ++n) {
    magnitude_ = std::max(magnitude_, std::abs(exact_scale_[n]) * reach + std::abs(exact_bias_[n]) +
                                          std::abs(exact_shift_[n]));
  }
}

Values PreparedValues::of(const int32_t* sums) const {
  return {{sums, exact_scale_, exact_bias_},
          activation_,
          exact_shift_,
          scale_.data(),
          bias_.data(),
          shift_.data(),
          magnitude_};
}

PreparedLayer::PreparedLayer(const Config& config, const Layer& layer)
    : query(prepare(layer.query, config.codes[kQueryIn], &layer.query_boundaries)),
      key(prepare(layer.key, config.codes[kKeyIn], &layer.key_boundaries)),
      value(prepare(layer.value, config.codes[kValueIn], &layer.value_boundaries)),
      attention(config, layer),
      attention_output(prepare(layer.attention_output, config.codes[kAttentionOutputIn],
                               attention.context, nullptr)),
      attention_norm(layer.attention_norm, config.hidden),
      intermediate(prepare(layer.intermediate, config.codes[kIntermediateIn],
                           pointer(layer.ffn_boundaries))),
      output(prepare(layer.output, config.codes[kOutputIn], nullptr)),
      output_norm(layer.output_norm, config.hidden) {
  if (config.codes[kOutputIn].from_min) ffn_values.emplace(config, intermediate, output);
}

size_t PreparedLayer::bytes() const {
  return query.bytes() + key.bytes() + value.bytes() + attention.bytes() +
         attention_output.bytes() + bytes_of(attention_norm) + intermediate.bytes() +
         output.bytes() + (ffn_values ? ffn_values->bytes() : 0) + bytes_of(output_norm);
}

PreparedEmbedding::PreparedEmbedding(const Config& config, const Embedding& embedding)
    : bits(copy(embedding.word.bits, config.vocab * words_for(config.hidden))),
      scale(embedding.scale),
      zero_rows(embedding.word.zeros.rows, embedding.word.zeros.rows + embedding.word.zeros.count),
      row_words(words_for(config.hidden)),
      nonzero(copy(embedding.word.zeros.nonzero, embedding.word.zeros.count * row_words)),
      position(copy(embedding.position, config.positions * config.hidden)),
      token_type(copy(embedding.token_type, config.token_types * config.hidden)),
      norm(embedding.norm, config.hidden) {}

const uint64_t* PreparedEmbedding::nonzero_row(int32_t id) const {
  const auto found = std::lower_bound(zero_rows.begin(), zero_rows.end(), id);
  if (found == zero_rows.end() || *found != id) return nullptr;
  return nonzero.data() + (found - zero_rows.begin()) * row_words;
}

size_t PreparedEmbedding::bytes() const {
  return bits.bytes() + scale.size() * sizeof(double) + zero_rows.size() * sizeof(int32_t) +
         nonzero.bytes() + position.bytes() + token_type.bytes() + bytes_of(norm);
}

PreparedModel::PreparedModel(const Model& model)
    : config(model.config),
      embedding(model.config, model.embedding),
      pooler(prepare(model.tail.pooler, model.config.codes[kPoolerIn], nullptr)),
      head_weight(widen(model.tail.weight, model.config.labels * model.config.hidden)),
      head_bias(widen(model.tail.bias, model.config.labels)),
      bytes(embedding.bytes() + pooler.bytes() + head_weight.bytes() + head_bias.bytes()) {
  layers.reserve(model.layers.size());
  for (const Layer& layer : model.layers) {
    layers.emplace_back(config, layer);
    bytes += layers.back().bytes();
  }
}

}  // namespace bitinfer
