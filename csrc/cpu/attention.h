// Attention on bit planes: integer scores, codes of probabilities by row, integer context. Scores
// and probabilities of one bit are never a float.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/code_rows.h"
#include "cpu/prepared.h"

namespace bitinfer {

// The right operand of one head's product: halves of its keys, or of its values.
class HeadColumns {
 public:
  void reserve(int64_t count, int64_t depth, int planes);
  // Columns of another shape, within what is reserved.
  void shape(int64_t count, int64_t depth, const Codes& codes);

  uint32_t* half(int h) { return words_.data() + h * half_words_; }
  int32_t* ones(int h) { return ones_.data() + h * padded_; }
  Panels panels() const;
  Panels half_panels(int h) const;
  // A of every column, of all halves together. The ones of halves count only where A depends on
  // them.
  const int32_t* constants(const LeftCodes& left);
  // Codes are the sum of their halves and a constant, c0 + sum c_j / 2, which multiplies the sum of
  // the left row.
  int32_t twice_constant() const { return has_halves() ? 2 * codes_.c0 + codes_.sum() : 0; }
  bool has_halves() const { return codes_.planes > 1; }
  int64_t depth() const { return depth_; }
  int64_t padded() const { return padded_; }
  size_t bytes() const;

 private:
  Codes codes_{};
  int64_t count_ = 0, depth_ = 0, steps_ = 0, padded_ = 0, half_words_ = 0;
  AlignedBuffer<uint32_t> words_;
  std::vector<const uint32_t*> others_;
  AlignedBuffer<int32_t> ones_, constants_;
};

// Memory of one thread.
struct AttentionScratch {
  void reserve(const Config& config, const PreparedAttention& attention, int64_t most_keys);
  size_t bytes() const;

  HeadColumns keys, values;
  CodeRows query, probs, context;
  AlignedBuffer<uint16_t> distances;
  AlignedBuffer<uint64_t> head_words;         // one row of one head
  AlignedBuffer<int32_t> added;               // to T of a block of queries
  AlignedBuffer<int32_t> distance_constants;  // of every key
  AlignedBuffer<int32_t> column_sums;         // what counts in sums of one column
  Limits context_limits;
  AlignedBuffer<int32_t> sums;  // of contexts that are decided by value ...
  AlignedBuffer<double> values_of_sums, scale, bias;
};

// Rows are counted within a group of tokens.
struct AttentionSpan {
  int64_t sequence_begin;  // the keys are the `keys` rows from here
  int64_t keys;
  int64_t query_begin, query_end;
};

struct AttentionRows {
  const CodeRows &query, &key, &value;
  CodeRows& context;
};

struct AttentionCall {
  const Kernels& kernels;
  const Config& config;
  const PreparedLayer& layer;
  AttentionRows rows;
  AttentionScratch& scratch;
};

// Fills the context codes of the queries. `least` is the smallest probability of the sequence where
// codes begin there, and else 0. `probs`, if given, takes the probabilities' codes of every head as
// [heads][tokens][tokens] of the sequence.
void attend(const AttentionCall& call, const AttentionSpan& span, double least, int8_t* probs,
            int64_t tokens);

// The smallest probability of the queries of a span.
double least_probability(const AttentionCall& call, const AttentionSpan& span);

}  // namespace bitinfer
