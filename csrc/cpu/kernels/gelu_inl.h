// GELU of vectors, operation by operation that of base/math.cpp, so that both give the same bits.
#pragma once

#include <cstdint>

#include "cpu/kernels/round_inl.h"
#include "cpu/kernels/unroll.h"

namespace bitinfer {
namespace {

template <class V>
struct Gelu {
  using Doubles = typename V::Doubles;

  // x is not NaN, and not infinite.
  BITINFER_INLINE static Doubles of(Doubles x) {
    const Doubles half = V::mul(V::set_all(0.5), x);
    return V::mul(half, V::add(V::set_all(1), erf(V::mul(x, V::set_all(0.7071067811865476)))));
  }

 private:
  static constexpr uint64_t kSign = uint64_t{1} << 63;

  static Doubles erf(Doubles x) {
    const Doubles two = V::set_all(2), six = V::set_all(6);
    const Doubles magnitude = V::masked(x, ~kSign);
    // Each part for all lanes if some lane needs it, at a value that does no harm to the others.
    Doubles result = V::set_all(1);
    if (V::greater(two, magnitude) != 0) {
      const Doubles series = erf_series(V::min(magnitude, two));
      result = V::where_less(magnitude, two, series, result);
    }
    const Doubles middle = V::min(V::max(magnitude, two), six);
    const uint32_t is_middle = ~V::greater(two, magnitude) & ~V::greater(magnitude, six);
    if ((is_middle & ((1u << V::kDoubles) - 1)) != 0) {
      const Doubles fraction = V::sub(V::set_all(1), erfc_fraction(middle));
      result = V::where_less(magnitude, two, result,
                             V::where_less(six, magnitude, V::set_all(1), fraction));
    }
    return V::merged(result, V::masked(x, kSign));
  }

  // -745 < x < 709, results in the normal range.
  static Doubles exp(Doubles x) {
    constexpr double kLn2High = 6.93147180369123816490e-01;
    constexpr double kLn2Low = 1.90821492927058770002e-10;
    constexpr double kInverseLn2 = 1.44269504088896338700e+00;
    constexpr double kRoundToInteger = 6755399441055744.0;  // 1.5 * 2^52
    // k stands in the lowest bits of `shifted`.
    const Doubles shifted = V::add(V::mul(x, V::set_all(kInverseLn2)), V::set_all(kRoundToInteger));
    const Doubles k = V::sub(shifted, V::set_all(kRoundToInteger));
    const Doubles high = V::sub(x, V::mul(k, V::set_all(kLn2High)));
    const Doubles low = V::mul(k, V::set_all(kLn2Low));
    const Doubles r = V::sub(high, low);
    const Doubles r_error = V::sub(V::sub(high, r), low);

    constexpr double kCoefficients[] = {1.0 / 87178291200.0,
                                        1.0 / 6227020800.0,
                                        1.0 / 479001600.0,
                                        1.0 / 39916800.0,
                                        1.0 / 3628800.0,
                                        1.0 / 362880.0,
                                        1.0 / 40320.0,
                                        1.0 / 5040.0,
                                        1.0 / 720.0,
                                        1.0 / 120.0,
                                        1.0 / 24.0,
                                        1.0 / 6.0,
                                        1.0 / 2.0};
    Doubles poly = V::set_all(1.0 / 1307674368000.0);
    for (const double c : kCoefficients) poly = V::add(V::mul(poly, r), V::set_all(c));
    const Doubles square = V::add(V::mul(V::mul(r, r), poly), r_error);
    const Doubles mantissa = V::add(V::set_all(1), V::add(r, square));
    return V::mul(mantissa, V::power_of_two(shifted));
  }

  static Doubles negated(Doubles x) { return V::sub(V::set_all(-0.0), x); }

  static Doubles exp_minus_square(Doubles x) {
    const Doubles high = V::masked(x, ~uint64_t{0x7ffffff});
    const Doubles rest = V::mul(negated(V::sub(x, high)), V::add(x, high));
    return V::mul(exp(V::mul(negated(high), high)), exp(rest));
  }

  static Doubles erf_series(Doubles x) {
    const Doubles y = V::mul(x, x), one = V::set_all(1), twice = V::mul(V::set_all(2), y);
    Doubles sum = one;
    for (int n = 48; n >= 1; --n) {
      sum = V::add(one, V::mul(sum, V::div(twice, V::set_all(2 * n + 1))));
    }
    const Doubles factor = V::mul(V::mul(V::set_all(1.1283791670955126), x), exp(negated(y)));
    return V::mul(factor, sum);
  }

  static Doubles erfc_fraction(Doubles x) {
    Doubles denominator = x;
    for (int n = 64; n >= 1; --n) {
      denominator = V::add(x, V::div(V::set_all(0.5 * n), denominator));
    }
    return V::div(V::mul(V::set_all(0.5641895835477563), exp_minus_square(x)), denominator);
  }
};

}  // namespace
}  // namespace bitinfer
