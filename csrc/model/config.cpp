#include "model/config.h"

#include <string>

#include "base/error.h"

namespace bitinfer {
namespace {

constexpr const char* kPointNames[kPointCount] = {"query.in",
                                                  "key.in",
                                                  "value.in",
                                                  "query",
                                                  "key",
                                                  "value",
                                                  "attention.probs",
                                                  "attention.output.in",
                                                  "intermediate.in",
                                                  "output.in",
                                                  "pooler.in"};

// Scores of attention are kept as 16-bit distances from the largest one, and 0xffff is no distance.
constexpr int64_t kMostDistance = 0xfffe;

void check_size(const char* name, int64_t value, int64_t most) {
  if (value < 1 || value > most) {
    throw FormatError(std::string("config '") + name + "': found " + std::to_string(value) +
                      ", expected 1 to " + std::to_string(most));
  }
}

void check_codes(const Config& config) {
  for (int p = 0; p < kPointCount; ++p) {
    const bool is_signed = p != kProbs && p != kOutputIn;
    const PointCodes& codes = config.codes[p];
    const bool can_be = codes.bits >= 1 && codes.bits <= kMostPlanes &&
                        (!codes.from_min || (codes.bits > 1 && !is_signed));
    if (codes.is_signed != is_signed || !can_be) {
      throw FormatError(std::string("codes of '") + kPointNames[p] + "': expected " +
                        (is_signed ? "signed" : "unsigned") + " codes of 1 to " +
                        std::to_string(kMostPlanes) + " bits");
    }
  }
  // The sign of a value whose offset is known at run time only: nothing has it.
  if (config.codes[kProbs].from_min && config.codes[kAttentionOutputIn].are_signs()) {
    throw FormatError(
        "codes of 'attention.output.in': found signs, expected at least 2 bits where those of "
        "'attention.probs' begin at the minimum");
  }
  const Codes query = config.codes[kQuery].codes(), key = config.codes[kKey].codes();
  const int64_t spread = config.head_size() * 2 * query.magnitude() * key.magnitude();
  if (spread > kMostDistance) {
    throw FormatError("head size (hidden / heads): found " + std::to_string(config.head_size()) +
                      ", expected at most " +
                      std::to_string(kMostDistance / (2 * query.magnitude() * key.magnitude())) +
                      " with such codes of 'query' and 'key'");
  }
}

}  // namespace

const char* name_of(Point point) { return kPointNames[point]; }

void check_config(const Config& config) {
  check_size("hidden", config.hidden, 1 << 16);
  check_size("layers", config.layers, 1 << 10);
  check_size("heads", config.heads, config.hidden);
  check_size("intermediate", config.intermediate, 1 << 18);
  check_size("vocab", config.vocab, 1 << 24);
  // More would make the fixed-point sums of attention coarser than the promise of exactness.
  check_size("positions", config.positions, 1 << 12);
  check_size("token_types", config.token_types, 1 << 10);
  check_size("labels", config.labels, 1 << 20);
  if (config.hidden % config.heads != 0) {
    throw FormatError("config 'heads': found " + std::to_string(config.heads) +
                      ", expected a divisor of hidden = " + std::to_string(config.hidden));
  }
  check_codes(config);
}

}  // namespace bitinfer
