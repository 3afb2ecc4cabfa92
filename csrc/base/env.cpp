#include "base/env.h"

#include <charconv>
#include <cstdlib>
#include <stdexcept>

namespace bitinfer {
namespace {

std::optional<std::string> read(const char* variable) {
  const char* value = std::getenv(variable);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return value;
}

}  // namespace

std::optional<std::string> env_isa() { return read("BITINFER_ISA"); }

std::optional<int> env_num_threads() {
  const std::optional<std::string> text = read("BITINFER_NUM_THREADS");
  if (!text) return std::nullopt;
  int count = 0;
  const char* end = text->data() + text->size();
  const auto [parsed, error] = std::from_chars(text->data(), end, count);
  if (error != std::errc() || parsed != end || count < 1 || count > kMaxThreads) {
    throw std::invalid_argument("BITINFER_NUM_THREADS='" + *text +
                                "': expected a whole number from 1 to " +
                                std::to_string(kMaxThreads));
  }
  return count;
}

}  // namespace bitinfer
