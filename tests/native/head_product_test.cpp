// Products of attention, of bits and of bytes, against plain loops.
#include "cpu/head_product.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "all_kernels.h"
#include "check.h"
#include "cpu/kernels/reference.h"

namespace bitinfer::test {
namespace {

// Rows of random codes as the engine keeps them, and as plain numbers.
struct RandomCodes {
  RandomCodes(std::mt19937_64& random, const Codes& codes, int64_t rows, int64_t width)
      : width(width), values(static_cast<size_t>(rows * width)) {
    planes.reserve(rows, width, codes.planes);
    for (int64_t i = 0; i < rows * width; ++i) {
      uint64_t bits = random() % (uint64_t{1} << codes.planes);
      if (codes.planes == 2 && codes.c[1] == 1) bits |= bits << 1 & 2;  // x > 0 implies x >= 0
      values[i] = codes.c0;
      for (int j = 0; j < codes.planes; ++j) {
        const uint64_t bit = bits >> j & 1;
        values[i] += codes.c[j] * static_cast<int32_t>(bit);
        or_bits(planes.plane(j, i / width), i % width, 1, bit);
      }
    }
  }
  int32_t at(int64_t row, int64_t k) const { return values[row * width + k]; }

  int64_t width;
  CodeRows planes;
  std::vector<int32_t> values;
};

std::vector<Codes> all_codes(bool is_signed) {
  std::vector<Codes> all;
  for (int bits = 1; bits <= kMostPlanes; ++bits) {
    all.push_back(PointCodes{bits, is_signed, false}.codes());
  }
  if (is_signed) all.push_back(signs_with_zeros());
  return all;
}

void check_sums(const HeadProduct& product, const Kernels& kernels, int64_t rows,
                const std::vector<int32_t>& expected) {
  std::vector<int32_t> sums(expected.size());
  product.store_sums(kernels, rows, sums.data());
  CHECK(sums == expected);

  // T again, from distances.
  const int64_t columns = static_cast<int64_t>(expected.size()) / rows;
  const int64_t stride = round_up(columns, kWordBits);
  constexpr int32_t kLargest = 9000;
  std::vector<int32_t> constants(static_cast<size_t>(round_up(columns, kPanelWidth)));
  for (int64_t n = 0; n < columns; ++n) constants[n] = kLargest - product.constants()[n];
  std::vector<uint16_t> distances(static_cast<size_t>(rows * stride));
  product.store_distances(kernels, rows, {distances.data(), stride, constants.data()});
  bool same = true;
  for (int64_t i = 0; product.factor() == 1 && i < rows * columns; ++i) {
    same &= distances[i / columns * stride + i % columns] == kLargest - expected[i];
  }
  CHECK(same);
}

}  // namespace

// Queries by keys: both sides are a part of longer rows.
TEST(head_products_of_rows) {
  std::mt19937_64 random(1);
  for (const Codes& left : all_codes(true)) {
    for (const Codes& right : all_codes(true)) {
      for (const int64_t depth : {1, 7, 8, 32, 64, 65, 100}) {
        const int64_t rows = 1 + random() % 9, columns = 1 + random() % 40, width = depth + 70;
        const int64_t first = random() % 3, offset = random() % 71;
        const RandomCodes a(random, left, rows + first, width);
        const RandomCodes b(random, right, columns + first, width);
        std::vector<int32_t> expected;
        for (int64_t i = 0; i < rows * columns; ++i) {
          int32_t sum = 0;
          for (int64_t k = offset; k < offset + depth; ++k) {
            sum += a.at(first + i / columns, k) * b.at(first + i % columns, k);
          }
          expected.push_back(sum);
        }
        HeadProduct product;
        product.reserve(rows, columns, depth, left, right);
        product.take_columns(b.planes, first, offset);
        product.take_rows(a.planes, first, offset, rows);
        for (const Kernels& kernels : all_kernels()) {
          check_sums(product, kernels, rows, expected);
        }
      }
    }
  }
}

// Probabilities by values: the depth are rows of values, and planes are filled from outside. One
// product after another in the same memory.
TEST(head_products_across_rows) {
  std::mt19937_64 random(2);
  for (const Kernels& kernels : all_kernels()) {
    HeadProduct product;
    for (const Codes& left : all_codes(false)) {
      for (const Codes& right : all_codes(true)) product.reserve(9, 72, 300, left, right);
    }
    for (int round = 0; round < 300; ++round) {
      const Codes left = unsigned_codes(1 + round % kMostPlanes);
      const Codes right = all_codes(true)[random() % 5];
      const int64_t rows = 1 + random() % 9, columns = 1 + random() % 72;
      const int64_t depth = 1 + random() % 300, offset = random() % 71, first = random() % 3;
      RandomCodes a(random, left, rows, depth);
      const RandomCodes b(random, right, depth + first, columns + 70);
      product.shape(columns, depth, left, right);
      product.take_columns_across(b.planes, first, offset, kernels);
      for (int64_t i = 0; i < rows; ++i) {
        for (int j = 0; j < left.planes; ++j) {
          std::copy_n(a.planes.plane(j, i), words_for(depth), product.planes().plane(j, i));
          to_running(product.planes().plane(j, i), words_for(depth));
        }
      }
      product.take_planes(rows);
      std::vector<int32_t> expected;
      for (int64_t i = 0; i < rows * columns; ++i) {
        int32_t sum = 0;
        for (int64_t k = 0; k < depth; ++k) {
          sum += a.at(i / columns, k) * b.at(first + k, offset + i % columns);
        }
        expected.push_back(sum);
      }
      check_sums(product, kernels, rows, expected);
      for (int64_t n = 0; n < columns; ++n) {
        int32_t sum = 0;
        for (int64_t k = 0; k < depth; ++k) sum += b.at(first + k, offset + n);
        CHECK_EQUAL(product.column_sum(n), sum);
      }
    }
  }
}

}  // namespace bitinfer::test
