// The pool in forked processes. Tests of their own file and name, since neither the thread
// sanitizer nor qemu-user can start threads in the child of a process that has threads.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "base/thread_pool.h"
#include "check.h"
#include "sum_of_members.h"

using bitinfer::Team;
using bitinfer::ThreadPool;
using bitinfer::test::sum_of_members;

namespace {

// Runs `function`, which must not return, in a forked child; true if that ends with exit status 0
// within ten seconds.
template <class Function>
bool child_ends_well(const Function& function) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(10);
    function();
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

TEST(fork_child_has_its_own_pool) {
  sum_of_members(3);
  CHECK(child_ends_well([] {
    const bool grandchild = child_ends_well([] { _exit(sum_of_members(4) == 6 ? 0 : 1); });
    _exit(grandchild && sum_of_members(3) == 3 ? 0 : 1);
  }));
  CHECK_EQUAL(sum_of_members(3), 3);
}

TEST(fork_of_a_busy_process) {
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop) sum_of_members(3);
  });
  for (int i = 0; i < 20; ++i) {
    CHECK(child_ends_well([] { _exit(sum_of_members(3) == 3 ? 0 : 1); }));
  }
  stop = true;
  busy.join();
}

TEST(fork_child_exits_without_a_hang) {
  CHECK(child_ends_well([] { exit(0); }));
  CHECK(child_ends_well([] { exit(sum_of_members(3) == 3 ? 0 : 1); }));
}

TEST(fork_child_exits_while_its_pool_is_busy) {
  CHECK(child_ends_well([] {
    std::thread([] {
      for (;;) sum_of_members(3);
    }).detach();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    exit(0);
  }));
  CHECK(child_ends_well([] {
    ThreadPool::shared().run(3, [](int member, Team& team) {
      if (member == 0) exit(0);
      team.barrier();
    });
  }));
}

TEST(fork_stopped_pool_uses_the_caller_alone) {
  CHECK(child_ends_well([] {
    sum_of_members(3);
    ThreadPool::shared().stop();
    _exit(sum_of_members(3) == 0 ? 0 : 1);
  }));
}
