// The project's own elementary functions. Between ids and results, and between a checkpoint and its
// thresholds, nothing calls the platform's libm but for fma: its last bits differ from system to
// system. They use only + - * / and exact scaling by powers of two, in one written order.
#pragma once

#include <cstdint>

namespace bitinfer {

// Relative error below 2^-52 (tested against extended precision). NaN in, NaN out; overflow gives
// infinity, underflow 0.
double exp(double x);

// Absolute error below 2^-52; odd.
double tanh(double x);

// Absolute error below 2^-50; odd. For conversion, not for hot paths.
double erf(double x);

// x * (1 + erf(x / sqrt 2)) / 2: the exact GELU of Hendrycks & Gimpel (2016), section 2.
double gelu(double x);

// Sum of a[i] * b[i]: sixteen partial sums (i mod 16), then halved pairwise. The layer norm of the
// kernels uses the same order, so that no vector width is special.
double dot(const double* a, const double* b, int64_t n);

// out[i] = exp(x[i] - max x) / sum, summed from left to right.
void softmax(const double* x, int64_t n, double* out);

}  // namespace bitinfer
