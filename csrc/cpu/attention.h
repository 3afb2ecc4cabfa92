// Attention on codes: integer scores, codes of probabilities by row, integer context. Scores and
// probabilities of one bit are never a float.
#pragma once

#include <cstdint>

#include "cpu/code_rows.h"
#include "cpu/head_product.h"
#include "cpu/prepared.h"

namespace bitinfer {

// Memory of one thread.
struct AttentionScratch {
  void reserve(const Config& config, const PreparedAttention& attention, int64_t most_keys);
  size_t bytes() const;

  HeadProduct scores, contexts;
  CodeRows context;
  AlignedBuffer<uint16_t> distances;
  AlignedBuffer<int32_t> distance_constants;  // of every key
  AlignedBuffer<RowSum> row_sums;             // of a block of queries
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
  // Where codes of probabilities begin at their minimum: [heads][row_stride], found by
  // least_probability for every query, and used by attend.
  RowSum* row_sums;
  int64_t row_stride;
};

// Fills the context codes of the queries. `least` is the smallest probability of the sequence where
// codes begin there, and else 0. `probs`, if given, takes the probabilities' codes of every head as
// [heads][tokens][tokens] of the sequence.
void attend(const AttentionCall& call, const AttentionSpan& span, double least, int8_t* probs,
            int64_t tokens);

// The smallest probability of those queries of a span that are keys, too.
double least_probability(const AttentionCall& call, const AttentionSpan& span);

}  // namespace bitinfer
