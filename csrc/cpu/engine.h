// A loaded model and how a batch of it is spread over threads and memory.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cpu/forward.h"
#include "cpu/prepared.h"

namespace bitinfer {

// Immutable once built; run() may be called from any number of threads at once.
class Engine {
 public:
  Engine(const Config& config, const TensorMap& tensors, const std::optional<std::string>& isa,
         const std::optional<int>& num_threads);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Checks the batch and fills the outputs. With a trace the batch is one sequence; with stage
  // times there are num_threads() of them, to which the times are added.
  void run(const Batch& batch, const Outputs& outputs, const Observers& observers = {});

  const Config& config() const { return model_.config; }
  const std::string& isa() const { return isa_; }
  int num_threads() const { return num_threads_; }
  size_t weight_bytes() const { return model_.bytes; }
  size_t workspace_bytes() const { return workspace_bytes_.load(); }  // the largest so far

 private:
  std::unique_ptr<Workspace> take_workspace();
  void return_workspace(std::unique_ptr<Workspace> workspace);

  std::string isa_;
  const Kernels& kernels_;
  int num_threads_;
  PreparedModel model_;
  // Lock-free slots: a lock held by another thread at the time of a fork would stay held in the
  // child. Calls beyond the slots use memory of their own.
  std::array<std::atomic<Workspace*>, 8> idle_{};
  std::atomic<size_t> workspace_bytes_{0};
};

}  // namespace bitinfer
