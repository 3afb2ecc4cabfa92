#include "cpu/kernels/registry.h"

#include <algorithm>

#include "base/error.h"
#include "check.h"
#include "environment.h"

using bitinfer::UnsupportedError;
using bitinfer::test::ScopedVariable;

TEST(registry_lists_available_levels_best_first) {
  const auto isas = bitinfer::available_isas();
  CHECK_EQUAL(isas.back(), "portable");
  const std::vector<std::string> order = {"avx512_vpopcnt", "avx2", "neon", "portable"};
  CHECK(std::is_sorted(isas.begin(), isas.end(), [&](const auto& a, const auto& b) {
    return std::find(order.begin(), order.end(), a) < std::find(order.begin(), order.end(), b);
  }));
}

TEST(registry_gives_the_kernels_of_each_level) {
  for (const auto& isa : bitinfer::available_isas()) {
    CHECK_EQUAL(std::string(bitinfer::kernels_for(isa).name), isa);
  }
  CHECK_THROWS(bitinfer::kernels_for("sse9"), UnsupportedError, "isa='sse9' is not in this build");
}

TEST(registry_resolves_argument_then_variable_then_best) {
  const ScopedVariable none("BITINFER_ISA", nullptr);
  CHECK_EQUAL(bitinfer::resolve_isa({}), bitinfer::available_isas().front());
  const ScopedVariable portable("BITINFER_ISA", "portable");
  CHECK_EQUAL(bitinfer::resolve_isa({}), "portable");
  CHECK_EQUAL(bitinfer::resolve_isa(bitinfer::available_isas().front()),
              bitinfer::available_isas().front());
}

TEST(registry_treats_an_empty_variable_as_unset) {
  const ScopedVariable empty("BITINFER_ISA", "");
  CHECK_EQUAL(bitinfer::resolve_isa({}), bitinfer::available_isas().front());
}

TEST(registry_refuses_what_it_cannot_run) {
  const ScopedVariable wrong("BITINFER_ISA", "Portable");
  CHECK_THROWS(bitinfer::resolve_isa({}), UnsupportedError,
               "BITINFER_ISA='Portable' is not in this build; expected one of '");
  CHECK_THROWS(bitinfer::resolve_isa(""), UnsupportedError, "isa=''");
#if defined(__x86_64__)
  CHECK_THROWS(bitinfer::resolve_isa("neon"), UnsupportedError, "isa='neon' is not in this build");
#else
  CHECK_THROWS(bitinfer::resolve_isa("avx2"), UnsupportedError, "isa='avx2' is not in this build");
#endif
}
