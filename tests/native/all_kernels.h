// Kernels to test: those of every instruction set of this machine, and wide ones.
#pragma once

#include <vector>

#include "cpu/kernels/registry.h"

namespace bitinfer::test {

std::vector<Kernels> all_kernels();

}  // namespace bitinfer::test
