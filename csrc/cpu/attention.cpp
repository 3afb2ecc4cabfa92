#include "cpu/attention.h"

#include <algorithm>
#include <limits>

#include "base/bits.h"

namespace bitinfer {
namespace {

// Queries pass in blocks whose distances stay in L1 (16-bit numbers), but not in smaller ones than
// pay for the panels of keys and values that are read again for each.
constexpr int64_t kBlockDistances = 16384;
constexpr int64_t kFewestQueries = 32, kMostQueries = 128;

int64_t query_block(int64_t keys) {
  return std::clamp(kBlockDistances / round_up(keys, kWordBits), kFewestQueries, kMostQueries);
}

}  // namespace

void AttentionScratch::reserve(const Config& config, const PreparedAttention& attention,
                               int64_t most_keys) {
  const int64_t head_size = config.head_size();
  scores.reserve(kMostQueries, most_keys, head_size, attention.query, attention.key);
  contexts.reserve(kMostQueries, head_size, most_keys, attention.probs, attention.value);
  context.reserve(kMostQueries, head_size, attention.context.planes);
  distance_constants.reserve(static_cast<size_t>(round_up(most_keys, kPanelWidth)));
  distances.reserve(static_cast<size_t>(
      std::max(kBlockDistances, kFewestQueries * round_up(most_keys, kWordBits))));
  if (!attention.are_bits() && !attention.from_min) row_sums.reserve(kMostQueries);
  if (attention.boundaries) {
    context_limits.reserve(head_size, *attention.boundaries);
  } else {
    sums.reserve(static_cast<size_t>(kMostQueries * head_size));
    values_of_sums.reserve(static_cast<size_t>(kMostQueries * head_size));
    scale.reserve(static_cast<size_t>(head_size));
    bias.reserve(static_cast<size_t>(head_size));
  }
}

size_t AttentionScratch::bytes() const {
  return scores.bytes() + contexts.bytes() + context.bytes() + distances.bytes() +
         distance_constants.bytes() + row_sums.bytes() + context_limits.bytes() + sums.bytes() +
         values_of_sums.bytes() + scale.bytes() + bias.bytes();
}

namespace {

// One head of one sequence: keys and values are interleaved once, then queries pass in blocks.
class HeadAttention {
 public:
  HeadAttention(const AttentionCall& call, const AttentionSpan& span, int64_t head)
      : call_(call),
        kernels_(call.kernels),
        attention_(call.layer.attention),
        span_(span),
        scratch_(call.scratch),
        scores_(scratch_.scores),
        contexts_(scratch_.contexts),
        head_size_(call.config.head_size()),
        head_(head),
        offset_(head * head_size_) {
    scores_.shape(span.keys, head_size_, attention_.query, attention_.key);
    scores_.take_columns(call.rows.key, span.sequence_begin, offset_);
    if (!are_between_signs()) set_distance_constants();
  }

  double least() {
    double least = std::numeric_limits<double>::infinity();
    const int64_t end = span_.sequence_begin + span_.keys;
    for_blocks([&](int64_t first, int64_t count) {
      RowSum* sums = saved_sums(first);
      kernels_.row_sums(scores(first, count), table(), sums);
      const int64_t asking = std::clamp<int64_t>(end - first, 0, count);
      for (int64_t i = 0; i < asking; ++i) least = std::min(least, least_of(sums[i]));
    });
    return least;
  }

  void run(double least, int8_t* probs, int64_t tokens) {
    contexts_.shape(head_size_, span_.keys, attention_.probs, attention_.value);
    contexts_.take_columns_across(call_.rows.value, span_.sequence_begin, offset_, kernels_);
    prepare_context(least);
    for_blocks([&](int64_t first, int64_t count) {
      code_probabilities(first, count, least);
      if (probs != nullptr) {
        const LeftCodes codes(attention_.probs);
        decode_rows(contexts_.planes().operand(codes, 0, count), codes, Words::kRunning, span_.keys,
                    probs + (first - span_.sequence_begin) * tokens, tokens);
      }
      contexts_.take_planes(count);
      code_context(first, count);
    });
  }

 private:
  template <class Body>
  void for_blocks(const Body& body) {
    const int64_t block = query_block(span_.keys);
    for (int64_t q = span_.query_begin; q < span_.query_end; q += block) {
      body(q, std::min(block, span_.query_end - q));
    }
  }

  ExpTable table() const { return attention_.scores.table(); }

  // Then the distance is T itself.
  bool are_between_signs() const {
    return attention_.query.planes == 1 && attention_.key.planes == 1;
  }
  // The distance is that of A - T, the score, from the largest one.
  void set_distance_constants() {
    for (int64_t j = 0; j < span_.keys; ++j) {
      scratch_.distance_constants[j] =
          static_cast<int32_t>(attention_.largest_score) - scores_.constants()[j];
    }
  }

  ScoreRows scores(int64_t first, int64_t count) {
    scores_.take_rows(call_.rows.query, first, offset_, count);
    const int64_t stride = round_up(span_.keys, kWordBits);
    scores_.store_distances(kernels_, count,
                            {scratch_.distances.data(), stride,
                             are_between_signs() ? nullptr : scratch_.distance_constants.data()});
    return {scratch_.distances.data(), stride, count, span_.keys};
  }

  RowSum* saved_sums(int64_t query) const {
    return call_.row_sums + head_ * call_.row_stride + query;
  }
  // As probability_codes rounds it.
  double least_of(const RowSum& row) const {
    const double inverse_total = 1.0 / (static_cast<double>(row.terms) * table().unit);
    return table().value[row.farthest - row.nearest] * inverse_total;
  }

  void code_probabilities(int64_t first, int64_t count, double least) {
    const ScoreRows rows = scores(first, count);
    const PlaneRows to = contexts_.planes().from(0);
    if (attention_.are_bits()) {
      return kernels_.probability_bits(rows, table(), 0.5 * attention_.probs_step, to);
    }
    RowSum* sums = attention_.from_min ? saved_sums(first) : scratch_.row_sums.data();
    if (!attention_.from_min) kernels_.row_sums(rows, table(), sums);
    Quantizer quantizer = attention_.quantizer;
    quantizer.offset = least;
    kernels_.probability_codes(rows, sums, table(), quantizer, to);
  }

  void prepare_context(double least) {
    if (attention_.boundaries) {
      scratch_.context_limits.reserve(head_size_, *attention_.boundaries);
      scratch_.context_limits.set(*attention_.boundaries, offset_, contexts_.factor(),
                                  contexts_.constants(), head_size_);
      return;
    }
    // Where codes of probabilities begin at their minimum, each adds it times the sum of its
    // values.
    for (int64_t n = 0; n < head_size_; ++n) {
      scratch_.scale[n] = attention_.probs_step * attention_.value_step;
      scratch_.bias[n] =
          least * attention_.value_step * static_cast<double>(contexts_.column_sum(n));
    }
  }

  void code_context(int64_t first, int64_t count) {
    CodeRows& context = scratch_.context;
    if (attention_.boundaries) {
      contexts_.pack_codes(kernels_, count,
                           context.pack(scratch_.context_limits.flips(), 0, Words::kCodes));
    } else {
      code_context_values(count);
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int j = 0; j < attention_.context.planes; ++j) {
        deposit_bits(call_.rows.context.plane(j, first + i), offset_, head_size_,
                     context.plane(j, i));
      }
    }
  }

  void code_context_values(int64_t count) {
    const InputCodes& input = call_.layer.attention_output.input;
    CodeRows& context = scratch_.context;
    contexts_.store_sums(kernels_, count, scratch_.sums.data());
    kernels_.affine({scratch_.sums.data(), scratch_.scale.data(), scratch_.bias.data()}, count,
                    head_size_, scratch_.values_of_sums.data());
    kernels_.quantize(scratch_.values_of_sums.data(), input.shift.data() + offset_, count,
                      head_size_, input.quantizer, context.from(0));
    for (int64_t i = 0; i < count; ++i) {
      for (int j = 0; j < attention_.context.planes; ++j) {
        to_codes(context.plane(j, i), context.stride());
      }
    }
  }

  const AttentionCall& call_;
  const Kernels& kernels_;
  const PreparedAttention& attention_;
  const AttentionSpan& span_;
  AttentionScratch& scratch_;
  HeadProduct &scores_, &contexts_;
  const int64_t head_size_, head_;
  const int64_t offset_;  // of the head's channels within a row
};

}  // namespace

void attend(const AttentionCall& call, const AttentionSpan& span, double least, int8_t* probs,
            int64_t tokens) {
  const int planes = call.layer.attention.context.planes;
  CodeRows& context = call.rows.context;
  context.clear(planes, span.query_begin, span.query_end - span.query_begin);
  for (int64_t head = 0; head < call.config.heads; ++head) {
    HeadAttention(call, span, head)
        .run(least, probs != nullptr ? probs + head * tokens * tokens : nullptr, tokens);
  }
  for (int j = 0; j < planes; ++j) {
    for (int64_t row = span.query_begin; row < span.query_end; ++row) {
      to_running(context.plane(j, row), context.stride());
    }
  }
}

double least_probability(const AttentionCall& call, const AttentionSpan& span) {
  double least = std::numeric_limits<double>::infinity();
  for (int64_t head = 0; head < call.config.heads; ++head) {
    least = std::min(least, HeadAttention(call, span, head).least());
  }
  return least;
}

}  // namespace bitinfer
