#include "base/thread_pool.h"

#include <dirent.h>
#include <signal.h>

#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "sum_of_members.h"

using bitinfer::Team;
using bitinfer::ThreadPool;
using bitinfer::test::sum_of_members;

namespace {

int threads_of_process() {
  int count = -2;  // "." and ".."
  DIR* tasks = opendir("/proc/self/task");
  while (readdir(tasks) != nullptr) ++count;
  closedir(tasks);
  return count;
}

}  // namespace

// First in the file: no thread has been started yet.
TEST(thread_pool_of_one_starts_no_thread) {
  const int before = threads_of_process();
  const auto caller = std::this_thread::get_id();
  int calls = 0;
  ThreadPool::shared().run(1, [&](int member, Team& team) {
    team.barrier();
    CHECK_EQUAL(member, 0);
    CHECK_EQUAL(team.size(), 1);
    CHECK(std::this_thread::get_id() == caller);
    ++calls;
  });
  CHECK_EQUAL(calls, 1);
  CHECK_EQUAL(threads_of_process(), before);
}

TEST(thread_pool_runs_every_member_at_once) {
  for (const int num_threads : {2, 3, 8, 2, 5}) {
    CHECK_EQUAL(sum_of_members(num_threads), num_threads * (num_threads - 1) / 2);
  }
}

TEST(thread_pool_reuses_its_threads) {
  sum_of_members(4);
  const int before = threads_of_process();
  for (int i = 0; i < 500; ++i) sum_of_members(2 + i % 3);
  CHECK_EQUAL(threads_of_process(), before);
}

TEST(thread_pool_rethrows_and_releases_the_others) {
  for (const int failing : {0, 1, 2}) {
    CHECK_THROWS(ThreadPool::shared().run(3,
                                          [&](int member, Team& team) {
                                            if (member == failing) throw std::range_error("broken");
                                            for (;;) team.barrier();
                                          }),
                 std::range_error, "broken");
    sum_of_members(3);
  }
  CHECK_THROWS(ThreadPool::shared().run(1, [](int, Team&) { throw std::range_error("alone"); }),
               std::range_error, "alone");
}

TEST(thread_pool_nested_run_is_a_call) {
  std::atomic<int> inner{0};
  ThreadPool::shared().run(3, [&](int, Team&) {
    ThreadPool::shared().run(3, [&](int, Team& team) {
      team.barrier();
      inner += team.size();
    });
  });
  CHECK_EQUAL(inner.load(), 3);
}

TEST(thread_pool_callers_share_the_places) {
  constexpr int kCallers = 6;
  constexpr int kPlaces = 3;
  std::atomic<int> running{0};
  std::atomic<int> most{0};
  std::atomic<int> calls{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&] {
      for (int i = 0; i < 40; ++i) {
        ThreadPool::shared().run(kPlaces, [&](int member, Team& team) {
          const int now = ++running;
          for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
          }
          team.barrier();
          team.barrier();
          --running;
          calls += member == 0;
        });
      }
    });
  }
  for (auto& caller : callers) caller.join();
  CHECK_EQUAL(calls.load(), kCallers * 40);
  CHECK_EQUAL(most.load(), kPlaces);
}

TEST(thread_pool_callers_of_different_width_all_finish) {
  std::vector<std::thread> callers;
  std::atomic<int> calls{0};
  for (int caller = 0; caller < 5; ++caller) {
    callers.emplace_back([&, caller] {
      for (int i = 0; i < 60; ++i) {
        ThreadPool::shared().run(1 + caller, [&](int member, Team& team) {
          team.barrier();
          calls += member == 0;
        });
      }
    });
  }
  for (auto& caller : callers) caller.join();
  CHECK_EQUAL(calls.load(), 5 * 60);
}

TEST(thread_pool_blocks_signals_in_its_threads) {
  std::atomic<int> blocked{0};
  ThreadPool::shared().run(3, [&](int member, Team&) {
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    if (member > 0) blocked += sigismember(&mask, SIGINT) == 1;
    if (member > 0) blocked += sigismember(&mask, SIGSEGV) == 0;
  });
  CHECK_EQUAL(blocked.load(), 4);
}
