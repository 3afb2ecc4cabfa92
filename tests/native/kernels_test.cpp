// Every kernel of every instruction set of this machine against plain loops.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/math.h"
#include "check.h"
#include "kernels/registry.h"
#include "model/packed_matrix.h"
#include "model/weights.h"
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

// Zeros in few rows: only their panels take the masked product.
TEST(zeros_in_single_rows) {
  std::mt19937_64 random(4);
  CodeMatrix b = make_codes(random, 100, 150, Kind::kTernary);
  const int64_t words = words_for(b.depth);
  const std::vector<int32_t> rows = {0, 17, 99};
  std::vector<uint64_t> planes;
  for (int64_t n = 0; n < b.rows; ++n) {
    uint64_t* nonzero = &b.nonzero[n * words];
    if (std::find(rows.begin(), rows.end(), n) != rows.end()) {
      planes.insert(planes.end(), nonzero, nonzero + words);
    } else {
      for (int64_t w = 0; w < words; ++w) nonzero[w] = low_bits(b.depth - w * kWordBits);
    }
  }
  for (const Kind left : kLeftKinds) {
    Product product(make_codes(random, 6, b.depth, left), b);
    product.packed = PackedMatrix(b.bits.data(), b.rows, b.depth,
                                  {rows.data(), planes.data(), static_cast<int64_t>(rows.size())});
    const Panels panels = product.packed.panels();
    int64_t masked = 0;
    for (int64_t p = 0; p < panels.panel_count; ++p) masked += panels.nonzero[p] != nullptr;
    CHECK_EQUAL(masked, 3);
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

// Rows pass in blocks of 32 and columns in words of 64. Half of the thresholds of the first signs
// are met exactly: there the weight is 0 and the bias a float32, as thresholds are.
TEST(layer_norm_and_signs_are_the_same_everywhere) {
  std::mt19937_64 random(6);
  std::normal_distribution<double> normal(0.3, 2);
  const auto draw = [&](int64_t count) {
    std::vector<double> values(static_cast<size_t>(count));
    for (double& value : values) value = normal(random);
    return values;
  };
  for (int64_t n = 1; n <= 140; ++n) {
    const int64_t rows = n % 7 == 0 ? 32 + n % 3 : 1 + n % 3;
    const std::vector<double> x = draw(rows * n), scale = draw(n), added_bias = draw(n);
    std::vector<int32_t> sums(x.size());
    for (int32_t& sum : sums) sum = static_cast<int32_t>(random() % 101) - 50;
    const bool adds = n % 2 == 0;
    const ScaledSums added{adds ? sums.data() : nullptr, scale.data(), added_bias.data()};
    std::vector<double> weight = draw(n), bias = draw(n);
    std::fill_n(weight.begin(), (n + 1) / 2, 0.0);
    for (double& value : bias) value = static_cast<float>(value);
    std::vector<double> expected = x;
    kernels_for("portable")
        .layer_norm({expected.data(), rows, n, weight.data(), bias.data(), added}, nullptr, 0);
    std::vector<double> input = x;
    for (size_t i = 0; adds && i < input.size(); ++i) {
      const size_t k = i % static_cast<size_t>(n);
      input[i] += scale[k] * sums[i] + added_bias[k];
    }
    for (int64_t row = 0; row < rows; ++row) {
      const double* values = &input[row * n];
      long double mean = 0, variance = 0;
      for (int64_t k = 0; k < n; ++k) mean += values[k];
      mean /= n;
      for (int64_t k = 0; k < n; ++k) variance += (values[k] - mean) * (values[k] - mean);
      const long double scale = 1 / std::sqrt(variance / n + 1e-12L);
      for (int64_t k = 0; k < n; ++k) {
        const long double truth = (values[k] - mean) * scale * weight[k] + bias[k];
        CHECK(std::fabs(static_cast<double>(truth - expected[row * n + k])) < 1e-12);
      }
    }
    for (const std::string& isa : available_isas()) {
      for (int count = 0; count <= kMostSigns; ++count) {
        std::vector<double> out = x;
        std::vector<std::vector<double>> thresholds;
        std::vector<std::vector<uint64_t>> bits;
        Signs signs[kMostSigns];
        const int64_t words = words_for(n);
        for (int s = 0; s < count; ++s) {
          thresholds.push_back(draw(n));
          for (double& value : thresholds[s]) value = static_cast<float>(value);
          if (s == 0) std::copy_n(bias.begin(), (n + 1) / 2, thresholds[0].begin());
          bits.emplace_back(static_cast<size_t>(rows * words), 1);
        }
        for (int s = 0; s < count; ++s)
          signs[s] = {thresholds[s].data(), bits[s].data(), words, false};
        const Kernels& kernels = kernels_for(isa);
        kernels.layer_norm({out.data(), rows, n, weight.data(), bias.data(), added}, signs, count);
        CHECK(std::memcmp(out.data(), expected.data(), out.size() * sizeof(double)) == 0);
        for (int s = 0; s < count; ++s) {
          CHECK_EQUAL(signs[s].any_equal, s == 0);
          for (int64_t row = 0; row < rows; ++row) {
            std::vector<uint64_t> greater(static_cast<size_t>(words));
            kernels.pack_greater(&expected[row * n], thresholds[s].data(), n, greater.data());
            CHECK(std::equal(greater.begin(), greater.end(), &bits[s][row * words]));
          }
        }
      }
    }
  }
}

TEST(embedding_adds_word_position_and_segment) {
  std::mt19937_64 random(9);
  std::normal_distribution<float> normal;
  for (int64_t n = 1; n <= 200; ++n) {
    const Kind kind = n % 3 == 0 ? Kind::kTernary : Kind::kSigned;
    const CodeMatrix word = make_codes(random, 1, n, kind);
    std::vector<float> position(static_cast<size_t>(n)), segment(position.size());
    for (auto* values : {&position, &segment}) {
      for (float& value : *values) value = normal(random);
    }
    const double scale = 0.0371;
    for (const std::string& isa : available_isas()) {
      std::vector<double> out(position.size());
      kernels_for(isa).embed(
          {word.bits.data(), kind == Kind::kTernary ? word.nonzero.data() : nullptr, scale,
           position.data(), segment.data(), n},
          out.data());
      for (int64_t k = 0; k < n; ++k) {
        const double value = scale * reference::code(word.codes(), 0, k, n);
        CHECK_EQUAL(out[k],
                    value + static_cast<double>(position[k]) + static_cast<double>(segment[k]));
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
