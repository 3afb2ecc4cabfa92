// The project's own elementary functions, because those of the platform's libm differ in their last
// bits from system to system. They use only + - * / and exact scaling by powers of two, in one
// written order. Of libm itself only fma is called on the way from ids to results, because that has
// one right answer, and nothing on the way from a checkpoint to its thresholds.
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

// Sum of a[i] * b[i]: 16 partial sums (i mod 16), halved pairwise. The kernels have their own
// order, of 32 (row_sums_inl.h).
double dot(const double* a, const double* b, int64_t n);

// out[i] = exp(x[i] - max x) / sum, summed from left to right.
void softmax(const double* x, int64_t n, double* out);

}  // namespace bitinfer
