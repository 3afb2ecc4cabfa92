// Values of columns with their floats and magnitude, as cpu/prepared.cpp makes them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "base/math.h"
#include "cpu/kernels/table.h"

namespace bitinfer::test {

struct ValueColumns {
  std::vector<double> scale, bias, shift;
  std::vector<float> rough_scale, rough_bias, rough_shift;
  double magnitude = 0;

  void add(double a, double b, double c, double reach) {
    scale.push_back(a);
    bias.push_back(b);
    shift.push_back(c);
    rough_scale.push_back(static_cast<float>(a));
    rough_bias.push_back(static_cast<float>(b));
    rough_shift.push_back(static_cast<float>(c));
    magnitude = std::max(magnitude, std::abs(a) * reach + std::abs(b) + std::abs(c));
  }
  Values values(const std::vector<int32_t>& sums, Activation activation) const {
    return {{sums.data(), scale.data(), bias.data()},
            activation,
            shift.data(),
            rough_scale.data(),
            rough_bias.data(),
            rough_shift.data(),
            magnitude};
  }
  double value(int64_t k, int32_t sum, Activation activation) const {
    const double x = scale[k] * sum + bias[k];
    return (activation == Activation::kGelu ? gelu(x) : x > 0 ? x : 0) + shift[k];
  }
};

}  // namespace bitinfer::test
