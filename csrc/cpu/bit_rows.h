// Packed activations of a group of tokens: bits, and a non-zero plane where codes can be 0.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/aligned_buffer.h"
#include "base/bits.h"
#include "cpu/kernels/kernel_table.h"

namespace bitinfer {

class BitRows {
 public:
  void reserve(int64_t rows, int64_t width) {
    stride_ = words_for(width);
    bits_.reserve(static_cast<size_t>(rows * stride_));
    nonzero_.reserve(static_cast<size_t>(rows * stride_));
  }

  int64_t stride() const { return stride_; }
  uint64_t* bits(int64_t row) { return bits_.data() + row * stride_; }
  const uint64_t* bits(int64_t row) const { return bits_.data() + row * stride_; }
  uint64_t* nonzero(int64_t row) { return nonzero_.data() + row * stride_; }
  const uint64_t* nonzero(int64_t row) const { return nonzero_.data() + row * stride_; }

  Rows rows(int64_t first, int64_t count, bool has_zeros, bool is_unsigned = false) const {
    return {bits(first), has_zeros ? nonzero(first) : nullptr, count, stride_, is_unsigned};
  }
  void clear(int64_t first, int64_t count) {
    const size_t size = static_cast<size_t>(count * stride_) * sizeof(uint64_t);
    std::memset(bits(first), 0, size);
    std::memset(nonzero(first), 0, size);
  }
  size_t bytes() const { return bits_.bytes() + nonzero_.bytes(); }

 private:
  int64_t stride_ = 0;
  AlignedBuffer<uint64_t> bits_, nonzero_;
};

}  // namespace bitinfer
