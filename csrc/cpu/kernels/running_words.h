// Running words: the form in which the kernels take their operands. 32-bit word s of a row is
// replaced by the xor of its words 0 .. s. The xor of two running words is then p[s], bit by bit
// the parity of the differences in words 0 .. s, and
//
//   popcount(a xor b) = popcount(p[last]) + 2 (sum of popcount(c[s])),
//   c[s] = p[s+1] ? ~p[s+2] : p[s]
//
// with s = 0, 2, 4 .. for an odd number of words and s = -1, 1, 3 .., p[-1] = 0, for an even one:
// c[s] is the carry of adding the differences of words s+1 and s+2 to the parity p[s]. Only every
// second word is counted, and with an instruction that selects bits two words take xor, xor,
// select, popcount, add: five instructions instead of six. (A carry-save adder without running
// words would need another xor for each sum bit, which eats the gain.)
#pragma once

#include <cstdint>

namespace bitinfer {

enum class Words { kCodes, kRunning };

// `static`: files for different instruction sets must not share a copy.

// A row is walked 64 bits at a time; `before` is the running 64-bit word before this one, or 0.
static inline uint64_t running_word(uint64_t codes, uint64_t before) {
  const uint64_t parity = before >> 32;
  return codes ^ codes << 32 ^ (parity | parity << 32);
}
static inline uint64_t code_word(uint64_t running, uint64_t before) {
  return running ^ (running << 32 | before >> 32);
}

static inline void to_running(uint64_t* row, int64_t words) {
  uint64_t before = 0;
  for (int64_t w = 0; w < words; ++w) before = row[w] = running_word(row[w], before);
}
static inline void to_codes(uint64_t* row, int64_t words) {
  for (int64_t w = words - 1; w >= 0; --w) row[w] = code_word(row[w], w > 0 ? row[w - 1] : 0);
}

}  // namespace bitinfer
