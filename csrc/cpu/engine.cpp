#include "cpu/engine.h"

#include <algorithm>
#include <stdexcept>

#include "base/bits.h"
#include "base/float_environment.h"
#include "base/num_threads.h"
#include "base/thread_pool.h"
#include "cpu/kernels/registry.h"

namespace bitinfer {
namespace {

// Enough tokens to use the weights more than once per trip from the outer caches, few enough that a
// group's states (128 tokens of 768 doubles: 786 kB) stay near its core.
constexpr int64_t kGroupTokens = 128;
constexpr int64_t kTokensPerThread = 4;

void check_index(const char* what, int64_t at, int64_t value, int64_t size) {
  if (value < 0 || value >= size) {
    throw std::invalid_argument(std::string(what) + " at token " + std::to_string(at) + " is " +
                                std::to_string(value) + ", expected 0 to " +
                                std::to_string(size - 1));
  }
}

void check_batch(const Batch& batch, const Config& config) {
  if (batch.sequences < 1 || batch.offsets[0] != 0) {
    throw std::invalid_argument("offsets must start at 0 and hold at least one sequence");
  }
  const auto refuse = [](int64_t sequence, const std::string& what) {
    throw std::invalid_argument("sequence " + std::to_string(sequence) + " " + what);
  };
  // One token more than positions: a masked first column travels behind the attended ones.
  const int64_t most = config.positions + 1;
  for (int64_t s = 0; s < batch.sequences; ++s) {
    const int64_t begin = batch.offsets[s], end = batch.offsets[s + 1];
    if (begin < 0 || end <= begin || end - begin > most) {
      refuse(s, "has tokens " + std::to_string(begin) + " to " + std::to_string(end) +
                    ", expected 1 to " + std::to_string(most) + " of them");
    }
    const int64_t most_keys = std::min(end - begin, config.positions);
    if (batch.keys[s] < 1 || batch.keys[s] > most_keys) {
      refuse(s, "attends to " + std::to_string(batch.keys[s]) + " tokens, expected 1 to " +
                    std::to_string(most_keys));
    }
    if (batch.first[s] < begin || batch.first[s] >= end) {
      refuse(s, "pools token " + std::to_string(batch.first[s]) + ", expected one of its own");
    }
  }
  for (int64_t t = 0; t < batch.tokens(); ++t) {
    check_index("id", t, batch.ids[t], config.vocab);
    check_index("position", t, batch.positions[t], config.positions);
    check_index("segment", t, batch.segments[t], config.token_types);
  }
}

// Cuts the batch at sequence borders into about equal groups, as many as make whole rounds of the
// threads: two threads get 8 sentences of 20 tokens as 4 + 4, not as 6 + 2.
void plan_groups(const Batch& batch, int num_threads, std::vector<Group>& groups) {
  const int64_t rounds = ceil_div(batch.tokens(), kGroupTokens * num_threads);
  const int64_t target = ceil_div(batch.tokens(), rounds * num_threads);
  groups.clear();
  int64_t first = 0;
  for (int64_t s = 0; s < batch.sequences; ++s) {
    const int64_t done = static_cast<int64_t>(groups.size()) + 1;
    const bool is_last = s + 1 == batch.sequences;
    // A border lies where the batch as a whole has used up its groups so far, so that unevenness
    // does not add up.
    if (is_last || batch.offsets[s + 1] >= std::min(done * target, batch.offsets[first] + target)) {
      groups.push_back({first, s + 1});
      first = s + 1;
    }
  }
}

int64_t tokens_of(const Batch& batch, const Group& group) {
  return batch.offsets[group.last_sequence] - batch.offsets[group.first_sequence];
}

void reserve(Workspace& workspace, const Config& config, const Batch& batch, int num_threads) {
  int64_t most_tokens = 0, most_sequences = 0;
  for (const Group& group : workspace.plan) {
    most_tokens = std::max(most_tokens, tokens_of(batch, group));
    most_sequences = std::max(most_sequences, group.last_sequence - group.first_sequence);
  }
  const int64_t most_keys = *std::max_element(batch.keys, batch.keys + batch.sequences);
  const size_t threads = static_cast<size_t>(num_threads);
  workspace.groups.resize(std::max(workspace.groups.size(), threads));
  workspace.members.resize(std::max(workspace.members.size(), threads));
  const size_t own_groups = std::min(threads, workspace.plan.size());
  for (size_t i = 0; i < own_groups; ++i) workspace.groups[i].reserve(config, most_tokens);
  for (size_t i = 0; i < threads; ++i) {
    workspace.members[i].reserve(config, most_keys, most_sequences);
  }
}

Weights load_weights(const Config& config, const TensorMap& tensors) {
  const DefaultFloatEnvironment float_environment;
  return Weights(config, tensors);
}

}  // namespace

size_t Workspace::bytes() const {
  size_t sum = 0;
  for (const GroupBuffers& group : groups) sum += group.bytes();
  for (const MemberBuffers& member : members) sum += member.bytes();
  return sum;
}

Engine::Engine(const Config& config, const TensorMap& tensors,
               const std::optional<std::string>& isa, const std::optional<int>& num_threads)
    : isa_(resolve_isa(isa)),
      kernels_(kernels_for(isa_)),
      num_threads_(resolve_num_threads(num_threads)),
      weights_(load_weights(config, tensors)) {}

Engine::~Engine() {
  for (auto& slot : idle_) delete slot.load();
}

void Engine::check(const Batch& batch) const { check_batch(batch, config()); }

void Engine::run(const Batch& batch, const Outputs& outputs, const Observers& observers) {
  check(batch);
  // Beyond one tile of rows each, threads would only wake up and wait for one another.
  const int num_threads =
      static_cast<int>(std::min<int64_t>(num_threads_, ceil_div(batch.tokens(), kTokensPerThread)));
  std::unique_ptr<Workspace> workspace = take_workspace();
  plan_groups(batch, num_threads, workspace->plan);
  reserve(*workspace, config(), batch, num_threads);

  const std::vector<Group>& plan = workspace->plan;
  const int64_t groups = static_cast<int64_t>(plan.size());
  std::atomic<int64_t> next{0};
  ThreadPool::shared().run(num_threads, [&](int member, Team& team) {
    const DefaultFloatEnvironment float_environment;
    // Whole groups first, each by whoever is free; what is left over is shared by the whole team.
    const int64_t whole = groups - groups % team.size();
    const auto forward = [&](int64_t g, int buffers, int part, int parts) {
      forward_group(kernels_, weights_, batch, plan[g], workspace->groups[buffers],
                    workspace->members[member], part, parts, team, outputs, observers);
    };
    for (int64_t g = next.fetch_add(1); g < whole; g = next.fetch_add(1)) forward(g, member, 0, 1);
    if (whole == groups) return;
    team.barrier();
    for (int64_t g = whole; g < groups; ++g) {
      if (g > whole) team.barrier();
      forward(g, 0, member, team.size());
    }
  });
  return_workspace(std::move(workspace));
}

std::unique_ptr<Workspace> Engine::take_workspace() {
  for (auto& slot : idle_) {
    if (Workspace* workspace = slot.exchange(nullptr)) {
      return std::unique_ptr<Workspace>(workspace);
    }
  }
  return std::make_unique<Workspace>();
}

void Engine::return_workspace(std::unique_ptr<Workspace> workspace) {
  const size_t bytes = workspace->bytes();
  size_t largest = workspace_bytes_.load();
  while (bytes > largest && !workspace_bytes_.compare_exchange_weak(largest, bytes)) {
  }
  for (auto& slot : idle_) {
    Workspace* expected = nullptr;
    if (slot.compare_exchange_strong(expected, workspace.get())) {
      workspace.release();
      return;
    }
  }
}

}  // namespace bitinfer
