// Planes of bits for the kernel tests: random ones and the patterns that break counters.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "base/bits.h"
#include "cpu/kernels/running_words.h"

namespace bitinfer::test {

enum class Fill { kRandom, kAllOnes, kAllZeros, kAlternating };

// Planes of rows, exactly as large as that, so that the address sanitizer sees any read beyond
// them.
struct Planes {
  int planes;
  int64_t rows, depth;
  std::vector<uint64_t> words;

  Planes(std::mt19937_64& random, int count, int64_t rows, int64_t depth, Fill fill = Fill::kRandom)
      : planes(count),
        rows(rows),
        depth(depth),
        words(static_cast<size_t>(count * plane_stride())) {
    for (size_t w = 0; w < words.size(); ++w) {
      const uint64_t word = fill == Fill::kRandom     ? random()
                            : fill == Fill::kAllOnes  ? ~uint64_t{0}
                            : fill == Fill::kAllZeros ? 0
                                                      : 0x5555555555555555u;
      words[w] = word & low_bits(depth - static_cast<int64_t>(w) % stride() * kWordBits);
    }
  }

  int64_t stride() const { return words_for(depth); }
  int64_t plane_stride() const { return rows * stride(); }
  const uint64_t* row(int plane, int64_t row) const {
    return words.data() + plane * plane_stride() + row * stride();
  }
  bool bit(int plane, int64_t at, int64_t k) const { return bit_at(row(plane, at), k); }
  std::vector<uint64_t> running() const {
    std::vector<uint64_t> result = words;
    for (int64_t i = 0; i < planes * rows; ++i) to_running(&result[i * stride()], stride());
    return result;
  }
};

}  // namespace bitinfer::test
