// Matrices of codes for the kernel tests: random ones and the patterns that break counters.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "base/bits.h"
#include "cpu/kernels/reference.h"

namespace bitinfer::test {

enum class Kind { kSigned, kUnsigned, kTernary };
enum class Fill { kRandom, kAllOnes, kAllZeros, kAlternating };

// Exactly as large as its rows, so that the address sanitizer sees any read beyond them.
struct CodeMatrix {
  int64_t rows, depth;
  Kind kind;
  std::vector<uint64_t> bits, nonzero;

  reference::Codes codes() const {
    return {bits.data(), nonzero.empty() ? nullptr : nonzero.data(), rows, kind == Kind::kUnsigned};
  }
};

inline CodeMatrix make_codes(std::mt19937_64& random, int64_t rows, int64_t depth, Kind kind,
                             Fill fill = Fill::kRandom) {
  const int64_t words = words_for(depth);
  CodeMatrix matrix{rows, depth, kind, {}, {}};
  const auto plane = [&](Fill pattern) {
    std::vector<uint64_t> result(static_cast<size_t>(rows * words));
    for (int64_t i = 0; i < rows * words; ++i) {
      const uint64_t word = pattern == Fill::kRandom     ? random()
                            : pattern == Fill::kAllOnes  ? ~uint64_t{0}
                            : pattern == Fill::kAllZeros ? 0
                                                         : 0x5555555555555555u;
      result[i] = word & low_bits(depth - i % words * kWordBits);
    }
    return result;
  };
  matrix.bits = plane(fill);
  if (kind == Kind::kTernary) {
    matrix.nonzero = plane(Fill::kRandom);
    for (size_t i = 0; i < matrix.bits.size(); ++i) matrix.bits[i] &= matrix.nonzero[i];
  }
  return matrix;
}

}  // namespace bitinfer::test
