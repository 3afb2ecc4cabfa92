// What goes into a pass and what comes out of it.
#pragma once

#include <cstdint>

namespace bitinfer {

struct Config;

// A ragged batch: the tokens of all sequences one after another, no padding.
struct Batch {
  const int32_t* ids;
  const int32_t* positions;
  const int32_t* segments;
  const int64_t* offsets;  // [sequences + 1], of tokens
  const int32_t* keys;     // how many of a sequence's tokens, from its first, are attended to
  const int64_t* first;    // the token that the pooler reads
  int64_t sequences;

  int64_t tokens() const { return offsets[sequences]; }
};

// Every index of the batch; std::invalid_argument names the one that is out of range.
void check_batch(const Batch& batch, const Config& config);

struct Outputs {
  double* logits;  // [sequences][labels]; [tokens][labels] of a head that reads tokens
  double* pooled;  // [sequences][hidden]
  double* hidden;  // [tokens][hidden], or null
};

}  // namespace bitinfer
