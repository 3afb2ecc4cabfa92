#include "cpu/workspace.h"

#include <algorithm>
#include <limits>

namespace bitinfer {
namespace {

int64_t tokens_of(const Batch& batch, const Group& group) {
  return batch.offsets[group.last_sequence] - batch.offsets[group.first_sequence];
}

}  // namespace

void SequenceMinima::reserve(int64_t parts, int64_t sequences) {
  sequences_ = sequences;
  values_.reserve(static_cast<size_t>(parts * sequences));
}

double SequenceMinima::over_parts(int64_t parts, int64_t sequence) const {
  double least = std::numeric_limits<double>::infinity();
  for (int64_t part = 0; part < parts; ++part) {
    least = std::min(least, values_[part * sequences_ + sequence]);
  }
  return least;
}

void GroupBuffers::reserve(const PreparedModel& model, int64_t tokens, int64_t sequences,
                           int64_t members) {
  const Config& config = model.config;
  hidden.reserve(static_cast<size_t>(tokens * config.hidden));
  for (const PreparedLayer& layer : model.layers) {
    const PreparedAttention& attention = layer.attention;
    const auto as_wide_as_states = [&](CodeRows& rows, int planes) {
      rows.reserve(tokens, config.hidden, planes);
    };
    as_wide_as_states(query_in, layer.query.input.planes());
    as_wide_as_states(key_in, layer.key.input.planes());
    as_wide_as_states(value_in, layer.value.input.planes());
    as_wide_as_states(intermediate_in, layer.intermediate.input.planes());
    as_wide_as_states(query, attention.query.planes);
    as_wide_as_states(context, attention.context.planes);
    for (int64_t i = 0; i < kKeyValueBuffers; ++i) {
      as_wide_as_states(key[i], attention.key.planes);
      as_wide_as_states(value[i], attention.value.planes);
    }
    ffn.reserve(tokens, config.intermediate, layer.output.product.left.planes);
  }
  if (!model.needs_sequences()) return;
  probs_minima.reserve(members, sequences);
  ffn_minima.reserve(members, sequences);
  if (config.codes[kProbs].from_min) {
    row_stride = tokens;
    row_sums.reserve(static_cast<size_t>(config.heads * tokens));
  }
  if (config.codes[kOutputIn].from_min) {
    ffn_sums.reserve(static_cast<size_t>(tokens * config.intermediate));
  }
}

size_t GroupBuffers::bytes() const {
  size_t sum = hidden.bytes() + ffn.bytes() + ffn_sums.bytes() + probs_minima.bytes() +
               ffn_minima.bytes() + row_sums.bytes();
  for (const CodeRows* rows : {&query_in, &key_in, &value_in, &intermediate_in, &query, &key[0],
                               &key[1], &value[0], &value[1], &context}) {
    sum += rows->bytes();
  }
  return sum;
}

void MemberBuffers::reserve(const PreparedModel& model, int64_t most_keys, int64_t most_sequences) {
  const Config& config = model.config;
  for (const PreparedLayer& layer : model.layers) {
    attention.reserve(config, layer.attention, most_keys);
  }
  pooler_input.reserve(1, config.hidden, model.pooler.input.planes());
  if (config.codes[kOutputIn].from_min) bias.reserve(static_cast<size_t>(config.hidden));
  sums.reserve(static_cast<size_t>(kRowBlock * config.hidden));
  pooled.reserve(static_cast<size_t>(most_sequences));
}

size_t MemberBuffers::bytes() const {
  return attention.bytes() + pooler_input.bytes() + sums.bytes() + bias.bytes() +
         pooled.capacity() * sizeof(PooledRow);
}

void Workspace::reserve(const PreparedModel& model, const Batch& batch, int num_threads) {
  int64_t most_tokens = 0, most_sequences = 0;
  for (const Group& group : plan) {
    most_tokens = std::max(most_tokens, tokens_of(batch, group));
    most_sequences = std::max(most_sequences, group.sequences());
  }
  const int64_t most_keys = *std::max_element(batch.keys, batch.keys + batch.sequences);
  const size_t threads = static_cast<size_t>(num_threads);
  groups.resize(std::max(groups.size(), threads));
  members.resize(std::max(members.size(), threads));
  const size_t own_groups = std::min(threads, plan.size());
  for (size_t i = 0; i < own_groups; ++i) {
    groups[i].reserve(model, most_tokens, most_sequences, num_threads);
  }
  for (size_t i = 0; i < threads; ++i) members[i].reserve(model, most_keys, most_sequences);
}

size_t Workspace::bytes() const {
  size_t sum = 0;
  for (const GroupBuffers& group : groups) sum += group.bytes();
  for (const MemberBuffers& member : members) sum += member.bytes();
  return sum;
}

}  // namespace bitinfer
