// The bounds by which codes of values trust floats, measured: every value that was met is nearer to
// what doubles give than its bound says, and some come so near to it that a tighter one would fail.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "all_kernels.h"
#include "check.h"
#include "cpu/kernels/pack_inl.h"
#include "cpu/kernels/values_inl.h"
#include "value_columns.h"

namespace bitinfer::test {
namespace {

// Random columns, and a sum of each, often near the largest.
struct Draw {
  ValueColumns columns;
  std::vector<int32_t> sums;

  Draw(std::mt19937_64& random, int64_t n, int32_t reach, double of_sums, double of_rest) {
    std::uniform_real_distribution<double> part(-1, 1);
    for (int64_t k = 0; k < n; ++k) {
      const double scale = of_sums / reach * (1 + part(random) / 4);
      // Of a checkpoint, so floats already.
      const double bias = static_cast<float>(of_rest * part(random));
      const double shift = static_cast<float>(of_rest * part(random));
      columns.add(scale, bias, shift, reach);
      const int32_t sum = static_cast<int32_t>(std::lround(part(random) * reach));
      sums.push_back(random() % 2 != 0 ? reach - random() % 9 : sum);
    }
  }
};

// Errors as shares of their bounds.
struct Worst {
  double value = 0, steps = 0;
};

template <Activation kActivation>
Worst measure(uint64_t seed) {
  std::mt19937_64 random(seed);
  Worst worst;
  for (const double of_sums : {1e-30, 1e-3, 1.0, 6.0, 40.0, 3e3, 1e9}) {
    for (const double of_rest : {0.0, 0.1, 5.0, 2e3}) {
      for (const int32_t reach : {9, 768, 3072 * 15, (1 << 19) - 1}) {
        const int64_t n = 500;
        const Draw draw(random, n, reach, of_sums, of_rest);
        const Values values = draw.columns.values(draw.sums, kActivation);
        const RowOfValues<kActivation> row(values, draw.sums.data());
        double least = row.exact(0), most = least;
        for (int64_t k = 0; k < n; ++k) {
          const double exact = row.exact(k), error = std::fabs(row.rough(k) - exact);
          worst.value = std::max(worst.value, error / rough_error<kActivation>(values));
          least = std::min(least, exact);
          most = std::max(most, exact);
        }
        // All codes from the smallest value on, and all values in the last code, far from 0.
        const double narrow = static_cast<float>(most > least ? (most - least) / 15 : 1);
        const double wide = static_cast<float>(100 * values.magnitude);
        for (const auto& [offset, step] : {std::pair(least, narrow), std::pair(-15 * wide, wide)}) {
          const Quantizer by{offset, 1 / step, 0, 15, 4};
          const RoughSteps steps(by);
          for (int64_t k = 0; k < n; ++k) {
            const double error = std::fabs(steps(row.rough(k)) - (row.exact(k) - offset) / step);
            worst.steps = std::max(worst.steps, error / rough_steps_error<kActivation>(values, by));
          }
        }
      }
    }
  }
  return worst;
}

void check_shares(const Worst& worst) {
  CHECK(worst.value <= 1);
  CHECK(worst.value >= 0.25);
  CHECK(worst.steps <= 1);
  CHECK(worst.steps >= 0.25);
}

}  // namespace

TEST(rough_values_are_within_their_bound) {
  check_shares(measure<Activation::kRelu>(1));
  check_shares(measure<Activation::kGelu>(2));
}

TEST(rough_gelu_is_within_its_bound) {
  double worst = 0;
  for (int i = -(1 << 19); i <= 1 << 19; ++i) {
    const float x = static_cast<float>(i) * 0x1p-16f;  // -8 .. 8
    worst = std::max(worst, std::fabs(rough_gelu(x) - gelu(x)));
  }
  for (const float x : {8.5f, 1e3f, 1e30f, std::numeric_limits<float>::max()}) {
    CHECK_EQUAL(rough_gelu(x), static_cast<float>(gelu(x)));
    CHECK(std::fabs(rough_gelu(-x) - gelu(-x)) <= kGeluError);
  }
  CHECK(worst <= kGeluError);
  CHECK(worst >= kGeluError / 2);
}

TEST(floats_of_steps_are_within_their_tolerance) {
  std::mt19937_64 random(3);
  std::uniform_real_distribution<double> part(-16, 16);
  double worst = 0;
  for (int i = 0; i < 100000; ++i) {
    const double steps = part(random);
    worst = std::max(worst, std::fabs(static_cast<float>(steps) - steps));
  }
  const double narrowing =
      std::fabs(static_cast<float>(0.5 - kFloatTolerance) - 0.5) - kFloatTolerance;
  CHECK(worst + std::fabs(narrowing) < kFloatTolerance);
  CHECK(worst > kFloatTolerance / 4);
}

// Values on both sides of the middle between two codes, by less than floats can tell and by more,
// for sums near the largest, far from the offset and in the last codes.
TEST(codes_of_values_around_the_middle_of_two) {
  std::mt19937_64 random(4);
  std::uniform_real_distribution<double> part(0, 1);
  const int64_t n = 192;
  for (int round = 0; round < 300; ++round) {
    const int32_t reach = 50 + static_cast<int32_t>(random() % 3000);
    const double offset = round % 3 == 0 ? -40.0 : round % 3 == 1 ? 0.0 : 7.5;
    const double step = static_cast<float>(0.05 + part(random));
    ValueColumns columns;
    std::vector<int32_t> sums;
    for (int64_t k = 0; k < n; ++k) {
      // GELU of so much is itself.
      const double above = 9 + part(random);
      const double middle = offset + (static_cast<double>(random() % 15) + 0.5) * step;
      const double beside = std::ldexp(step, -17 - static_cast<int>(random() % 9));
      const double value = middle + (random() % 2 != 0 ? beside : -beside);
      sums.push_back(reach - static_cast<int32_t>(random() % 9));
      const double bias = static_cast<float>(part(random));
      const double shift = static_cast<float>(value - above);
      columns.add((value - shift - bias) / sums[k], bias, shift, reach);
    }
    const Quantizer by{offset, 1 / step, 0, 15, 4};
    for (const Activation activation : {Activation::kRelu, Activation::kGelu}) {
      const Values values = columns.values(sums, activation);
      const RowOfValues<Activation::kGelu> exact(values, sums.data());
      uint64_t expected[4][3] = {};
      for (int64_t k = 0; k < n; ++k) {
        for (int j = 0; j < 4; ++j) {
          const uint64_t bit = static_cast<uint64_t>(code_of(exact.exact(k), by)) >> j & 1;
          expected[j][k / 64] |= bit << (k % 64);
        }
      }
      for (auto& plane : expected) to_running(plane, 3);
      for (const Kernels& kernels : all_kernels()) {
        uint64_t found[4][3];
        kernels.value_codes(values, 1, n, by, {found[0], 3, 3});
        CHECK(std::equal(found[0], found[0] + 12, expected[0]));
      }
    }
  }
}

}  // namespace bitinfer::test
