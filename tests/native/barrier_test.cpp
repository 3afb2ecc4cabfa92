#include "base/barrier.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "check.h"

using bitinfer::Barrier;

TEST(barrier_lets_nobody_through_early) {
  constexpr int kThreads = 5;  // more than the machine may have
  constexpr int kRounds = 200;
  Barrier barrier(kThreads);
  std::vector<int> round(kThreads, 0);  // plain integers: the barrier must order them
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int self = 0; self < kThreads; ++self) {
    threads.emplace_back([&, self] {
      for (int i = 1; i <= kRounds; ++i) {
        round[self] = i;
        barrier.wait();
        for (const int other : round) wrong += other != i;
        barrier.wait();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK_EQUAL(wrong.load(), 0);
}

TEST(barrier_abort_releases_those_who_wait_now_and_later) {
  Barrier barrier(3);
  std::atomic<int> released{0};
  const auto wait = [&] {
    try {
      barrier.wait();
    } catch (const Barrier::Aborted&) {
      ++released;
    }
  };
  std::thread sleeper(wait);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));  // past its spinning
  barrier.abort();
  sleeper.join();
  wait();
  CHECK_EQUAL(released.load(), 2);
}

TEST(barrier_of_one_is_no_wait) {
  Barrier barrier(1);
  barrier.wait();
  barrier.wait();
}
