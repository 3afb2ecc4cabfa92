#include "cpu/kernels/cpu_features.h"

#include "check.h"

namespace {

using bitinfer::decode_x86;
using bitinfer::X86Registers;

// Everything on: FMA 12, POPCNT 23, OSXSAVE 27, AVX 28; AVX2 5, F 16, DQ 17, BW 30, VL 31; VBMI 1,
// VNNI 11, VPOPCNTDQ 14.
constexpr X86Registers kServer{1u << 12 | 1u << 23 | 1u << 27 | 1u << 28,
                               1u << 5 | 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31,
                               1u << 1 | 1u << 11 | 1u << 14, 0xe7};

bool any_avx512(const bitinfer::CpuFeatures& cpu) {
  return cpu.avx512f || cpu.avx512bw || cpu.avx512dq || cpu.avx512vl || cpu.avx512_vbmi ||
         cpu.avx512_vnni || cpu.avx512_vpopcntdq;
}

}  // namespace

TEST(cpu_features_of_a_full_machine) {
  const auto cpu = decode_x86(kServer);
  CHECK(cpu.popcnt && cpu.fma && cpu.avx2 && cpu.avx512f && cpu.avx512bw && cpu.avx512dq &&
        cpu.avx512vl);
  CHECK(cpu.avx512_vbmi && cpu.avx512_vnni && cpu.avx512_vpopcntdq);
  CHECK(!cpu.neon);
}

TEST(cpu_features_of_nothing) {
  const auto cpu = decode_x86({});
  CHECK(!cpu.popcnt && !cpu.avx2 && !any_avx512(cpu));
}

TEST(cpu_features_hypervisor_hides_avx512_state) {
  for (const uint64_t xcr0 : {0x07, 0x27, 0x47, 0x87, 0x67, 0xa7, 0xc7}) {
    X86Registers registers = kServer;
    registers.xcr0 = xcr0;
    CHECK(decode_x86(registers).avx2);
    CHECK(!any_avx512(decode_x86(registers)));
  }
}

TEST(cpu_features_system_does_not_save_avx_state) {
  for (const uint64_t xcr0 : {0x0, 0x1, 0x3, 0x5, 0xe1, 0xe3, 0xe5}) {
    X86Registers registers = kServer;
    registers.xcr0 = xcr0;
    CHECK(decode_x86(registers).popcnt);
    CHECK(!decode_x86(registers).avx2);
    CHECK(!any_avx512(decode_x86(registers)));
  }
}

TEST(cpu_features_xcr0_means_nothing_without_osxsave) {
  X86Registers registers = kServer;
  registers.leaf1_ecx &= ~(1u << 27);
  CHECK(!decode_x86(registers).avx2);
  CHECK(!any_avx512(decode_x86(registers)));
}

TEST(cpu_features_need_their_own_bit) {
  X86Registers registers = kServer;
  registers.leaf7_ecx = 0;
  CHECK(decode_x86(registers).avx512f);
  CHECK(!decode_x86(registers).avx512_vbmi && !decode_x86(registers).avx512_vnni &&
        !decode_x86(registers).avx512_vpopcntdq);
  registers.leaf7_ebx = 1u << 5;
  CHECK(decode_x86(registers).avx2);
  CHECK(!any_avx512(decode_x86(registers)));
  registers = kServer;
  registers.leaf1_ecx &= ~(1u << 28);
  CHECK(!decode_x86(registers).avx2);
  CHECK(!any_avx512(decode_x86(registers)));
}

TEST(cpu_features_agree_with_the_compiler) {
  const auto& cpu = bitinfer::cpu_features();
#if defined(__x86_64__)
  CHECK_EQUAL(cpu.popcnt, __builtin_cpu_supports("popcnt") != 0);
  CHECK_EQUAL(cpu.fma, __builtin_cpu_supports("fma") != 0);
  CHECK_EQUAL(cpu.avx2, __builtin_cpu_supports("avx2") != 0);
  CHECK_EQUAL(cpu.avx512bw, __builtin_cpu_supports("avx512bw") != 0);
  CHECK_EQUAL(cpu.avx512_vbmi, __builtin_cpu_supports("avx512vbmi") != 0);
  CHECK_EQUAL(cpu.avx512_vnni, __builtin_cpu_supports("avx512vnni") != 0);
  CHECK_EQUAL(cpu.avx512_vpopcntdq, __builtin_cpu_supports("avx512vpopcntdq") != 0);
#elif defined(__aarch64__)
  CHECK(cpu.neon);
#endif
  CHECK_EQUAL(bitinfer::named_features(cpu).size(), 11u);
}
