// NumPy arrays at the border: read without copies, and refused where a cast would be needed.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace bitinfer {

namespace py = pybind11;

inline constexpr int64_t kAnySize = -1;

inline std::string describe(const py::array& array) {
  std::ostringstream text;
  text << py::str(array.dtype()).cast<std::string>() << " [";
  for (py::ssize_t i = 0; i < array.ndim(); ++i) text << (i != 0 ? ", " : "") << array.shape(i);
  text << "]";
  return text.str();
}

// Whether its values can be read through a plain pointer.
inline bool is_plain(const py::array& array) {
  return (array.flags() & py::array::c_style) != 0 &&
         reinterpret_cast<uintptr_t>(array.data()) % array.itemsize() == 0;
}

// `shape` has a size or kAnySize for each axis.
template <class T>
const T* read_array(const py::array& array, const char* name, const std::vector<int64_t>& shape) {
  bool fits = py::isinstance<py::array_t<T>>(array) &&
              array.ndim() == static_cast<py::ssize_t>(shape.size());
  for (size_t i = 0; fits && i < shape.size(); ++i) {
    fits = shape[i] == kAnySize || array.shape(static_cast<py::ssize_t>(i)) == shape[i];
  }
  if (!fits) {
    std::ostringstream text;
    text << name << ": found " << describe(array) << ", expected "
         << py::str(py::dtype::of<T>()).template cast<std::string>() << " [";
    for (size_t i = 0; i < shape.size(); ++i) {
      text << (i != 0 ? ", " : "");
      if (shape[i] == kAnySize) {
        text << "any";
      } else {
        text << shape[i];
      }
    }
    throw std::invalid_argument(text.str() + "]");
  }
  if (!is_plain(array)) {
    throw std::invalid_argument(std::string(name) + ": expected an aligned C-contiguous array");
  }
  return static_cast<const T*>(array.data());
}

// The array, or None.
inline py::object optional_array(bool is_given, const py::array& array) {
  return is_given ? py::object(array) : py::none();
}

template <class T>
py::array_t<T> make_array(const std::vector<int64_t>& shape) {
  return py::array_t<T>(std::vector<py::ssize_t>(shape.begin(), shape.end()));
}

}  // namespace bitinfer
