// Named arrays of a packed model, as the file holds them, and a reader that leaves nothing
// unchecked.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace bitinfer {

// The rows of a matrix that hold codes of exactly 0, and where (a set bit: not 0).
struct ZeroRows {
  const int32_t* rows = nullptr;  // ascending
  const uint64_t* nonzero = nullptr;
  int64_t count = 0;
};

// Signs of a matrix: row-major [rows][words_for(depth)], layout of base/bits.h.
struct BitMatrix {
  const uint64_t* bits;
  int64_t rows, depth;
  ZeroRows zeros;
};

enum class DType { kUint64, kInt32, kInt16, kFloat32, kFloat64 };

struct Tensor {
  DType dtype;
  std::vector<int64_t> shape;
  const void* data;  // C order, aligned to its type
};

using TensorMap = std::map<std::string, Tensor>;

// Every look-up names the tensor and what it must be; anything else is a FormatError that says what
// was found. Values that would make no sense (not finite, padding bits set, indices out of order)
// are refused as well, so that the engine can trust what it has read.
class TensorReader {
 public:
  explicit TensorReader(const TensorMap& tensors) : tensors_(tensors) {}

  bool has(const std::string& name) const { return tensors_.count(name) != 0; }

  const float* floats(const std::string& name, const std::vector<int64_t>& shape);
  const double* doubles(const std::string& name, const std::vector<int64_t>& shape);
  const int32_t* integers(const std::string& name, const std::vector<int64_t>& shape);
  // [levels][columns] of int16 or int32, with as many levels as it has; none of them beyond `reach`
  // by more than one.
  std::vector<int32_t> levels(const std::string& name, int64_t columns, int64_t reach);
  const uint64_t* bit_rows(const std::string& name, int64_t rows, int64_t depth);
  float positive_float(const std::string& name);  // shape [1]

  // The `name`.bits / .zero_rows / .nonzero of a binary matrix.
  BitMatrix matrix(const std::string& name, int64_t rows, int64_t depth);
  // `name`.scale, one for all rows or one per row.
  std::vector<double> scales(const std::string& name, int64_t rows);

  // Tensors that nobody asked for do not belong to the model.
  void refuse_unread() const;

 private:
  const Tensor& take(const std::string& name, DType dtype, const std::vector<int64_t>& shape);
  const Tensor& find(const std::string& name);

  const TensorMap& tensors_;
  std::set<std::string> read_;
};

}  // namespace bitinfer
