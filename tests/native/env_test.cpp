#include "base/env.h"

#include <stdexcept>

#include "check.h"
#include "environment.h"

using bitinfer::test::ScopedVariable;

TEST(env_unset_and_empty_are_the_same) {
  for (const char* value : {static_cast<const char*>(nullptr), ""}) {
    const ScopedVariable isa("BITINFER_ISA", value);
    const ScopedVariable threads("BITINFER_NUM_THREADS", value);
    CHECK(!bitinfer::env_isa());
    CHECK(!bitinfer::env_num_threads());
  }
}

TEST(env_reads_values) {
  const ScopedVariable isa("BITINFER_ISA", "avx2");
  CHECK_EQUAL(*bitinfer::env_isa(), "avx2");
  const ScopedVariable threads("BITINFER_NUM_THREADS", "3");
  CHECK_EQUAL(*bitinfer::env_num_threads(), 3);
}

TEST(env_num_threads_is_strict) {
  for (const char* value :
       {"0", "-1", "1025", "2.5", "4 ", " 4", "+4", "four", "0x4", "99999999999"}) {
    const ScopedVariable threads("BITINFER_NUM_THREADS", value);
    CHECK_THROWS(bitinfer::env_num_threads(), std::invalid_argument,
                 "BITINFER_NUM_THREADS='" + std::string(value) +
                     "': expected a whole number from 1 to 1024");
  }
}
