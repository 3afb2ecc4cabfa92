#include "cpu/forward.h"

#include <algorithm>

#include "base/bits.h"
#include "base/math.h"

namespace bitinfer {
namespace {

constexpr int64_t kKeyValueBuffers = 2;

// After attention rows have nothing to do with one another. So many of them go through the rest of
// a layer at a time: 64 rows of 768 doubles are 393 kB and stay in L2.
constexpr int64_t kRowBlock = 64;

class GroupForward {
 public:
  GroupForward(const Kernels& kernels, const Weights& weights, const Batch& batch,
               const Group& group, GroupBuffers& buffers, MemberBuffers& scratch, int member,
               int team_size, Team& team, const Outputs& outputs, const Observers& observers)
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
        trace_(observers.trace),
        clock_(observers.times != nullptr ? &observers.times[member] : nullptr),
        reads_only_pooled_(outputs.hidden == nullptr && weights.config.head != Head::kSpan &&
                           observers.trace == nullptr),
        group_begin_(batch.offsets[group.first_sequence]) {
    const int64_t tokens = batch.offsets[group.last_sequence] - group_begin_;
    begin_ = tokens * member / team_size;
    end_ = tokens * (member + 1) / team_size;
    for (int64_t s = group.first_sequence; s < group.last_sequence; ++s) {
      const int64_t row = batch.first[s] - group_begin_;
      if (row >= begin_ && row < end_) scratch_.pooled.push_back({s, row});
    }
  }

  void run() {
    const int64_t first_layer = trace_ != nullptr ? trace_->first_layer : 0;
    if (first_layer < config_.layers) aim_inputs(weights_.layers[first_layer]);
    if (trace_ != nullptr && trace_->initial_hidden != nullptr) {
      start_from_trace(first_layer);
    } else {
      embed();
      normalize(weights_.embedding.norm, {}, begin_, count(), query_in_, key_in_, value_in_);
    }
    record_hidden(first_layer);
    clock_.end(Stage::kEmbedding);
    for (int64_t i = first_layer; i < config_.layers; ++i) {
      run_layer(i);
      record_hidden(i + 1);
    }
    finish();
    clock_.end(Stage::kHead);
  }

 private:
  int64_t count() const { return end_ - begin_; }
  double* hidden(int64_t row) { return buffers_.hidden.data() + row * config_.hidden; }

  void start_from_trace(int64_t first_layer) {
    std::copy_n(trace_->initial_hidden + begin_ * config_.hidden, count() * config_.hidden,
                hidden(begin_));
    if (first_layer == config_.layers) return;
    for (Input* input : {&query_in_, &key_in_, &value_in_}) {
      for (int64_t row = begin_; row < end_; ++row) pack(hidden(row), row, *input);
    }
  }

  void embed() {
    const Embedding& embedding = weights_.embedding;
    const int64_t size = config_.hidden, words = words_for(size);
    for (int64_t row = begin_; row < end_; ++row) {
      const int64_t token = group_begin_ + row;
      const int32_t id = batch_.ids[token];
      kernels_.embed(
          {embedding.bits.data() + id * words, embedding.nonzero_row(id, words),
           embedding.scale[id], embedding.position.data() + batch_.positions[token] * size,
           embedding.token_type.data() + batch_.segments[token] * size, size},
          hidden(row));
    }
  }

  // Codes of the states' rows on their way into a product. An exact 0 can turn up in any state;
  // only then is there a non-zero plane, and the product that reads it.
  struct Input {
    const Linear* linear = nullptr;
    BitRows* rows = nullptr;
    bool has_zeros = false;
  };

  // Whatever normalizes states next takes their signs for this layer's projections.
  void aim_inputs(const Layer& layer) {
    query_in_ = {&layer.query.linear, &buffers_.query_in};
    key_in_ = {&layer.key.linear, &buffers_.key_in};
    value_in_ = {&layer.value.linear, &buffers_.value_in};
  }

  // LayerNorm of the states and what is added to them, and their signs for the linears that read
  // them next.
  template <class... Inputs>
  void normalize(const LayerNorm& norm, const ScaledSums& added, int64_t first, int64_t rows,
                 Inputs&... inputs) {
    static_assert(sizeof...(inputs) <= kMostSigns);
    Signs signs[] = {Signs{inputs.linear->input_threshold.data(), inputs.rows->bits(first),
                           inputs.rows->stride(), false}...,
                     Signs{}};
    kernels_.layer_norm(
        {hidden(first), rows, config_.hidden, norm.weight.data(), norm.bias.data(), added}, signs,
        sizeof...(inputs));
    const Signs* of_input = signs;
    ((inputs.has_zeros |= of_input++->any_equal), ...);
  }

  // Signs of x + shift of one state, to row `to`.
  void pack(const double* state, int64_t to, Input& input) {
    input.has_zeros |= kernels_.pack_greater(state, input.linear->input_threshold.data(),
                                             config_.hidden, input.rows->bits(to));
  }

  // The packed rows from `first` on; `states` are those they were packed from.
  Rows operand(const Input& input, const double* states, int64_t first, int64_t rows) {
    const double* threshold = input.linear->input_threshold.data();
    for (int64_t i = 0; input.has_zeros && i < rows; ++i) {
      kernels_.pack_not_equal(states + i * config_.hidden, threshold, config_.hidden,
                              input.rows->nonzero(first + i));
    }
    return input.rows->rows(first, rows, input.has_zeros);
  }

  void project(int64_t layer, const ThresholdLinear& part, const Input& in, Point in_point,
               Point point, BitRows& out) {
    const Rows rows = operand(in, hidden(begin_), begin_, count());
    record(layer, in_point, rows, Words::kRunning, begin_, config_.hidden);
    const bool has_zeros = part.limits.has_low();
    kernels_.pack_codes(
        rows, part.linear.matrix.panels(),
        part.limits.pack(out.bits(begin_), has_zeros ? out.nonzero(begin_) : nullptr, out.stride(),
                         Words::kCodes));
    record(layer, point, out.rows(begin_, count(), has_zeros), Words::kCodes, begin_,
           config_.hidden);
  }

  void run_layer(int64_t i) {
    const Layer& layer = weights_.layers[i];
    BitRows& key = buffers_.key[i % kKeyValueBuffers];
    BitRows& value = buffers_.value[i % kKeyValueBuffers];
    project(i, layer.key, key_in_, kKeyIn, kKey, key);
    project(i, layer.value, value_in_, kValueIn, kValue, value);
    if (reads_only_pooled_ && i + 1 == config_.layers) keep_pooled_rows();
    project(i, layer.query, query_in_, kQueryIn, kQuery, buffers_.query);
    if (i + 1 < config_.layers) aim_inputs(weights_.layers[i + 1]);
    clock_.end(Stage::kProjections);
    if (is_shared_) team_.barrier();
    clock_.end(Stage::kWait);
    run_attention(i, layer, {buffers_.query, key, value, buffers_.context});
    clock_.end(Stage::kAttention);
    for (int64_t row = begin_; row < end_; row += kRowBlock) {
      finish_rows(i, row, std::min(kRowBlock, end_ - row));
    }
  }

  // The last layer computes only what is read after it. Rows move to the front of this member's
  // share, in their order, so none is overwritten before it has moved.
  void keep_pooled_rows() {
    end_ = begin_;
    for (PooledRow& pooled : scratch_.pooled) {
      if (pooled.row != end_) {
        std::copy_n(hidden(pooled.row), config_.hidden, hidden(end_));
        std::copy_n(buffers_.query_in.bits(pooled.row), buffers_.query_in.stride(),
                    buffers_.query_in.bits(end_));
      }
      pooled.row = end_++;
    }
    kept_only_pooled_ = true;
  }

  // From the context to the end of the layer.
  void finish_rows(int64_t i, int64_t first, int64_t rows) {
    const Layer& layer = weights_.layers[i];
    const Rows context = buffers_.context.rows(first, rows, !layer.context_low.empty());
    record(i, kAttentionOutputIn, context, Words::kRunning, first, config_.hidden);
    const ScaledSums attended = multiply(layer.attention_output, context);
    clock_.end(Stage::kAttentionOutput);

    const Linear& intermediate = layer.intermediate.linear;
    Input in{&intermediate, &buffers_.intermediate_in};
    normalize(layer.attention_norm, attended, first, rows, in);
    clock_.end(Stage::kNormalize);

    const Rows input = operand(in, hidden(first), first, rows);
    record(i, kIntermediateIn, input, Words::kRunning, first, config_.hidden);
    kernels_.pack_codes(input, intermediate.matrix.panels(),
                        layer.intermediate.limits.pack(buffers_.ffn.bits(first), nullptr,
                                                       buffers_.ffn.stride(), Words::kRunning));
    const Rows ffn = buffers_.ffn.rows(first, rows, false, /*is_unsigned=*/true);
    record(i, kOutputIn, ffn, Words::kRunning, first, config_.intermediate);
    clock_.end(Stage::kIntermediate);

    const ScaledSums output = multiply(layer.output, ffn);
    clock_.end(Stage::kOutput);
    if (i + 1 < config_.layers) {
      normalize(layer.output_norm, output, first, rows, query_in_, key_in_, value_in_);
    } else {
      normalize(layer.output_norm, output, first, rows);
    }
    clock_.end(Stage::kNormalize);
  }

  ScaledSums multiply(const Linear& linear, const Rows& input) {
    int32_t* sums = scratch_.sums.data();
    kernels_.store_sums(input, linear.matrix.panels(),
                        {sums, linear.matrix.rows(), linear.matrix.ones()});
    return linear.scaled(sums);
  }

  void run_attention(int64_t i, const Layer& layer, const AttentionRows& rows) {
    const auto run = [&](int64_t sequence, int64_t query_begin, int64_t query_end) {
      const int64_t begin = batch_.offsets[sequence] - group_begin_;
      int8_t* probs = trace_ != nullptr ? trace_->layers[i][kProbs].data() : nullptr;
      attend(kernels_, config_, layer, {begin, batch_.keys[sequence], query_begin, query_end}, rows,
             scratch_.attention, probs, batch_.offsets[sequence + 1] - batch_.offsets[sequence]);
    };
    if (kept_only_pooled_) {
      for (const PooledRow& pooled : scratch_.pooled) {
        run(pooled.sequence, pooled.row, pooled.row + 1);
      }
      return;
    }
    for (int64_t s = group_.first_sequence; s < group_.last_sequence; ++s) {
      const int64_t first = std::max(begin_, batch_.offsets[s] - group_begin_);
      const int64_t last = std::min(end_, batch_.offsets[s + 1] - group_begin_);
      if (first < last) run(s, first, last);
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
    for (const PooledRow& pooled : scratch_.pooled) pool(pooled.sequence, hidden(pooled.row));
  }

  void pool(int64_t sequence, const double* state) {
    const Linear& pooler = *weights_.pooler;
    Input in{&pooler, &scratch_.pooler_input};
    pack(state, 0, in);
    const Rows input = operand(in, state, 0, 1);
    if (trace_ != nullptr) {
      decode_rows(input, Words::kRunning, config_.hidden, trace_->pooler_in.data(), config_.hidden);
    }
    double* pooled = outputs_.pooled + sequence * config_.hidden;
    kernels_.affine(multiply(pooler, input), 1, config_.hidden, pooled);
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

  void record(int64_t layer, Point point, const Rows& rows, Words words, int64_t first,
              int64_t width) {
    if (trace_ == nullptr) return;
    decode_rows(rows, words, width, trace_->layers[layer][point].data() + first * width, width);
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
  StageClock clock_;
  const bool reads_only_pooled_;   // of what the last layer computes
  const int64_t group_begin_;      // first token of the group within the batch
  int64_t begin_, end_;            // this member's rows within the group
  bool kept_only_pooled_ = false;  // they have become those of scratch_.pooled
  Input query_in_, key_in_, value_in_;
};

// visit(rows) for all rows of bits that are as wide as the states; `buffers` may be const.
template <class Buffers, class Visit>
void for_each_as_wide_as_states(Buffers& buffers, const Visit& visit) {
  for (auto* rows : {&buffers.query_in, &buffers.key_in, &buffers.value_in,
                     &buffers.intermediate_in, &buffers.query, &buffers.key[0], &buffers.key[1],
                     &buffers.value[0], &buffers.value[1], &buffers.context}) {
    visit(*rows);
  }
}

}  // namespace

void GroupBuffers::reserve(const Config& config, int64_t tokens) {
  hidden.reserve(static_cast<size_t>(tokens * config.hidden));
  for_each_as_wide_as_states(*this, [&](BitRows& rows) { rows.reserve(tokens, config.hidden); });
  ffn.reserve(tokens, config.intermediate);
}

size_t GroupBuffers::bytes() const {
  size_t sum = hidden.bytes() + ffn.bytes();
  for_each_as_wide_as_states(*this, [&](const BitRows& rows) { sum += rows.bytes(); });
  return sum;
}

void MemberBuffers::reserve(const Config& config, int64_t most_keys, int64_t most_sequences) {
  attention.reserve(config, most_keys);
  pooler_input.reserve(1, config.hidden);
  sums.reserve(static_cast<size_t>(kRowBlock * config.hidden));
  pooled.reserve(static_cast<size_t>(most_sequences));
}

size_t MemberBuffers::bytes() const {
  return attention.bytes() + pooler_input.bytes() + sums.bytes() +
         pooled.capacity() * sizeof(PooledRow);
}

void forward_group(const Kernels& kernels, const Weights& weights, const Batch& batch,
                   const Group& group, GroupBuffers& buffers, MemberBuffers& scratch, int member,
                   int team_size, Team& team, const Outputs& outputs, const Observers& observers) {
  scratch.pooled.clear();
  GroupForward(kernels, weights, batch, group, buffers, scratch, member, team_size, team, outputs,
               observers)
      .run();
}

}  // namespace bitinfer
