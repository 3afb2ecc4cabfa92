#include "base/num_threads.h"

#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "environment.h"

using bitinfer::cgroup_cpu_limit;
using bitinfer::resolve_num_threads;
using bitinfer::test::ScopedVariable;

namespace {

// A control-group file system with the given files.
class FakeCgroups {
 public:
  FakeCgroups() {
    char name[] = "/tmp/bitinfer_cgroups_XXXXXX";
    root_ = mkdtemp(name);
  }
  ~FakeCgroups() {
    for (auto path = paths_.rbegin(); path != paths_.rend(); ++path) std::remove(path->c_str());
    std::remove(root_.c_str());
  }
  const std::string& root() const { return root_; }
  void add(const std::string& file, const std::string& content) {
    for (size_t end = file.find('/', 1); end != std::string::npos; end = file.find('/', end + 1)) {
      if (mkdir((root_ + file.substr(0, end)).c_str(), 0700) == 0) {
        paths_.push_back(root_ + file.substr(0, end));
      }
    }
    std::ofstream(root_ + file) << content;
    paths_.push_back(root_ + file);
  }

 private:
  std::string root_;
  std::vector<std::string> paths_;
};

}  // namespace

TEST(num_threads_argument_then_variable_then_cpus) {
  const ScopedVariable none("BITINFER_NUM_THREADS", nullptr);
  CHECK_EQUAL(resolve_num_threads({}), bitinfer::cpus_allowed());
  const ScopedVariable five("BITINFER_NUM_THREADS", "5");
  CHECK_EQUAL(resolve_num_threads({}), 5);
  CHECK_EQUAL(resolve_num_threads(7), 7);
  CHECK(bitinfer::cpus_allowed() >= 1);
}

TEST(num_threads_refuses_counts_out_of_range) {
  for (const int count : {0, -2, 1025}) {
    CHECK_THROWS(
        resolve_num_threads(count), std::invalid_argument,
        "num_threads=" + std::to_string(count) + ": expected a whole number from 1 to 1024");
  }
}

TEST(cgroup_without_quota_has_no_limit) {
  FakeCgroups groups;
  CHECK(!cgroup_cpu_limit("", groups.root()));
  CHECK(!cgroup_cpu_limit("0::/a/b\n", groups.root()));
  groups.add("/cpu.max", "max 100000\n");
  CHECK(!cgroup_cpu_limit("0::/\n", groups.root()));
  groups.add("/cpu/cpu.cfs_quota_us", "-1\n");
  groups.add("/cpu/cpu.cfs_period_us", "100000\n");
  CHECK(!cgroup_cpu_limit("4:cpu:/\n", groups.root()));
}

TEST(cgroup_version_2_takes_the_smallest_of_the_ancestors) {
  FakeCgroups groups;
  groups.add("/a/b/cpu.max", "400000 100000\n");
  CHECK_EQUAL(cgroup_cpu_limit("0::/a/b\n", groups.root()).value_or(-1), 4);
  groups.add("/a/cpu.max", "150000 100000\n");
  CHECK_EQUAL(cgroup_cpu_limit("0::/a/b\n", groups.root()).value_or(-1), 2);
  groups.add("/cpu.max", "10000 100000\n");
  CHECK_EQUAL(cgroup_cpu_limit("0::/a/b\n", groups.root()).value_or(-1), 1);
  CHECK_EQUAL(cgroup_cpu_limit("0::/elsewhere\n", groups.root()).value_or(-1), 1);
}

TEST(cgroup_version_1_is_found_among_the_controllers) {
  FakeCgroups groups;
  groups.add("/cpu,cpuacct/box/cpu.cfs_quota_us", "300000\n");
  groups.add("/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
  const std::string membership = "9:memory:/box\n4:cpu,cpuacct:/box\n3:cpuset:/box\n0::/\n";
  CHECK_EQUAL(cgroup_cpu_limit(membership, groups.root()).value_or(-1), 3);
}
