// bitinfer._core: errors, machine, elementary functions; the rest is bound beside this file.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <exception>
#include <map>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/math.h"
#include "base/num_threads.h"
#include "cpu/kernels/cpu_features.h"
#include "cpu/kernels/registry.h"
#include "python/arrays.h"
#include "python/bind.h"
#include "python/gil.h"

namespace bitinfer {
namespace {

void raise(const char* name, const char* message) {
  const py::object type = py::module_::import("bitinfer.errors").attr(name);
  PyErr_SetString(type.ptr(), message);
}

void translate(std::exception_ptr error) {
  try {
    if (error) std::rethrow_exception(error);
  } catch (const FormatError& e) {
    raise("FormatError", e.what());
  } catch (const UnsupportedError& e) {
    raise("UnsupportedError", e.what());
  } catch (const std::invalid_argument& e) {
    raise("InputError", e.what());
  }
}

py::array_t<double> elementwise(double (*function)(double),
                                const py::array_t<double, py::array::forcecast>& x) {
  const py::array_t<double, py::array::c_style> values(x);
  py::array_t<double> result(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
  const double* from = values.data();
  double* to = result.mutable_data();
  const py::ssize_t size = values.size();
  const WithoutGil without_gil;
  for (py::ssize_t i = 0; i < size; ++i) to[i] = function(from[i]);
  return result;
}

py::array_t<double> softmax_rows(const py::array& x) {
  const double* from = read_array<double>(x, "x", {kAnySize, kAnySize});
  py::array_t<double> result = make_array<double>({x.shape(0), x.shape(1)});
  for (py::ssize_t row = 0; x.shape(1) > 0 && row < x.shape(0); ++row) {
    softmax(from + row * x.shape(1), x.shape(1), result.mutable_data() + row * x.shape(1));
  }
  return result;
}

std::map<std::string, uint64_t> kernel_calls() {
  std::map<std::string, uint64_t> calls;
  for (const std::string& isa : available_isas()) calls[isa] = kernels_for(isa).products_run();
  return calls;
}

std::map<std::string, bool> features() {
  std::map<std::string, bool> result;
  for (const auto& [name, present] : named_features(cpu_features())) result[name] = present;
  return result;
}

std::map<std::string, std::string> build_info() {
  return {{"version", BITINFER_VERSION}, {"compiler", __VERSION__}};
}

}  // namespace
}  // namespace bitinfer

PYBIND11_MODULE(_core, module) {
  using namespace bitinfer;
  module.doc() = "Native engine of bitinfer.";
  // Local: the errors of other extensions are none of our business.
  py::register_local_exception_translator(translate);

  module.def("available_isas", &available_isas,
             "Instruction sets this build has and this machine runs, best first.");
  module.def("resolve_isa", &resolve_isa, py::arg("isa") = py::none(),
             "The argument, else BITINFER_ISA, else the best; UnsupportedError if it cannot run.");
  module.def("resolve_num_threads", &resolve_num_threads, py::arg("num_threads") = py::none(),
             "The argument, else BITINFER_NUM_THREADS, else the CPUs allowed to the process.");
  module.def("cpu_features", &features, "What the CPU and the operating system offer.");
  module.def("kernel_calls", &kernel_calls,
             "Matrix products run so far in this process, by the instruction set that ran them.");
  module.def("build_info", &build_info, "Version and compiler of this module.");

  const auto define = [&](const char* name, double (*function)(double), const char* doc) {
    module.def(
        name,
        [function](const py::array_t<double, py::array::forcecast>& x) {
          return elementwise(function, x);
        },
        py::arg("x"), doc);
  };
  define("exp", &bitinfer::exp, "exp(x), the same bits on every machine.");
  define("tanh", &bitinfer::tanh, "tanh(x), the same bits on every machine.");
  define("erf", &bitinfer::erf, "erf(x), the same bits on every machine.");
  define("gelu", &bitinfer::gelu, "x (1 + erf(x / sqrt 2)) / 2, the same bits on every machine.");
  module.def("softmax", &softmax_rows, py::arg("x"), "Softmax of every row of float64 [B, C].");

  bind_ops(module);
  bind_model(module);
}
