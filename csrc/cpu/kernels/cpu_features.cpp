#include "cpu/kernels/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

// Bit numbers: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2A, CPUID, and
// volume 1, section 13.3 (XCR0). Hypervisors switch AVX-512 off in XCR0 and leave CPUID as it is.
namespace bitinfer {
namespace {

constexpr bool bit(uint64_t value, int number) { return (value >> number) & 1; }

constexpr int kOsxsave = 27;                   // leaf 1, ECX: XGETBV may be executed
constexpr uint64_t kAvxState = 0x6;            // XCR0: XMM, upper halves of YMM
constexpr uint64_t kAvx512State = 0xe0 | 0x6;  // XCR0: mask registers, upper ZMM, ZMM16-31 too

constexpr bool all_set(uint64_t value, uint64_t mask) { return (value & mask) == mask; }

#if defined(__x86_64__)
X86Registers read_x86() {
  X86Registers registers;
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx)) registers.leaf1_ecx = ecx;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) {
    registers.leaf7_ebx = ebx;
    registers.leaf7_ecx = ecx;
  }
  if (bit(registers.leaf1_ecx, kOsxsave)) {
    // As an instruction, since the intrinsic would need a compiler flag for this file.
    __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    registers.xcr0 = uint64_t{edx} << 32 | eax;
  }
  return registers;
}
#endif

CpuFeatures detect() {
#if defined(__x86_64__)
  return decode_x86(read_x86());
#else
  CpuFeatures features;
#if defined(__aarch64__)
  features.neon = true;  // part of the 64-bit Arm baseline
#endif
  return features;
#endif
}

}  // namespace

CpuFeatures decode_x86(const X86Registers& registers) {
  const uint64_t saved = bit(registers.leaf1_ecx, kOsxsave) ? registers.xcr0 : 0;
  const bool avx = bit(registers.leaf1_ecx, 28) && all_set(saved, kAvxState);
  const bool avx512 = avx && bit(registers.leaf7_ebx, 16) && all_set(saved, kAvx512State);
  CpuFeatures features;
  features.popcnt = bit(registers.leaf1_ecx, 23);
  features.fma = avx && bit(registers.leaf1_ecx, 12);
  features.avx2 = avx && bit(registers.leaf7_ebx, 5);
  features.avx512f = avx512;
  features.avx512bw = avx512 && bit(registers.leaf7_ebx, 30);
  features.avx512dq = avx512 && bit(registers.leaf7_ebx, 17);
  features.avx512vl = avx512 && bit(registers.leaf7_ebx, 31);
  features.avx512_vbmi = avx512 && bit(registers.leaf7_ecx, 1);
  features.avx512_vnni = avx512 && bit(registers.leaf7_ecx, 11);
  features.avx512_vpopcntdq = avx512 && bit(registers.leaf7_ecx, 14);
  return features;
}

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

std::vector<std::pair<std::string, bool>> named_features(const CpuFeatures& features) {
  return {
      {"popcnt", features.popcnt},
      {"fma", features.fma},
      {"avx2", features.avx2},
      {"avx512f", features.avx512f},
      {"avx512bw", features.avx512bw},
      {"avx512dq", features.avx512dq},
      {"avx512vl", features.avx512vl},
      {"avx512_vbmi", features.avx512_vbmi},
      {"avx512_vnni", features.avx512_vnni},
      {"avx512_vpopcntdq", features.avx512_vpopcntdq},
      {"neon", features.neon},
  };
}

}  // namespace bitinfer
