#include "base/thread_pool.h"

#include <pthread.h>
#include <signal.h>

#include <utility>

#include "base/spin.h"

namespace bitinfer {
namespace {

// An idle thread looks for the next run this long before it sleeps, so that calls in a row find it
// awake, and no longer, so that an idle process costs nothing.
constexpr std::chrono::microseconds kIdleSpin{20};

thread_local bool t_inside_run = false;

// Never deleted, so that no order of destruction at exit matters.
std::atomic<ThreadPool*> g_pool{nullptr};

// After a fork the child has none of the threads, and the locks are as they happened to be: it
// leaves the old pool alone and makes a new one when it needs one.
void forget_pool_in_child() {
  g_pool.store(nullptr);
  t_inside_run = false;
}
[[maybe_unused]] const int g_at_fork = pthread_atfork(nullptr, nullptr, forget_pool_in_child);

// At exit, and before the code of the threads is unloaded.
struct StopAtExit {
  ~StopAtExit() {
    if (ThreadPool* pool = g_pool.load()) pool->stop();
  }
} g_stop_at_exit;

// Threads inherit the mask of blocked signals: signals are for the user's threads, not for ours.
class BlockSignals {
 public:
  BlockSignals() {
    sigset_t signals;
    sigfillset(&signals);
    // A fault belongs to the thread that makes it.
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) sigdelset(&signals, fault);
    pthread_sigmask(SIG_SETMASK, &signals, &before_);
  }
  ~BlockSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockSignals(const BlockSignals&) = delete;
  BlockSignals& operator=(const BlockSignals&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

void Team::work(int member) noexcept {
  t_inside_run = true;
  try {
    body_(context_, member, *this);
  } catch (const Barrier::Aborted&) {
    // The member that failed has kept the reason.
  } catch (...) {
    if (!failed_.exchange(true)) error_ = std::current_exception();
    barrier_.abort();
  }
  t_inside_run = false;
}

ThreadPool& ThreadPool::shared() {
  ThreadPool* pool = g_pool.load();
  if (pool != nullptr) return *pool;
  auto fresh = std::make_unique<ThreadPool>();
  // Without a lock: a fork at the wrong moment would leave it locked in the child.
  if (g_pool.compare_exchange_strong(pool, fresh.get())) pool = fresh.release();
  return *pool;
}

void ThreadPool::run_erased(int num_threads, Team::Body body, void* context) {
  if (num_threads <= 1 || t_inside_run) {
    Team alone(body, context, 1);
    body(context, 0, alone);
    return;
  }
  const std::vector<Worker*> workers = hire(num_threads);
  Team team(body, context, 1 + static_cast<int>(workers.size()));
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (Worker* worker : workers) {
      worker->team.store(&team, std::memory_order_release);
      worker->wake.notify_one();
    }
  }
  team.work(0);
  dismiss(team);
  if (team.error_) std::rethrow_exception(team.error_);
}

// Waits for a free place, then takes as many as there are. The caller is one member, the result the
// others; fewer if the system has no more threads to give.
std::vector<ThreadPool::Worker*> ThreadPool::hire(int num_threads) {
  std::vector<Worker*> hired;
  hired.reserve(num_threads - 1);
  std::unique_lock<std::mutex> lock(mutex_);
  const uint64_t number = next_number_++;
  place_free_.wait(lock, [&] { return now_serving_ == number && busy_ < num_threads; });
  const int helpers = stopping_ ? 0 : num_threads - busy_ - 1;
  for (int member = 1; member <= helpers; ++member) {
    if (idle_.empty() && !start_worker()) break;
    hired.push_back(idle_.back());
    idle_.pop_back();
    hired.back()->member = member;
  }
  busy_ += 1 + static_cast<int>(hired.size());
  ++now_serving_;
  place_free_.notify_all();
  return hired;
}

// Adds one idle worker; false if the system refuses.
bool ThreadPool::start_worker() {
  try {
    auto worker = std::make_unique<Worker>();
    workers_.reserve(workers_.size() + 1);
    idle_.reserve(workers_.size() + 1);  // so that a worker that becomes idle allocates nothing
    const BlockSignals blocked;
    worker->thread = std::thread([this, &self = *worker] { serve(self); });
    pthread_setname_np(worker->thread.native_handle(), "bitinfer");
    workers_.push_back(std::move(worker));
    idle_.push_back(workers_.back().get());
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

void ThreadPool::dismiss(Team& team) {
  const auto finished = [&] { return team.working_.load(std::memory_order_acquire) == 0; };
  spin_until(finished, kPartnerSpin);
  // The lock is taken in any case: the last worker may still be using the team under it.
  std::unique_lock<std::mutex> lock(mutex_);
  team.finished_.wait(lock, finished);
  busy_ -= team.size();
  place_free_.notify_all();
}

void ThreadPool::serve(Worker& worker) {
  const auto called = [&] { return worker.team.load(std::memory_order_acquire) != nullptr; };
  for (;;) {
    spin_until(called, kIdleSpin);
    std::unique_lock<std::mutex> lock(mutex_);
    worker.wake.wait(lock, [&] { return called() || (stopping_ && worker.member == 0); });
    if (!called()) return;
    Team& team = *worker.team.load(std::memory_order_relaxed);
    const int member = worker.member;
    lock.unlock();

    team.work(member);

    lock.lock();
    worker.member = 0;
    worker.team.store(nullptr, std::memory_order_relaxed);
    idle_.push_back(&worker);
    if (team.working_.fetch_sub(1, std::memory_order_release) == 1) team.finished_.notify_one();
  }
}

void ThreadPool::stop() {
  std::vector<std::thread> ending;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    idle_.clear();
    for (const auto& worker : workers_) {
      if (!worker->thread.joinable()) continue;
      if (worker->member == 0) {
        worker->wake.notify_one();
        ending.push_back(std::move(worker->thread));
      } else {
        // Its caller may never return (exit() called inside a body): waiting could hang.
        worker->thread.detach();
      }
    }
  }
  for (std::thread& thread : ending) thread.join();
}

}  // namespace bitinfer
