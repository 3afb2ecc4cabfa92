// How many threads a model may use.
#pragma once

#include <optional>
#include <string>

namespace bitinfer {

// The argument, else BITINFER_NUM_THREADS, else cpus_allowed(). A count outside 1..kMaxThreads is
// std::invalid_argument.
int resolve_num_threads(std::optional<int> num_threads);

// CPUs this process may use: its affinity mask, capped by the CPU quota of its control group.
int cpus_allowed();

// The quota in whole CPUs, rounded up, of the groups listed in `membership` (the text of
// /proc/self/cgroup) and of their ancestors; nothing if there is no quota. `root` is the mount
// point, /sys/fs/cgroup.
std::optional<int> cgroup_cpu_limit(const std::string& membership, const std::string& root);

}  // namespace bitinfer
