#include "cpu/head_product.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/bits.h"

namespace bitinfer {
namespace {

constexpr int64_t kBytesPerWord = sizeof(uint64_t);

// One round: in every pair of words `kWidth` apart, the upper bits of one and the lower bits of the
// other change places. The width is a constant, so that compilers vectorize it.
template <int kWidth>
void swap_bits(uint32_t* words, uint32_t mask) {
  for (int block = 0; block < 32; block += 2 * kWidth) {
    for (int r = block; r < block + kWidth; ++r) {
      const uint32_t swapped = ((words[r] >> kWidth) ^ words[r + kWidth]) & mask;
      words[r + kWidth] ^= swapped;
      words[r] ^= swapped << kWidth;
    }
  }
}

// Bit c of word r becomes bit r of word c (Warren, Hacker's Delight, 7-3).
void transpose_32x32(uint32_t* words) {
  swap_bits<16>(words, 0x0000ffff);
  swap_bits<8>(words, 0x00ff00ff);
  swap_bits<4>(words, 0x0f0f0f0f);
  swap_bits<2>(words, 0x33333333);
  swap_bits<1>(words, 0x55555555);
}

// `count` <= 32 bits from `offset` of up to 32 rows; zeros for the rest.
void gather_bits(const uint64_t* plane, int64_t stride, int64_t offset, int64_t count, int64_t rows,
                 uint32_t* words) {
  if (offset % 32 == 0 && count == 32) {
    const char* from = reinterpret_cast<const char*>(plane) + offset / 8;
    for (int64_t j = 0; j < rows; ++j) {
      std::memcpy(words + j, from + j * stride * static_cast<int64_t>(sizeof(uint64_t)),
                  sizeof *words);
    }
  } else {
    for (int64_t j = 0; j < rows; ++j) {
      words[j] = static_cast<uint32_t>(read_bits(plane + j * stride, offset, count));
    }
  }
  for (int64_t j = rows; j < 32; ++j) words[j] = 0;
}

// Byte i of word b is bit i of b.
constexpr std::array<uint64_t, 256> make_spread_bits() {
  std::array<uint64_t, 256> words{};
  for (uint64_t b = 0; b < 256; ++b) {
    for (int i = 0; i < 8; ++i) words[b] |= (b >> i & 1) << (8 * i);
  }
  return words;
}
constexpr std::array<uint64_t, 256> kSpreadBits = make_spread_bits();

// code - c0 of up to a word of codes, a byte each, up to whole words of bytes. The number of planes
// is a constant, so that compilers unroll the loop over them.
template <int kPlanes>
void unpack_word(const uint64_t* planes, const Codes& codes, int64_t count, uint8_t* bytes) {
  for (int64_t k = 0; k < count; k += kBytesPerWord) {
    uint64_t word = 0;
    for (int j = 0; j < kPlanes; ++j) {
      word += static_cast<uint64_t>(codes.c[j]) * kSpreadBits[planes[j] >> k & 0xff];
    }
    std::memcpy(bytes + k, &word, sizeof word);
  }
}

void unpack_word(const uint64_t* planes, const Codes& codes, int64_t count, uint8_t* bytes) {
  static_assert(kMostPlanes == 4, "one line for each number of planes");
  if (codes.planes == 1) unpack_word<1>(planes, codes, count, bytes);
  if (codes.planes == 2) unpack_word<2>(planes, codes, count, bytes);
  if (codes.planes == 3) unpack_word<3>(planes, codes, count, bytes);
  if (codes.planes == 4) unpack_word<4>(planes, codes, count, bytes);
}

// The same of `count` codes of a row ...
void unpack(const CodeRows& from, int64_t row, int64_t offset, int64_t count, const Codes& codes,
            uint8_t* bytes) {
  for (int64_t first = 0; first < count; first += kWordBits) {
    const int64_t part = std::min(kWordBits, count - first);
    uint64_t planes[kMostPlanes];
    for (int j = 0; j < codes.planes; ++j) {
      planes[j] = read_bits(from.plane(j, row), offset + first, part);
    }
    unpack_word(planes, codes, part, bytes + first);
  }
}

// ... and of running words.
void unpack_running(const CodeRows& from, int64_t row, int64_t count, const Codes& codes,
                    uint8_t* bytes) {
  uint64_t before[kMostPlanes] = {};
  for (int64_t first = 0; first < count; first += kWordBits) {
    uint64_t planes[kMostPlanes];
    for (int j = 0; j < codes.planes; ++j) {
      const uint64_t running = from.plane(j, row)[first / kWordBits];
      planes[j] = code_word(running, before[j]);
      before[j] = running;
    }
    unpack_word(planes, codes, std::min(kWordBits, count - first), bytes + first);
  }
}

constexpr uint64_t kEveryByte = ~uint64_t{0} / 255;

// -(code) of bytes that hold code - c0. The highest bits keep bytes from borrowing of each other.
void negate_codes(int32_t c0, int64_t count, uint8_t* bytes) {
  constexpr uint64_t kHighest = 0x80 * kEveryByte;
  for (int64_t k = 0; k < count; k += kBytesPerWord) {
    uint64_t word;
    std::memcpy(&word, bytes + k, sizeof word);
    word = ((static_cast<uint64_t>(-c0) * kEveryByte | kHighest) - word) ^ kHighest;
    std::memcpy(bytes + k, &word, sizeof word);
  }
}

int32_t sum_bytes(const uint8_t* bytes, int64_t count) {
  int32_t sum = 0;
  for (int64_t k = 0; k < count; ++k) sum += bytes[k];
  return sum;
}

}  // namespace

void HeadProduct::reserve(int64_t rows, int64_t columns, int64_t depth, const Codes& left,
                          const Codes& right) {
  most_rows_ = rows;
  shape(columns, depth, left, right);
  words_.reserve(static_cast<size_t>(panels_ * steps_ * kPanelWidth));
  sums_.reserve(static_cast<size_t>(panels_ * kPanelWidth));
  constants_.reserve(static_cast<size_t>(panels_ * kPanelWidth));
  row_words_.reserve(static_cast<size_t>(words_for(depth)));
  if (counts_bits()) return;
  bytes_.reserve(static_cast<size_t>(rows * byte_stride_));
  row_bytes_.reserve(
      static_cast<size_t>(kStepBytes * round_up(std::max(depth, columns), kBytesPerWord)));
}

void HeadProduct::shape(int64_t columns, int64_t depth, const Codes& left, const Codes& right) {
  left_ = left;
  right_ = right;
  columns_ = columns;
  depth_ = depth;
  steps_ = ceil_div(depth, counts_bits() ? kStepBits : kStepBytes);
  panels_ = ceil_div(columns, kPanelWidth);
  byte_stride_ = round_up(depth, kBytesPerWord);
  planes_.reserve(most_rows_, depth, left.planes);
}

void HeadProduct::take_columns(const CodeRows& from, int64_t first, int64_t offset) {
  for (int64_t n = 0; n < columns_; ++n) {
    if (counts_bits()) {
      set_bit_column(n, from.plane(0, first + n), offset);
    } else {
      set_byte_column(n, from, first + n, offset);
    }
  }
  set_constants();
}

void HeadProduct::take_columns_across(const CodeRows& from, int64_t first, int64_t offset,
                                      const Kernels& kernels) {
  if (counts_bits()) {
    transpose_bits(from.plane(0, first), from.stride(), offset);
    sum_bit_columns(kernels);
  } else {
    transpose_bytes(from, first, offset);
  }
  set_constants();
}

void HeadProduct::take_rows(const CodeRows& from, int64_t first, int64_t offset, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (counts_bits()) {
      uint64_t* row = planes_.plane(0, i);
      extract_bits(from.plane(0, first + i), offset, depth_, row);
      to_running(row, planes_.stride());
    } else {
      unpack(from, first + i, offset, depth_, left_, bytes_.data() + i * byte_stride_);
    }
  }
}

void HeadProduct::take_planes(int64_t count) {
  for (int64_t i = 0; !counts_bits() && i < count; ++i) {
    unpack_running(planes_, i, depth_, left_, bytes_.data() + i * byte_stride_);
  }
}

void HeadProduct::store_sums(const Kernels& kernels, int64_t count, int32_t* out) const {
  const StoreSums to{out, columns_, constants(), factor() == 2};
  if (counts_bits()) return kernels.store_sums(bit_rows(count), bit_panels(), to);
  kernels.store_byte_sums(byte_rows(count), byte_panels(), to);
}

void HeadProduct::pack_codes(const Kernels& kernels, int64_t count, const PackCodes& to) const {
  if (counts_bits()) return kernels.pack_codes(bit_rows(count), bit_panels(), to);
  kernels.pack_byte_codes(byte_rows(count), byte_panels(), to);
}

void HeadProduct::store_distances(const Kernels& kernels, int64_t count,
                                  const StoreDistances& to) const {
  if (counts_bits()) return kernels.store_distances(bit_rows(count), bit_panels(), to);
  kernels.store_byte_distances(byte_rows(count), byte_panels(), to);
}

size_t HeadProduct::bytes() const {
  return words_.bytes() + sums_.bytes() + constants_.bytes() + planes_.bytes() + bytes_.bytes() +
         row_words_.bytes() + row_bytes_.bytes();
}

Rows HeadProduct::bit_rows(int64_t count) const {
  return planes_.operand(LeftCodes(left_), 0, count);
}

Panels HeadProduct::bit_panels() const {
  return {words_.data(), nullptr, columns_, steps_, panels_};
}

void HeadProduct::set_bit_column(int64_t n, const uint64_t* row, int64_t offset) {
  uint64_t* words = row_words_.data();
  extract_bits(row, offset, depth_, words);
  interleave_row(words, n, steps_, words_.data());
  sums_[n] = static_cast<int32_t>(2 * count_ones(words, words_for(depth_)) - depth_);
}

void HeadProduct::set_byte_column(int64_t n, const CodeRows& from, int64_t row, int64_t offset) {
  uint8_t* bytes = row_bytes_.data();
  unpack(from, row, offset, depth_, right_, bytes);
  sums_[n] = static_cast<int32_t>(right_.c0 * depth_) + sum_bytes(bytes, depth_);
  negate_codes(right_.c0, depth_, bytes);
  uint32_t* column = words_.data() + n / kPanelWidth * steps_ * kPanelWidth + n % kPanelWidth;
  for (int64_t s = 0; s < steps_; ++s) {
    std::memcpy(column + s * kPanelWidth, bytes + s * kStepBytes, kStepBytes);
  }
}

// Columns are channels, and the depth is the rows.
void HeadProduct::transpose_bits(const uint64_t* rows, int64_t stride, int64_t offset) {
  const int64_t padded = panels_ * kPanelWidth;
  for (int64_t channel = 0; channel < columns_; channel += 32) {
    const int64_t channels = std::min<int64_t>(32, columns_ - channel);
    const int64_t written = std::min<int64_t>(32, padded - channel);
    uint32_t before[32] = {};
    for (int64_t s = 0; s < steps_; ++s) {
      uint32_t block[32];
      gather_bits(rows + s * kStepBits * stride, stride, offset + channel, channels,
                  std::min<int64_t>(kStepBits, depth_ - s * kStepBits), block);
      transpose_32x32(block);
      for (int64_t c = 0; c < written; ++c) block[c] ^= before[c];
      std::copy_n(block, 32, before);
      for (int64_t c = 0; c < written; c += kPanelWidth) {
        const int64_t panel = (channel + c) / kPanelWidth;
        std::copy_n(block + c, kPanelWidth, words_.data() + (panel * steps_ + s) * kPanelWidth);
      }
    }
  }
}

void HeadProduct::transpose_bytes(const CodeRows& from, int64_t first, int64_t offset) {
  const int64_t stride = round_up(columns_, kBytesPerWord);
  uint8_t* rows = row_bytes_.data();
  std::fill_n(sums_.data(), columns_, static_cast<int32_t>(right_.c0 * depth_));
  for (int64_t s = 0; s < steps_; ++s) {
    for (int64_t r = 0; r < kStepBytes; ++r) {
      uint8_t* bytes = rows + r * stride;
      const int64_t row = s * kStepBytes + r;
      if (row < depth_) {
        unpack(from, first + row, offset, columns_, right_, bytes);
      } else {
        std::fill_n(bytes, stride, uint8_t{0});
      }
      for (int64_t c = 0; c < columns_; ++c) sums_[c] += bytes[c];
      negate_codes(right_.c0, columns_, bytes);
    }
    for (int64_t c = 0; c < columns_; ++c) {
      words_[(c / kPanelWidth * steps_ + s) * kPanelWidth + c % kPanelWidth] =
          rows[c] | rows[stride + c] << 8 | rows[2 * stride + c] << 16 |
          uint32_t{rows[3 * stride + c]} << 24;
    }
  }
}

// A row of ones, as which its T is the number of -1 in a column.
void HeadProduct::sum_bit_columns(const Kernels& kernels) {
  uint64_t* ones = row_words_.data();
  for (int64_t w = 0; w < words_for(depth_); ++w) ones[w] = low_bits(depth_ - w * kWordBits);
  to_running(ones, words_for(depth_));
  std::fill_n(constants_.data(), panels_ * kPanelWidth, static_cast<int32_t>(depth_));
  kernels.store_sums({ones, 1, words_for(depth_), 0, 1, {1}}, bit_panels(),
                     {sums_.data(), columns_, constants_.data(), true});
}

void HeadProduct::set_constants() {
  const LeftCodes left(left_);
  if (!counts_bits()) {
    for (int64_t n = 0; n < columns_; ++n) constants_[n] = left.c0 * sums_[n];
  } else if (left.depends_on_ones()) {
    for (int64_t n = 0; n < columns_; ++n) {
      constants_[n] = left.constant((sums_[n] + depth_) / 2, depth_);
    }
  } else {
    std::fill_n(constants_.data(), columns_, left.constant(0, depth_));
  }
}

}  // namespace bitinfer
