// The only reader of environment variables.
#pragma once

#include <optional>
#include <string>

namespace bitinfer {

inline constexpr int kMaxThreads = 1024;

// BITINFER_ISA as it is; which names exist is known to the registry alone. Unset and empty are the
// same, here and below.
std::optional<std::string> env_isa();

// BITINFER_NUM_THREADS, a whole number from 1 to kMaxThreads; anything else is
// std::invalid_argument.
std::optional<int> env_num_threads();

}  // namespace bitinfer
