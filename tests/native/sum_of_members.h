// The sum of the numbers of a team's members, computed by every member between barriers.
#pragma once

#include <stdexcept>
#include <vector>

#include "base/thread_pool.h"
#include "check.h"

namespace bitinfer::test {

inline int sum_of_members(int num_threads) {
  std::vector<int> member_of(num_threads, -1);
  std::vector<int> sums(num_threads, 0);
  int size = 0;
  ThreadPool::shared().run(num_threads, [&](int member, Team& team) {
    member_of[member] = member;
    if (member == 0) size = team.size();
    team.barrier();
    for (int other = 0; other < team.size(); ++other) sums[member] += member_of[other];
    team.barrier();
    for (int other = 0; other < team.size(); ++other) {
      if (sums[other] != sums[member]) throw std::runtime_error("members disagree");
    }
  });
  CHECK(size >= 1 && size <= num_threads);
  CHECK_EQUAL(sums[0], size * (size - 1) / 2);
  return sums[0];
}

}  // namespace bitinfer::test
