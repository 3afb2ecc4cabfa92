// Running words against their definition.
#include "cpu/kernels/running_words.h"

#include <random>
#include <vector>

#include "check.h"

namespace bitinfer::test {

TEST(running_words_are_xors_of_all_words_so_far) {
  std::mt19937_64 random(1);
  for (int64_t words = 1; words <= 20; ++words) {
    std::vector<uint64_t> codes(static_cast<size_t>(words));
    for (uint64_t& word : codes) word = random();
    std::vector<uint64_t> expected(codes.size());
    uint32_t parity = 0;
    for (size_t w = 0; w < codes.size(); ++w) {
      parity ^= static_cast<uint32_t>(codes[w]);
      expected[w] = parity;
      parity ^= static_cast<uint32_t>(codes[w] >> 32);
      expected[w] |= uint64_t{parity} << 32;
    }
    std::vector<uint64_t> row = codes;
    to_running(row.data(), words);
    CHECK(row == expected);
    to_codes(row.data(), words);
    CHECK(row == codes);
  }
}

}  // namespace bitinfer::test
