// The exceptions that cross the language border. std::invalid_argument stands for bad input
// (shape, dtype, option); Python turns each into its own class of bitinfer.errors.
#pragma once

#include <stdexcept>
#include <string>

namespace bitinfer {

// A model whose tensors contradict its configuration or the format.
class FormatError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Something this machine or build cannot do.
class UnsupportedError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace bitinfer
