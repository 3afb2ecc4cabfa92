#include "cpu/kernels/registry.h"

#include "base/env.h"
#include "base/error.h"
#include "cpu/kernels/cpu_features.h"
#include "cpu/kernels/isa/isa.h"

namespace bitinfer {
namespace {

struct Level {
  const char* name;
  const Kernels& (*kernels)();
  bool (*runs_on)(const CpuFeatures& cpu);
};

// Best first; what each file's compiler flags (cmake/isa.cmake) allow, the machine must have.
constexpr Level kLevels[] = {
#if defined(__x86_64__)
    {"avx512_vpopcnt", avx512_vpopcnt_kernels,
     [](const CpuFeatures& cpu) {
       return cpu.avx512f && cpu.avx512bw && cpu.avx512vl && cpu.avx512dq && cpu.avx512_vbmi &&
              cpu.avx512_vnni && cpu.avx512_vpopcntdq && cpu.avx2 && cpu.fma && cpu.popcnt;
     }},
    {"avx2", avx2_kernels,
     [](const CpuFeatures& cpu) { return cpu.avx2 && cpu.fma && cpu.popcnt; }},
#elif defined(__aarch64__)
    {"neon", neon_kernels, [](const CpuFeatures& cpu) { return cpu.neon; }},
#endif
    {"portable", portable_kernels, [](const CpuFeatures&) { return true; }},
};

std::string quoted_names(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "'" : ", '") + name + "'";
  return text;
}

// `origin` is the name of the option or variable the value comes from.
const Level& find_level(const std::string& origin, std::string_view value) {
  const char* reason = "is not in this build";
  for (const Level& level : kLevels) {
    if (value != level.name) continue;
    if (level.runs_on(cpu_features())) return level;
    reason = "is not supported by this machine";
  }
  throw UnsupportedError(origin + "='" + std::string(value) + "' " + reason + "; expected one of " +
                         quoted_names(available_isas()));
}

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Level& level : kLevels) {
    if (level.runs_on(cpu_features())) names.push_back(level.name);
  }
  return names;
}

const Kernels& kernels_for(std::string_view isa) { return find_level("isa", isa).kernels(); }

std::string resolve_isa(const std::optional<std::string>& isa) {
  if (isa) return find_level("isa", *isa).name;
  if (const auto wanted = env_isa()) return find_level("BITINFER_ISA", *wanted).name;
  return available_isas().front();
}

}  // namespace bitinfer
