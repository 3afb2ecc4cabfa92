// One small pool of threads for the process. Threads start on first use and sleep when idle.
// No OpenMP: two of its runtimes in one process, or one after a fork, can hang.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#include "base/barrier.h"

namespace bitinfer {

// The threads of one run. All of them are running, so waiting for one another is safe.
class Team {
 public:
  int size() const { return size_; }

  // Returns when every member has called it. If a member has thrown, throws Barrier::Aborted.
  void barrier() { barrier_.wait(); }

 private:
  friend class ThreadPool;
  using Body = void (*)(void* context, int member, Team& team);

  Team(Body body, void* context, int size)
      : body_(body), context_(context), size_(size), barrier_(size), working_(size - 1) {}
  void work(int member) noexcept;

  const Body body_;
  void* const context_;
  const int size_;
  Barrier barrier_;
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;  // of the first member that failed
  std::atomic<int> working_;  // members other than the caller; written under the pool's mutex
  std::condition_variable finished_;
};

class ThreadPool {
 public:
  // Ask for it at every use: a forked child has a pool of its own.
  static ThreadPool& shared();

  // Calls body(int member, Team& team) for member = 0 .. team.size()-1 at the same time, member 0
  // on this thread, and returns when all are done. The first exception is rethrown here.
  //
  // `num_threads` bounds what the whole process uses: if runs of other threads are under way, this
  // one waits its turn until they leave a place, and then takes the places there are, so
  // team.size() is between 1 and num_threads. With num_threads = 1, and inside a body, it is an
  // ordinary call. Do not hold a lock that a body may want.
  template <class Function>
  void run(int num_threads, Function&& body) {
    using F = std::remove_reference_t<Function>;
    run_erased(
        num_threads,
        [](void* context, int member, Team& team) { (*static_cast<F*>(context))(member, team); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

  // Lets idle threads end and waits for them; later runs use the calling thread alone.
  void stop();

 private:
  struct Worker {
    std::atomic<Team*> team{nullptr};  // written under mutex_, read while spinning
    int member = 0;                    // of a team, from hiring to the end of its work; 0: idle
    std::condition_variable wake;
    std::thread thread;
  };

  void run_erased(int num_threads, Team::Body body, void* context);
  std::vector<Worker*> hire(int num_threads);
  bool start_worker();
  void dismiss(Team& team);
  void serve(Worker& worker);

  std::mutex mutex_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Worker*> idle_;
  int busy_ = 0;  // members of all teams
  bool stopping_ = false;
  // Callers are let in by number, first come, first served.
  uint64_t next_number_ = 0;
  uint64_t now_serving_ = 0;
  std::condition_variable place_free_;
};

}  // namespace bitinfer
