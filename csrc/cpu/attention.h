// Attention on bits: integer scores, a threshold per row, probability bits, integer context. No
// score and no probability is ever a float.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/bit_rows.h"
#include "cpu/trace.h"
#include "cpu/weights.h"

namespace bitinfer {

// Memory of one thread.
class AttentionScratch {
 public:
  void reserve(const Config& config, int64_t most_keys);
  size_t bytes() const;

 private:
  friend class HeadAttention;
  struct PanelBuffer {
    AlignedBuffer<uint32_t> words, nonzero;
    std::vector<const uint32_t*> nonzero_panels;

    void reserve(int64_t cols, int64_t depth);
    Panels panels(int64_t cols, int64_t depth, bool has_zeros);
    size_t bytes() const;
  };

  PanelBuffer keys_, values_;
  BitRows query_, probs_, context_;
  AlignedBuffer<uint16_t> distances_;
  AlignedBuffer<uint64_t> head_words_;  // one row of one head
  AlignedBuffer<int32_t> value_sums_;
  CodeLimits context_limits_;
};

// Rows are counted within a group of tokens.
struct AttentionSpan {
  int64_t sequence_begin;  // the keys are the `keys` rows from here
  int64_t keys;
  int64_t query_begin, query_end;
};

struct AttentionRows {
  const BitRows &query, &key, &value;
  BitRows& context;
};

// Fills the context codes of the queries; `probs`, if given, takes the bits of every head as
// [heads][tokens][tokens] of the sequence.
void attend(const Kernels& kernels, const Config& config, const Layer& layer,
            const AttentionSpan& span, const AttentionRows& rows, AttentionScratch& scratch,
            int8_t* probs, int64_t tokens);

}  // namespace bitinfer
