// A short wait without sleeping. Bounded, and it lets other threads go first: there may be fewer
// free CPUs than threads.
#pragma once

#include <chrono>
#include <thread>

namespace bitinfer {

// For a thread that is at work and about to finish. On virtual machines waking a sleeper takes
// about 50 microseconds; spinning for twice that keeps back-to-back runs and barriers from
// sleeping.
inline constexpr std::chrono::microseconds kPartnerSpin{100};

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
  constexpr int kChecksPerRound = 16;
  const auto end = std::chrono::steady_clock::now() + limit;
  do {
    for (int i = 0; i < kChecksPerRound; ++i) {
      if (ready()) return true;
      cpu_relax();
    }
    std::this_thread::yield();
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

}  // namespace bitinfer
