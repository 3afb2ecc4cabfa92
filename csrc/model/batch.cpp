#include "model/batch.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "model/config.h"

namespace bitinfer {
namespace {

void check_index(const char* what, int64_t at, int64_t value, int64_t size) {
  if (value < 0 || value >= size) {
    throw std::invalid_argument(std::string(what) + " at token " + std::to_string(at) + " is " +
                                std::to_string(value) + ", expected 0 to " +
                                std::to_string(size - 1));
  }
}

}  // namespace

void check_batch(const Batch& batch, const Config& config) {
  if (batch.sequences < 1 || batch.offsets[0] != 0) {
    throw std::invalid_argument("offsets must start at 0 and hold at least one sequence");
  }
  const auto refuse = [](int64_t sequence, const std::string& what) {
    throw std::invalid_argument("sequence " + std::to_string(sequence) + " " + what);
  };
  // One token more than positions: a masked first column travels behind the attended ones.
  const int64_t most = config.positions + 1;
  for (int64_t s = 0; s < batch.sequences; ++s) {
    const int64_t begin = batch.offsets[s], end = batch.offsets[s + 1];
    if (begin < 0 || end <= begin || end - begin > most) {
      refuse(s, "has tokens " + std::to_string(begin) + " to " + std::to_string(end) +
                    ", expected 1 to " + std::to_string(most) + " of them");
    }
    const int64_t most_keys = std::min(end - begin, config.positions);
    if (batch.keys[s] < 1 || batch.keys[s] > most_keys) {
      refuse(s, "attends to " + std::to_string(batch.keys[s]) + " tokens, expected 1 to " +
                    std::to_string(most_keys));
    }
    if (batch.first[s] < begin || batch.first[s] >= end) {
      refuse(s, "pools token " + std::to_string(batch.first[s]) + ", expected one of its own");
    }
  }
  for (int64_t t = 0; t < batch.tokens(); ++t) {
    check_index("id", t, batch.ids[t], config.vocab);
    check_index("position", t, batch.positions[t], config.positions);
    check_index("segment", t, batch.segments[t], config.token_types);
  }
}

}  // namespace bitinfer
