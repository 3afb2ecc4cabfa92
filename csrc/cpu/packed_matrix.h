// Weights as the kernels want them: rows of the file interleaved in panels, once, at load.
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "cpu/kernels/kernel_table.h"

namespace bitinfer {

// The rows of a matrix that hold codes of exactly 0, and where (a set bit: not 0).
struct ZeroRows {
  const int32_t* rows = nullptr;  // ascending
  const uint64_t* nonzero = nullptr;
  int64_t count = 0;
};

class PackedMatrix {
 public:
  // `bits` is row-major [rows][words_for(depth)], layout of base/bits.h; copied.
  PackedMatrix(const uint64_t* bits, int64_t rows, int64_t depth, const ZeroRows& zeros = {});

  Panels panels() const;
  int64_t rows() const { return rows_; }
  int64_t depth() const { return depth_; }
  const int32_t* ones() const { return ones_.data(); }
  size_t bytes() const;

 private:
  int64_t rows_, depth_, steps_, panel_count_;
  AlignedBuffer<uint32_t> words_;
  AlignedBuffer<uint32_t> nonzero_words_;  // of the panels that hold zeros
  std::vector<const uint32_t*> nonzero_panels_;
  AlignedBuffer<int32_t> ones_;
};

// Word `step` of every row, side by side: panels[row / 16][step][row % 16]. `row` holds codes;
// kRunning makes an operand of them, kCodes a plane of non-zeros.
void interleave_row(const uint64_t* row, int64_t index, int64_t steps, Words words,
                    uint32_t* panels);

// Thresholds no farther from 0 than one more than any sum: the same codes, and room to calculate.
std::vector<int32_t> bounded(const int32_t* thresholds, int64_t count, int64_t most);

// Thresholds on sums of codes S, as limits on the kernels' X (kernel_table.h): a code is +1 where
// S > threshold and, if there is a low threshold, -1 (or 1, for unsigned codes) where S < low.
class CodeLimits {
 public:
  // Limits of a whole matrix; `low` may be null. `unsigned_rows` says what multiplies it.
  static CodeLimits of(const PackedMatrix& matrix, bool unsigned_rows, const int32_t* threshold,
                       const int32_t* low);

  // Room for `columns` columns up to a whole panel, whose rest never gets a code.
  void resize(int64_t columns, bool has_low);
  // For rows of -1 and +1 codes times columns of `depth` ...
  void set_pm1(int32_t depth, const int32_t* threshold, const int32_t* low);
  // ... and for rows of 0 and 1 codes times columns with `ones` +1 codes each. Thresholds of all
  // columns, bounded; `low` is read only if there is one.
  void set_unsigned(const int32_t* ones, const int32_t* threshold, const int32_t* low);

  bool has_low() const { return has_low_; }
  // For codes of one bit, and, with `nonzero`, for ternary ones.
  PackCodes pack(uint64_t* bits, uint64_t* nonzero, int64_t stride, Words words) const;
  size_t bytes() const;

 private:
  void set_masked(const int32_t* threshold, const int32_t* low);

  int64_t columns_ = 0;
  bool has_low_ = false;
  AlignedBuffer<int32_t> plain_less_, plain_greater_, masked_less_, masked_greater_;
};

}  // namespace bitinfer
