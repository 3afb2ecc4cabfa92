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

PreparedModel prepare(const Config& config, const TensorMap& tensors) {
  const DefaultFloatEnvironment float_environment;
  return PreparedModel(Model(config, tensors));
}

}  // namespace

Engine::Engine(const Config& config, const TensorMap& tensors,
               const std::optional<std::string>& isa, const std::optional<int>& num_threads)
    : isa_(resolve_isa(isa)),
      kernels_(kernels_for(isa_)),
      num_threads_(resolve_num_threads(num_threads)),
      model_(prepare(config, tensors)) {}

Engine::~Engine() {
  for (auto& slot : idle_) delete slot.load();
}

void Engine::run(const Batch& batch, const Outputs& outputs, const Observers& observers) {
  check_batch(batch, config());
  // Threads with fewer tokens would only wake up and wait for one another.
  const int num_threads =
      static_cast<int>(std::min<int64_t>(num_threads_, ceil_div(batch.tokens(), kTokensPerThread)));
  std::unique_ptr<Workspace> workspace = take_workspace();
  plan_groups(batch, num_threads, workspace->plan);
  workspace->reserve(model_, batch, num_threads);
  const Pass pass{kernels_, model_, batch, outputs, observers};

  const std::vector<Group>& plan = workspace->plan;
  const int64_t groups = static_cast<int64_t>(plan.size());
  std::atomic<int64_t> next{0};
  ThreadPool::shared().run(num_threads, [&](int member, Team& team) {
    const DefaultFloatEnvironment float_environment;
    // Whole groups first, each by whoever is free; what is left over is shared by the whole team.
    const int64_t whole = groups - groups % team.size();
    const auto run_group = [&](int64_t g, int buffers, int part, int parts) {
      forward(pass, {plan[g], workspace->groups[buffers], workspace->members[member], part, parts,
                     member, team});
    };
    for (int64_t g = next.fetch_add(1); g < whole; g = next.fetch_add(1))
      run_group(g, member, 0, 1);
    if (whole == groups) return;
    team.barrier();
    for (int64_t g = whole; g < groups; ++g) {
      if (g > whole) team.barrier();
      run_group(g, 0, member, team.size());
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
