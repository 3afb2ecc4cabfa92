// What this processor and its operating system can run.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace bitinfer {

// A vector feature counts only if the operating system saves its registers too.
struct CpuFeatures {
  bool popcnt = false;
  bool fma = false;
  bool avx2 = false;
  bool avx512f = false;
  bool avx512bw = false;
  bool avx512dq = false;
  bool avx512vl = false;
  bool avx512_vbmi = false;
  bool avx512_vnni = false;
  bool avx512_vpopcntdq = false;
  bool neon = false;
};

// CPUID leaves 1 and 7 (sub-leaf 0) and the extended control register XCR0; 0 where there is none.
struct X86Registers {
  uint32_t leaf1_ecx = 0;
  uint32_t leaf7_ebx = 0;
  uint32_t leaf7_ecx = 0;
  uint64_t xcr0 = 0;
};

// Pure, so that machines one does not have can be tested.
CpuFeatures decode_x86(const X86Registers& registers);

// Of this machine, asked once.
const CpuFeatures& cpu_features();

// Every feature by its name, e.g. {"avx2", true}.
std::vector<std::pair<std::string, bool>> named_features(const CpuFeatures& features);

}  // namespace bitinfer
