#include "model/tensors.h"

#include <cmath>
#include <limits>
#include <sstream>

#include "base/bits.h"
#include "base/error.h"

namespace bitinfer {
namespace {

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::kUint64:
      return "uint64";
    case DType::kInt32:
      return "int32";
    case DType::kInt16:
      return "int16";
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
  }
  return "unknown";
}

std::string describe(DType dtype, const std::vector<int64_t>& shape) {
  std::ostringstream text;
  text << name_of(dtype) << " [";
  for (size_t i = 0; i < shape.size(); ++i) text << (i != 0 ? ", " : "") << shape[i];
  text << "]";
  return text.str();
}

[[noreturn]] void fail(const std::string& name, const std::string& found,
                       const std::string& expected) {
  throw FormatError("tensor '" + name + "': found " + found + ", expected " + expected);
}

constexpr double kLargestFloat = std::numeric_limits<float>::max();

std::string to_text(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

template <class T>
const T* finite(const std::string& name, const Tensor& tensor) {
  const T* values = static_cast<const T*>(tensor.data);
  int64_t count = 1;
  for (const int64_t n : tensor.shape) count *= n;
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(values[i])) {
      fail(name, "the value " + to_text(values[i]) + " at index " + std::to_string(i),
           "finite values");
    }
  }
  return values;
}

}  // namespace

const Tensor& TensorReader::find(const std::string& name) {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw FormatError("tensor '" + name + "' is missing");
  read_.insert(name);
  return found->second;
}

const Tensor& TensorReader::take(const std::string& name, DType dtype,
                                 const std::vector<int64_t>& shape) {
  const Tensor& tensor = find(name);
  if (tensor.dtype != dtype || tensor.shape != shape) {
    fail(name, describe(tensor.dtype, tensor.shape), describe(dtype, shape));
  }
  return tensor;
}

const float* TensorReader::floats(const std::string& name, const std::vector<int64_t>& shape) {
  return finite<float>(name, take(name, DType::kFloat32, shape));
}

const double* TensorReader::doubles(const std::string& name, const std::vector<int64_t>& shape) {
  return finite<double>(name, take(name, DType::kFloat64, shape));
}

const int32_t* TensorReader::integers(const std::string& name, const std::vector<int64_t>& shape) {
  return static_cast<const int32_t*>(take(name, DType::kInt32, shape).data);
}

std::vector<int32_t> TensorReader::levels(const std::string& name, int64_t columns, int64_t reach) {
  const Tensor& tensor = find(name);
  const bool is_short = tensor.dtype == DType::kInt16;
  if ((!is_short && tensor.dtype != DType::kInt32) || tensor.shape.size() != 2 ||
      tensor.shape[1] != columns) {
    fail(name, describe(tensor.dtype, tensor.shape),
         "int16 or int32 [levels, " + std::to_string(columns) + "]");
  }
  const int64_t rows = tensor.shape[0];
  std::vector<int32_t> result(static_cast<size_t>(rows * columns));
  for (size_t i = 0; i < result.size(); ++i) {
    result[i] = is_short ? static_cast<const int16_t*>(tensor.data)[i]
                         : static_cast<const int32_t*>(tensor.data)[i];
    if (result[i] < -reach - 1 || result[i] > reach) {
      fail(name, std::to_string(result[i]) + " at index " + std::to_string(i),
           "values from " + std::to_string(-reach - 1) + " to " + std::to_string(reach));
    }
  }
  return result;
}

const uint64_t* TensorReader::bit_rows(const std::string& name, int64_t rows, int64_t depth) {
  const int64_t words = words_for(depth);
  const auto* bits = static_cast<const uint64_t*>(take(name, DType::kUint64, {rows, words}).data);
  const int64_t row = find_padding_bits(bits, rows, depth);
  if (row >= 0) {
    fail(name, "padding bits set in row " + std::to_string(row), "zeros after the last value");
  }
  return bits;
}

float TensorReader::positive_float(const std::string& name) {
  const float value = *floats(name, {1});
  if (!(value > 0)) fail(name, to_text(value), "a value above 0");
  return value;
}

BitMatrix TensorReader::matrix(const std::string& name, int64_t rows, int64_t depth) {
  BitMatrix result{bit_rows(name + ".bits", rows, depth), rows, depth, {}};
  const std::string rows_name = name + ".zero_rows", plane_name = name + ".nonzero";
  if (!has(rows_name) && !has(plane_name)) return result;

  const Tensor& listed = find(rows_name);
  if (listed.shape.size() != 1)
    fail(rows_name, describe(listed.dtype, listed.shape), "int32 [rows]");
  const int64_t count = listed.shape[0];
  ZeroRows& zeros = result.zeros;
  zeros.rows = integers(rows_name, {count});
  if (count < 1) fail(rows_name, "no rows", "at least one, or no such tensor");
  zeros.nonzero = bit_rows(plane_name, count, depth);
  zeros.count = count;
  const int64_t words = words_for(depth);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = zeros.rows[i];
    if (row < 0 || row >= rows || (i > 0 && row <= zeros.rows[i - 1])) {
      fail(rows_name, std::to_string(row) + " at index " + std::to_string(i),
           "ascending rows below " + std::to_string(rows));
    }
    for (int64_t w = 0; w < words; ++w) {
      if ((result.bits[row * words + w] & ~zeros.nonzero[i * words + w]) != 0) {
        fail(plane_name, "a code of 0 with its sign bit set in row " + std::to_string(row),
             "sign bits under non-zero bits only");
      }
    }
  }
  return result;
}

std::vector<double> TensorReader::scales(const std::string& name, int64_t rows) {
  const std::string scale_name = name + ".scale";
  const Tensor& tensor = find(scale_name);
  const bool is_shared = tensor.shape == std::vector<int64_t>{1};
  const double* values = doubles(scale_name, {is_shared ? 1 : rows});
  std::vector<double> result(static_cast<size_t>(rows));
  for (int64_t n = 0; n < rows; ++n) {
    result[n] = values[is_shared ? 0 : n];
    // A scale is a mean of float32 magnitudes. Within these bounds nothing later overflows.
    if (result[n] < 0 || result[n] > kLargestFloat) {
      fail(scale_name, to_text(result[n]), "values from 0 to the largest float32");
    }
  }
  return result;
}

void TensorReader::refuse_unread() const {
  for (const auto& [name, tensor] : tensors_) {
    if (read_.count(name) == 0) {
      throw FormatError("tensor '" + name + "' (" + describe(tensor.dtype, tensor.shape) +
                        ") does not belong to this model");
    }
  }
}

}  // namespace bitinfer
