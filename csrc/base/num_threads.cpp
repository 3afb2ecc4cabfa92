#include "base/num_threads.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "base/env.h"

namespace bitinfer {
namespace {

// CPUs of the affinity mask of the main thread, as a thread may have pinned itself.
int affinity_cpus() {
  // The mask must be as long as the kernel's own, or the call fails: 1024 is what most are built
  // for.
  for (size_t cpus = 1024; cpus <= 1024 * 1024; cpus *= 2) {
    std::vector<unsigned long> mask(cpus / (8 * sizeof(unsigned long)));
    const size_t bytes = mask.size() * sizeof(mask[0]);
    auto* set = reinterpret_cast<cpu_set_t*>(mask.data());
    if (sched_getaffinity(getpid(), bytes, set) == 0) return std::max(1, CPU_COUNT_S(bytes, set));
  }
  return 1;
}

std::optional<int> quota_cpus(double quota, double period) {
  if (quota <= 0 || period <= 0) return std::nullopt;
  const double cpus = quota / period;
  return cpus >= kMaxThreads ? kMaxThreads : static_cast<int>(std::ceil(cpus));
}

// Version 2: "max 100000" or "150000 100000", in microseconds.
std::optional<int> read_v2(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  double quota = 0;
  double period = 0;
  if (!(file >> quota >> period)) return std::nullopt;
  return quota_cpus(quota, period);
}

// Version 1: one number a file, -1 for no quota.
std::optional<int> read_v1(const std::string& folder) {
  double quota = 0;
  double period = 0;
  if (!(std::ifstream(folder + "/cpu.cfs_quota_us") >> quota)) return std::nullopt;
  if (!(std::ifstream(folder + "/cpu.cfs_period_us") >> period)) return std::nullopt;
  return quota_cpus(quota, period);
}

void lower(std::optional<int>& limit, std::optional<int> other) {
  if (other) limit = limit ? std::min(*limit, *other) : other;
}

bool has_cpu_controller(const std::string& controllers) {
  std::istringstream list(controllers);
  for (std::string name; std::getline(list, name, ',');) {
    if (name == "cpu") return true;
  }
  return false;
}

}  // namespace

std::optional<int> cgroup_cpu_limit(const std::string& membership, const std::string& root) {
  std::optional<int> limit;
  std::istringstream lines(membership);
  // Each line is "id:controllers:/path"; version 2 has id 0 and no controllers.
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool v2 = controllers.empty();
    if (!v2 && !has_cpu_controller(controllers)) continue;
    const std::string mount = v2 ? root : root + "/" + controllers;
    // A quota holds for the whole subtree. A path from outside a container does not exist inside;
    // the walk up then ends at the mount point, which is the container's own group.
    for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
      if (path == "/") path.clear();
      lower(limit, v2 ? read_v2(mount + path) : read_v1(mount + path));
      if (path.rfind('/') == std::string::npos) break;
    }
  }
  return limit;
}

int cpus_allowed() {
  std::ostringstream membership;
  membership << std::ifstream("/proc/self/cgroup").rdbuf();
  const int cpus = affinity_cpus();
  return std::min(cpus, cgroup_cpu_limit(membership.str(), "/sys/fs/cgroup").value_or(cpus));
}

int resolve_num_threads(std::optional<int> num_threads) {
  if (!num_threads) {
    const std::optional<int> wanted = env_num_threads();
    return wanted ? *wanted : std::min(cpus_allowed(), kMaxThreads);
  }
  if (*num_threads < 1 || *num_threads > kMaxThreads) {
    throw std::invalid_argument("num_threads=" + std::to_string(*num_threads) +
                                ": expected a whole number from 1 to " +
                                std::to_string(kMaxThreads));
  }
  return *num_threads;
}

}  // namespace bitinfer
