// Kernels of rows of every instruction set of this machine, and of wide vectors, against plain
// loops.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "all_kernels.h"
#include "base/bits.h"
#include "base/math.h"
#include "check.h"
#include "cpu/prepared.h"
#include "value_columns.h"

namespace bitinfer::test {
namespace {

std::vector<double> draw(std::mt19937_64& random, int64_t count, double spread = 1) {
  std::normal_distribution<double> normal(0, spread);
  std::vector<double> values(static_cast<size_t>(count));
  for (double& value : values) value = normal(random);
  return values;
}

// Codes of values as docs/numerics.md has them, without adding and subtracting large numbers.
int64_t code_of(double x, const Quantizer& to) {
  const double v = (x - to.offset) * to.inverse_step;
  double code = std::nearbyint(v);
  if (std::fabs(v - code) >= 0.5 - std::ldexp(1.0, -40)) code = 2 * std::nearbyint(v * 0.5);
  return static_cast<int64_t>(std::clamp(code, 1.0 * to.low, 1.0 * to.high));
}

// Running words of codes - low of rows of n, planes one after another.
std::vector<uint64_t> planes_of(const std::vector<int64_t>& codes, int64_t n, const Quantizer& to) {
  const int64_t rows = static_cast<int64_t>(codes.size()) / n, stride = words_for(n);
  std::vector<uint64_t> words(static_cast<size_t>(to.planes * rows * stride));
  for (int64_t i = 0; i < rows * n; ++i) {
    for (int j = 0; j < to.planes; ++j) {
      const uint64_t bit = static_cast<uint64_t>(codes[i] - to.low) >> j & 1;
      or_bits(&words[(j * rows + i / n) * stride], i % n, 1, bit);
    }
  }
  for (int64_t i = 0; i < to.planes * rows; ++i) to_running(&words[i * stride], stride);
  return words;
}

Quantizer quantizer_of(int bits, bool is_signed, double offset, double step) {
  const int32_t low = is_signed ? -(1 << (bits - 1)) : 0;
  return {offset, 1 / step, low, low + (1 << bits) - 1, bits};
}

}  // namespace

TEST(packing_equals_comparison) {
  std::mt19937_64 random(5);
  for (const Kernels& kernels : all_kernels()) {
    for (int64_t n = 1; n <= 200; ++n) {
      for (const bool with_threshold : {false, true}) {
        // Small integers, so that many values equal their threshold.
        std::vector<double> x(static_cast<size_t>(n)), threshold(x.size());
        for (double& value : x) value = static_cast<double>(random() % 5) - 2;
        for (double& value : threshold) value = static_cast<double>(random() % 5) - 2;
        if (n % 3 == 0) {
          for (size_t k = 0; k < x.size(); ++k) x[k] = threshold[k] + 0.5;
        }
        const size_t words = static_cast<size_t>(words_for(n));
        std::vector<uint64_t> greater(words, 1), not_less(words, 1), expected(words),
            expected_not_less(words);
        bool any_equal = false;
        for (int64_t k = 0; k < n; ++k) {
          const double limit = with_threshold ? threshold[k] : 0.0;
          or_bits(expected.data(), k, 1, x[k] > limit);
          or_bits(expected_not_less.data(), k, 1, x[k] >= limit);
          any_equal |= x[k] == limit;
        }
        const double* limits = with_threshold ? threshold.data() : nullptr;
        CHECK_EQUAL(kernels.pack_greater(x.data(), limits, n, greater.data()), any_equal);
        kernels.pack_not_less(x.data(), limits, n, not_less.data());
        to_running(expected.data(), static_cast<int64_t>(words));
        to_running(expected_not_less.data(), static_cast<int64_t>(words));
        CHECK(greater == expected);
        CHECK(not_less == expected_not_less);
      }
    }
  }
}

// docs/numerics.md, word by word.
double sum_in_order(const std::vector<double>& terms) {
  double partial[32] = {};
  for (size_t i = 0; i < terms.size(); ++i) partial[i % 32] += terms[i];
  for (int width = 16; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) partial[j] += partial[j + width];
  }
  return partial[0];
}

std::vector<double> normalized(const std::vector<double>& x, const double* weight,
                               const double* bias) {
  const double count = static_cast<double>(x.size());
  const double mean = sum_in_order(x) / count;
  double partial[32] = {};
  for (size_t i = 0; i < x.size(); ++i) {
    partial[i % 32] = std::fma(x[i] - mean, x[i] - mean, partial[i % 32]);
  }
  const double variance = sum_in_order(std::vector<double>(partial, partial + 32)) / count;
  const double scale = 1.0 / std::sqrt(variance + 1e-12);
  std::vector<double> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = std::fma((x[i] - mean) * scale, weight[i], bias[i]);
  return y;
}

// Rows pass in blocks of 32, two by two, and columns in words of 64. The thresholds of the first
// signs meet exactly one value, at any place: its bias is a float32, as thresholds are, and its
// weight 0. Rows can be constant or lie far from 0.
TEST(layer_norm_and_signs_follow_the_written_order) {
  std::mt19937_64 random(6);
  const auto draw = [&](int64_t count) { return test::draw(random, count, 2); };
  const double special[] = {0.0, -0.0, 1e-40f, 3e38f, -1.5};
  for (int64_t n = 1; n <= 140; ++n) {
    const int64_t rows = n % 7 == 0 ? 32 + n % 4 : 1 + n % 4, words = words_for(n);
    std::vector<double> x = draw(rows * n);
    if (n % 5 == 0) std::fill_n(x.begin(), n, 5.7);
    if (n % 5 == 1) {
      for (double& value : x) value += 50;
    }
    const std::vector<double> weight = draw(n), bias = draw(n), scale = draw(n), shift = draw(n);
    std::vector<int32_t> sums(x.size());
    for (int32_t& sum : sums) sum = static_cast<int32_t>(random() % 101) - 50;
    const bool adds = n % 2 == 0;
    const ScaledSums added{adds ? sums.data() : nullptr, scale.data(), shift.data()};
    std::vector<double> expected;
    for (int64_t row = 0; row < rows; ++row) {
      std::vector<double> input(x.begin() + row * n, x.begin() + (row + 1) * n);
      for (int64_t k = 0; adds && k < n; ++k) {
        input[k] += std::fma(scale[k], static_cast<double>(sums[row * n + k]), shift[k]);
      }
      for (const double y : normalized(input, weight.data(), bias.data())) expected.push_back(y);
    }
    const int64_t met = static_cast<int64_t>(random() % static_cast<uint64_t>(n));
    for (const Kernels& kernels : all_kernels()) {
      for (int count = 0; count <= kMostSigns; ++count) {
        std::vector<double> out = x, last_weight = weight, last_bias = bias;
        std::vector<std::vector<double>> thresholds;
        std::vector<std::vector<uint64_t>> bits;
        for (int s = 0; s < count; ++s) {
          thresholds.push_back(draw(n));
          for (double& value : thresholds[s]) value = static_cast<float>(value);
          bits.emplace_back(static_cast<size_t>(rows * words), 1);
        }
        std::vector<double> wanted = expected;
        if (count > 0) {
          const double value = special[random() % 5];
          last_weight[met] = 0;
          last_bias[met] = value;
          thresholds[0][met] = value;
          for (int64_t row = 0; row < rows; ++row) wanted[row * n + met] = value;
        }
        Signs signs[kMostSigns];
        for (int s = 0; s < count; ++s) {
          signs[s] = {thresholds[s].data(), bits[s].data(), words, false};
        }
        kernels.layer_norm({out.data(), rows, n, last_weight.data(), last_bias.data(), added},
                           signs, count);
        bool same = true;
        for (size_t i = 0; i < out.size(); ++i) same &= out[i] == wanted[i];
        CHECK(same);
        for (int s = 0; s < count; ++s) {
          bool equal = false;
          for (int64_t row = 0; row < rows; ++row) {
            std::vector<uint64_t> greater(static_cast<size_t>(words));
            equal |= kernels.pack_greater(&out[row * n], thresholds[s].data(), n, greater.data());
            CHECK(std::equal(greater.begin(), greater.end(), &bits[s][row * words]));
          }
          CHECK_EQUAL(signs[s].any_equal, equal);
          CHECK(s > 0 || equal);
        }
      }
    }
  }
}

// Of many rows one value meets its threshold: found wherever it is.
TEST(layer_norm_finds_a_single_equal_value) {
  std::mt19937_64 random(10);
  for (const int64_t n : {5, 64, 70, 192}) {
    for (int64_t row_met = 0; row_met < 67; row_met += 3) {
      constexpr int64_t kRows = 67;
      // Two values, on both sides of the mean: none of them becomes the bias.
      std::vector<double> x(static_cast<size_t>(kRows * n)), weight(static_cast<size_t>(n), 1.0),
          bias(weight.size(), 0.25), threshold(weight.size(), 3.0);
      for (double& value : x) value = random() % 2 != 0 ? 1.0 : -1.0;
      for (int64_t row = 0; row < kRows; ++row) {  // never constant
        x[row * n] = 1.0;
        x[row * n + 1] = -1.0;
      }
      const int64_t met = static_cast<int64_t>(random() % static_cast<uint64_t>(n));
      std::fill_n(&x[row_met * n], n, 7.0);  // constant: all normal values are 0, y is the bias
      threshold[met] = 0.25;
      for (const Kernels& kernels : all_kernels()) {
        for (const bool meets : {false, true}) {
          std::vector<double> out = x;
          if (!meets) out[row_met * n] = 8.0;
          std::vector<uint64_t> bits(static_cast<size_t>(kRows * words_for(n)));
          Signs sign{threshold.data(), bits.data(), words_for(n), false};
          kernels.layer_norm({out.data(), kRows, n, weight.data(), bias.data(), {}}, &sign, 1);
          CHECK_EQUAL(sign.any_equal, meets);
        }
      }
    }
  }
}

TEST(affine_scales_and_adds) {
  std::mt19937_64 random(8);
  std::normal_distribution<double> normal;
  for (int64_t n = 1; n <= 40; ++n) {
    const int64_t rows = 1 + n % 4;
    std::vector<double> scale(static_cast<size_t>(n)), bias(scale.size());
    for (auto* values : {&scale, &bias}) {
      for (double& value : *values) value = normal(random);
    }
    std::vector<int32_t> sums(static_cast<size_t>(rows * n));
    for (int32_t& sum : sums) sum = static_cast<int32_t>(random());
    std::vector<double> expected(sums.size());
    for (size_t i = 0; i < sums.size(); ++i) {
      const size_t k = i % static_cast<size_t>(n);
      expected[i] = scale[k] * sums[i] + bias[k];
    }
    for (const Kernels& kernels : all_kernels()) {
      std::vector<double> out(sums.size());
      kernels.affine({sums.data(), scale.data(), bias.data()}, rows, n, out.data());
      CHECK(out == expected);
    }
  }
}

// Tables of every kind: 127 terms are the most that are looked up by their bytes.
TEST(probability_bits_equal_softmax) {
  std::mt19937_64 random(7);
  for (const int64_t head_size : {32, 64, 126, 127, 300}) {
    for (const double score_scale : {1e-9, 0.02, 0.3, 3.0}) {
      const ExpScores scores(score_scale, head_size, 2, 512);
      const ExpTable table = scores.table();
      CHECK_EQUAL(table.size, head_size + 1);
      CHECK_EQUAL(table.fixed_bytes != nullptr, head_size <= 126);
      for (int64_t keys = 1; keys <= 200; ++keys) {
        const int64_t rows = 1 + keys % 20, padded = round_up(keys, kWordBits);
        const int64_t words = padded / kWordBits;
        std::vector<uint16_t> distances(static_cast<size_t>(rows * padded), 0xffff);
        std::vector<uint64_t> expected(static_cast<size_t>(rows * words));
        // Not a multiple of any probability, so that rounding cannot decide a bit.
        const double half_step = 0.7312 / static_cast<double>(keys);
        for (int64_t row = 0; row < rows; ++row) {
          uint16_t* of_row = &distances[row * padded];
          for (int64_t j = 0; j < keys; ++j) {
            of_row[j] = static_cast<uint16_t>(random() % static_cast<uint64_t>(table.size));
          }
          const uint16_t nearest = *std::min_element(of_row, of_row + keys);
          long double sum = 0;
          for (int64_t j = 0; j < keys; ++j) sum += table.value[of_row[j] - nearest];
          for (int64_t j = 0; j < keys; ++j) {
            or_bits(&expected[row * words], j, 1,
                    table.value[of_row[j] - nearest] / sum > half_step);
          }
          to_running(&expected[row * words], words);
        }
        for (const Kernels& kernels : all_kernels()) {
          std::vector<uint64_t> bits(expected.size(), 1);
          kernels.probability_bits({distances.data(), padded, rows, keys}, table, half_step,
                                   {bits.data(), words, 0});
          CHECK(bits == expected);
        }
      }
    }
  }
}

// As many keys as there can be, all as near as can be: the sum is 2^63, and nothing overflows.
TEST(probability_bits_of_the_longest_sequence) {
  for (const int64_t positions : {16, 512, 4096}) {
    for (const int64_t step : {1, 2}) {
      const ExpScores scores(0.1, 128 / step, step, positions);
      const ExpTable table = scores.table();
      CHECK_EQUAL(table.size, 128 / step + 1);
      CHECK(table.fixed[0] <= uint64_t{1} << 55);
      CHECK(static_cast<double>(table.fixed[0]) * table.unit == 1.0);
      for (int64_t t = 1; t < table.size; ++t) CHECK(table.fixed[t] <= table.fixed[t - 1]);
      std::vector<uint16_t> distances(static_cast<size_t>(round_up(positions, kWordBits)), 0xffff);
      std::fill_n(distances.begin(), positions, uint16_t{5});
      for (const Kernels& kernels : all_kernels()) {
        const auto above = [&](double half_step) {
          std::vector<uint64_t> bits(static_cast<size_t>(words_for(positions)));
          const int64_t words = words_for(positions);
          kernels.probability_bits({distances.data(), words * kWordBits, 1, positions}, table,
                                   half_step, {bits.data(), words, 0});
          to_codes(bits.data(), words);
          return count_ones(bits.data(), words);
        };
        const double share = 1.0 / static_cast<double>(positions);
        CHECK_EQUAL(above(share), 0);
        CHECK_EQUAL(above(std::nextafter(share, 0)), positions);
      }
    }
  }
}

// A tie is not above the threshold, and equal scores give exactly equal probabilities.
TEST(probability_bits_at_a_tie) {
  const ExpScores scores(0.1, 64, 2, 512);
  std::vector<uint16_t> distances(64, 0xffff);
  std::fill_n(distances.begin(), 16, uint16_t{0});
  for (const Kernels& kernels : all_kernels()) {
    const auto above = [&](double half_step) {
      uint64_t bits = 1;
      kernels.probability_bits({distances.data(), 64, 1, 16}, scores.table(), half_step,
                               {&bits, 1, 0});
      to_codes(&bits, 1);
      return bits;
    };
    CHECK_EQUAL(above(1.0 / 16), 0u);
    CHECK_EQUAL(above(std::nextafter(1.0 / 16, 0)), 0xffffu);
  }
}

// Exact halves, what lies around 2^-40 beside them, and one bit more or less of either.
TEST(quantize_rounds_as_written) {
  std::mt19937_64 random(9);
  const double tie = std::ldexp(1.0, -40);
  for (int bits = 1; bits <= kMostPlanes; ++bits) {
    for (const bool is_signed : {false, true}) {
      for (int64_t n = 1; n <= 200; ++n) {
        const bool exact = n % 2 == 0;
        const double step = exact ? 0.25 : 0.1 + 0.013 * bits;
        const Quantizer to = quantizer_of(bits, is_signed, n % 3 == 0 ? -0.5 : 0, step);
        const int64_t rows = 1 + n % 4, words = words_for(n);
        std::vector<double> x = draw(random, rows * n, 10), shift = draw(random, n);
        if (exact) {
          for (double& value : shift) value = static_cast<double>(random() % 5) - 2;
        }
        for (int64_t i = 0; exact && i < rows * n; ++i) {
          const double beside[] = {0, tie, -tie, 0.9 * tie, -0.9 * tie, 1.1 * tie, -1.1 * tie};
          double v = static_cast<double>(random() % 40) / 2 - 10 + beside[random() % 7];
          if (random() % 3 == 0) v = std::nextafter(v, random() % 2 != 0 ? 100 : -100);
          x[i] = v * step + to.offset - shift[i % n];
        }
        if (n % 7 == 0) x[0] = 1e300;
        if (n % 7 == 1) x[0] = -1e300;
        std::vector<int64_t> codes;
        for (int64_t i = 0; i < rows * n; ++i) {
          codes.push_back(code_of(x[i] + shift[i % n], to));
        }
        const std::vector<uint64_t> expected = planes_of(codes, n, to);
        for (const Kernels& kernels : all_kernels()) {
          std::vector<uint64_t> found(expected.size(), 1);
          kernels.quantize(x.data(), shift.data(), rows, n, to,
                           {found.data(), words, rows * words});
          CHECK(found == expected);
        }
      }
    }
  }
}

void check_values(const ValueColumns& columns, const std::vector<int32_t>& sums, int64_t n,
                  int bits, double step) {
  const int64_t rows = static_cast<int64_t>(sums.size()) / n, words = words_for(n);
  for (const Activation activation : {Activation::kRelu, Activation::kGelu}) {
    std::vector<double> values;
    for (int64_t i = 0; i < rows * n; ++i) {
      values.push_back(columns.value(i % n, sums[i], activation));
    }
    const double least = *std::min_element(values.begin(), values.end());
    const Quantizer to = quantizer_of(bits, false, least, step);
    std::vector<int64_t> codes;
    for (const double value : values) codes.push_back(code_of(value, to));
    const std::vector<uint64_t> expected = planes_of(codes, n, to);
    for (const Kernels& kernels : all_kernels()) {
      const Values of = columns.values(sums, activation);
      for (const double before : {HUGE_VAL, least + 0.01, least + 1e-9, std::nextafter(least, 10),
                                  least, std::nextafter(least, -10), -9e9}) {
        CHECK_EQUAL(kernels.least_value(of, rows, n, before), std::min(least, before));
      }
      std::vector<uint64_t> found(expected.size(), 1);
      kernels.value_codes(of, rows, n, to, {found.data(), words, rows * words});
      CHECK(found == expected);
    }
  }
}

TEST(codes_of_values_are_those_of_doubles) {
  std::mt19937_64 random(10);
  for (int64_t n = 1; n <= 200; ++n) {
    const std::vector<double> scale = draw(random, n), bias = draw(random, n);
    const std::vector<double> shift = draw(random, n);
    // Columns that hardly differ, and magnitudes at which floats cannot tell one code from another,
    // or hold none of them.
    const double spread = n % 3 == 0 ? 1e-7 : 1;
    const double factor = n % 7 == 0 ? 1e6 : n % 11 == 0 ? 1e60 : 1;
    ValueColumns columns;
    for (int64_t k = 0; k < n; ++k) {
      columns.add(factor * scale[k], factor * bias[k], spread * shift[k], 10);
    }
    std::vector<int32_t> sums(static_cast<size_t>((1 + n % 4) * n));
    for (int32_t& sum : sums) sum = static_cast<int32_t>(random() % 21) - 10;
    for (int bits = 2; bits <= kMostPlanes; ++bits) {
      check_values(columns, sums, n, bits, n % 5 == 0 ? 1e-9 : n % 2 == 0 ? 0.25 : 0.13 * bits);
    }
  }
}

// Values that lie on ties, beside them, and around the lowest point of GELU.
TEST(codes_of_values_at_ties) {
  std::mt19937_64 random(11);
  const double tie = std::ldexp(1.0, -40);
  for (int64_t n = 1; n <= 300; n += 7) {
    ValueColumns columns;
    for (int64_t k = 0; k < n; ++k) {
      const double beside[] = {0, tie, -tie, 0.9 * tie, -0.9 * tie, 1e-6, -1e-6};
      const double v = static_cast<double>(random() % 40) / 8 + beside[random() % 7];
      const double bias =
          random() % 2 != 0 ? v : -0.7517915 + 1e-4 * static_cast<double>(random() % 9);
      columns.add(0.25, bias, random() % 2 != 0 ? 0 : 0.5, 1);
    }
    std::vector<int32_t> sums(static_cast<size_t>(2 * n));
    for (int32_t& sum : sums) sum = static_cast<int32_t>(random() % 3) - 1;
    check_values(columns, sums, n, 4, 0.25);
    check_values(columns, std::vector<int32_t>(static_cast<size_t>(2 * n)), n, 2, 0.25);
  }
}

TEST(probability_codes_equal_rounded_softmax) {
  std::mt19937_64 random(12);
  for (const int64_t distances : {1, 16, 64, 127, 900}) {
    for (const double score_scale : {1e-9, 0.003, 0.1, 2.0}) {
      const ExpScores scores(score_scale, distances, 1, 512);
      const ExpTable table = scores.table();
      for (int64_t keys = 1; keys <= 200; keys += 1 + keys / 20) {
        const int bits = 1 + static_cast<int>(random() % kMostPlanes);
        const int64_t rows = 1 + keys % 20, padded = round_up(keys, kWordBits);
        const int64_t words = padded / kWordBits;
        std::vector<uint16_t> of_keys(static_cast<size_t>(rows * padded), 0xffff);
        std::vector<double> softmax;
        double least = 1;
        for (int64_t row = 0; row < rows; ++row) {
          uint16_t* of_row = &of_keys[row * padded];
          const uint64_t most = static_cast<uint64_t>(random() % 3 == 0 ? 3 : distances) + 1;
          for (int64_t j = 0; j < keys; ++j) {
            of_row[j] =
                static_cast<uint16_t>((random() % most) % static_cast<uint64_t>(table.size));
          }
          const uint16_t nearest = *std::min_element(of_row, of_row + keys);
          uint64_t sum = 0;
          for (int64_t j = 0; j < keys; ++j) sum += table.fixed[of_row[j] - nearest];
          const double inverse_total = 1.0 / (static_cast<double>(sum) * table.unit);
          for (int64_t j = 0; j < keys; ++j) {
            softmax.push_back(table.value[of_row[j] - nearest] * inverse_total);
            least = std::min(least, softmax.back());
          }
        }
        const bool from_min = random() % 2 != 0;
        // Steps at which probabilities lie on ties, and others.
        const double step = random() % 2 != 0 ? 2.0 / static_cast<double>(keys)
                                              : 0.6 / static_cast<double>(1 << bits);
        const Quantizer to = quantizer_of(bits, false, from_min ? least : 0, step);
        std::vector<int64_t> codes;
        for (const double p : softmax) codes.push_back(code_of(p, to));
        const std::vector<uint64_t> expected = planes_of(codes, keys, to);
        for (const Kernels& kernels : all_kernels()) {
          const ScoreRows rows_of_scores{of_keys.data(), padded, rows, keys};
          std::vector<RowSum> sums(static_cast<size_t>(rows));
          kernels.row_sums(rows_of_scores, table, sums.data());
          for (int64_t row = 0; row < rows; ++row) {
            const uint16_t* of_row = &of_keys[row * padded];
            CHECK_EQUAL(sums[row].nearest, *std::min_element(of_row, of_row + keys));
            CHECK_EQUAL(sums[row].farthest, *std::max_element(of_row, of_row + keys));
            uint64_t terms = 0;
            for (int64_t j = 0; j < keys; ++j) terms += table.fixed[of_row[j] - sums[row].nearest];
            CHECK_EQUAL(sums[row].terms, terms);
          }
          std::vector<uint64_t> found(expected.size(), 1);
          kernels.probability_codes(rows_of_scores, sums.data(), table, to,
                                    {found.data(), words, rows * words});
          CHECK(found == expected);
        }
      }
    }
  }
}

}  // namespace bitinfer::test
