// Where the time of a forward pass goes. Off unless asked for: then every stage reads the clock.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>

namespace bitinfer {

enum class Stage {
  kEmbedding,        // look-up, sum, LayerNorm, codes of the first layer's input
  kProjections,      // products of query, key and value, to codes
  kWait,             // for the other threads of a sequence
  kAttention,        // scores, codes of softmax, context
  kAttentionOutput,  // product, to sums
  kNormalize,        // residuals, both LayerNorms, and the codes of what comes next
  kIntermediate,     // first product of the FFN, to codes
  kOutput,           // second product of the FFN, to sums
  kHead,             // pooler, classifier, copies of the hidden states
  kCount
};

inline constexpr int kStageCount = static_cast<int>(Stage::kCount);

// Nanoseconds in every stage; of one thread.
using StageTimes = std::array<int64_t, kStageCount>;

class StageClock {
 public:
  // Null: all calls do nothing.
  explicit StageClock(StageTimes* times) : times_(times) {
    if (times_ != nullptr) since_ = Clock::now();
  }
  // Everything since the call before this one belongs to `stage`.
  void end(Stage stage) {
    if (times_ == nullptr) return;
    const Clock::time_point now = Clock::now();
    (*times_)[static_cast<size_t>(stage)] +=
        std::chrono::duration_cast<std::chrono::nanoseconds>(now - since_).count();
    since_ = now;
  }

 private:
  using Clock = std::chrono::steady_clock;
  StageTimes* times_;
  Clock::time_point since_;
};

}  // namespace bitinfer
