// Packed activations of a group of tokens: bit planes of rows of codes.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/aligned_buffer.h"
#include "base/bits.h"
#include "cpu/columns.h"
#include "cpu/kernels/table.h"

namespace bitinfer {

class CodeRows {
 public:
  void reserve(int64_t rows, int64_t width, int planes) {
    stride_ = words_for(width);
    plane_stride_ = rows * stride_;
    words_.reserve(static_cast<size_t>(planes * plane_stride_));
  }

  int64_t stride() const { return stride_; }
  int64_t plane_stride() const { return plane_stride_; }
  uint64_t* plane(int j, int64_t row) { return words_.data() + j * plane_stride_ + row * stride_; }
  const uint64_t* plane(int j, int64_t row) const {
    return words_.data() + j * plane_stride_ + row * stride_;
  }

  // The planes from row `first` on, to be written ...
  PlaneRows from(int64_t first) { return {plane(0, first), stride_, plane_stride_}; }
  PackCodes pack(const Flips& flips, int64_t first, Words words) {
    return {flips, plane(0, first), stride_, plane_stride_, words};
  }
  // ... and as the left operand of a product.
  Rows operand(const LeftCodes& left, int64_t first, int64_t count) const {
    Rows rows{plane(0, first), count, stride_, plane_stride_, left.planes, {}};
    for (int j = 0; j < left.planes; ++j) rows.coefficient[j] = left.coefficient[j];
    return rows;
  }

  void clear(int planes, int64_t first, int64_t count) {
    for (int j = 0; j < planes; ++j) {
      std::memset(plane(j, first), 0, static_cast<size_t>(count * stride_) * sizeof(uint64_t));
    }
  }
  void copy_row(int planes, int64_t from, int64_t to) {
    for (int j = 0; j < planes; ++j) {
      std::memcpy(plane(j, to), plane(j, from), static_cast<size_t>(stride_) * sizeof(uint64_t));
    }
  }
  size_t bytes() const { return words_.bytes(); }

 private:
  int64_t stride_ = 0, plane_stride_ = 0;
  AlignedBuffer<uint64_t> words_;
};

// The first `width` codes of every row of planes of `words`, to out[row * out_stride + k].
void decode_rows(const Rows& rows, const LeftCodes& left, Words words, int64_t width, int8_t* out,
                 int64_t out_stride);

}  // namespace bitinfer
