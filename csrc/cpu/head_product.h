// A product of attention within one head, queries by keys or probabilities by values, exact. Where
// both sides have one plane, their bits are counted; codes of more planes are multiplied as bytes.
#pragma once

#include <cstdint>

#include "base/aligned_buffer.h"
#include "cpu/code_rows.h"
#include "cpu/columns.h"
#include "cpu/kernels/table.h"
#include "model/codes.h"

namespace bitinfer {

class HeadProduct {
 public:
  // Room for products up to this size.
  void reserve(int64_t rows, int64_t columns, int64_t depth, const Codes& left, const Codes& right);
  // The next product, within what is reserved. Codes on the right are signed.
  void shape(int64_t columns, int64_t depth, const Codes& left, const Codes& right);

  // The right operand: a column is the codes from `offset` on of each row from `first` on ...
  void take_columns(const CodeRows& from, int64_t first, int64_t offset);
  // ... or holds one code of each of these rows, the first column that at `offset`.
  void take_columns_across(const CodeRows& from, int64_t first, int64_t offset,
                           const Kernels& kernels);

  // The left operand: the codes from `offset` on of some rows ...
  void take_rows(const CodeRows& from, int64_t first, int64_t offset, int64_t count);
  // ... or planes that are filled here, as running words, and then taken.
  CodeRows& planes() { return planes_; }
  void take_planes(int64_t count);

  // S = A - factor * T.
  const int32_t* constants() const { return constants_.data(); }
  int32_t factor() const { return counts_bits() ? LeftCodes(left_).factor : 1; }
  // The sum of the values of a column.
  int32_t column_sum(int64_t n) const { return sums_[n]; }

  void store_sums(const Kernels& kernels, int64_t count, int32_t* out) const;
  void pack_codes(const Kernels& kernels, int64_t count, const PackCodes& to) const;
  void store_distances(const Kernels& kernels, int64_t count, const StoreDistances& to) const;

  size_t bytes() const;

 private:
  bool counts_bits() const { return left_.planes == 1 && right_.planes == 1; }
  Rows bit_rows(int64_t count) const;
  Panels bit_panels() const;
  ByteRows byte_rows(int64_t count) const { return {bytes_.data(), count, byte_stride_}; }
  BytePanels byte_panels() const { return {words_.data(), columns_, steps_, panels_}; }

  void set_bit_column(int64_t n, const uint64_t* row, int64_t offset);
  void set_byte_column(int64_t n, const CodeRows& from, int64_t row, int64_t offset);
  void transpose_bits(const uint64_t* rows, int64_t stride, int64_t offset);
  void transpose_bytes(const CodeRows& from, int64_t first, int64_t offset);
  void sum_bit_columns(const Kernels& kernels);
  void set_constants();

  Codes left_{}, right_{};
  int64_t most_rows_ = 0, columns_ = 0, depth_ = 0, steps_ = 0, panels_ = 0, byte_stride_ = 0;
  AlignedBuffer<uint32_t> words_;  // panels of running bits or of bytes
  AlignedBuffer<int32_t> sums_, constants_;
  CodeRows planes_;
  AlignedBuffer<uint8_t> bytes_;       // the left operand as bytes
  AlignedBuffer<uint64_t> row_words_;  // of one plane
  AlignedBuffer<uint8_t> row_bytes_;   // of kStepBytes rows
};

}  // namespace bitinfer
