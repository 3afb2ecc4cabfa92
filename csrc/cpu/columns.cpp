#include "cpu/columns.h"

#include <algorithm>

#include "base/bits.h"

namespace bitinfer {
namespace {

int32_t ceil_divide(int32_t value, int32_t factor) {
  return factor == 2 ? (value + 1) >> 1 : value;  // the shift rounds down, also below 0
}

}  // namespace

void interleave_row(const uint64_t* row, int64_t index, int64_t steps, uint32_t* panels) {
  uint32_t* out = panels + index / kPanelWidth * steps * kPanelWidth + index % kPanelWidth;
  uint32_t before = 0;
  for (int64_t s = 0; s < steps; ++s) {
    before ^= static_cast<uint32_t>(row[s / 2] >> (s % 2 * kStepBits));
    out[s * kPanelWidth] = before;
  }
}

LeftCodes::LeftCodes(const Codes& codes)
    : planes(codes.planes), coefficient{}, factor(1), c0(codes.c0), sum(codes.sum()) {
  if (planes == 1) factor = codes.c[0];
  for (int j = 0; j < planes; ++j) coefficient[j] = codes.c[j] / factor;
}

Columns::Columns(const BitMatrix& matrix)
    : count_(matrix.rows),
      depth_(matrix.depth),
      steps_(ceil_div(depth_, kStepBits)),
      panel_count_(ceil_div(count_, kPanelWidth)),
      words_(static_cast<size_t>(panel_count_ * steps_ * kPanelWidth)),
      ones_(static_cast<size_t>(panel_count_ * kPanelWidth)) {
  const int64_t stride = words_for(depth_);
  for (int64_t row = 0; row < count_; ++row) {
    interleave_row(matrix.bits + row * stride, row, steps_, words_.data());
    ones_[row] = static_cast<int32_t>(count_ones(matrix.bits + row * stride, stride));
  }
  const ZeroRows& zeros = matrix.zeros;
  if (zeros.count == 0) return;

  // Panels with a zero: their second halves begin as copies of the first.
  const int64_t panel_words = steps_ * kPanelWidth;
  std::vector<int64_t> with_zeros;
  for (int64_t i = 0; i < zeros.count; ++i) {
    const int64_t panel = zeros.rows[i] / kPanelWidth;  // ascending, as the rows are
    if (with_zeros.empty() || with_zeros.back() != panel) with_zeros.push_back(panel);
  }
  other_words_.reserve(with_zeros.size() * static_cast<size_t>(panel_words));
  others_.resize(static_cast<size_t>(panel_count_), nullptr);
  for (size_t slot = 0; slot < with_zeros.size(); ++slot) {
    const int64_t panel = with_zeros[slot];
    uint32_t* words = other_words_.data() + static_cast<int64_t>(slot) * panel_words;
    std::copy_n(words_.data() + panel * panel_words, panel_words, words);
    others_[static_cast<size_t>(panel)] = words;
    for (int64_t n = 0; n < kPanelWidth; ++n) ones_[panel * kPanelWidth + n] *= 2;
  }
  // A zero is -1 in the first half, where its bit is not set, and +1 in the second.
  std::vector<uint64_t> row(static_cast<size_t>(stride));
  for (int64_t i = 0; i < zeros.count; ++i) {
    const int64_t n = zeros.rows[i];
    for (int64_t w = 0; w < stride; ++w) {
      const uint64_t zero = ~zeros.nonzero[i * stride + w] & low_bits(depth_ - w * kWordBits);
      row[static_cast<size_t>(w)] = matrix.bits[n * stride + w] | zero;
    }
    const int64_t slot = std::lower_bound(with_zeros.begin(), with_zeros.end(), n / kPanelWidth) -
                         with_zeros.begin();
    interleave_row(row.data(), n % kPanelWidth, steps_, other_words_.data() + slot * panel_words);
    ones_[n] = ones_[n] / 2 + static_cast<int32_t>(count_ones(row.data(), stride));
  }
}

Panels Columns::panels() const {
  return {words_.data(), others_.empty() ? nullptr : others_.data(), count_, steps_, panel_count_};
}

AlignedBuffer<int32_t> Columns::constants(const LeftCodes& left) const {
  AlignedBuffer<int32_t> result(static_cast<size_t>(panel_count_ * kPanelWidth));
  for (int64_t n = 0; n < count_; ++n) {
    const int64_t halves = has_halves(n / kPanelWidth) ? 2 : 1;
    result[n] = left.constant(ones_[n], halves * depth_);
  }
  return result;
}

size_t Columns::bytes() const {
  return words_.bytes() + other_words_.bytes() + ones_.bytes() + others_.size() * sizeof(uint32_t*);
}

void Limits::reserve(int64_t columns, const Boundaries& boundaries) {
  const int per_level = boundaries.falls.empty() ? 1 : 2;
  flips_ = {};
  // An odd number of panels: where a row of limits is whole pages, as of 3072 columns, all limits
  // of a column would share one set of the cache.
  flips_.stride = (ceil_div(columns, kPanelWidth) | 1) * kPanelWidth;
  flips_.count = boundaries.levels * per_level;
  flips_.planes = boundaries.codes().planes;
  flips_.count_up = !boundaries.point.are_signs() || boundaries.levels == 1;
  values_.reserve(static_cast<size_t>(flips_.stride * flips_.count));
  flips_.limits = values_.data();
  for (int f = 0; f < flips_.count; ++f) {
    flips_.toggles[f] = boundaries.toggles(f / per_level);
    // With a fall a level begins above its boundary, drops below it and rises again.
    if (per_level == 2 && f % 2 == 0) flips_.starts ^= flips_.toggles[f];
    // No bit beyond the last column: every level has dropped, and none rises.
    const bool has_dropped = per_level == 2 && f % 2 == 0;
    for (int64_t n = columns; n < flips_.stride; ++n) {
      values_[f * flips_.stride + n] = has_dropped ? INT32_MAX : INT32_MIN;
    }
  }
}

void Limits::set(const Boundaries& boundaries, int64_t first, int32_t factor,
                 const int32_t* constants, int64_t columns, const Panels* panels) {
  const int per_level = boundaries.falls.empty() ? 1 : 2;
  for (int f = 0; f < flips_.count; ++f) {
    const bool is_fall = per_level == 2 && f % 2 == 0;
    // S < fall until S > fall - 1.
    const int32_t* sums = (is_fall ? boundaries.falls : boundaries.rises).data() +
                          f / per_level * boundaries.columns + first;
    int32_t* limits = values_.data() + f * flips_.stride;
    for (int64_t n = 0; n < columns; ++n) {
      const int32_t below = is_fall ? sums[n] - 1 : sums[n];
      const int32_t halves = panels != nullptr && panels->has_halves(n / kPanelWidth) ? 2 : 1;
      limits[n] = ceil_divide(constants[n] - halves * below, factor);
    }
  }
}

}  // namespace bitinfer
