#include "cpu/attention.h"

#include <algorithm>
#include <cstring>

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

}  // namespace

void AttentionScratch::PanelBuffer::reserve(int64_t cols, int64_t depth) {
  const int64_t panels = ceil_div(cols, kPanelWidth);
  const size_t size = static_cast<size_t>(panels * ceil_div(depth, kStepBits) * kPanelWidth);
  words.reserve(size);
  nonzero.reserve(size);
  nonzero_panels.resize(std::max(nonzero_panels.size(), static_cast<size_t>(panels)));
}

Panels AttentionScratch::PanelBuffer::panels(int64_t cols, int64_t depth, bool has_zeros) {
  const int64_t steps = ceil_div(depth, kStepBits), count = ceil_div(cols, kPanelWidth);
  for (int64_t p = 0; p < count; ++p) {
    nonzero_panels[p] = has_zeros ? nonzero.data() + p * steps * kPanelWidth : nullptr;
  }
  return {words.data(), nonzero_panels.data(), cols, depth, steps, count};
}

size_t AttentionScratch::PanelBuffer::bytes() const {
  return words.bytes() + nonzero.bytes() + nonzero_panels.size() * sizeof(uint32_t*);
}

void AttentionScratch::reserve(const Config& config, int64_t most_keys) {
  const int64_t head_size = config.head_size();
  keys_.reserve(most_keys, head_size);
  values_.reserve(head_size, most_keys);
  query_.reserve(kMostQueries, head_size);
  context_.reserve(kMostQueries, head_size);
  // Kept at its widest: the stride of a call is that of its own sequence.
  probs_.reserve(kMostQueries, most_keys);
  distances_.reserve(static_cast<size_t>(
      std::max(kBlockDistances, kFewestQueries * round_up(most_keys, kWordBits))));
  head_words_.reserve(static_cast<size_t>(words_for(head_size)));
  value_sums_.reserve(static_cast<size_t>(head_size));
  context_limits_.resize(head_size, true);
}

size_t AttentionScratch::bytes() const {
  return keys_.bytes() + values_.bytes() + query_.bytes() + probs_.bytes() + context_.bytes() +
         distances_.bytes() + head_words_.bytes() + value_sums_.bytes() + context_limits_.bytes();
}

// One head of one sequence: keys and values are interleaved once, then queries pass in blocks.
class HeadAttention {
 public:
  HeadAttention(const Kernels& kernels, const Config& config, const Layer& layer,
                const AttentionSpan& span, const AttentionRows& rows, AttentionScratch& scratch,
                int64_t head)
      : kernels_(kernels),
        layer_(layer),
        span_(span),
        rows_(rows),
        scratch_(scratch),
        head_size_(config.head_size()),
        offset_(head * config.head_size()),
        query_has_zeros_(layer.query.limits.has_low()),
        key_has_zeros_(layer.key.limits.has_low()),
        value_has_zeros_(layer.value.limits.has_low()),
        context_has_zeros_(!layer.context_low.empty()) {
    interleave_keys();
    interleave_values();
    set_context_limits();
  }

  void run(int8_t* probs, int64_t tokens) {
    const int64_t block = query_block(span_.keys);
    for (int64_t q = span_.query_begin; q < span_.query_end; q += block) {
      const int64_t count = std::min(block, span_.query_end - q);
      probability_bits(q, count);
      if (probs != nullptr) {
        decode_rows(probability_rows(count), Words::kRunning, span_.keys,
                    probs + (q - span_.sequence_begin) * tokens, tokens);
      }
      context(q, count);
    }
  }

 private:
  void interleave_keys() {
    interleave_plane(rows_.key.bits(span_.sequence_begin), Words::kRunning,
                     scratch_.keys_.words.data());
    if (key_has_zeros_) {
      interleave_plane(rows_.key.nonzero(span_.sequence_begin), Words::kCodes,
                       scratch_.keys_.nonzero.data());
    }
  }

  void interleave_plane(const uint64_t* plane, Words words, uint32_t* panels) {
    const int64_t steps = ceil_div(head_size_, kStepBits);
    for (int64_t j = 0; j < span_.keys; ++j) {
      extract_bits(plane + j * rows_.key.stride(), offset_, head_size_,
                   scratch_.head_words_.data());
      interleave_row(scratch_.head_words_.data(), j, steps, words, panels);
    }
  }

  void interleave_values() {
    transpose_plane(rows_.value.bits(span_.sequence_begin), Words::kRunning,
                    scratch_.values_.words.data());
    if (value_has_zeros_) {
      transpose_plane(rows_.value.nonzero(span_.sequence_begin), Words::kCodes,
                      scratch_.values_.nonzero.data());
    }
  }

  // `count` <= 32 bits from `offset` of up to 32 rows; zeros for the rest.
  void gather(const uint64_t* plane, int64_t offset, int64_t count, int64_t rows,
              uint32_t* words) const {
    const int64_t stride = rows_.value.stride();
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
  void transpose_plane(const uint64_t* plane, Words words, uint32_t* panels) {
    const int64_t steps = ceil_div(span_.keys, kStepBits);
    const int64_t padded = round_up(head_size_, kPanelWidth);
    for (int64_t channel = 0; channel < head_size_; channel += 32) {
      const int64_t channels = std::min<int64_t>(32, head_size_ - channel);
      const int64_t written = std::min<int64_t>(32, padded - channel);
      uint32_t before[32] = {};
      for (int64_t s = 0; s < steps; ++s) {
        uint32_t block[32];
        gather(plane + s * kStepBits * rows_.value.stride(), offset_ + channel, channels,
               std::min<int64_t>(kStepBits, span_.keys - s * kStepBits), block);
        transpose_32x32(block);
        for (int64_t c = 0; c < written; ++c) block[c] ^= before[c];
        if (words == Words::kRunning) std::copy_n(block, 32, before);
        for (int64_t c = 0; c < written; c += kPanelWidth) {
          const int64_t panel = (channel + c) / kPanelWidth;
          std::copy_n(block + c, kPanelWidth, panels + (panel * steps + s) * kPanelWidth);
        }
      }
    }
  }

  Panels value_panels() const {
    return scratch_.values_.panels(head_size_, span_.keys, value_has_zeros_);
  }

  // The +1 codes of a value channel follow from their sum: S = 2 ones - keys, and a row of +1 codes
  // times the values gives S of every channel.
  void set_context_limits() {
    int32_t* sums = scratch_.value_sums_.data();
    if (!value_has_zeros_) {
      scratch_.probs_.reserve(1, span_.keys);
      uint64_t* all = scratch_.probs_.bits(0);
      for (int64_t w = 0; w < scratch_.probs_.stride(); ++w) {
        all[w] = low_bits(span_.keys - w * kWordBits);
      }
      to_running(all, scratch_.probs_.stride());
      const Panels values = value_panels();
      kernels_.store_sums(scratch_.probs_.rows(0, 1, false), values, {sums, head_size_, nullptr});
    }
    // From sums to counts of +1 codes; with zeros among the values all panels are masked.
    for (int64_t c = 0; c < head_size_; ++c) {
      sums[c] = value_has_zeros_ ? 0 : (static_cast<int32_t>(span_.keys) + sums[c]) / 2;
    }
    scratch_.context_limits_.resize(head_size_, context_has_zeros_);
    scratch_.context_limits_.set_unsigned(
        sums, layer_.context_threshold.data() + offset_,
        context_has_zeros_ ? layer_.context_low.data() + offset_ : nullptr);
  }

  void probability_bits(int64_t first, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      extract_bits(rows_.query.bits(first + i), offset_, head_size_, scratch_.query_.bits(i));
      to_running(scratch_.query_.bits(i), scratch_.query_.stride());
      if (query_has_zeros_) {
        extract_bits(rows_.query.nonzero(first + i), offset_, head_size_,
                     scratch_.query_.nonzero(i));
      }
    }
    const int64_t stride = round_up(span_.keys, kWordBits);
    uint16_t* distances = scratch_.distances_.data();
    kernels_.store_distances(scratch_.query_.rows(0, count, query_has_zeros_),
                             scratch_.keys_.panels(span_.keys, head_size_, key_has_zeros_),
                             {distances, stride});
    const bool is_ternary = query_has_zeros_ || key_has_zeros_;
    const ExpTable table = is_ternary ? layer_.ternary_scores.table() : layer_.pm1_scores.table();
    scratch_.probs_.reserve(kMostQueries, span_.keys);
    kernels_.probability_bits(
        {distances, stride, count, span_.keys, scratch_.probs_.bits(0), scratch_.probs_.stride()},
        table, layer_.half_probs_step);
  }

  Rows probability_rows(int64_t count) const {
    return scratch_.probs_.rows(0, count, false, /*is_unsigned=*/true);
  }

  void context(int64_t first, int64_t count) {
    uint64_t* nonzero = context_has_zeros_ ? scratch_.context_.nonzero(0) : nullptr;
    const PackCodes to = scratch_.context_limits_.pack(scratch_.context_.bits(0), nonzero,
                                                       scratch_.context_.stride(), Words::kCodes);
    kernels_.pack_codes(probability_rows(count), value_panels(), to);
    for (int64_t i = 0; i < count; ++i) {
      deposit_bits(rows_.context.bits(first + i), offset_, head_size_, scratch_.context_.bits(i));
      if (context_has_zeros_) {
        deposit_bits(rows_.context.nonzero(first + i), offset_, head_size_,
                     scratch_.context_.nonzero(i));
      }
    }
  }

  const Kernels& kernels_;
  const Layer& layer_;
  const AttentionSpan& span_;
  const AttentionRows& rows_;
  AttentionScratch& scratch_;
  const int64_t head_size_;
  const int64_t offset_;  // of the head's channels within a row
  const bool query_has_zeros_, key_has_zeros_, value_has_zeros_, context_has_zeros_;
};

void attend(const Kernels& kernels, const Config& config, const Layer& layer,
            const AttentionSpan& span, const AttentionRows& rows, AttentionScratch& scratch,
            int8_t* probs, int64_t tokens) {
  rows.context.clear(span.query_begin, span.query_end - span.query_begin);
  for (int64_t head = 0; head < config.heads; ++head) {
    HeadAttention attention(kernels, config, layer, span, rows, scratch, head);
    attention.run(probs != nullptr ? probs + head * tokens * tokens : nullptr, tokens);
  }
  for (int64_t row = span.query_begin; row < span.query_end; ++row) {
    to_running(rows.context.bits(row), rows.context.stride());
  }
}

}  // namespace bitinfer
