// The one bit layout of the project: value k of a row is bit k % 64 of word k / 64, +1 is a set
// bit, and the bits after the last value are 0.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitinfer {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "packed rows are read as 32- and 64-bit words of the same bytes");

inline constexpr int64_t kWordBits = 64;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
constexpr int64_t words_for(int64_t bits) { return ceil_div(bits, kWordBits); }

// The lowest `count` bits set, 0 <= count <= 64.
constexpr uint64_t low_bits(int64_t count) {
  return count >= kWordBits ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

// Set bits of all words: of every pair, nibble and byte, and then the sum of the bytes. Without an
// instruction for it, the compiler's own function looks up one byte after the other.
inline int64_t count_ones(const uint64_t* words, int64_t count) {
  constexpr uint64_t kEveryBit = ~uint64_t{0}, kEveryByte = kEveryBit / 255;  // 0x0101..
  constexpr uint64_t kLowBits = kEveryBit / 3, kLowPairs = kEveryBit / 5;     // 0x55.., 0x33..
  constexpr uint64_t kLowNibbles = kEveryBit / 17;                            // 0x0f0f..
  int64_t ones = 0;
  for (int64_t w = 0; w < count; ++w) {
    const uint64_t pairs = words[w] - (words[w] >> 1 & kLowBits);
    const uint64_t nibbles = (pairs & kLowPairs) + (pairs >> 2 & kLowPairs);
    const uint64_t bytes = (nibbles + (nibbles >> 4)) & kLowNibbles;
    ones += static_cast<int64_t>(bytes * kEveryByte >> 56);
  }
  return ones;
}

// The first of `rows` rows with a bit set after its last value, or -1.
inline int64_t find_padding_bits(const uint64_t* bits, int64_t rows, int64_t depth) {
  const int64_t words = words_for(depth);
  const uint64_t padding = ~low_bits(depth - (words - 1) * kWordBits);
  for (int64_t row = 0; row < rows; ++row) {
    if ((bits[row * words + words - 1] & padding) != 0) return row;
  }
  return -1;
}

constexpr bool bit_at(const uint64_t* row, int64_t k) {
  return (row[k / kWordBits] >> (k % kWordBits)) & 1;
}

// The `count` <= 64 bits that start at bit `offset`; touches no word without one of them.
inline uint64_t read_bits(const uint64_t* row, int64_t offset, int64_t count) {
  const uint64_t* word = row + offset / kWordBits;
  const int64_t shift = offset % kWordBits;
  uint64_t value = word[0] >> shift;
  if (shift + count > kWordBits) value |= word[1] << (kWordBits - shift);
  return value & low_bits(count);
}

// Sets bits that are still 0: callers clear the row first and then write its parts in any order.
inline void or_bits(uint64_t* row, int64_t offset, int64_t count, uint64_t value) {
  uint64_t* word = row + offset / kWordBits;
  const int64_t shift = offset % kWordBits;
  word[0] |= value << shift;
  if (shift + count > kWordBits) word[1] |= value >> (kWordBits - shift);
}

// Bits [offset, offset + count) of `row`, moved to bit 0 of `out`; fills words_for(count) words.
inline void extract_bits(const uint64_t* row, int64_t offset, int64_t count, uint64_t* out) {
  for (int64_t done = 0; done < count; done += kWordBits) {
    const int64_t part = count - done < kWordBits ? count - done : kWordBits;
    *out++ = read_bits(row, offset + done, part);
  }
}

inline void deposit_bits(uint64_t* row, int64_t offset, int64_t count, const uint64_t* bits) {
  for (int64_t done = 0; done < count; done += kWordBits) {
    const int64_t part = count - done < kWordBits ? count - done : kWordBits;
    or_bits(row, offset + done, part, *bits++);
  }
}

}  // namespace bitinfer
