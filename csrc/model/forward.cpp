#include "model/forward.h"

#include <algorithm>

#include "base/bits.h"
#include "base/math.h"

namespace bitinfer {
namespace {

constexpr int64_t kKeyValueBuffers = 2;

class GroupForward {
 public:
  GroupForward(const Kernels& kernels, const Weights& weights, const Batch& batch,
               const Group& group, GroupBuffers& buffers, MemberBuffers& scratch, int member,
               int team_size, Team& team, const Outputs& outputs, Trace* trace)
      : kernels_(kernels),
        weights_(weights),
        config_(weights.config),
        batch_(batch),
        group_(group),
        buffers_(buffers),
        scratch_(scratch),
        is_shared_(team_size > 1),
        team_(team),
        outputs_(outputs),
        trace_(trace),
        group_begin_(batch.offsets[group.first_sequence]) {
    const int64_t tokens = batch.offsets[group.last_sequence] - group_begin_;
    begin_ = tokens * member / team_size;
    end_ = tokens * (member + 1) / team_size;
  }

  void run() {
    const int64_t first_layer = trace_ != nullptr ? trace_->first_layer : 0;
    if (trace_ != nullptr && trace_->initial_hidden != nullptr) {
      std::copy_n(trace_->initial_hidden + begin_ * config_.hidden, count() * config_.hidden,
                  hidden(begin_));
    } else {
      embed();
    }
    record_hidden(first_layer);
    for (int64_t i = first_layer; i < config_.layers; ++i) {
      run_layer(i);
      record_hidden(i + 1);
    }
    finish();
  }

 private:
  int64_t count() const { return end_ - begin_; }
  double* hidden(int64_t row) { return buffers_.hidden.data() + row * config_.hidden; }

  void embed() {
    const Embedding& embedding = weights_.embedding;
    const int64_t size = config_.hidden, words = words_for(size);
    for (int64_t row = begin_; row < end_; ++row) {
      const int64_t token = group_begin_ + row;
      const int32_t id = batch_.ids[token];
      const uint64_t* bits = embedding.bits.data() + id * words;
      const uint64_t* nonzero = embedding.nonzero_row(id, words);
      const float* position = embedding.position.data() + batch_.positions[token] * size;
      const float* type = embedding.token_type.data() + batch_.segments[token] * size;
      const double values[2] = {-embedding.scale[id], embedding.scale[id]};
      double* out = hidden(row);
      for (int64_t k = 0; k < size; ++k) {
        double word = values[bit_at(bits, k)];
        if (nonzero != nullptr && !bit_at(nonzero, k)) word = 0;
        out[k] = word + static_cast<double>(position[k]) + static_cast<double>(type[k]);
      }
      normalize(embedding.norm, out);
    }
  }

  void normalize(const LayerNorm& norm, double* row) {
    kernels_.layer_norm(row, config_.hidden, norm.weight.data(), norm.bias.data(), row);
  }

  // Signs of x + shift for `rows` rows of states, from `first` of `out` on. An exact 0 can turn up
  // in any state; only then is there a non-zero plane, and the product that reads it.
  Rows pack_input(const Linear& linear, const double* states, int64_t rows, BitRows& out,
                  int64_t first) {
    const int64_t size = config_.hidden;
    const double* threshold = linear.input_threshold.data();
    bool has_zeros = false;
    for (int64_t i = 0; i < rows; ++i) {
      has_zeros |= kernels_.pack_greater(states + i * size, threshold, size, out.bits(first + i));
    }
    for (int64_t i = 0; has_zeros && i < rows; ++i) {
      kernels_.pack_not_equal(states + i * size, threshold, size, out.nonzero(first + i));
    }
    return out.rows(first, rows, has_zeros);
  }

  void project(int64_t layer, const ThresholdLinear& part, Point in, Point point, BitRows& out) {
    const Rows input = pack_input(part.linear, hidden(begin_), count(), buffers_.input, begin_);
    record(layer, in, input, Words::kRunning, config_.hidden);
    const bool has_zeros = part.limits.has_low();
    kernels_.pack_codes(
        input, part.linear.matrix.panels(),
        part.limits.pack(out.bits(begin_), has_zeros ? out.nonzero(begin_) : nullptr, out.stride(),
                         Words::kCodes));
    record(layer, point, out.rows(begin_, count(), has_zeros), Words::kCodes, config_.hidden);
  }

  // hidden = LayerNorm(scale * S + bias + hidden)
  void add_and_normalize(const Linear& linear, const LayerNorm& norm, const Rows& input) {
    double* states = hidden(begin_);
    kernels_.affine(input, linear.matrix.panels(), linear.affine(states, states));
    for (int64_t row = begin_; row < end_; ++row) normalize(norm, hidden(row));
  }

  void run_layer(int64_t i) {
    const Layer& layer = weights_.layers[i];
    BitRows& key = buffers_.key[i % kKeyValueBuffers];
    BitRows& value = buffers_.value[i % kKeyValueBuffers];
    project(i, layer.query, kQueryIn, kQuery, buffers_.query);
    project(i, layer.key, kKeyIn, kKey, key);
    project(i, layer.value, kValueIn, kValue, value);
    if (is_shared_) team_.barrier();

    run_attention(i, layer, {buffers_.query, key, value, buffers_.context});
    const Rows context = buffers_.context.rows(begin_, count(), !layer.context_low.empty());
    record(i, kAttentionOutputIn, context, Words::kRunning, config_.hidden);
    add_and_normalize(layer.attention_output, layer.attention_norm, context);

    const Linear& intermediate = layer.intermediate.linear;
    const Rows input = pack_input(intermediate, hidden(begin_), count(), buffers_.input, begin_);
    record(i, kIntermediateIn, input, Words::kRunning, config_.hidden);
    kernels_.pack_codes(input, intermediate.matrix.panels(),
                        layer.intermediate.limits.pack(buffers_.ffn.bits(begin_), nullptr,
                                                       buffers_.ffn.stride(), Words::kRunning));
    const Rows ffn = buffers_.ffn.rows(begin_, count(), false, /*is_unsigned=*/true);
    record(i, kOutputIn, ffn, Words::kRunning, config_.intermediate);
    add_and_normalize(layer.output, layer.output_norm, ffn);
  }

  void run_attention(int64_t i, const Layer& layer, const AttentionRows& rows) {
    for (int64_t s = group_.first_sequence; s < group_.last_sequence; ++s) {
      const int64_t sequence_begin = batch_.offsets[s] - group_begin_;
      const int64_t sequence_end = batch_.offsets[s + 1] - group_begin_;
      const AttentionSpan span{sequence_begin, batch_.keys[s], std::max(begin_, sequence_begin),
                               std::min(end_, sequence_end)};
      if (span.query_begin >= span.query_end) continue;
      int8_t* probs = trace_ != nullptr ? trace_->layers[i][kProbs].data() : nullptr;
      attend(kernels_, config_, layer, span, rows, scratch_.attention, probs,
             sequence_end - sequence_begin);
    }
  }

  void finish() {
    if (outputs_.hidden != nullptr) {
      std::copy_n(hidden(begin_), count() * config_.hidden,
                  outputs_.hidden + (group_begin_ + begin_) * config_.hidden);
    }
    if (config_.head == Head::kSpan) {
      for (int64_t row = begin_; row < end_; ++row) {
        classify(hidden(row), outputs_.logits + (group_begin_ + row) * config_.labels);
      }
    }
    for (int64_t s = group_.first_sequence; s < group_.last_sequence; ++s) {
      const int64_t row = batch_.first[s] - group_begin_;
      if (row >= begin_ && row < end_) pool(s, hidden(row));
    }
  }

  void pool(int64_t sequence, const double* state) {
    const Linear& pooler = *weights_.pooler;
    const Rows input = pack_input(pooler, state, 1, scratch_.pooler_input, 0);
    if (trace_ != nullptr) {
      decode_rows(input, Words::kRunning, config_.hidden, trace_->pooler_in.data(), config_.hidden);
    }
    double* pooled = outputs_.pooled + sequence * config_.hidden;
    kernels_.affine(input, pooler.matrix.panels(), pooler.affine(pooled, nullptr));
    for (int64_t k = 0; k < config_.hidden; ++k) pooled[k] = tanh(pooled[k]);
    if (config_.head == Head::kClassification) {
      classify(pooled, outputs_.logits + sequence * config_.labels);
    }
  }

  // The only full-precision linear of a BiT model.
  void classify(const double* state, double* logits) const {
    for (int64_t label = 0; label < config_.labels; ++label) {
      const double* row = weights_.head_weight.data() + label * config_.hidden;
      logits[label] = dot(row, state, config_.hidden) + weights_.head_bias[label];
    }
  }

  void record(int64_t layer, Point point, const Rows& rows, Words words, int64_t width) {
    if (trace_ == nullptr) return;
    decode_rows(rows, words, width, trace_->layers[layer][point].data() + begin_ * width, width);
  }
  void record_hidden(int64_t layer) {
    if (trace_ == nullptr) return;
    std::copy_n(hidden(begin_), count() * config_.hidden,
                trace_->hidden[layer].data() + begin_ * config_.hidden);
  }

  const Kernels& kernels_;
  const Weights& weights_;
  const Config& config_;
  const Batch& batch_;
  const Group& group_;
  GroupBuffers& buffers_;
  MemberBuffers& scratch_;
  const bool is_shared_;
  Team& team_;
  const Outputs& outputs_;
  Trace* const trace_;
  const int64_t group_begin_;  // first token of the group within the batch
  int64_t begin_, end_;        // this member's tokens within the group
};

}  // namespace

void GroupBuffers::reserve(const Config& config, int64_t tokens) {
  hidden.reserve(static_cast<size_t>(tokens * config.hidden));
  for (BitRows* rows : {&input, &query, &key[0], &key[1], &value[0], &value[1], &context}) {
    rows->reserve(tokens, config.hidden);
  }
  ffn.reserve(tokens, config.intermediate);
}

size_t GroupBuffers::bytes() const {
  return hidden.bytes() + input.bytes() + query.bytes() + key[0].bytes() + key[1].bytes() +
         value[0].bytes() + value[1].bytes() + context.bytes() + ffn.bytes();
}

void MemberBuffers::reserve(const Config& config, int64_t most_keys) {
  attention.reserve(config, most_keys);
  pooler_input.reserve(1, config.hidden);
}

size_t MemberBuffers::bytes() const { return attention.bytes() + pooler_input.bytes(); }

void forward_group(const Kernels& kernels, const Weights& weights, const Batch& batch,
                   const Group& group, GroupBuffers& buffers, MemberBuffers& scratch, int member,
                   int team_size, Team& team, const Outputs& outputs, Trace* trace) {
  GroupForward(kernels, weights, batch, group, buffers, scratch, member, team_size, team, outputs,
               trace)
      .run();
}

}  // namespace bitinfer
