// Packing and products one by one, for bitinfer.ops.
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/bits.h"
#include "base/num_threads.h"
#include "base/thread_pool.h"
#include "cpu/columns.h"
#include "cpu/kernels/reference.h"
#include "cpu/kernels/registry.h"
#include "cpu/kernels/running_words.h"
#include "model/codes.h"
#include "python/arrays.h"
#include "python/bind.h"
#include "python/gil.h"

namespace bitinfer {
namespace {

using OptionalArray = std::optional<py::array>;
using OptionalIsa = std::optional<std::string>;
using OptionalThreads = std::optional<int>;

const uint64_t* read_plane(const py::array& plane, const char* name, int64_t depth, int64_t rows) {
  const int64_t words = words_for(depth);
  const uint64_t* bits = read_array<uint64_t>(plane, name, {rows, words});
  const int64_t row = find_padding_bits(bits, plane.shape(0), depth);
  if (row >= 0) {
    throw std::invalid_argument(std::string(name) + ": row " + std::to_string(row) +
                                " has bits set after its last value");
  }
  return bits;
}

// Codes of one operand as bit planes, checked: bits alone, or with a non-zero plane as the two
// planes x > 0 and x >= 0.
class Operand {
 public:
  Operand(const py::array& bits, const OptionalArray& nonzero, bool is_unsigned, int64_t depth,
          const char* name)
      : codes_(is_unsigned ? unsigned_codes(1)
               : nonzero   ? signs_with_zeros()
                           : signs()),
        depth_(depth) {
    const uint64_t* words = read_plane(bits, name, depth, kAnySize);
    rows_ = bits.shape(0);
    if (rows_ < 1) {
      throw std::invalid_argument(std::string(name) + ": found no rows, expected at least one");
    }
    planes_.assign(words, words + bits.size());
    if (!nonzero) return;
    if (is_unsigned) {
      throw std::invalid_argument(std::string(name) + ": unsigned codes have no non-zero plane");
    }
    const std::string plane_name = std::string(name) + " nonzero";
    const uint64_t* plane = read_plane(*nonzero, plane_name.c_str(), depth, rows_);
    const int64_t stride = words_for(depth);
    for (int64_t w = 0; w < plane_words(); ++w) {
      const uint64_t values = low_bits(depth - w % stride * kWordBits);
      planes_[static_cast<size_t>(w)] &= plane[w];
      planes_.push_back((words[w] & plane[w]) | (~plane[w] & values));
    }
  }

  int64_t rows() const { return rows_; }
  int64_t depth() const { return depth_; }
  const Codes& codes() const { return codes_; }
  int64_t plane_words() const { return rows_ * words_for(depth_); }
  const uint64_t* plane(int j) const { return planes_.data() + j * plane_words(); }

  reference::Matrix matrix() const {
    reference::Matrix matrix{planes_.data(), rows_,     depth_, plane_words(),
                             codes_.planes,  codes_.c0, {}};
    std::copy_n(codes_.c, kMostPlanes, matrix.c);
    return matrix;
  }

 private:
  Codes codes_;
  int64_t rows_, depth_;
  std::vector<uint64_t> planes_;
};

// The right operand, as it came for the reference and interleaved for the kernels.
class RightOperand {
 public:
  RightOperand(const py::array& bits, const OptionalArray& nonzero, int64_t depth)
      : operand_(bits, nonzero, false, checked_depth(depth), "bits") {
    std::vector<int32_t> zero_rows;
    std::vector<uint64_t> planes;
    const int64_t stride = words_for(depth);
    for (int64_t row = 0; nonzero && row < rows(); ++row) {
      const auto* plane = static_cast<const uint64_t*>(nonzero->data()) + row * stride;
      if (count_ones(plane, stride) == depth) continue;
      zero_rows.push_back(static_cast<int32_t>(row));
      planes.insert(planes.end(), plane, plane + stride);
    }
    columns_.emplace(BitMatrix{
        operand_.plane(0), rows(), depth,
        ZeroRows{zero_rows.data(), planes.data(), static_cast<int64_t>(zero_rows.size())}});
  }

  const Columns& columns() const { return *columns_; }
  int64_t rows() const { return operand_.rows(); }
  int64_t depth() const { return operand_.depth(); }
  reference::Matrix matrix() const { return operand_.matrix(); }

 private:
  static int64_t checked_depth(int64_t depth) {
    if (depth >= 1 && depth <= (int64_t{1} << 28)) return depth;
    throw std::invalid_argument("k: found " + std::to_string(depth) + ", expected 1 to 2^28");
  }

  Operand operand_;
  std::optional<Columns> columns_;
};

// A left operand, and how the kernels take it: as running words.
struct LeftOperand : Operand {
  LeftOperand(const py::array& bits, const OptionalArray& nonzero, bool is_unsigned,
              const RightOperand& right)
      : Operand(bits, nonzero, is_unsigned, right.depth(), "a"),
        left(codes()),
        constants(right.columns().constants(left)) {}

  Rows running_rows(AlignedBuffer<uint64_t>& words) const {
    const int64_t stride = words_for(depth()), planes = codes().planes;
    words.reserve(static_cast<size_t>(planes * plane_words()));
    std::copy_n(plane(0), planes * plane_words(), words.data());
    for (int64_t row = 0; row < planes * rows(); ++row) {
      to_running(words.data() + row * stride, stride);
    }
    Rows result{words.data(), rows(), stride, plane_words(), left.planes, {}};
    std::copy_n(left.coefficient, kMostPlanes, result.coefficient);
    return result;
  }

  StoreSums sums(int32_t* out, int64_t stride) const {
    return {out, stride, constants.data(), left.factor == 2};
  }

  LeftCodes left;
  AlignedBuffer<int32_t> constants;
};

// About 50 us of one core: less is not worth waking another.
constexpr double kProductsWorthThreads = 1 << 26;

// Calls product(first, part) for shares of the rows on the pool, without the GIL.
template <class Product>
void split_rows(const LeftOperand& a, const RightOperand& right, const OptionalThreads& num_threads,
                Product product) {
  const double products = 1.0 * a.rows() * right.rows() * right.depth();
  const bool is_small = products < kProductsWorthThreads;
  const int wanted = !num_threads && is_small ? 1 : resolve_num_threads(num_threads);
  const int threads = static_cast<int>(std::min<int64_t>(wanted, a.rows()));
  const WithoutGil without_gil;
  AlignedBuffer<uint64_t> words;
  const Rows rows = a.running_rows(words);
  ThreadPool::shared().run(threads, [&](int member, Team& team) {
    const int64_t first = rows.count * member / team.size();
    const int64_t last = rows.count * (member + 1) / team.size();
    if (first < last) product(first, rows.from(first, last - first));
  });
}

py::array_t<int32_t> bgemm(const py::array& a, const OptionalArray& a_nonzero, bool is_unsigned,
                           const RightOperand& right, const OptionalIsa& isa,
                           const OptionalThreads& num_threads) {
  const LeftOperand left(a, a_nonzero, is_unsigned, right);
  const Kernels& kernels = kernels_for(resolve_isa(isa));
  const int64_t cols = right.rows();
  py::array_t<int32_t> result = make_array<int32_t>({left.rows(), cols});
  int32_t* out = result.mutable_data();
  const Panels panels = right.columns().panels();
  split_rows(left, right, num_threads, [&](int64_t first, const Rows& part) {
    kernels.store_sums(part, panels, left.sums(out + first * cols, cols));
  });
  return result;
}

py::array_t<int32_t> bgemm_reference(const py::array& a, const OptionalArray& a_nonzero,
                                     bool is_unsigned, const RightOperand& right) {
  const Operand left(a, a_nonzero, is_unsigned, right.depth(), "a");
  py::array_t<int32_t> result = make_array<int32_t>({left.rows(), right.rows()});
  int32_t* out = result.mutable_data();
  const WithoutGil without_gil;
  reference::bgemm(left.matrix(), right.matrix(), out);
  return result;
}

py::array_t<double> bgemm_affine(const py::array& a, const OptionalArray& a_nonzero,
                                 bool is_unsigned, const RightOperand& right,
                                 const py::array& scale, const py::array& bias,
                                 const OptionalIsa& isa, const OptionalThreads& num_threads) {
  const LeftOperand left(a, a_nonzero, is_unsigned, right);
  const Kernels& kernels = kernels_for(resolve_isa(isa));
  const int64_t cols = right.rows();
  const double* scales = read_array<double>(scale, "scale", {cols});
  const double* biases = read_array<double>(bias, "bias", {cols});
  py::array_t<double> result = make_array<double>({left.rows(), cols});
  double* out = result.mutable_data();
  const Panels panels = right.columns().panels();
  constexpr int64_t kBlock = 32;  // rows whose sums stay near
  split_rows(left, right, num_threads, [&](int64_t first, const Rows& part) {
    AlignedBuffer<int32_t> sums(static_cast<size_t>(std::min(part.count, kBlock) * cols));
    for (int64_t row = 0; row < part.count; row += kBlock) {
      const Rows block = part.from(row, std::min(kBlock, part.count - row));
      kernels.store_sums(block, panels, left.sums(sums.data(), cols));
      kernels.affine({sums.data(), scales, biases}, block.count, cols, out + (first + row) * cols);
    }
  });
  return result;
}

// Codes are above a boundary where S > threshold; ternary ones are not negative where S >= low, and
// unsigned ones are 1 also where S < low.
Boundaries boundaries_of(const int32_t* threshold, const int32_t* low, bool ternary,
                         int64_t columns, int64_t reach) {
  const auto bounded = [&](int64_t sum) {
    return static_cast<int32_t>(std::clamp(sum, -reach - 1, reach + 1));
  };
  Boundaries boundaries{{1, low == nullptr || ternary, false}, ternary ? 2 : 1, columns, {}, {}};
  for (int64_t n = 0; ternary && n < columns; ++n) {
    boundaries.rises.push_back(bounded(int64_t{low[n]} - 1));
  }
  for (int64_t n = 0; n < columns; ++n) boundaries.rises.push_back(bounded(threshold[n]));
  for (int64_t n = 0; low != nullptr && !ternary && n < columns; ++n) {
    boundaries.falls.push_back(bounded(std::min<int64_t>(low[n], int64_t{threshold[n]} + 1)));
  }
  return boundaries;
}

py::tuple bgemm_threshold(const py::array& a, const OptionalArray& a_nonzero, bool is_unsigned,
                          const RightOperand& right, const py::array& threshold,
                          const OptionalArray& low, bool ternary, const OptionalIsa& isa,
                          const OptionalThreads& num_threads) {
  const LeftOperand left(a, a_nonzero, is_unsigned, right);
  const Kernels& kernels = kernels_for(resolve_isa(isa));
  const int64_t cols = right.rows(), words = words_for(cols);
  const int32_t* thresholds = read_array<int32_t>(threshold, "threshold", {cols});
  const int32_t* lows = low ? read_array<int32_t>(*low, "low", {cols}) : nullptr;
  if (ternary && lows == nullptr) {
    throw std::invalid_argument("low: found None, expected int32 thresholds for ternary codes");
  }
  const Panels panels = right.columns().panels();
  const Boundaries boundaries = boundaries_of(thresholds, lows, ternary, cols, right.depth());
  Limits limits;
  limits.reserve(cols, boundaries);
  limits.set(boundaries, 0, left.left.factor, left.constants.data(), cols, &panels);
  const int64_t plane_words = left.rows() * words;
  py::array_t<uint64_t> planes = make_array<uint64_t>({(ternary ? 2 : 1) * left.rows(), words});
  uint64_t* bits = planes.mutable_data();
  split_rows(left, right, num_threads, [&](int64_t first, const Rows& part) {
    kernels.pack_codes(part, panels,
                       {limits.flips(), bits + first * words, words, plane_words, Words::kCodes});
  });
  if (!ternary) return py::make_tuple(planes, py::none());
  uint64_t* nonzero = bits + plane_words;  // the second plane, x >= 0, up to here
  for (int64_t w = 0; w < plane_words; ++w) {
    nonzero[w] = bits[w] | (~nonzero[w] & low_bits(cols - w % words * kWordBits));
  }
  return py::make_tuple(planes[py::slice(0, left.rows(), 1)],
                        planes[py::slice(left.rows(), 2 * left.rows(), 1)]);
}

// Kernels read doubles; a float32 row is widened first, which is exact.
template <class T>
py::tuple pack_rows(const py::array& x, const double* thresholds, const Kernels& kernels) {
  const T* values = read_array<T>(x, "x", {kAnySize, kAnySize});
  const int64_t rows = x.shape(0), depth = x.shape(1), words = words_for(depth);
  if (rows < 1 || depth < 1) {
    throw std::invalid_argument("x: found " + describe(x) + ", expected at least one value");
  }
  py::array_t<uint64_t> bits = make_array<uint64_t>({rows, words});
  py::array_t<uint64_t> nonzero = make_array<uint64_t>({rows, words});
  uint64_t* bit_words = bits.mutable_data();
  uint64_t* nonzero_words = nonzero.mutable_data();
  bool has_zeros = false;
  {
    const WithoutGil without_gil;
    std::vector<double> row(static_cast<size_t>(depth));
    for (int64_t m = 0; m < rows; ++m) {
      std::copy_n(values + m * depth, depth, row.begin());
      if (std::any_of(row.begin(), row.end(), [](double value) { return value != value; })) {
        throw std::invalid_argument("x: found NaN in row " + std::to_string(m));
      }
      uint64_t *greater = bit_words + m * words, *not_less = nonzero_words + m * words;
      has_zeros |= kernels.pack_greater(row.data(), thresholds, depth, greater);
      kernels.pack_not_less(row.data(), thresholds, depth, not_less);
      to_codes(greater, words);
      to_codes(not_less, words);
      for (int64_t w = 0; w < words; ++w) {
        not_less[w] = greater[w] | (~not_less[w] & low_bits(depth - w * kWordBits));
      }
    }
  }
  return py::make_tuple(bits, optional_array(has_zeros, nonzero));
}

py::tuple pack_greater(const py::array& x, const OptionalArray& thresholds,
                       const OptionalIsa& isa) {
  const Kernels& kernels = kernels_for(resolve_isa(isa));
  const double* limits = nullptr;
  if (thresholds) {
    limits = read_array<double>(*thresholds, "thresholds", {x.ndim() == 2 ? x.shape(1) : kAnySize});
    for (py::ssize_t k = 0; k < thresholds->size(); ++k) {
      if (limits[k] != limits[k]) {
        throw std::invalid_argument("thresholds: found NaN at index " + std::to_string(k));
      }
    }
  }
  if (py::isinstance<py::array_t<float>>(x)) return pack_rows<float>(x, limits, kernels);
  return pack_rows<double>(x, limits, kernels);
}

int64_t popcount_probe(const std::string& isa, int64_t steps) {
  const Kernels& kernels = kernels_for(resolve_isa(isa));
  if (steps < 1) {
    throw std::invalid_argument("steps: found " + std::to_string(steps) + ", expected at least 1");
  }
  const WithoutGil without_gil;
  return kernels.popcount_probe(steps);
}

}  // namespace

void bind_ops(py::module_& module) {
  const auto none = py::none();
  py::class_<RightOperand>(module, "RightOperand",
                           "Right operand of a product, interleaved for the kernels.")
      .def(py::init<const py::array&, const OptionalArray&, int64_t>(), py::arg("bits"),
           py::arg("nonzero"), py::arg("k"))
      .def_property_readonly("rows", &RightOperand::rows)
      .def_property_readonly("k", &RightOperand::depth);

  module.def("pack_greater", &pack_greater, py::arg("x"), py::arg("thresholds") = none,
             py::arg("isa") = none,
             "x [M, K] > thresholds [K] (0 if None) as (bits [M, words], nonzero or None): nonzero "
             "is given if some value equals its threshold.");
  module.def("bgemm", &bgemm, py::arg("a"), py::arg("a_nonzero"), py::arg("unsigned"), py::arg("b"),
             py::arg("isa") = none, py::arg("num_threads") = none,
             "Sums of code products, int32 [M, N].");
  module.def("bgemm_reference", &bgemm_reference, py::arg("a"), py::arg("a_nonzero"),
             py::arg("unsigned"), py::arg("b"), "The same by plain loops.");
  module.def("bgemm_affine", &bgemm_affine, py::arg("a"), py::arg("a_nonzero"), py::arg("unsigned"),
             py::arg("b"), py::arg("scale"), py::arg("bias"), py::arg("isa") = none,
             py::arg("num_threads") = none, "scale [N] * sums + bias [N], float64 [M, N].");
  module.def("bgemm_threshold", &bgemm_threshold, py::arg("a"), py::arg("a_nonzero"),
             py::arg("unsigned"), py::arg("b"), py::arg("threshold"), py::arg("low"),
             py::arg("ternary"), py::arg("isa") = none, py::arg("num_threads") = none,
             "Codes of the sums, (bits [M, words(N)], nonzero or None).");
  module.def("popcount_probe", &popcount_probe, py::arg("isa"), py::arg("steps"),
             "Counts bits in registers only; returns the number of code products that equals.");
}

}  // namespace bitinfer
