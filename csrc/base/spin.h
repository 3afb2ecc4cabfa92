// A short wait without the kernel. Always bounded: there may be fewer free CPUs than threads.
#pragma once

#include <chrono>

namespace bitinfer {

inline void cpu_relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Waits until `ready()` or until `limit` has passed; true if ready.
template <class Ready>
bool spin_until(const Ready& ready, std::chrono::microseconds limit) {
  constexpr int kChecksPerClockRead = 16;
  const auto end = std::chrono::steady_clock::now() + limit;
  do {
    for (int i = 0; i < kChecksPerClockRead; ++i) {
      if (ready()) return true;
      cpu_relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

}  // namespace bitinfer
