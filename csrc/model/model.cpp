#include "model/model.h"

#include "base/bits.h"
#include "base/error.h"

namespace bitinfer {
namespace {

[[noreturn]] void refuse_levels(const std::string& name, size_t at, const char* expected) {
  throw FormatError("tensor '" + name + "': found values out of order at index " +
                    std::to_string(at) + ", expected " + expected);
}

// What lies above a boundary lies above those before it.
void check_order(const std::string& name, const Boundaries& boundaries) {
  const auto& [point, levels, columns, rises, falls] = boundaries;
  const size_t row = static_cast<size_t>(columns);
  for (size_t i = 0; i < rises.size(); ++i) {
    if (i >= row && rises[i] < rises[i - row]) {
      refuse_levels(name + ".rises", i, "none below the one of the level before");
    }
    if (falls.empty()) continue;
    if (i >= row && falls[i] > falls[i - row]) {
      refuse_levels(name + ".falls", i, "none above the one of the level before");
    }
    if (falls[i] > rises[i] + 1) {
      refuse_levels(name + ".falls", i, "none that meets the rise of its level");
    }
  }
}

// The boundaries of a point whose sums lie within -reach .. reach.
Boundaries read_boundaries(TensorReader& reader, const std::string& name, const PointCodes& point,
                           int64_t columns, int64_t reach) {
  Boundaries boundaries{point, 0, columns, reader.levels(name + ".rises", columns, reach), {}};
  boundaries.levels = static_cast<int>(static_cast<int64_t>(boundaries.rises.size()) / columns);
  const bool never_zero = point.are_signs() && boundaries.levels == 1;
  if (boundaries.levels != point.boundaries() && !never_zero) {
    throw FormatError("tensor '" + name + ".rises': found " + std::to_string(boundaries.levels) +
                      " levels, expected " + std::to_string(point.boundaries()) +
                      (point.are_signs() ? " or 1" : ""));
  }
  if (!point.is_signed && reader.has(name + ".falls")) {
    boundaries.falls = reader.levels(name + ".falls", columns, reach);
    if (boundaries.falls.size() != boundaries.rises.size()) {
      throw FormatError("tensor '" + name + ".falls': expected as many levels as rises");
    }
  }
  check_order(name, boundaries);
  return boundaries;
}

LayerNorm read_norm(TensorReader& reader, const std::string& name, int64_t size) {
  return {reader.floats(name + ".weight", {size}), reader.floats(name + ".bias", {size})};
}

Linear read_linear(TensorReader& reader, const std::string& name, int64_t rows, int64_t depth) {
  return {reader.matrix(name, rows, depth), reader.scales(name, rows),
          reader.floats(name + ".bias", {rows}), reader.floats(name + ".shift", {depth}),
          reader.positive_float(name + ".step")};
}

int64_t largest_sum(int64_t terms, const Config& config, Point left, Point right) {
  return terms * config.codes[left].codes().magnitude() * config.codes[right].codes().magnitude();
}

Layer read_layer(TensorReader& reader, const std::string& name, const Config& config) {
  const int64_t hidden = config.hidden, inner = config.intermediate;
  const auto& codes = config.codes;
  const auto linear = [&](const char* part, int64_t rows, int64_t depth) {
    return read_linear(reader, name + "." + part, rows, depth);
  };
  const auto boundaries = [&](Point point, int64_t columns, int64_t reach) {
    return read_boundaries(reader, name + "." + name_of(point), codes[point], columns, reach);
  };
  // Of codes of a state times weights of +-1.
  const auto projected = [&](Point input) { return hidden * codes[input].codes().magnitude(); };
  const auto step = [&](const char* of) { return reader.positive_float(name + "." + of); };

  Layer layer{linear("query", hidden, hidden),
              linear("key", hidden, hidden),
              linear("value", hidden, hidden),
              linear("attention.output", hidden, hidden),
              linear("intermediate", inner, hidden),
              linear("output", hidden, inner),
              read_norm(reader, name + ".attention.norm", hidden),
              read_norm(reader, name + ".output.norm", hidden),
              step("query.code_step"),
              step("key.code_step"),
              step("value.code_step"),
              step("attention.probs.step"),
              boundaries(kQuery, hidden, projected(kQueryIn)),
              boundaries(kKey, hidden, projected(kKeyIn)),
              boundaries(kValue, hidden, projected(kValueIn)),
              {},
              {}};
  if (!codes[kProbs].from_min) {
    layer.context_boundaries = boundaries(kAttentionOutputIn, hidden,
                                          largest_sum(config.positions, config, kProbs, kValue));
  }
  if (!codes[kOutputIn].from_min) {
    layer.ffn_boundaries = boundaries(kOutputIn, inner, projected(kIntermediateIn));
  }
  return layer;
}

}  // namespace

Codes Boundaries::codes() const {
  return point.are_signs() && levels == 2 ? signs_with_zeros() : point.codes();
}

uint8_t Boundaries::toggles(int level) const {
  // Signs with zeros: plane 0 is set from +1 on, plane 1 from 0 on.
  if (point.are_signs()) return static_cast<uint8_t>(1 << (levels - 1 - level));
  // Counting up to level + 1 turns over the bits that differ from the number before.
  return static_cast<uint8_t>(level ^ (level + 1));
}

Model::Model(const Config& config, const TensorMap& tensors) : config(config) {
  check_config(config);
  TensorReader reader(tensors);
  const int64_t hidden = config.hidden;
  embedding = {reader.matrix("embeddings.word", config.vocab, hidden),
               reader.scales("embeddings.word", config.vocab),
               reader.floats("embeddings.position", {config.positions, hidden}),
               reader.floats("embeddings.token_type", {config.token_types, hidden}),
               read_norm(reader, "embeddings.norm", hidden)};
  for (int64_t i = 0; i < config.layers; ++i) {
    layers.push_back(read_layer(reader, "layer." + std::to_string(i), config));
  }
  tail = {read_linear(reader, "pooler", hidden, hidden),
          reader.floats("head.weight", {config.labels, hidden}),
          reader.floats("head.bias", {config.labels})};
  reader.refuse_unread();
}

}  // namespace bitinfer
