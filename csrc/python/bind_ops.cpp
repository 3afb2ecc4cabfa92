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
#include "cpu/kernels/reference.h"
#include "cpu/kernels/registry.h"
#include "cpu/kernels/running_words.h"
#include "cpu/packed_matrix.h"
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

// The right operand. It keeps the rows as they came for the reference, and interleaved for the
// kernels.
class PackedPanels {
 public:
  PackedPanels(const py::array& bits, const OptionalArray& nonzero, int64_t depth) {
    if (depth < 1 || depth > (int64_t{1} << 30)) {
      throw std::invalid_argument("k: found " + std::to_string(depth) + ", expected 1 to 2^30");
    }
    const uint64_t* words = read_plane(bits, "bits", depth, kAnySize);
    const int64_t rows = bits.shape(0);
    if (rows < 1) throw std::invalid_argument("bits: found no rows, expected at least one");
    bits_.assign(words, words + bits.size());
    std::vector<int32_t> zero_rows;
    std::vector<uint64_t> planes;
    if (nonzero) {
      const uint64_t* plane = read_plane(*nonzero, "nonzero", depth, rows);
      nonzero_.assign(plane, plane + nonzero->size());
      const int64_t stride = words_for(depth);
      for (int64_t row = 0; row < rows; ++row) {
        if (count_ones(plane + row * stride, stride) == depth) continue;
        zero_rows.push_back(static_cast<int32_t>(row));
        planes.insert(planes.end(), plane + row * stride, plane + (row + 1) * stride);
      }
    }
    matrix_.emplace(
        words, rows, depth,
        ZeroRows{zero_rows.data(), planes.data(), static_cast<int64_t>(zero_rows.size())});
  }

  const PackedMatrix& matrix() const { return *matrix_; }
  int64_t rows() const { return matrix_->rows(); }
  int64_t depth() const { return matrix_->depth(); }
  reference::Codes codes() const {
    return {bits_.data(), nonzero_.empty() ? nullptr : nonzero_.data(), rows(), false};
  }

 private:
  std::vector<uint64_t> bits_, nonzero_;
  std::optional<PackedMatrix> matrix_;
};

// The left operand, checked; its words stay codes.
Rows read_rows(const py::array& bits, const OptionalArray& nonzero, bool is_unsigned,
               const PackedPanels& panels) {
  const uint64_t* words = read_plane(bits, "a", panels.depth(), kAnySize);
  const int64_t count = bits.shape(0);
  if (count < 1) throw std::invalid_argument("a: found no rows, expected at least one");
  const uint64_t* plane =
      nonzero ? read_plane(*nonzero, "a nonzero", panels.depth(), count) : nullptr;
  if (plane != nullptr && is_unsigned) {
    throw std::invalid_argument("a: unsigned codes have no non-zero plane");
  }
  return {words, plane, count, words_for(panels.depth()), is_unsigned};
}

// The left operand as the kernels take it.
class RunningRows {
 public:
  explicit RunningRows(const Rows& codes)
      : words_(static_cast<size_t>(codes.count * codes.stride)), rows_(codes) {
    std::copy_n(codes.bits, codes.count * codes.stride, words_.data());
    for (int64_t row = 0; row < codes.count; ++row) {
      to_running(words_.data() + row * codes.stride, codes.stride);
    }
    rows_.bits = words_.data();
  }
  const Rows& rows() const { return rows_; }

 private:
  AlignedBuffer<uint64_t> words_;
  Rows rows_;
};

// About 50 us of one core: less is not worth waking another.
constexpr double kProductsWorthThreads = 1 << 26;

// Calls product(first, part) for shares of the rows on the pool, without the GIL.
template <class Product>
void split_rows(const Rows& codes, const PackedPanels& panels, const OptionalThreads& num_threads,
                Product product) {
  const double products = 1.0 * codes.count * panels.rows() * panels.depth();
  const bool is_small = products < kProductsWorthThreads;
  const int wanted = !num_threads && is_small ? 1 : resolve_num_threads(num_threads);
  const int threads = static_cast<int>(std::min<int64_t>(wanted, codes.count));
  const WithoutGil without_gil;
  const RunningRows running(codes);
  const Rows& rows = running.rows();
  ThreadPool::shared().run(threads, [&](int member, Team& team) {
    const int64_t first = rows.count * member / team.size();
    const int64_t last = rows.count * (member + 1) / team.size();
    if (first < last) product(first, rows.from(first, last - first));
  });
}

py::array_t<int32_t> bgemm(const py::array& a, const OptionalArray& a_nonzero, bool is_unsigned,
                           const PackedPanels& panels, const OptionalIsa& isa,
                           const OptionalThreads& num_threads) {
  const Rows rows = read_rows(a, a_nonzero, is_unsigned, panels);
  const Kernels& kernels = kernels_for(resolve_isa(isa));
  const int64_t cols = panels.rows();
  py::array_t<int32_t> result = make_array<int32_t>({rows.count, cols});
  int32_t* out = result.mutable_data();
  const PackedMatrix& matrix = panels.matrix();
  split_rows(rows, panels, num_threads, [&](int64_t first, const Rows& part) {
    kernels.store_sums(part, matrix.panels(), {out + first * cols, cols, matrix.ones()});
  });
  return result;
}

py::array_t<int32_t> bgemm_reference(const py::array& a, const OptionalArray& a_nonzero,
                                     bool is_unsigned, const PackedPanels& panels) {
  const Rows rows = read_rows(a, a_nonzero, is_unsigned, panels);
  py::array_t<int32_t> result = make_array<int32_t>({rows.count, panels.rows()});
  int32_t* out = result.mutable_data();
  const reference::Codes left{rows.bits, rows.nonzero, rows.count, is_unsigned};
  const reference::Codes right = panels.codes();
  const int64_t depth = panels.depth();
  const WithoutGil without_gil;
  reference::bgemm(left, right, depth, out);
  return result;
}

py::array_t<double> bgemm_affine(const py::array& a, const OptionalArray& a_nonzero,
                                 bool is_unsigned, const PackedPanels& panels,
                                 const py::array& scale, const py::array& bias,
                                 const OptionalIsa& isa, const OptionalThreads& num_threads) {
  const Rows rows = read_rows(a, a_nonzero, is_unsigned, panels);
  const Kernels& kernels = kernels_for(resolve_isa(isa));
  const int64_t cols = panels.rows();
  const PackedMatrix& matrix = panels.matrix();
  const double* scales = read_array<double>(scale, "scale", {cols});
  const double* biases = read_array<double>(bias, "bias", {cols});
  py::array_t<double> result = make_array<double>({rows.count, cols});
  double* out = result.mutable_data();
  constexpr int64_t kBlock = 32;  // rows whose sums stay near
  split_rows(rows, panels, num_threads, [&](int64_t first, const Rows& part) {
    AlignedBuffer<int32_t> sums(static_cast<size_t>(std::min(part.count, kBlock) * cols));
    for (int64_t row = 0; row < part.count; row += kBlock) {
      const Rows block = part.from(row, std::min(kBlock, part.count - row));
      kernels.store_sums(block, matrix.panels(), {sums.data(), cols, matrix.ones()});
      kernels.affine({sums.data(), scales, biases}, block.count, cols, out + (first + row) * cols);
    }
  });
  return result;
}

py::tuple bgemm_threshold(const py::array& a, const OptionalArray& a_nonzero, bool is_unsigned,
                          const PackedPanels& panels, const py::array& threshold,
                          const OptionalArray& low, bool ternary, const OptionalIsa& isa,
                          const OptionalThreads& num_threads) {
  const Rows rows = read_rows(a, a_nonzero, is_unsigned, panels);
  const Kernels& kernels = kernels_for(resolve_isa(isa));
  const int64_t cols = panels.rows(), words = words_for(cols);
  const int32_t* thresholds = read_array<int32_t>(threshold, "threshold", {cols});
  const int32_t* lows = low ? read_array<int32_t>(*low, "low", {cols}) : nullptr;
  if (ternary && lows == nullptr) {
    throw std::invalid_argument("low: found None, expected int32 thresholds for ternary codes");
  }
  const PackedMatrix& matrix = panels.matrix();
  const CodeLimits limits = CodeLimits::of(matrix, is_unsigned, thresholds, lows);
  py::array_t<uint64_t> bits = make_array<uint64_t>({rows.count, words});
  py::array_t<uint64_t> nonzero = make_array<uint64_t>({ternary ? rows.count : 0, words});
  uint64_t* bit_words = bits.mutable_data();
  uint64_t* nonzero_words = ternary ? nonzero.mutable_data() : nullptr;
  split_rows(rows, panels, num_threads, [&](int64_t first, const Rows& part) {
    kernels.pack_codes(
        part, matrix.panels(),
        limits.pack(bit_words + first * words,
                    nonzero_words != nullptr ? nonzero_words + first * words : nullptr, words,
                    Words::kCodes));
  });
  return py::make_tuple(bits, optional_array(ternary, nonzero));
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
      has_zeros |= kernels.pack_greater(row.data(), thresholds, depth, bit_words + m * words);
      to_codes(bit_words + m * words, words);
      kernels.pack_not_equal(row.data(), thresholds, depth, nonzero_words + m * words);
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
  py::class_<PackedPanels>(module, "Panels",
                           "Right operand of a product, interleaved for the kernels.")
      .def(py::init<const py::array&, const OptionalArray&, int64_t>(), py::arg("bits"),
           py::arg("nonzero"), py::arg("k"))
      .def_property_readonly("rows", &PackedPanels::rows)
      .def_property_readonly("k", &PackedPanels::depth);

  module.def("pack_greater", &pack_greater, py::arg("x"), py::arg("thresholds") = none,
             py::arg("isa") = none,
             "x [M, K] > thresholds [K] (0 if None) as (bits [M, words], nonzero or None): nonzero "
             "is given if some value equals its threshold.");
  module.def("bgemm", &bgemm, py::arg("a"), py::arg("a_nonzero"), py::arg("unsigned"),
             py::arg("panels"), py::arg("isa") = none, py::arg("num_threads") = none,
             "Sums of code products, int32 [M, N].");
  module.def("bgemm_reference", &bgemm_reference, py::arg("a"), py::arg("a_nonzero"),
             py::arg("unsigned"), py::arg("panels"), "The same by plain loops.");
  module.def("bgemm_affine", &bgemm_affine, py::arg("a"), py::arg("a_nonzero"), py::arg("unsigned"),
             py::arg("panels"), py::arg("scale"), py::arg("bias"), py::arg("isa") = none,
             py::arg("num_threads") = none, "scale [N] * sums + bias [N], float64 [M, N].");
  module.def("bgemm_threshold", &bgemm_threshold, py::arg("a"), py::arg("a_nonzero"),
             py::arg("unsigned"), py::arg("panels"), py::arg("threshold"), py::arg("low"),
             py::arg("ternary"), py::arg("isa") = none, py::arg("num_threads") = none,
             "Codes of the sums, (bits [M, words(N)], nonzero or None).");
  module.def("popcount_probe", &popcount_probe, py::arg("isa"), py::arg("steps"),
             "Counts bits in registers only; returns the number of code products that equals.");
}

}  // namespace bitinfer
