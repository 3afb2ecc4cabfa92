// The pass of one group of sequences through the whole model, shared by a team of threads.
#pragma once

#include "base/thread_pool.h"
#include "cpu/profile.h"
#include "cpu/workspace.h"
#include "model/batch.h"
#include "model/trace.h"

namespace bitinfer {

// What a pass shows of itself; each may be null.
struct Observers {
  Trace* trace = nullptr;
  StageTimes* times = nullptr;  // one per member of the team
};

// A call: what all its groups and members have in common.
struct Pass {
  const Kernels& kernels;
  const PreparedModel& model;
  const Batch& batch;
  const Outputs& outputs;
  const Observers& observers;
};

// The part of a pass that one member does: its share of a group's tokens.
struct Share {
  const Group& group;
  GroupBuffers& buffers;
  MemberBuffers& own;
  int part, parts;  // of the members that share the group
  int member;       // of the team
  Team& team;
};

// With more than one part, the members of all must call this at the same time with the same group.
void forward(const Pass& pass, const Share& share);

}  // namespace bitinfer
