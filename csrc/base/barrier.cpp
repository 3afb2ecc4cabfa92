#include "base/barrier.h"

#include "base/spin.h"

namespace bitinfer {
void Barrier::wait() {
  if (count_ == 1) return;
  std::unique_lock<std::mutex> lock(mutex_);
  const uint32_t before = passed_.load(std::memory_order_relaxed);
  const auto released = [&] {
    return passed_.load(std::memory_order_acquire) != before ||
           aborted_.load(std::memory_order_acquire);
  };
  if (++arrived_ == count_) {
    arrived_ = 0;
    passed_.store(before + 1, std::memory_order_release);
    lock.unlock();
    changed_.notify_all();
  } else {
    lock.unlock();
    if (!spin_until(released, kPartnerSpin)) {
      lock.lock();
      changed_.wait(lock, released);
    }
  }
  if (aborted_.load(std::memory_order_acquire)) throw Aborted();
}

void Barrier::abort() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    aborted_.store(true, std::memory_order_release);
  }
  changed_.notify_all();
}

}  // namespace bitinfer
