// Which kernels there are and which of them to use.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cpu/kernels/table.h"

namespace bitinfer {

// The instruction-set levels that this build has and this machine can run, best first. The last one
// is always "portable".
std::vector<std::string> available_isas();

// The kernels of an available level; any other name is UnsupportedError.
const Kernels& kernels_for(std::string_view isa);

// The argument, else BITINFER_ISA, else the best available. A level that is unknown, absent from
// this build or beyond this machine is UnsupportedError, never replaced silently.
std::string resolve_isa(const std::optional<std::string>& isa);

}  // namespace bitinfer
