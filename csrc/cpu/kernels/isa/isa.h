// What each instruction-set file defines; kernels/registry.cpp picks among those that were
// compiled.
#pragma once

#include "cpu/kernels/table.h"

namespace bitinfer {

const Kernels& portable_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_vpopcnt_kernels();
const Kernels& neon_kernels();

}  // namespace bitinfer
