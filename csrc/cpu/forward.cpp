#include "cpu/forward.h"

#include <algorithm>
#include <initializer_list>
#include <limits>

#include "base/bits.h"
#include "base/math.h"

namespace bitinfer {
namespace {

class Forward {
 public:
  Forward(const Pass& pass, const Share& share)
      : pass_(pass),
        share_(share),
        kernels_(pass.kernels),
        model_(pass.model),
        config_(pass.model.config),
        batch_(pass.batch),
        buffers_(share.buffers),
        own_(share.own),
        trace_(pass.observers.trace),
        clock_(pass.observers.times != nullptr ? &pass.observers.times[share.member] : nullptr),
        group_begin_(batch_.offsets[share.group.first_sequence]) {
    const Group& group = share.group;
    const int64_t tokens = batch_.offsets[group.last_sequence] - group_begin_;
    begin_ = tokens * share.part / share.parts;
    end_ = tokens * (share.part + 1) / share.parts;
    own_.pooled.clear();
    for (int64_t s = group.first_sequence; s < group.last_sequence; ++s) {
      const int64_t row = batch_.first[s] - group_begin_;
      if (row >= begin_ && row < end_) own_.pooled.push_back({s, row});
    }
  }

  void run() {
    const int64_t first_layer = trace_ != nullptr ? trace_->first_layer : 0;
    if (first_layer < config_.layers) aim_inputs(model_.layers[first_layer]);
    if (trace_ != nullptr && trace_->initial_hidden != nullptr) {
      start_from_trace(first_layer);
    } else {
      embed();
      normalize(model_.embedding.norm, {}, begin_, count(), {&query_in_, &key_in_, &value_in_});
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
  // Where the rows of a sequence lie within the group.
  int64_t sequence_begin(int64_t sequence) const { return batch_.offsets[sequence] - group_begin_; }

  void start_from_trace(int64_t first_layer) {
    std::copy_n(trace_->initial_hidden + begin_ * config_.hidden, count() * config_.hidden,
                hidden(begin_));
    if (first_layer == config_.layers) return;
    for (Input* input : {&query_in_, &key_in_, &value_in_}) {
      code_states(*input, hidden(begin_), begin_, count());
    }
  }

  void embed() {
    const PreparedEmbedding& embedding = model_.embedding;
    const int64_t size = config_.hidden, words = words_for(size);
    for (int64_t row = begin_; row < end_; ++row) {
      const int64_t token = group_begin_ + row;
      const int32_t id = batch_.ids[token];
      kernels_.embed(
          {embedding.bits.data() + id * words, embedding.nonzero_row(id), embedding.scale[id],
           embedding.position.data() + batch_.positions[token] * size,
           embedding.token_type.data() + batch_.segments[token] * size, size},
          hidden(row));
    }
  }

  // Codes of the states' rows on their way into a product. An exact 0 can turn up in any state;
  // only then do signs have a second plane, and the product that reads it.
  struct Input {
    const PreparedLinear* linear = nullptr;
    CodeRows* rows = nullptr;
    bool has_zeros = false;

    bool are_signs() const { return linear->input.are_signs; }
    int planes() const { return are_signs() ? 1 + has_zeros : linear->input.quantizer.planes; }
  };
  struct Operand {
    Rows rows;
    const Product& product;
  };

  // Whatever normalizes states next takes their codes for this layer's projections.
  void aim_inputs(const PreparedLayer& layer) {
    query_in_ = {&layer.query, &buffers_.query_in};
    key_in_ = {&layer.key, &buffers_.key_in};
    value_in_ = {&layer.value, &buffers_.value_in};
  }

  // LayerNorm of the states and what is added to them, and their codes for the linears that read
  // them next: signs on the way, others from what has come out.
  void normalize(const PreparedNorm& norm, const ScaledSums& added, int64_t first, int64_t rows,
                 std::initializer_list<Input*> inputs) {
    Signs signs[kMostSigns];
    int count = 0;
    for (const Input* input : inputs) {
      if (!input->are_signs()) continue;
      signs[count++] = {input->linear->input.threshold.data(), input->rows->plane(0, first),
                        input->rows->stride(), false};
    }
    kernels_.layer_norm(
        {hidden(first), rows, config_.hidden, norm.weight.data(), norm.bias.data(), added}, signs,
        count);
    const Signs* of_input = signs;
    for (Input* input : inputs) {
      if (input->are_signs()) {
        input->has_zeros |= of_input++->any_equal;
      } else {
        quantize(*input, hidden(first), first, rows);
      }
    }
  }

  void quantize(const Input& input, const double* states, int64_t first, int64_t rows) {
    kernels_.quantize(states, input.linear->input.shift.data(), rows, config_.hidden,
                      input.linear->input.quantizer, input.rows->from(first));
  }

  // Codes of states that are normalized already, to the rows from `first` on.
  void code_states(Input& input, const double* states, int64_t first, int64_t rows) {
    if (!input.are_signs()) return quantize(input, states, first, rows);
    for (int64_t i = 0; i < rows; ++i) {
      input.has_zeros |=
          kernels_.pack_greater(states + i * config_.hidden, input.linear->input.threshold.data(),
                                config_.hidden, input.rows->plane(0, first + i));
    }
  }

  // The packed rows from `first` on; `states` are those they were packed from.
  Operand operand(const Input& input, const double* states, int64_t first, int64_t rows) {
    if (input.are_signs() && input.has_zeros) {
      for (int64_t i = 0; i < rows; ++i) {
        kernels_.pack_not_less(states + i * config_.hidden, input.linear->input.threshold.data(),
                               config_.hidden, input.rows->plane(1, first + i));
      }
    }
    const Product& product = input.linear->for_planes(input.planes());
    return {input.rows->operand(product.left, first, rows), product};
  }

  // Codes that are there already.
  Operand operand(const PreparedLinear& linear, const CodeRows& codes, int64_t first,
                  int64_t rows) const {
    return {codes.operand(linear.product.left, first, rows), linear.product};
  }

  // Codes of a product's sums.
  void pack(const PreparedLinear& linear, const Operand& in, CodeRows& out, int64_t first,
            Words words) {
    kernels_.pack_codes(in.rows, linear.columns.panels(),
                        out.pack(in.product.limits.flips(), first, words));
  }

  void project(int64_t layer, const Input& in, Point in_point, Point point, const Codes& codes,
               CodeRows& out) {
    const Operand operand = this->operand(in, hidden(begin_), begin_, count());
    record(layer, in_point, operand, begin_, config_.hidden);
    pack(*in.linear, operand, out, begin_, Words::kCodes);
    const LeftCodes left(codes);
    record(layer, point, out.operand(left, begin_, count()), left, Words::kCodes, begin_,
           config_.hidden);
  }

  void run_layer(int64_t i) {
    const PreparedLayer& layer = model_.layers[i];
    const PreparedAttention& attention = layer.attention;
    CodeRows& key = buffers_.key[i % kKeyValueBuffers];
    CodeRows& value = buffers_.value[i % kKeyValueBuffers];
    project(i, key_in_, kKeyIn, kKey, attention.key, key);
    project(i, value_in_, kValueIn, kValue, attention.value, value);
    if (reads_only_pooled() && i + 1 == config_.layers) keep_pooled_rows();
    project(i, query_in_, kQueryIn, kQuery, attention.query, buffers_.query);
    if (i + 1 < config_.layers) aim_inputs(model_.layers[i + 1]);
    clock_.end(Stage::kProjections);
    meet_team();
    run_attention(i, {kernels_,
                      config_,
                      layer,
                      {buffers_.query, key, value, buffers_.context},
                      own_.attention,
                      buffers_.row_sums.data(),
                      buffers_.row_stride});
    clock_.end(Stage::kAttention);
    if (config_.codes[kOutputIn].from_min) return finish_by_value(i);
    for_row_blocks(begin_, end_, [&](int64_t first, int64_t rows) {
      const Operand states = attend_rows(i, first, rows);
      pack(layer.intermediate, states, buffers_.ffn, first, Words::kRunning);
      clock_.end(Stage::kIntermediate);
      finish_rows(i, first, rows, layer.output.bias.data());
    });
  }

  // The rest of a layer whose FFN codes begin at their minimum over the sequence.
  void finish_by_value(int64_t i) {
    const PreparedLayer& layer = model_.layers[i];
    double* minima = buffers_.ffn_minima.of(share_.part);
    std::fill_n(minima, share_.group.sequences(), kInfinity);
    for_row_blocks(begin_, end_, [&](int64_t first, int64_t rows) {
      compute_ffn_values(layer, attend_rows(i, first, rows), first, minima);
      clock_.end(Stage::kIntermediate);
    });
    meet_team();
    const int64_t inner = config_.intermediate;
    Quantizer quantizer = layer.output.input.quantizer;
    for_sequences([&](int64_t sequence, int64_t begin, int64_t end) {
      quantizer.offset = least(buffers_.ffn_minima, sequence);
      for (int64_t n = 0; n < config_.hidden; ++n) {
        own_.bias[n] = layer.output.bias[n] + quantizer.offset * layer.output.of_ones[n];
      }
      for_row_blocks(begin, end, [&](int64_t first, int64_t rows) {
        kernels_.value_codes(ffn_values(layer, first), rows, inner, quantizer,
                             buffers_.ffn.from(first));
        clock_.end(Stage::kIntermediate);
        finish_rows(i, first, rows, own_.bias.data());
      });
    });
  }

  void compute_ffn_values(const PreparedLayer& layer, const Operand& states, int64_t first,
                          double* minima) {
    const int64_t inner = config_.intermediate;
    multiply(layer.intermediate, states, buffers_.ffn_sums.data() + first * inner);
    for (int64_t row = first; row < first + states.rows.count; ++row) {
      const int64_t sequence = sequence_of(row);
      // Tokens that are not attended to only ask: they have no part in the minima.
      if (row >= sequence_begin(sequence) + batch_.keys[sequence]) continue;
      double& least = minima[sequence - share_.group.first_sequence];
      least = kernels_.least_value(ffn_values(layer, row), 1, inner, least);
    }
  }

  // Of the rows from `first` on.
  Values ffn_values(const PreparedLayer& layer, int64_t first) const {
    return layer.ffn_values->of(buffers_.ffn_sums.data() + first * config_.intermediate);
  }

  double least(const SequenceMinima& minima, int64_t sequence) const {
    return minima.over_parts(share_.parts, sequence - share_.group.first_sequence);
  }
  int64_t sequence_of(int64_t row) const {
    const int64_t* first = batch_.offsets + share_.group.first_sequence;
    const int64_t* last = batch_.offsets + share_.group.last_sequence;
    return std::upper_bound(first, last, group_begin_ + row) - batch_.offsets - 1;
  }
  void meet_team() {
    if (share_.parts > 1) share_.team.barrier();
    clock_.end(Stage::kWait);
  }

  template <class Body>
  static void for_row_blocks(int64_t begin, int64_t end, const Body& body) {
    for (int64_t row = begin; row < end; row += kRowBlock) {
      body(row, std::min(kRowBlock, end - row));
    }
  }

  // The last layer computes only what is read after it, unless some other value depends on all.
  bool reads_only_pooled() const {
    return pass_.outputs.hidden == nullptr && config_.reads != Reads::kTokens &&
           trace_ == nullptr && !model_.needs_sequences();
  }

  // Rows move to the front of this member's share, in their order, so none is overwritten before it
  // has moved.
  void keep_pooled_rows() {
    end_ = begin_;
    for (PooledRow& pooled : own_.pooled) {
      if (pooled.row != end_) {
        std::copy_n(hidden(pooled.row), config_.hidden, hidden(end_));
        buffers_.query_in.copy_row(query_in_.are_signs() ? 1 : query_in_.planes(), pooled.row,
                                   end_);
      }
      pooled.row = end_++;
    }
    kept_only_pooled_ = true;
  }

  // From the context to the states between attention and the FFN, and their codes.
  Operand attend_rows(int64_t i, int64_t first, int64_t rows) {
    const PreparedLayer& layer = model_.layers[i];
    const Operand context = operand(layer.attention_output, buffers_.context, first, rows);
    record(i, kAttentionOutputIn, context, first, config_.hidden);
    const ScaledSums attended = multiply(layer.attention_output, context);
    clock_.end(Stage::kAttentionOutput);

    Input in{&layer.intermediate, &buffers_.intermediate_in};
    normalize(layer.attention_norm, attended, first, rows, {&in});
    clock_.end(Stage::kNormalize);
    const Operand states = operand(in, hidden(first), first, rows);
    record(i, kIntermediateIn, states, first, config_.hidden);
    return states;
  }

  // From the codes of the FFN to the end of the layer; `bias` is added to the output.
  void finish_rows(int64_t i, int64_t first, int64_t rows, const double* bias) {
    const PreparedLayer& layer = model_.layers[i];
    const Operand ffn = operand(layer.output, buffers_.ffn, first, rows);
    record(i, kOutputIn, ffn, first, config_.intermediate);
    ScaledSums output = multiply(layer.output, ffn);
    output.bias = bias;
    clock_.end(Stage::kOutput);
    if (i + 1 < config_.layers) {
      normalize(layer.output_norm, output, first, rows, {&query_in_, &key_in_, &value_in_});
    } else {
      normalize(layer.output_norm, output, first, rows, {});
    }
    clock_.end(Stage::kNormalize);
  }

  ScaledSums multiply(const PreparedLinear& linear, const Operand& in) {
    return multiply(linear, in, own_.sums.data());
  }
  ScaledSums multiply(const PreparedLinear& linear, const Operand& in, int32_t* sums) {
    kernels_.store_sums(
        in.rows, linear.columns.panels(),
        {sums, linear.columns.count(), in.product.constants.data(), in.product.left.factor == 2});
    return linear.scaled(sums);
  }

  void run_attention(int64_t i, const AttentionCall& call) {
    const bool from_min = config_.codes[kProbs].from_min;
    if (from_min) find_least_probabilities(call);
    const auto run = [&](int64_t sequence, int64_t query_begin, int64_t query_end) {
      int8_t* probs = trace_ != nullptr ? trace_->layers[i][kProbs].data() : nullptr;
      attend(call, {sequence_begin(sequence), batch_.keys[sequence], query_begin, query_end},
             from_min ? least(buffers_.probs_minima, sequence) : 0.0, probs,
             batch_.offsets[sequence + 1] - batch_.offsets[sequence]);
    };
    if (!kept_only_pooled_) return for_sequences(run);
    for (const PooledRow& pooled : own_.pooled) {
      run(pooled.sequence, pooled.row, pooled.row + 1);
    }
  }

  void find_least_probabilities(const AttentionCall& call) {
    double* minima = buffers_.probs_minima.of(share_.part);
    std::fill_n(minima, share_.group.sequences(), kInfinity);
    for_sequences([&](int64_t sequence, int64_t first, int64_t last) {
      minima[sequence - share_.group.first_sequence] =
          least_probability(call, {sequence_begin(sequence), batch_.keys[sequence], first, last});
    });
    clock_.end(Stage::kAttention);
    meet_team();
  }

  // body(sequence, first, last): this member's rows of every sequence.
  template <class Body>
  void for_sequences(const Body& body) {
    for (int64_t s = share_.group.first_sequence; s < share_.group.last_sequence; ++s) {
      const int64_t first = std::max(begin_, sequence_begin(s));
      const int64_t last = std::min(end_, sequence_begin(s + 1));
      if (first < last) body(s, first, last);
    }
  }

  void finish() {
    if (pass_.outputs.hidden != nullptr) {
      std::copy_n(hidden(begin_), count() * config_.hidden,
                  pass_.outputs.hidden + (group_begin_ + begin_) * config_.hidden);
    }
    if (config_.reads == Reads::kTokens) {
      for (int64_t row = begin_; row < end_; ++row) {
        apply_head(hidden(row), pass_.outputs.logits + (group_begin_ + row) * config_.labels);
      }
    }
    for (const PooledRow& pooled : own_.pooled) pool(pooled.sequence, hidden(pooled.row));
  }

  void pool(int64_t sequence, const double* state) {
    const PreparedLinear& pooler = model_.pooler;
    Input in{&pooler, &own_.pooler_input};
    code_states(in, state, 0, 1);
    const Operand input = operand(in, state, 0, 1);
    if (trace_ != nullptr) {
      decode_rows(input.rows, input.product.left, Words::kRunning, config_.hidden,
                  trace_->pooler_in.data(), config_.hidden);
    }
    double* pooled = pass_.outputs.pooled + sequence * config_.hidden;
    kernels_.affine(multiply(pooler, input), 1, config_.hidden, pooled);
    for (int64_t k = 0; k < config_.hidden; ++k) pooled[k] = tanh(pooled[k]);
    if (config_.reads == Reads::kPooled) {
      apply_head(pooled, pass_.outputs.logits + sequence * config_.labels);
    }
  }

  // The only full-precision linear.
  void apply_head(const double* state, double* logits) const {
    for (int64_t label = 0; label < config_.labels; ++label) {
      const double* row = model_.head_weight.data() + label * config_.hidden;
      logits[label] = dot(row, state, config_.hidden) + model_.head_bias[label];
    }
  }

  void record(int64_t layer, Point point, const Operand& in, int64_t first, int64_t width) {
    record(layer, point, in.rows, in.product.left, Words::kRunning, first, width);
  }
  void record(int64_t layer, Point point, const Rows& rows, const LeftCodes& left, Words words,
              int64_t first, int64_t width) {
    if (trace_ == nullptr) return;
    decode_rows(rows, left, words, width, trace_->layers[layer][point].data() + first * width,
                width);
  }
  void record_hidden(int64_t layer) {
    if (trace_ == nullptr) return;
    std::copy_n(hidden(begin_), count() * config_.hidden,
                trace_->hidden[layer].data() + begin_ * config_.hidden);
  }

  static constexpr double kInfinity = std::numeric_limits<double>::infinity();

  const Pass& pass_;
  const Share& share_;
  const Kernels& kernels_;
  const PreparedModel& model_;
  const Config& config_;
  const Batch& batch_;
  GroupBuffers& buffers_;
  MemberBuffers& own_;
  Trace* const trace_;
  StageClock clock_;
  const int64_t group_begin_;      // first token of the group within the batch
  int64_t begin_, end_;            // this member's rows within the group
  bool kept_only_pooled_ = false;  // they have become those of own_.pooled
  Input query_in_, key_in_, value_in_;
};

}  // namespace

void forward(const Pass& pass, const Share& share) { Forward(pass, share).run(); }

}  // namespace bitinfer
