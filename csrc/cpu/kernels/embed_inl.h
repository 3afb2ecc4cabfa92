// The first values of a token.
#pragma once

#include <cstring>

#include "cpu/kernels/table.h"
#include "cpu/kernels/unroll.h"

namespace bitinfer {
namespace {

// Left to the compiler, which vectorizes it with each file's instructions: a code's sign moves into
// the sign bit of the scale.
template <int64_t kCount>
BITINFER_INLINE inline void embed_word(const EmbeddingRow& row, int64_t first, int64_t count,
                                       double* out) {
  constexpr uint64_t kSignBit = uint64_t{1} << 63;
  const uint64_t minus = ~row.bits[first / 64];
  const float *position = row.position + first, *segment = row.segment + first;
  for (int64_t j = 0; j < (kCount > 0 ? kCount : count); ++j) {
    uint64_t word;
    std::memcpy(&word, &row.scale, sizeof word);
    word ^= (minus >> j) << 63 & kSignBit;
    double value;
    std::memcpy(&value, &word, sizeof value);
    out[first + j] = value + static_cast<double>(position[j]) + static_cast<double>(segment[j]);
  }
}

template <class V>
void embed(const EmbeddingRow& row, double* out) {
  const EmbeddingRow copy = row;
  int64_t first = 0;
  for (; first + 64 <= copy.n; first += 64) embed_word<64>(copy, first, 64, out);
  if (first < copy.n) embed_word<0>(copy, first, copy.n - first, out);
  for (int64_t k = 0; copy.nonzero != nullptr && k < copy.n; ++k) {
    if ((copy.nonzero[k / 64] >> (k % 64) & 1) != 0) continue;
    out[k] = static_cast<double>(copy.position[k]) + static_cast<double>(copy.segment[k]);
  }
}

}  // namespace
}  // namespace bitinfer
