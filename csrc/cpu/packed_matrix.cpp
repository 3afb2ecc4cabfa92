#include "cpu/packed_matrix.h"

#include <algorithm>

#include "base/bits.h"

namespace bitinfer {
namespace {

int32_t floor_half(int32_t value) { return value >> 1; }
int32_t ceil_half(int32_t value) { return (value + 1) >> 1; }

}  // namespace

void interleave_row(const uint64_t* row, int64_t index, int64_t steps, Words words,
                    uint32_t* panels) {
  uint32_t* out = panels + index / kPanelWidth * steps * kPanelWidth + index % kPanelWidth;
  uint32_t before = 0;
  for (int64_t s = 0; s < steps; ++s) {
    const uint32_t word = static_cast<uint32_t>(row[s / 2] >> (s % 2 * kStepBits)) ^ before;
    out[s * kPanelWidth] = word;
    if (words == Words::kRunning) before = word;
  }
}

PackedMatrix::PackedMatrix(const uint64_t* bits, int64_t rows, int64_t depth, const ZeroRows& zeros)
    : rows_(rows),
      depth_(depth),
      steps_(ceil_div(depth, kStepBits)),
      panel_count_(ceil_div(rows, kPanelWidth)),
      words_(static_cast<size_t>(panel_count_ * steps_ * kPanelWidth)),
      ones_(static_cast<size_t>(panel_count_ * kPanelWidth)) {
  const int64_t stride = words_for(depth);
  for (int64_t row = 0; row < rows; ++row) {
    interleave_row(bits + row * stride, row, steps_, Words::kRunning, words_.data());
    ones_[row] = static_cast<int32_t>(count_ones(bits + row * stride, stride));
  }
  if (zeros.count == 0) return;

  const int64_t panel_words = steps_ * kPanelWidth;
  std::vector<int64_t> slot(static_cast<size_t>(panel_count_), -1);
  int64_t slots = 0;
  for (int64_t i = 0; i < zeros.count; ++i) {
    int64_t& at = slot[static_cast<size_t>(zeros.rows[i] / kPanelWidth)];
    if (at < 0) at = slots++;
  }
  nonzero_words_.reserve(static_cast<size_t>(slots * panel_words));
  nonzero_panels_.resize(static_cast<size_t>(panel_count_), nullptr);
  std::vector<uint64_t> all(static_cast<size_t>(stride), ~uint64_t{0});
  if (depth % kWordBits != 0) all.back() = low_bits(depth % kWordBits);
  for (int64_t panel = 0; panel < panel_count_; ++panel) {
    if (slot[panel] < 0) continue;
    uint32_t* words = nonzero_words_.data() + slot[panel] * panel_words;
    nonzero_panels_[panel] = words;
    for (int64_t j = 0; j < kPanelWidth && panel * kPanelWidth + j < rows; ++j) {
      interleave_row(all.data(), j, steps_, Words::kCodes, words);
    }
  }
  for (int64_t i = 0; i < zeros.count; ++i) {
    const int64_t row = zeros.rows[i];
    uint32_t* words = nonzero_words_.data() + slot[row / kPanelWidth] * panel_words;
    interleave_row(zeros.nonzero + i * stride, row % kPanelWidth, steps_, Words::kCodes, words);
  }
}

Panels PackedMatrix::panels() const {
  const uint32_t* const* nonzero = nonzero_panels_.empty() ? nullptr : nonzero_panels_.data();
  return {words_.data(), nonzero, rows_, depth_, steps_, panel_count_};
}

size_t PackedMatrix::bytes() const {
  return words_.bytes() + nonzero_words_.bytes() + ones_.bytes();
}

std::vector<int32_t> bounded(const int32_t* thresholds, int64_t count, int64_t most) {
  std::vector<int32_t> result(thresholds, thresholds + count);
  const int32_t bound = static_cast<int32_t>(most + 1);
  for (int32_t& threshold : result) threshold = std::clamp(threshold, -bound, bound);
  return result;
}

CodeLimits CodeLimits::of(const PackedMatrix& matrix, bool unsigned_rows, const int32_t* threshold,
                          const int32_t* low) {
  CodeLimits limits;
  limits.resize(matrix.rows(), low != nullptr);
  const int64_t columns = matrix.rows(), depth = matrix.depth();
  const std::vector<int32_t> high = bounded(threshold, columns, depth);
  const std::vector<int32_t> lower =
      low != nullptr ? bounded(low, columns, depth) : std::vector<int32_t>();
  if (unsigned_rows) {
    limits.set_unsigned(matrix.ones(), high.data(), lower.data());
  } else {
    limits.set_pm1(static_cast<int32_t>(depth), high.data(), lower.data());
  }
  return limits;
}

void CodeLimits::resize(int64_t columns, bool has_low) {
  columns_ = columns;
  has_low_ = has_low;
  const int64_t padded = round_up(columns, kPanelWidth);
  for (auto* limits : {&plain_less_, &masked_less_, &plain_greater_, &masked_greater_}) {
    limits->reserve(static_cast<size_t>(padded));
  }
  for (int64_t n = columns; n < padded; ++n) {
    plain_less_[n] = masked_less_[n] = INT32_MIN;
    plain_greater_[n] = masked_greater_[n] = INT32_MAX;
  }
}

// S = depth - 2 X > t  <=>  X < (depth - t) / 2, and S < l  <=>  X > (depth - l) / 2.
void CodeLimits::set_pm1(int32_t depth, const int32_t* threshold, const int32_t* low) {
  for (int64_t n = 0; n < columns_; ++n) plain_less_[n] = ceil_half(depth - threshold[n]);
  for (int64_t n = 0; has_low_ && n < columns_; ++n) plain_greater_[n] = floor_half(depth - low[n]);
  set_masked(threshold, low);
}

// S = ones - X.
void CodeLimits::set_unsigned(const int32_t* ones, const int32_t* threshold, const int32_t* low) {
  for (int64_t n = 0; n < columns_; ++n) plain_less_[n] = ones[n] - threshold[n];
  for (int64_t n = 0; has_low_ && n < columns_; ++n) plain_greater_[n] = ones[n] - low[n];
  set_masked(threshold, low);
}

// S = -X.
void CodeLimits::set_masked(const int32_t* threshold, const int32_t* low) {
  for (int64_t n = 0; n < columns_; ++n) masked_less_[n] = -threshold[n];
  for (int64_t n = 0; has_low_ && n < columns_; ++n) masked_greater_[n] = -low[n];
}

PackCodes CodeLimits::pack(uint64_t* bits, uint64_t* nonzero, int64_t stride, Words words) const {
  return {{plain_less_.data(), has_low_ ? plain_greater_.data() : nullptr},
          {masked_less_.data(), has_low_ ? masked_greater_.data() : nullptr},
          bits,
          nonzero,
          stride,
          words};
}

size_t CodeLimits::bytes() const {
  return plain_less_.bytes() + plain_greater_.bytes() + masked_less_.bytes() +
         masked_greater_.bytes();
}

}  // namespace bitinfer
