// Every kernel of every instruction set of this machine against plain loops.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/math.h"
#include "check.h"
#include "cpu/kernels/registry.h"
#include "cpu/packed_matrix.h"
#include "cpu/weights.h"
#include "random_codes.h"

namespace bitinfer::test {
namespace {

// A right operand for the kernels; rows with zeros are listed as a file would list them.
PackedMatrix interleave(const CodeMatrix& b) {
  std::vector<int32_t> rows;
  for (int64_t n = 0; n < b.rows && b.kind == Kind::kTernary; ++n) {
    rows.push_back(static_cast<int32_t>(n));
  }
  return PackedMatrix(b.bits.data(), b.rows, b.depth,
                      {rows.data(), b.nonzero.data(), static_cast<int64_t>(rows.size())});
}

struct Product {
  CodeMatrix a, b;
  PackedMatrix packed;
  std::vector<int32_t> sums;  // the truth
  std::vector<uint64_t> running;

  Product(CodeMatrix left, CodeMatrix right)
      : a(std::move(left)), b(std::move(right)), packed(interleave(b)) {
    sums.resize(static_cast<size_t>(a.rows * b.rows));
    reference::bgemm(a.codes(), b.codes(), a.depth, sums.data());
    running = a.bits;
    const int64_t words = words_for(a.depth);
    for (int64_t m = 0; m < a.rows; ++m) to_running(&running[m * words], words);
  }
  Rows rows() const {
    return {running.data(), a.nonzero.empty() ? nullptr : a.nonzero.data(), a.rows,
            words_for(a.depth), a.kind == Kind::kUnsigned};
  }
  int32_t sum(int64_t m, int64_t n) const { return sums[m * b.rows + n]; }
  std::string name(const Kernels& kernels) const {
    return std::string(kernels.name) + " M=" + std::to_string(a.rows) +
           " N=" + std::to_string(b.rows) + " K=" + std::to_string(a.depth) + " kinds " +
           std::to_string(static_cast<int>(a.kind)) + std::to_string(static_cast<int>(b.kind));
  }
};

void expect(bool holds, const Kernels& kernels, const Product& product, const char* what) {
  if (!holds) fail(__FILE__, __LINE__, product.name(kernels) + ": " + what);
}

void check_sums(const Kernels& kernels, const Product& product) {
  std::vector<int32_t> out(product.sums.size(), -7);
  kernels.store_sums(product.rows(), product.packed.panels(),
                     {out.data(), product.b.rows, product.packed.ones()});
  expect(out == product.sums, kernels, product, "sums");
}

enum class Codes { kOneThreshold, kTwoThresholds, kTernary };

void check_codes(const Kernels& kernels, const Product& product, Codes mode,
                 std::mt19937_64& random) {
  const int64_t cols = product.b.rows, stride = words_for(cols);
  const int32_t depth = static_cast<int32_t>(product.a.depth);
  std::uniform_int_distribution<int32_t> any(-depth - 1, depth + 1);
  std::vector<int32_t> threshold(static_cast<size_t>(cols)), low(threshold.size());
  for (size_t n = 0; n < threshold.size(); ++n) {
    threshold[n] = any(random);
    low[n] = std::min(threshold[n], any(random));
    if (random() % 8 == 0) threshold[n] = INT32_MAX;
    if (random() % 8 == 0) low[n] = INT32_MIN;
    if (random() % 16 == 0) threshold[n] = INT32_MIN;
  }
  const CodeLimits limits =
      CodeLimits::of(product.packed, product.a.kind == Kind::kUnsigned, threshold.data(),
                     mode == Codes::kOneThreshold ? nullptr : low.data());
  std::vector<uint64_t> bits(static_cast<size_t>(product.a.rows * stride), ~uint64_t{0});
  std::vector<uint64_t> nonzero = bits, expected_bits(bits.size()), expected_nonzero(bits.size());
  const auto pack = [&](Words words) {
    kernels.pack_codes(product.rows(), product.packed.panels(),
                       limits.pack(bits.data(), mode == Codes::kTernary ? nonzero.data() : nullptr,
                                   stride, words));
  };
  pack(Words::kCodes);
  for (int64_t m = 0; m < product.a.rows; ++m) {
    for (int64_t n = 0; n < cols; ++n) {
      const bool plus = product.sum(m, n) > threshold[n];
      const bool minus = mode != Codes::kOneThreshold && product.sum(m, n) < low[n];
      const bool bit = mode == Codes::kTernary ? plus : plus || minus;
      or_bits(&expected_bits[m * stride], n, 1, bit);
      or_bits(&expected_nonzero[m * stride], n, 1, plus || minus);
    }
  }
  expect(bits == expected_bits, kernels, product, "codes");
  if (mode == Codes::kTernary) expect(nonzero == expected_nonzero, kernels, product, "non-zero");

  std::fill(bits.begin(), bits.end(), ~uint64_t{0});
  pack(Words::kRunning);
  for (int64_t m = 0; m < product.a.rows; ++m) to_running(&expected_bits[m * stride], stride);
  expect(bits == expected_bits, kernels, product, "running codes");
  if (mode == Codes::kTernary) expect(nonzero == expected_nonzero, kernels, product, "non-zero");
}

void check_distances(const Kernels& kernels, const Product& product) {
  if (product.a.kind == Kind::kUnsigned) return;  // scores are products of signed codes
  const int64_t stride = round_up(product.b.rows, kWordBits);
  const Panels panels = product.packed.panels();
  const auto is_masked = [&](int64_t col) {
    return product.a.kind == Kind::kTernary ||
           (panels.nonzero != nullptr && panels.nonzero[col / kPanelWidth] != nullptr);
  };
  const int32_t depth = static_cast<int32_t>(product.a.depth);
  std::vector<uint16_t> out(static_cast<size_t>(product.a.rows * stride), 7);
  kernels.store_distances(product.rows(), panels, {out.data(), stride});
  bool same = true;
  for (int64_t m = 0; m < product.a.rows; ++m) {
    for (int64_t n = 0; n < stride; ++n) {
      const int32_t expected = n >= product.b.rows ? 0xffff
                               : is_masked(n)      ? depth - product.sum(m, n)
                                                   : (depth - product.sum(m, n)) / 2;
      same &= out[m * stride + n] == expected;
    }
  }
  expect(same, kernels, product, "distances");
}

void check_product(const Product& product, std::mt19937_64& random) {
  for (const std::string& isa : available_isas()) {
    const Kernels& kernels = kernels_for(isa);
    const uint64_t before = kernels.products_run();
    check_sums(kernels, product);
    for (const Codes mode : {Codes::kOneThreshold, Codes::kTwoThresholds, Codes::kTernary}) {
      check_codes(kernels, product, mode, random);
    }
    check_distances(kernels, product);
    CHECK(kernels.products_run() >= before + 7);
  }
}

constexpr Kind kLeftKinds[] = {Kind::kSigned, Kind::kUnsigned, Kind::kTernary};
constexpr Kind kRightKinds[] = {Kind::kSigned, Kind::kTernary};

}  // namespace

// Tiles have up to 5 rows and 32 columns: every remainder of each axis, past several of them.
TEST(kernels_equal_reference_at_every_tail) {
  std::mt19937_64 random(1);
  const auto check = [&](int64_t m, int64_t n, int64_t k) {
    const Kind left = kLeftKinds[random() % 3], right = kRightKinds[random() % 4 == 0];
    check_product({make_codes(random, m, k, left), make_codes(random, n, k, right)}, random);
  };
  for (int64_t m = 1; m <= 17; ++m) {
    for (const int64_t n : {1, 16, 17, 33, 64, 80}) check(m, n, 1 + random() % 140);
  }
  for (int64_t n = 1; n <= 130; ++n) check(1 + random() % 9, n, 1 + random() % 140);
  for (int64_t k = 1; k <= 130; ++k) check(1 + random() % 9, 1 + random() % 70, k);
}

TEST(kernels_equal_reference_for_every_kind) {
  std::mt19937_64 random(2);
  for (const Kind left : kLeftKinds) {
    for (const Kind right : kRightKinds) {
      check_product({make_codes(random, 7, 200, left), make_codes(random, 83, 200, right)}, random);
    }
  }
}

// Byte counters hold 31 steps of 32 bits at most; here every bit of every step counts.
TEST(kernels_do_not_overflow) {
  std::mt19937_64 random(3);
  for (const int64_t depth : {31 * 32, 32 * 32, 31 * 32 + 1, 63 * 32, 5000}) {
    for (const Fill fill : {Fill::kAllZeros, Fill::kAllOnes, Fill::kAlternating}) {
      for (const Kind kind : kRightKinds) {
        check_product({make_codes(random, 5, depth, Kind::kSigned, fill),
                       make_codes(random, 18, depth, kind, Fill::kAllOnes)},
                      random);
      }
    }
  }
}

// Zeros in few rows: only their panels take the masked product. Every choice of such panels,
// because plain panels between them go in pairs, and a packed word holds two.
TEST(zeros_in_some_panels) {
  std::mt19937_64 random(4);
  constexpr int64_t kRows = 100, kPanels = 7;
  const CodeMatrix plain = make_codes(random, kRows, 150, Kind::kSigned);
  const int64_t words = words_for(plain.depth);
  for (int chosen = 1; chosen < 1 << kPanels; ++chosen) {
    CodeMatrix b = plain;
    b.kind = Kind::kTernary;
    b.nonzero.assign(b.bits.size(), 0);
    std::vector<int32_t> rows;
    std::vector<uint64_t> planes;
    for (int64_t n = 0; n < kRows; ++n) {
      uint64_t* nonzero = &b.nonzero[n * words];
      for (int64_t w = 0; w < words; ++w) nonzero[w] = low_bits(b.depth - w * kWordBits);
      const bool has_zeros = (chosen >> (n / kPanelWidth) & 1) != 0 && n % kPanelWidth == 3;
      if (!has_zeros) continue;
      nonzero[0] &= random();
      b.bits[n * words] &= nonzero[0];
      rows.push_back(static_cast<int32_t>(n));
      planes.insert(planes.end(), nonzero, nonzero + words);
    }
    const Kind left = kLeftKinds[chosen % 3];
    Product product(make_codes(random, 6, b.depth, left), b);
    product.packed = PackedMatrix(b.bits.data(), b.rows, b.depth,
                                  {rows.data(), planes.data(), static_cast<int64_t>(rows.size())});
    const Panels panels = product.packed.panels();
    for (int64_t p = 0; p < kPanels && !rows.empty(); ++p) {
      CHECK_EQUAL(panels.nonzero[p] != nullptr, (chosen >> p & 1) != 0);
    }
    check_product(product, random);
  }
}

TEST(packing_equals_comparison) {
  std::mt19937_64 random(5);
  for (const std::string& isa : available_isas()) {
    const Kernels& kernels = kernels_for(isa);
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
        std::vector<uint64_t> greater(words, 1), unequal(words, 1), expected(words),
            expected_unequal(words);
        bool any_equal = false;
        for (int64_t k = 0; k < n; ++k) {
          const double limit = with_threshold ? threshold[k] : 0.0;
          or_bits(expected.data(), k, 1, x[k] > limit);
          or_bits(expected_unequal.data(), k, 1, x[k] != limit);
          any_equal |= x[k] == limit;
        }
        const double* limits = with_threshold ? threshold.data() : nullptr;
        CHECK_EQUAL(kernels.pack_greater(x.data(), limits, n, greater.data()), any_equal);
        kernels.pack_not_equal(x.data(), limits, n, unequal.data());
        to_running(expected.data(), static_cast<int64_t>(words));
        CHECK(greater == expected);
        CHECK(unequal == expected_unequal);
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
  std::normal_distribution<double> normal(0.3, 2);
  const auto draw = [&](int64_t count) {
    std::vector<double> values(static_cast<size_t>(count));
    for (double& value : values) value = normal(random);
    return values;
  };
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
    for (const std::string& isa : available_isas()) {
      const Kernels& kernels = kernels_for(isa);
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
      for (const std::string& isa : available_isas()) {
        for (const bool meets : {false, true}) {
          std::vector<double> out = x;
          if (!meets) out[row_met * n] = 8.0;
          std::vector<uint64_t> bits(static_cast<size_t>(kRows * words_for(n)));
          Signs sign{threshold.data(), bits.data(), words_for(n), false};
          kernels_for(isa).layer_norm({out.data(), kRows, n, weight.data(), bias.data(), {}}, &sign,
                                      1);
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
    for (const std::string& isa : available_isas()) {
      std::vector<double> out(sums.size());
      kernels_for(isa).affine({sums.data(), scale.data(), bias.data()}, rows, n, out.data());
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
        for (const std::string& isa : available_isas()) {
          std::vector<uint64_t> bits(expected.size(), 1);
          kernels_for(isa).probability_bits(
              {distances.data(), padded, rows, keys, bits.data(), words}, table, half_step);
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
      const ExpScores scores(0.1, 64, step, positions);
      const ExpTable table = scores.table();
      CHECK_EQUAL(table.size, 128 / step + 1);
      CHECK(table.fixed[0] <= uint64_t{1} << 55);
      CHECK(static_cast<double>(table.fixed[0]) * table.unit == 1.0);
      for (int64_t t = 1; t < table.size; ++t) CHECK(table.fixed[t] <= table.fixed[t - 1]);
      std::vector<uint16_t> distances(static_cast<size_t>(round_up(positions, kWordBits)), 0xffff);
      std::fill_n(distances.begin(), positions, uint16_t{5});
      for (const std::string& isa : available_isas()) {
        const auto above = [&](double half_step) {
          std::vector<uint64_t> bits(static_cast<size_t>(words_for(positions)));
          const int64_t words = words_for(positions);
          kernels_for(isa).probability_bits(
              {distances.data(), words * kWordBits, 1, positions, bits.data(), words}, table,
              half_step);
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
  for (const std::string& isa : available_isas()) {
    const auto above = [&](double half_step) {
      uint64_t bits = 1;
      kernels_for(isa).probability_bits({distances.data(), 64, 1, 16, &bits, 1}, scores.table(),
                                        half_step);
      to_codes(&bits, 1);
      return bits;
    };
    CHECK_EQUAL(above(1.0 / 16), 0u);
    CHECK_EQUAL(above(std::nextafter(1.0 / 16, 0)), 0xffffu);
  }
}

TEST(popcount_probe_counts_its_work) {
  for (const std::string& isa : available_isas()) {
    CHECK(kernels_for(isa).popcount_probe(10) >= 10 * 8 * 64);
  }
}

}  // namespace bitinfer::test
