// The parts of the module that have a file of their own.
#pragma once

#include <pybind11/pybind11.h>

namespace bitinfer {

void bind_ops(pybind11::module_& module);
void bind_model(pybind11::module_& module);

}  // namespace bitinfer
