// The right operand of a product as the kernels want it, and the way from their T to sums and
// codes. Weights are interleaved once, at load; keys and values of attention anew for every head.
#pragma once

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "cpu/kernels/table.h"
#include "model/codes.h"
#include "model/model.h"

namespace bitinfer {

// Word `step` of every row, side by side: panels[row / 16][step][row % 16], as running words; `row`
// holds codes.
void interleave_row(const uint64_t* row, int64_t index, int64_t steps, uint32_t* panels);

// Left codes as the kernels take them: the factor that all c_j have in common is taken out.
struct LeftCodes {
  explicit LeftCodes(const Codes& codes);

  // A of a column of `depth` values, so many of which are +1: S = A - factor * T.
  int32_t constant(int64_t ones, int64_t depth) const {
    return static_cast<int32_t>(sum * ones + c0 * (2 * ones - depth));
  }

  bool depends_on_ones() const { return sum + 2 * c0 != 0; }

  int planes;
  int32_t coefficient[kMostPlanes];
  int32_t factor;  // 1 or 2
  int32_t c0, sum;
};

// A binary matrix, row-major in the file: a column of the product for each of its rows. Rows with
// weights of exactly 0 are two halves of 1/2 that differ there, in their panels only.
class Columns {
 public:
  explicit Columns(const BitMatrix& matrix);

  Panels panels() const;
  int64_t count() const { return count_; }
  int64_t depth() const { return depth_; }
  bool has_halves(int64_t panel) const {
    return !others_.empty() && others_[static_cast<size_t>(panel)] != nullptr;
  }
  // The sum of a row's weights, each -1, 0 or +1.
  int64_t row_sum(int64_t row) const {
    return has_halves(row / kPanelWidth) ? ones_[row] - depth_ : 2 * ones_[row] - depth_;
  }
  // A of every column, padded to whole panels; the sum of both in panels with two halves.
  AlignedBuffer<int32_t> constants(const LeftCodes& left) const;
  size_t bytes() const;

 private:
  int64_t count_, depth_, steps_, panel_count_;
  AlignedBuffer<uint32_t> words_;
  AlignedBuffer<uint32_t> other_words_;  // second halves
  std::vector<const uint32_t*> others_;
  AlignedBuffer<int32_t> ones_;  // of both halves together
};

// Boundaries on sums S as limits on T: S > r  <=>  T < ceil((A - D r) / factor), with D = 2 in
// panels of two halves.
class Limits {
 public:
  Limits() = default;
  // Room for `columns` columns and the boundaries of codes; columns up to a whole panel get no bit.
  void reserve(int64_t columns, const Boundaries& boundaries);
  // Limits of the columns from `first` on of a point with `boundaries`. `constants` are A; `panels`
  // if some may have two halves.
  void set(const Boundaries& boundaries, int64_t first, int32_t factor, const int32_t* constants,
           int64_t columns, const Panels* panels = nullptr);

  Flips flips() const { return flips_; }
  size_t bytes() const { return values_.bytes(); }

 private:
  AlignedBuffer<int32_t> values_;
  Flips flips_{};
};

}  // namespace bitinfer
