// Memory of one call. It goes back to the engine after the call and serves the next one.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/attention.h"
#include "cpu/code_rows.h"
#include "cpu/prepared.h"
#include "model/batch.h"

namespace bitinfer {

// After attention rows have nothing to do with one another. So many of them go through the rest of
// a layer at a time: 64 rows of 768 doubles are 393 kB and stay in L2.
inline constexpr int64_t kRowBlock = 64;

// A member may fill the keys and values of the next layer while another still reads this layer's.
inline constexpr int64_t kKeyValueBuffers = 2;

// Neighbouring sequences that go through the model together.
struct Group {
  int64_t first_sequence, last_sequence;

  int64_t sequences() const { return last_sequence - first_sequence; }
};

// Minima over the sequences of a group, one for each part that a member has seen.
class SequenceMinima {
 public:
  void reserve(int64_t parts, int64_t sequences);
  // Of a part, for the sequences of the group in order.
  double* of(int64_t part) { return values_.data() + part * sequences_; }
  double over_parts(int64_t parts, int64_t sequence) const;
  size_t bytes() const { return values_.bytes(); }

 private:
  int64_t sequences_ = 0;
  AlignedBuffer<double> values_;
};

// Of a group under way.
struct GroupBuffers {
  AlignedBuffer<double> hidden;
  CodeRows query_in, key_in, value_in, intermediate_in;  // codes of the states
  CodeRows query, key[kKeyValueBuffers], value[kKeyValueBuffers], context, ffn;
  AlignedBuffer<int32_t> ffn_sums;  // where codes of the FFN begin at their minimum
  SequenceMinima probs_minima, ffn_minima;
  AlignedBuffer<RowSum> row_sums;  // [heads][row_stride], where those of probabilities do
  int64_t row_stride = 0;

  void reserve(const PreparedModel& model, int64_t tokens, int64_t sequences, int64_t members);
  size_t bytes() const;
};

// A token that a pooler reads, by its row within the group.
struct PooledRow {
  int64_t sequence, row;
};

// Of one thread.
struct MemberBuffers {
  AttentionScratch attention;
  CodeRows pooler_input;
  AlignedBuffer<int32_t> sums;  // of a block of rows
  AlignedBuffer<double> bias;   // of one sequence, where codes of the FFN begin at its minimum
  std::vector<PooledRow> pooled;

  void reserve(const PreparedModel& model, int64_t most_keys, int64_t most_sequences);
  size_t bytes() const;
};

struct Workspace {
  std::vector<GroupBuffers> groups;    // one per thread; a group shared by all uses the first
  std::vector<MemberBuffers> members;  // one per thread
  std::vector<Group> plan;

  // Room for the groups of the plan.
  void reserve(const PreparedModel& model, const Batch& batch, int num_threads);
  size_t bytes() const;
};

}  // namespace bitinfer
