// Bits counted against bits looked at.
#include "base/bits.h"

#include <random>
#include <vector>

#include "check.h"

namespace bitinfer::test {

TEST(ones_are_counted) {
  std::mt19937_64 random(1);
  for (int64_t words = 0; words <= 40; ++words) {
    for (const int density : {0, 1, 32, 63, 64}) {  // of 64 bits
      std::vector<uint64_t> row(static_cast<size_t>(words));
      int64_t expected = 0;
      for (int64_t k = 0; k < words * kWordBits; ++k) {
        const bool is_set = static_cast<int>(random() % kWordBits) < density;
        or_bits(row.data(), k, 1, is_set);
        expected += is_set;
      }
      CHECK_EQUAL(count_ones(row.data(), words), expected);
    }
  }
}

}  // namespace bitinfer::test
