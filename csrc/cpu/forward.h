// The pass of one group of sequences through the whole model, shared by a team of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "base/thread_pool.h"
#include "cpu/attention.h"
#include "cpu/bit_rows.h"
#include "cpu/profile.h"
#include "cpu/trace.h"
#include "cpu/weights.h"

namespace bitinfer {

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

struct Outputs {
  double* logits;  // [sequences][labels]; span heads: [tokens][2]
  double* pooled;  // [sequences][hidden]
  double* hidden;  // [tokens][hidden], or null
};

// Neighbouring sequences that go through the model together.
struct Group {
  int64_t first_sequence, last_sequence;
};

// Memory of a group under way. Keys and values are doubled: a member may fill those of the next
// layer while another still reads this layer's, so one barrier a layer is enough.
struct GroupBuffers {
  AlignedBuffer<double> hidden;
  BitRows query_in, key_in, value_in, intermediate_in;  // codes of the states
  BitRows query, key[2], value[2], context, ffn;

  void reserve(const Config& config, int64_t tokens);
  size_t bytes() const;
};

// A token that a pooler reads, by its row within the group.
struct PooledRow {
  int64_t sequence, row;
};

// Memory of one thread.
struct MemberBuffers {
  AttentionScratch attention;
  BitRows pooler_input;
  AlignedBuffer<int32_t> sums;  // of a block of rows
  std::vector<PooledRow> pooled;

  void reserve(const Config& config, int64_t most_keys, int64_t most_sequences);
  size_t bytes() const;
};

// What a pass shows of itself; each may be null.
struct Observers {
  Trace* trace = nullptr;
  StageTimes* times = nullptr;  // one per member
};

// Runs member `member` of `team_size`: its share of the group's tokens. With a team of more than
// one, all members must call this at the same time with the same group.
void forward_group(const Kernels& kernels, const Weights& weights, const Batch& batch,
                   const Group& group, GroupBuffers& buffers, MemberBuffers& scratch, int member,
                   int team_size, Team& team, const Outputs& outputs, const Observers& observers);

}  // namespace bitinfer
