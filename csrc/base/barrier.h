// A point that a fixed number of threads pass together, any number of times.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace bitinfer {

class Barrier {
 public:
  // Thrown by wait() after abort(): unwinds the threads whose partner failed.
  struct Aborted {};

  explicit Barrier(int count) : count_(count) {}

  // Returns when all have arrived; throws Aborted once any thread has called abort().
  void wait();

  // Releases everyone who waits now or later.
  void abort();

 private:
  const int count_;
  int arrived_ = 0;                   // guarded by mutex_
  std::atomic<uint32_t> passed_{0};   // written under mutex_, read by spinning threads
  std::atomic<bool> aborted_{false};  // the same
  std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace bitinfer
