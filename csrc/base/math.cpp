#include "base/math.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/float_environment.h"

namespace bitinfer {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kTwoOverSqrtPi = 1.1283791670955126;
constexpr double kOneOverSqrtPi = 0.5641895835477563;
constexpr double kSqrtHalf = 0.7071067811865476;

double from_bits(uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

uint64_t to_bits(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

double absolute(double x) { return from_bits(to_bits(x) & ~(uint64_t{1} << 63)); }
double with_sign_of(double magnitude, double x) {
  return from_bits(to_bits(magnitude) | (to_bits(x) & (uint64_t{1} << 63)));
}

// 2^k for -1022 <= k <= 1023.
double power_of_two(int k) { return from_bits(static_cast<uint64_t>(k + 1023) << 52); }

// value * 2^k; in two steps, because 2^k alone may lie outside the normal range.
double scale(double value, int k) {
  const int half = k / 2;
  return value * power_of_two(half) * power_of_two(k - half);
}

// exp(-x^2) with x^2 taken as high^2 (exact: 26 significant bits) plus a small remainder; the
// rounding of x^2 itself would cost up to x^2 ulps.
double exp_minus_square(double x) {
  const double high = from_bits(to_bits(x) & ~uint64_t{0x7ffffff});
  return exp(-high * high) * exp(-(x - high) * (x + high));
}

// erf(x) = 2/sqrt(pi) x exp(-y) sum (2 y)^n / (2n+1)!!, y = x^2: all terms positive, so no
// cancellation (Abramowitz & Stegun 7.1.6). The rounding of y hardly matters, since the same y is
// in both factors. 48 terms leave less than 2^-60 for x <= 2.
double erf_series(double x) {
  const double y = x * x;
  double sum = 1;
  for (int n = 48; n >= 1; --n) sum = 1 + sum * (2 * y / (2 * n + 1));
  return kTwoOverSqrtPi * x * exp(-y) * sum;
}

// erfc(x) = exp(-x^2)/sqrt(pi) / (x + (1/2)/(x + 1/(x + (3/2)/(x + ...)))) (A&S 7.1.14), x >= 2.
double erfc_fraction(double x) {
  double denominator = x;
  for (int n = 64; n >= 1; --n) denominator = x + (0.5 * n) / denominator;
  return kOneOverSqrtPi * exp_minus_square(x) / denominator;
}

}  // namespace

double exp(double x) {
  if (x != x) return x;
  if (x > 709.79) return kInfinity;
  if (x < -745.14) return 0;
  // ln 2 in two parts; the first has 21 trailing zero bits, so that k * kLn2High is exact.
  constexpr double kLn2High = 6.93147180369123816490e-01;
  constexpr double kLn2Low = 1.90821492927058770002e-10;
  constexpr double kInverseLn2 = 1.44269504088896338700e+00;
  constexpr double kRoundToInteger = 6755399441055744.0;  // 1.5 * 2^52
  const double k = (x * kInverseLn2 + kRoundToInteger) - kRoundToInteger;
  const double high = x - k * kLn2High;
  const double low = k * kLn2Low;
  const double r = high - low;
  const double r_error = (high - r) - low;

  // Taylor series of (exp(r) - 1 - r) / r^2; |r| <= 0.3466, so the first dropped term is below
  // 2^-60.
  double poly = 1.0 / 1307674368000.0;
  constexpr double kCoefficients[] = {
      1.0 / 87178291200.0, 1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0,
      1.0 / 362880.0,      1.0 / 40320.0,      1.0 / 5040.0,      1.0 / 720.0,      1.0 / 120.0,
      1.0 / 24.0,          1.0 / 6.0,          1.0 / 2.0};
  for (const double c : kCoefficients) poly = poly * r + c;
  return scale(1 + (r + (r * r * poly + r_error)), static_cast<int>(k));
}

double tanh(double x) {
  if (x != x) return x;
  const double magnitude = absolute(x);
  if (magnitude > 20) return with_sign_of(1, x);  // 1 - tanh(20) < 2^-57
  return with_sign_of(1 - 2 / (exp(2 * magnitude) + 1), x);
}

double erf(double x) {
  if (x != x) return x;
  const double magnitude = absolute(x);
  if (magnitude > 6) return with_sign_of(1, x);  // erfc(6) < 2^-55
  return with_sign_of(magnitude < 2 ? erf_series(magnitude) : 1 - erfc_fraction(magnitude), x);
}

double gelu(double x) {
  if (x == -kInfinity) return 0;
  return 0.5 * x * (1 + erf(x * kSqrtHalf));
}

double dot(const double* a, const double* b, int64_t n) {
  double partial[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int j = 0; j < 16; ++j) partial[j] += a[i + j] * b[i + j];
  }
  for (int j = 0; i + j < n; ++j) partial[j] += a[i + j] * b[i + j];
  for (int width = 8; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) partial[j] += partial[j + width];
  }
  return partial[0];
}

void softmax(const double* x, int64_t n, double* out) {
  const double largest = *std::max_element(x, x + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += out[i] = exp(x[i] - largest);
  for (int64_t i = 0; i < n; ++i) out[i] /= sum;
}

}  // namespace bitinfer
