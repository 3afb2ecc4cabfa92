// Values of a product's sums, and codes of them. What is decided by a smallest value or by a code
// is decided for nearly all values by floats, which are cheap, with a bound of their error; what is
// closer than that is decided by doubles, as it is defined.
#pragma once

#include <cstdint>

#include "base/math.h"
#include "cpu/kernels/code_words_inl.h"
#include "cpu/kernels/round_inl.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/unroll.h"

namespace bitinfer {
namespace {

template <class V>
void affine(const ScaledSums& from, int64_t rows, int64_t n, double* out) {
  const ScaledSums copy = from;
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t* sums = copy.sums + row * n;
    double* to = out + row * n;
    int64_t i = 0;
    for (; i + V::kDoubles <= n; i += V::kDoubles) {
      const auto product = V::mul(V::load(copy.scale + i), V::convert(sums + i));
      V::store(to + i, V::add(product, V::load(copy.bias + i)));
    }
    for (; i < n; ++i) to[i] = copy.scale[i] * sums[i] + copy.bias[i];
  }
}

// gelu(x) = max(x, 0) - h(|x|) with the bump h(t) = t (1 - Phi(t)), as a polynomial of 2 t / 5 - 1
// up to t = 5 (least squares, weighted anew until the errors are even); from there on it is below
// 2^-19.
inline constexpr double kGeluError = 0x1p-19;  // 1.5e-6 by trial
BITINFER_INLINE inline float multiply_add(float a, float b, float c) {
#ifdef __FP_FAST_FMAF
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
BITINFER_INLINE inline float rough_gelu(float x) {
  constexpr float kCoefficients[] = {
      0.006773356813937426f,  0.12855224311351776f,  -0.09116573631763458f, -0.24776645004749298f,
      0.3437950313091278f,    0.07518747448921204f,  -0.49006327986717224f, 0.41955772042274475f,
      -0.017545735463500023f, -0.25703373551368713f, 0.23268060386180878f,  -0.0940200537443161f,
      0.015525253489613533f};
  const float t = __builtin_fabsf(x) < 5.0f ? __builtin_fabsf(x) : 5.0f;
  const float s = t * 0.4f - 1.0f;
  float bump = -0.02447647601366043f;
  for (const float c : kCoefficients) bump = multiply_add(bump, s, c);
  return (x > 0 ? x : 0.0f) - bump;
}

// Values of one row of sums, exactly and roughly.
template <Activation kActivation>
class RowOfValues {
 public:
  BITINFER_INLINE RowOfValues(const Values& values, const int32_t* sums)
      : sums_(sums),
        scale_(values.from.scale),
        bias_(values.from.bias),
        shift_(values.shift),
        rough_scale_(values.rough_scale),
        rough_bias_(values.rough_bias),
        rough_shift_(values.rough_shift) {}

  double exact(int64_t k) const {
    const double x = scale_[k] * sums_[k] + bias_[k];
    const double y = kActivation == Activation::kGelu ? gelu(x) : x > 0 ? x : 0.0;
    return y + shift_[k];
  }
  BITINFER_INLINE float rough(int64_t k) const {
    const float x = multiply_add(rough_scale_[k], static_cast<float>(sums_[k]), rough_bias_[k]);
    const float y = kActivation == Activation::kGelu ? rough_gelu(x) : x > 0 ? x : 0.0f;
    return y + rough_shift_[k];
  }

 private:
  const int32_t* sums_;
  const double *scale_, *bias_, *shift_;
  const float *rough_scale_, *rough_bias_, *rough_shift_;
};

// How far off a rough value may be, counted in roundings by 2^-24. |scale * S|, |bias| and |shift|
// are together not above the magnitude. On the way to x the first is rounded four times and the
// second twice; GELU is at most 1.13 times as steep. Its value, the sum with the shift and the
// limit that is compared with it are rounded once more each, and the shift itself: 7.6 at most.
// Without GELU only what is too small for a float is left. Numbers that it might not hold may be
// anything.
template <Activation kActivation>
double rough_error(const Values& values) {
  constexpr double kOwn = kActivation == Activation::kGelu ? kGeluError : 0x1p-100;
  return values.magnitude < 0x1p100 ? kOwn + 0x1p-21 * values.magnitude : __builtin_inf();
}

// The smallest of up to a word of values, or `least`: those that floats cannot tell from it are
// looked at as doubles.
template <Activation kActivation>
double least_exactly(const RowOfValues<kActivation>& row, int64_t first, int64_t count,
                     double least, const float* rough, double error) {
  float smallest = rough[0];
  for (int64_t i = 1; i < count; ++i) smallest = rough[i] < smallest ? rough[i] : smallest;
  const double limit = smallest + error < least ? smallest + error : least;
  for (int64_t i = 0; i < count; ++i) {
    if (rough[i] > limit + error) continue;
    const double value = row.exact(first + i);
    least = value < least ? value : least;
  }
  return least;
}

template <Activation kActivation>
double least_of(const Values& values, int64_t rows, int64_t n, double least) {
  const double error = rough_error<kActivation>(values);
  for (int64_t r = 0; r < rows; ++r) {
    const RowOfValues<kActivation> row(values, values.from.sums + r * n);
    for (int64_t first = 0; first < n; first += kWordValues) {
      const int64_t count = n - first < kWordValues ? n - first : kWordValues;
      const float limit = static_cast<float>(least + error);
      float rough[kWordValues];
      int32_t is_near = 0;
      for (int64_t i = 0; i < count; ++i) {
        rough[i] = row.rough(first + i);
        is_near |= static_cast<int32_t>(!(rough[i] > limit));
      }
      if (is_near != 0) least = least_exactly(row, first, count, least, rough, error);
    }
  }
  return least + 0.0;  // of -0 and 0 the smaller one may be either
}

inline double least_value(const Values& values, int64_t rows, int64_t n, double least) {
  if (values.activation == Activation::kRelu) {
    return least_of<Activation::kRelu>(values, rows, n, least);
  }
  return least_of<Activation::kGelu>(values, rows, n, least);
}

// The rough values of a quantizer: less the offset, in steps.
struct RoughSteps {
  explicit RoughSteps(const Quantizer& by)
      : offset(static_cast<float>(by.offset)), per_step(static_cast<float>(by.inverse_step)) {}
  BITINFER_INLINE float operator()(float rough) const { return (rough - offset) * per_step; }
  float offset, per_step;
};

// How far off they may be within the codes: as far as the value, and by four roundings of at most
// 15.5 steps, less than 2^-18. Three are those of the difference, the inverse step and their
// product; the fourth, and what the value's error holds for a limit, which there is none here, is
// that of the offset: it is nearer to 0 than the magnitude and 15.5 steps.
template <Activation kActivation>
double rough_steps_error(const Values& values, const Quantizer& by) {
  return rough_error<kActivation>(values) * by.inverse_step + 0x1p-18;
}

template <class V, Activation kActivation>
void codes_of(const Values& values, int64_t rows, int64_t n, const Quantizer& quantizer,
              const PlaneRows& to) {
  const Quantizer by = quantizer;
  const RoughSteps steps(by);
  const double tolerance = rough_steps_error<kActivation>(values, by);
  for (int64_t r = 0; r < rows; ++r) {
    const RowOfValues<kActivation> row(values, values.from.sums + r * n);
    const auto in_steps = [&](int64_t k) BITINFER_INLINE { return steps(row.rough(k)); };
    const auto exact = [&](int64_t k) BITINFER_INLINE { return code_of(row.exact(k), by); };
    code_row<V>(n, by, tolerance, in_steps, exact, to, r);
  }
}

template <class V>
void value_codes(const Values& values, int64_t rows, int64_t n, const Quantizer& quantizer,
                 const PlaneRows& to) {
  if (values.activation == Activation::kRelu) {
    codes_of<V, Activation::kRelu>(values, rows, n, quantizer, to);
  } else {
    codes_of<V, Activation::kGelu>(values, rows, n, quantizer, to);
  }
}

}  // namespace
}  // namespace bitinfer
