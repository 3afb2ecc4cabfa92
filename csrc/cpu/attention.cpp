#include "cpu/attention.h"

#include <algorithm>
#include <cstring>
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

// One round: in every pair of words `kWidth` apart, the upper bits of one and the lower bits of the
// other change places. The width is a constant, so that compilers vectorize it.
template <int kWidth>
void swap_bits(uint32_t* words, uint32_t mask) {
  for (int block = 0; block < 32; block += 2 * kWidth) {
    for (int r = block; r < block + kWidth; ++r) {
      const uint32_t swapped = ((words[r] >> kWidth) ^ words[r + kWidth]) & mask;
      words[r + kWidth] ^= swapped;
      words[r] ^= swapped << kWidth;
    }
  }
}

// Bit c of word r becomes bit r of word c (Warren, Hacker's Delight, 7-3).
void transpose_32x32(uint32_t* words) {
  swap_bits<16>(words, 0x0000ffff);
  swap_bits<8>(words, 0x00ff00ff);
  swap_bits<4>(words, 0x0f0f0f0f);
  swap_bits<2>(words, 0x33333333);
  swap_bits<1>(words, 0x55555555);
}

// The sum of c_j plane_j of a row of running words.
int32_t sum_of_planes(const CodeRows& rows, const LeftCodes& left, int64_t row) {
  int64_t sum = 0;
  for (int j = 0; j < left.planes; ++j) {
    const uint64_t* words = rows.plane(j, row);
    uint64_t before = 0;
    int64_t ones = 0;
    for (int64_t w = 0; w < rows.stride(); ++w) {
      const uint64_t codes = code_word(words[w], before);
      ones += count_ones(&codes, 1);
      before = words[w];
    }
    sum += left.factor * left.coefficient[j] * ones;
  }
  return static_cast<int32_t>(sum);
}

}  // namespace

void HeadColumns::reserve(int64_t count, int64_t depth, int planes) {
  const int64_t panels = ceil_div(count, kPanelWidth);
  words_.reserve(static_cast<size_t>(planes * panels * ceil_div(depth, kStepBits) * kPanelWidth));
  others_.resize(std::max(others_.size(), static_cast<size_t>(panels * (planes - 1))));
  ones_.reserve(static_cast<size_t>(planes * panels * kPanelWidth));
  constants_.reserve(static_cast<size_t>(panels * kPanelWidth));
}

void HeadColumns::shape(int64_t count, int64_t depth, const Codes& codes) {
  codes_ = codes;
  count_ = count;
  depth_ = depth;
  steps_ = ceil_div(depth, kStepBits);
  padded_ = round_up(count, kPanelWidth);
  half_words_ = padded_ * steps_;
  const int further = codes.planes - 1;
  for (int64_t panel = 0; panel < padded_ / kPanelWidth; ++panel) {
    for (int h = 0; h < further; ++h) {
      others_[static_cast<size_t>(panel * further + h)] =
          half(h + 1) + panel * steps_ * kPanelWidth;
    }
  }
}

Panels HeadColumns::panels() const {
  Panels panels = half_panels(0);
  if (!has_halves()) return panels;
  panels.others = others_.data();
  panels.halves = codes_.planes;
  for (int h = 0; h < codes_.planes; ++h) panels.coefficient[h] = codes_.c[h];
  return panels;
}

Panels HeadColumns::half_panels(int h) const {
  return {words_.data() + h * half_words_,
          nullptr,
          1,
          {1},
          count_,
          depth_,
          steps_,
          padded_ / kPanelWidth};
}

const int32_t* HeadColumns::constants(const LeftCodes& left) {
  for (int64_t n = 0; n < count_; ++n) {
    int32_t sum = 0;
    for (int h = 0; h < codes_.planes; ++h) {
      const int64_t counted = left.depends_on_ones() ? ones(h)[n] : 0;
      sum += (has_halves() ? codes_.c[h] : 1) * left.constant(counted, depth_);
    }
    constants_[n] = sum;
  }
  return constants_.data();
}

size_t HeadColumns::bytes() const {
  return words_.bytes() + others_.size() * sizeof(uint32_t*) + ones_.bytes() + constants_.bytes();
}

void AttentionScratch::reserve(const Config& config, const PreparedAttention& attention,
                               int64_t most_keys) {
  const int64_t head_size = config.head_size();
  keys.reserve(most_keys, head_size, attention.key.planes);
  values.reserve(head_size, most_keys, attention.value.planes);
  query.reserve(kMostQueries, head_size, attention.query.planes);
  context.reserve(kMostQueries, head_size, attention.context.planes);
  // Kept at its widest: the stride of a call is that of its own sequence.
  probs.reserve(kMostQueries, most_keys, attention.probs.planes);
  distance_constants.reserve(static_cast<size_t>(round_up(most_keys, kPanelWidth)));
  distances.reserve(static_cast<size_t>(
      std::max(kBlockDistances, kFewestQueries * round_up(most_keys, kWordBits))));
  head_words.reserve(static_cast<size_t>(words_for(head_size)));
  added.reserve(kMostQueries);
  column_sums.reserve(static_cast<size_t>(round_up(head_size, kPanelWidth)));
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
  return keys.bytes() + values.bytes() + query.bytes() + probs.bytes() + context.bytes() +
         distances.bytes() + head_words.bytes() + added.bytes() + distance_constants.bytes() +
         column_sums.bytes() + context_limits.bytes() + sums.bytes() + values_of_sums.bytes() +
         scale.bytes() + bias.bytes();
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
        query_left_(attention_.query),
        probs_left_(attention_.probs),
        head_size_(call.config.head_size()),
        offset_(head * head_size_) {
    interleave_keys();
  }

  double least() {
    double least = std::numeric_limits<double>::infinity();
    for_blocks([&](int64_t first, int64_t count) {
      least = std::min(least, kernels_.least_probability(scores(first, count), table()));
    });
    return least;
  }

  void run(double least, int8_t* probs, int64_t tokens) {
    interleave_values();
    prepare_context(least);
    for_blocks([&](int64_t first, int64_t count) {
      code_probabilities(first, count, least);
      if (probs != nullptr) {
        decode_rows(scratch_.probs.operand(probs_left_, 0, count), probs_left_, Words::kRunning,
                    span_.keys, probs + (first - span_.sequence_begin) * tokens, tokens);
      }
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

  void interleave_keys() {
    HeadColumns& keys = scratch_.keys;
    keys.shape(span_.keys, head_size_, attention_.key);
    const int64_t steps = ceil_div(head_size_, kStepBits), words = words_for(head_size_);
    uint64_t* row = scratch_.head_words.data();
    for (int h = 0; h < attention_.key.planes; ++h) {
      for (int64_t j = 0; j < span_.keys; ++j) {
        extract_bits(call_.rows.key.plane(h, span_.sequence_begin + j), offset_, head_size_, row);
        interleave_row(row, j, steps, keys.half(h));
        if (query_left_.depends_on_ones()) {
          keys.ones(h)[j] = static_cast<int32_t>(count_ones(row, words));
        }
      }
    }
    if (!has_distance_constants()) return;
    // A score is (A - T) / 2 where keys have several halves, and A - T where they have one.
    const int64_t largest = (keys.has_halves() ? 2 : 1) * attention_.largest_score;
    const int32_t* constants = keys.constants(query_left_);
    for (int64_t j = 0; j < span_.keys; ++j) {
      scratch_.distance_constants[j] = static_cast<int32_t>(largest) - constants[j];
    }
  }

  // Between signs the distance is T itself.
  bool has_distance_constants() const {
    return attention_.query.planes > 1 || attention_.key.planes > 1;
  }

  void interleave_values() {
    HeadColumns& values = scratch_.values;
    values.shape(head_size_, span_.keys, attention_.value);
    for (int h = 0; h < attention_.value.planes; ++h) {
      transpose_plane(call_.rows.value.plane(h, span_.sequence_begin), values.half(h));
    }
    // A row of ones, as which its T is the number of -1 in a column.
    scratch_.probs.reserve(kMostQueries, span_.keys, probs_left_.planes);
    uint64_t* all = scratch_.probs.plane(0, 0);
    for (int64_t w = 0; w < scratch_.probs.stride(); ++w) {
      all[w] = low_bits(span_.keys - w * kWordBits);
    }
    to_running(all, scratch_.probs.stride());
    const Rows row = scratch_.probs.operand(LeftCodes(unsigned_codes(1)), 0, 1);
    std::fill_n(scratch_.column_sums.data(), values.padded(), static_cast<int32_t>(span_.keys));
    for (int h = 0; h < attention_.value.planes; ++h) {
      kernels_.store_sums(row, values.half_panels(h),
                          {values.ones(h), head_size_, scratch_.column_sums.data(), false});
    }
  }

  // `count` <= 32 bits from `offset` of up to 32 rows; zeros for the rest.
  void gather(const uint64_t* plane, int64_t offset, int64_t count, int64_t rows,
              uint32_t* words) const {
    const int64_t stride = call_.rows.value.stride();
    if (offset % 32 == 0 && count == 32) {
      const char* from = reinterpret_cast<const char*>(plane) + offset / 8;
      for (int64_t j = 0; j < rows; ++j) {
        std::memcpy(words + j, from + j * stride * static_cast<int64_t>(sizeof(uint64_t)),
                    sizeof *words);
      }
    } else {
      for (int64_t j = 0; j < rows; ++j) {
        words[j] = static_cast<uint32_t>(read_bits(plane + j * stride, offset, count));
      }
    }
    for (int64_t j = rows; j < 32; ++j) words[j] = 0;
  }

  // Rows of the right operand are channels and its depth is the keys.
  void transpose_plane(const uint64_t* plane, uint32_t* panels) {
    const int64_t steps = ceil_div(span_.keys, kStepBits);
    const int64_t padded = round_up(head_size_, kPanelWidth);
    for (int64_t channel = 0; channel < head_size_; channel += 32) {
      const int64_t channels = std::min<int64_t>(32, head_size_ - channel);
      const int64_t written = std::min<int64_t>(32, padded - channel);
      uint32_t before[32] = {};
      for (int64_t s = 0; s < steps; ++s) {
        uint32_t block[32];
        gather(plane + s * kStepBits * call_.rows.value.stride(), offset_ + channel, channels,
               std::min<int64_t>(kStepBits, span_.keys - s * kStepBits), block);
        transpose_32x32(block);
        for (int64_t c = 0; c < written; ++c) block[c] ^= before[c];
        std::copy_n(block, 32, before);
        for (int64_t c = 0; c < written; c += kPanelWidth) {
          const int64_t panel = (channel + c) / kPanelWidth;
          std::copy_n(block + c, kPanelWidth, panels + (panel * steps + s) * kPanelWidth);
        }
      }
    }
  }

  void prepare_context(double least) {
    const int32_t* constants = scratch_.values.constants(probs_left_);
    if (attention_.boundaries) {
      scratch_.context_limits.reserve(head_size_, *attention_.boundaries);
      scratch_.context_limits.set(*attention_.boundaries, offset_, probs_left_, constants,
                                  head_size_, scratch_.values.panels());
      return;
    }
    // Where codes of probabilities begin at their minimum, each adds it times the sum of its
    // values.
    const Codes& value = attention_.value;
    for (int64_t n = 0; n < head_size_; ++n) {
      int64_t sum = value.c0 * span_.keys;
      for (int h = 0; h < value.planes; ++h) sum += value.c[h] * scratch_.values.ones(h)[n];
      scratch_.scale[n] = attention_.probs_step * attention_.value_step;
      scratch_.bias[n] = least * attention_.value_step * static_cast<double>(sum);
    }
  }

  ScoreRows scores(int64_t first, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      for (int j = 0; j < query_left_.planes; ++j) {
        uint64_t* to = scratch_.query.plane(j, i);
        extract_bits(call_.rows.query.plane(j, first + i), offset_, head_size_, to);
        to_running(to, scratch_.query.stride());
      }
    }
    const int64_t stride = round_up(span_.keys, kWordBits);
    const Rows rows = left_rows(scratch_.query, query_left_, scratch_.keys, count);
    kernels_.store_distances(
        rows, scratch_.keys.panels(),
        {scratch_.distances.data(), stride,
         has_distance_constants() ? scratch_.distance_constants.data() : nullptr,
         query_left_.factor == 2 && has_distance_constants()});
    return {scratch_.distances.data(), stride, count, span_.keys};
  }

  // The left operand with what the constant of the right codes adds to each row.
  Rows left_rows(const CodeRows& codes, const LeftCodes& left, const HeadColumns& right,
                 int64_t count) {
    Rows rows = codes.operand(left, 0, count);
    const int32_t constant = right.twice_constant();
    if (constant == 0) return rows;
    const int32_t lowest = static_cast<int32_t>(left.c0 * right.depth());
    for (int64_t i = 0; i < count; ++i) {
      scratch_.added[i] = -constant * (lowest + sum_of_planes(codes, left, i));
    }
    rows.added = scratch_.added.data();
    return rows;
  }

  void code_probabilities(int64_t first, int64_t count, double least) {
    const ScoreRows rows = scores(first, count);
    const PlaneRows to = scratch_.probs.from(0);
    if (attention_.are_bits()) {
      kernels_.probability_bits(rows, table(), 0.5 * attention_.probs_step, to);
    } else {
      Quantizer quantizer = attention_.quantizer;
      quantizer.offset = least;
      kernels_.probability_codes(rows, table(), quantizer, to);
    }
  }

  void code_context(int64_t first, int64_t count) {
    const Rows rows = left_rows(scratch_.probs, probs_left_, scratch_.values, count);
    const Panels panels = scratch_.values.panels();
    CodeRows& context = scratch_.context;
    if (attention_.boundaries) {
      kernels_.pack_codes(rows, panels,
                          context.pack(scratch_.context_limits.flips(), 0, Words::kCodes));
    } else {
      code_context_values(rows, panels, count);
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int j = 0; j < attention_.context.planes; ++j) {
        deposit_bits(call_.rows.context.plane(j, first + i), offset_, head_size_,
                     context.plane(j, i));
      }
    }
  }

  void code_context_values(const Rows& rows, const Panels& panels, int64_t count) {
    const InputCodes& input = call_.layer.attention_output.input;
    CodeRows& context = scratch_.context;
    kernels_.store_sums(rows, panels,
                        {scratch_.sums.data(), head_size_, scratch_.values.constants(probs_left_),
                         probs_left_.factor == 2});
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
  const LeftCodes query_left_, probs_left_;
  const int64_t head_size_;
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
  if (span.query_begin >= span.query_end) return least;
  for (int64_t head = 0; head < call.config.heads; ++head) {
    least = std::min(least, HeadAttention(call, span, head).least());
  }
  return least;
}

}  // namespace bitinfer
