// The project's elementary functions against the platform's extended precision.
#include "base/math.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "check.h"

namespace bitinfer::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

std::vector<double> points(double low, double high) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> uniform(low, high);
  std::vector<double> result = {0.0, -0.0, low, high, 1e-300, 1e-17, -1e-9};
  for (int i = 0; i < 20000; ++i) result.push_back(uniform(random));
  return result;
}

}  // namespace

TEST(exp_is_accurate) {
  for (const double x : points(-700, 700)) {
    const long double truth = std::exp(static_cast<long double>(x));
    CHECK(std::fabs(static_cast<double>((exp(x) - truth) / truth)) < 2.3e-16);
  }
  for (const double x : points(-1, 1)) {
    const long double truth = std::exp(static_cast<long double>(x));
    CHECK(std::fabs(static_cast<double>((exp(x) - truth) / truth)) < 2.3e-16);
  }
}

TEST(exp_at_its_ends) {
  CHECK_EQUAL(exp(0.0), 1.0);
  CHECK_EQUAL(exp(-kInfinity), 0.0);
  CHECK_EQUAL(exp(-1e9), 0.0);
  CHECK_EQUAL(exp(kInfinity), kInfinity);
  CHECK_EQUAL(exp(710.0), kInfinity);
  CHECK(std::isfinite(exp(709.7)));
  CHECK(exp(-745.0) > 0);  // subnormal
  CHECK(std::isnan(exp(kNaN)));
}

TEST(tanh_is_accurate_and_odd) {
  for (const double x : points(-25, 25)) {
    CHECK(std::fabs(static_cast<double>(tanh(x) - std::tanh(static_cast<long double>(x)))) <
          2.3e-16);
    CHECK_EQUAL(tanh(-x), -tanh(x));
  }
  CHECK_EQUAL(tanh(kInfinity), 1.0);
  CHECK(std::isnan(tanh(kNaN)));
}

TEST(erf_is_accurate_and_odd) {
  for (const double x : points(-7, 7)) {
    CHECK(std::fabs(static_cast<double>(erf(x) - std::erf(static_cast<long double>(x)))) < 8.9e-16);
    CHECK_EQUAL(erf(-x), -erf(x));
  }
  CHECK_EQUAL(erf(kInfinity), 1.0);
  CHECK(std::isnan(erf(kNaN)));
}

TEST(gelu_is_accurate) {
  for (const double x : points(-10, 10)) {
    const long double root_half = std::sqrt(0.5L);
    const long double truth = 0.5L * x * (1 + std::erf(x * root_half));
    CHECK(std::fabs(static_cast<double>(gelu(x) - truth)) < 1e-15 * (1 + std::fabs(x)));
  }
}

// The written order, whatever the compiler makes of the loop.
TEST(dot_sums_in_its_order) {
  std::mt19937_64 random(2);
  std::normal_distribution<double> normal;
  for (int64_t n = 1; n <= 70; ++n) {
    std::vector<double> a(static_cast<size_t>(n)), b(a.size());
    for (double& value : a) value = normal(random);
    for (double& value : b) value = normal(random);
    volatile double partial[16] = {};
    for (int64_t i = 0; i < n; ++i) partial[i % 16] = partial[i % 16] + a[i] * b[i];
    for (int width = 8; width > 0; width /= 2) {
      for (int j = 0; j < width; ++j) partial[j] = partial[j] + partial[j + width];
    }
    CHECK_EQUAL(dot(a.data(), b.data(), n), static_cast<double>(partial[0]));
  }
}

TEST(softmax_sums_to_one) {
  const double x[3] = {1000, 1000, 999};
  double p[3];
  softmax(x, 3, p);
  CHECK_EQUAL(p[0], p[1]);
  CHECK(std::fabs(p[0] + p[1] + p[2] - 1) < 1e-15);
  CHECK(std::fabs(p[2] / p[0] - std::exp(-1.0)) < 1e-15);
}

}  // namespace bitinfer::test
