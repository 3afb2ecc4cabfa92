// Products of planes and halves of every instruction set of this machine, and of wide vectors,
// against plain loops.
#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "all_kernels.h"
#include "check.h"
#include "cpu/columns.h"
#include "cpu/kernels/reference.h"
#include "random_planes.h"

namespace bitinfer::test {
namespace {

int32_t differences(const uint64_t* a, const uint64_t* b, int64_t words) {
  int32_t count = 0;
  for (int64_t w = 0; w < words; ++w) count += __builtin_popcountll(a[w] ^ b[w]);
  return count;
}

// Rows of planes times columns of halves, and T of both as cpu/kernels/table.h writes it.
class Product {
 public:
  // `right` has one half or two; of those, bit p of `chosen` says that panel p has both.
  Product(std::mt19937_64& random, Planes left, Planes right, uint64_t chosen)
      : a(std::move(left)), b(std::move(right)), running_(a.running()) {
    for (int j = 0; j < a.planes; ++j)
      coefficient_[j] = 1 << (random() % 2 != 0 ? j : random() % 4);
    if (a.planes == 1) coefficient_[0] = 1;
    const int64_t steps = ceil_div(b.depth, kStepBits), panels = ceil_div(b.rows, kPanelWidth);
    halves_.resize(static_cast<size_t>(b.planes));
    for (int h = 0; h < b.planes; ++h) {
      halves_[h].resize(static_cast<size_t>(panels * steps * kPanelWidth));
      for (int64_t n = 0; n < b.rows; ++n) {
        interleave_row(b.row(h, n), n, steps, halves_[h].data());
      }
    }
    for (int64_t p = 0; b.planes == 2 && p < panels; ++p) {
      const uint32_t* words = halves_[1].data() + p * steps * kPanelWidth;
      others_.push_back((chosen >> (p % 64) & 1) != 0 ? words : nullptr);
    }
    for (int64_t m = 0; m < a.rows; ++m) {
      for (int64_t n = 0; n < b.rows; ++n) t_.push_back(count(m, n));
    }
  }

  Rows rows() const {
    Rows rows{running_.data(), a.rows, a.stride(), a.plane_stride(), a.planes, {}};
    std::copy_n(coefficient_, kMostPlanes, rows.coefficient);
    return rows;
  }
  Panels panels() const {
    return {halves_[0].data(), others_.empty() ? nullptr : others_.data(), b.rows,
            ceil_div(b.depth, kStepBits), ceil_div(b.rows, kPanelWidth)};
  }
  int64_t row_count() const { return a.rows; }
  int64_t columns() const { return b.rows; }
  bool halved(int64_t n) const { return panels().has_halves(n / kPanelWidth); }
  int32_t t(int64_t m, int64_t n) const { return t_[m * b.rows + n]; }
  std::string name() const {
    return std::to_string(a.planes) + " x " + std::to_string(b.planes) +
           " M=" + std::to_string(a.rows) + " N=" + std::to_string(b.rows) +
           " K=" + std::to_string(a.depth);
  }

  const Planes a, b;

 private:
  int32_t count(int64_t m, int64_t n) const {
    int32_t sum = 0;
    for (int h = 0; h < (halved(n) ? b.planes : 1); ++h) {
      for (int j = 0; j < a.planes; ++j) {
        sum += coefficient_[j] * differences(a.row(j, m), b.row(h, n), a.stride());
      }
    }
    return sum;
  }

  std::vector<uint64_t> running_;
  int32_t coefficient_[kMostPlanes] = {};
  std::vector<std::vector<uint32_t>> halves_;
  std::vector<const uint32_t*> others_;
  std::vector<int32_t> t_;
};

// Rows of bytes times columns of bytes.
class ByteProduct {
 public:
  ByteProduct(std::mt19937_64& random, int64_t m, int64_t n, int64_t k, bool largest)
      : rows_(m), cols_(n), depth_(k), stride_(round_up(k, kStepBytes)) {
    const int64_t steps = stride_ / kStepBytes, panels = ceil_div(n, kPanelWidth);
    left_.resize(static_cast<size_t>(m * stride_));
    right_.resize(static_cast<size_t>(n * stride_));
    words_.resize(static_cast<size_t>(panels * steps * kPanelWidth));
    for (int64_t i = 0; i < m * stride_; ++i) {
      if (i % stride_ < k) left_[i] = static_cast<uint8_t>(largest ? 15 : random() % 16);
    }
    for (int8_t& value : right_) value = static_cast<int8_t>(largest ? 8 : random() % 17 - 8);
    for (int64_t i = 0; i < n * steps; ++i) {
      const int64_t column = i / steps, s = i % steps;
      std::memcpy(&words_[(column / kPanelWidth * steps + s) * kPanelWidth + column % kPanelWidth],
                  &right_[column * stride_ + s * kStepBytes], kStepBytes);
    }
  }

  ByteRows rows() const { return {left_.data(), rows_, stride_}; }
  BytePanels panels() const {
    return {words_.data(), cols_, stride_ / kStepBytes, ceil_div(cols_, kPanelWidth)};
  }
  int64_t row_count() const { return rows_; }
  int64_t columns() const { return cols_; }
  bool halved(int64_t) const { return false; }
  int32_t t(int64_t m, int64_t n) const {
    int32_t sum = 0;
    for (int64_t k = 0; k < depth_; ++k) sum += left_[m * stride_ + k] * right_[n * stride_ + k];
    return sum;
  }
  std::string name() const {
    return "bytes M=" + std::to_string(rows_) + " N=" + std::to_string(cols_) +
           " K=" + std::to_string(depth_);
  }

 private:
  int64_t rows_, cols_, depth_, stride_;
  std::vector<uint8_t> left_;
  std::vector<int8_t> right_;
  std::vector<uint32_t> words_;
};

void run(const Kernels& kernels, const Product& product, const StoreSums& to) {
  kernels.store_sums(product.rows(), product.panels(), to);
}
void run(const Kernels& kernels, const Product& product, const PackCodes& to) {
  kernels.pack_codes(product.rows(), product.panels(), to);
}
void run(const Kernels& kernels, const Product& product, const StoreDistances& to) {
  kernels.store_distances(product.rows(), product.panels(), to);
}
void run(const Kernels& kernels, const ByteProduct& product, const StoreSums& to) {
  kernels.store_byte_sums(product.rows(), product.panels(), to);
}
void run(const Kernels& kernels, const ByteProduct& product, const PackCodes& to) {
  kernels.pack_byte_codes(product.rows(), product.panels(), to);
}
void run(const Kernels& kernels, const ByteProduct& product, const StoreDistances& to) {
  kernels.store_byte_distances(product.rows(), product.panels(), to);
}

void expect(bool holds, const Kernels& kernels, const std::string& product, const char* what) {
  if (!holds) fail(__FILE__, __LINE__, kernels.name + (" " + product) + ": " + what);
}

std::vector<int32_t> random_constants(std::mt19937_64& random, int64_t columns, int32_t most) {
  std::vector<int32_t> constants(static_cast<size_t>(round_up(columns, kPanelWidth)));
  for (int32_t& value : constants) value = static_cast<int32_t>(random() % (most + 1));
  return constants;
}

template <class AnyProduct>
void check_sums(const Kernels& kernels, const AnyProduct& product, std::mt19937_64& random) {
  const int64_t cols = product.columns();
  const std::vector<int32_t> constants = random_constants(random, cols, 5000);
  for (const bool doubled : {false, true}) {
    std::vector<int32_t> out(static_cast<size_t>(product.row_count() * cols), -7), expected;
    run(kernels, product, StoreSums{out.data(), cols, constants.data(), doubled});
    for (int64_t m = 0; m < product.row_count(); ++m) {
      for (int64_t n = 0; n < cols; ++n) {
        const int32_t sum = constants[n] - (doubled ? 2 : 1) * product.t(m, n);
        expected.push_back(product.halved(n) ? sum >> 1 : sum);
      }
    }
    expect(out == expected, kernels, product.name(), "sums");
  }
}

// Any flips at all: in any order, with any planes, for codes that rise and fall.
template <class AnyProduct>
void check_codes(const Kernels& kernels, const AnyProduct& product, int planes, int count,
                 std::mt19937_64& random) {
  const int64_t cols = product.columns(), stride = words_for(cols) + random() % 2;
  const int64_t rows = product.row_count(), padded = round_up(cols, kPanelWidth);
  Flips flips{nullptr, padded, count, false, {}, 0, planes};
  std::vector<int32_t> limits(static_cast<size_t>(padded * count));
  for (int f = 0; f < count; ++f) {
    flips.toggles[f] = static_cast<uint8_t>(planes == 1 ? 1 : 1 + random() % ((1 << planes) - 1));
    // Columns without bits: what is turned over there ends as 0.
    const bool always = random() % 2 != 0;
    if (always) flips.starts ^= flips.toggles[f];
    for (int64_t n = 0; n < padded; ++n) {
      int32_t& limit = limits[f * padded + n];
      if (n >= cols) {
        limit = always ? INT32_MAX : INT32_MIN;
      } else {
        limit = product.t(random() % rows, n) + static_cast<int32_t>(random() % 3) - 1;
        if (random() % 8 == 0) limit = random() % 2 != 0 ? INT32_MAX : INT32_MIN;
      }
    }
  }
  flips.limits = limits.data();
  const int64_t plane_stride = rows * stride;
  std::vector<uint64_t> expected(static_cast<size_t>(planes * plane_stride));
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t n = 0; n < cols; ++n) {
      uint8_t code = flips.starts;
      for (int f = 0; f < count; ++f) {
        if (product.t(m, n) < limits[f * padded + n]) code ^= flips.toggles[f];
      }
      for (int j = 0; j < planes; ++j) {
        or_bits(&expected[j * plane_stride + m * stride], n, 1, code >> j & 1);
      }
    }
  }
  for (const Words words : {Words::kCodes, Words::kRunning}) {
    std::vector<uint64_t> bits(expected.size(), ~uint64_t{0});
    run(kernels, product, PackCodes{flips, bits.data(), stride, plane_stride, words});
    if (words == Words::kRunning) {
      for (int64_t i = 0; i < planes * rows; ++i) to_running(&expected[i * stride], stride);
    }
    expect(bits == expected, kernels, product.name(), "codes");
  }
}

template <class AnyProduct>
void check_distances(const Kernels& kernels, const AnyProduct& product, std::mt19937_64& random) {
  const int64_t cols = product.columns(), stride = round_up(cols, kWordBits);
  const std::vector<int32_t> constants = random_constants(random, cols, 3000);
  for (const bool has_constants : {false, true}) {
    std::vector<uint16_t> out(static_cast<size_t>(product.row_count() * stride), 7), expected;
    for (int64_t m = 0; m < product.row_count(); ++m) {
      for (int64_t n = 0; n < stride; ++n) {
        if (n >= cols) {
          expected.push_back(0xffff);
          continue;
        }
        const int32_t distance = product.t(m, n) + (has_constants ? constants[n] : 0);
        if (distance < 0 || distance > 0xffff) return;  // none of a score
        expected.push_back(static_cast<uint16_t>(distance));
      }
    }
    run(kernels, product,
        StoreDistances{out.data(), stride, has_constants ? constants.data() : nullptr});
    expect(out == expected, kernels, product.name(), "distances");
  }
}

template <class AnyProduct>
void check_product(const AnyProduct& product, std::mt19937_64& random) {
  for (const Kernels& kernels : all_kernels()) {
    const uint64_t before = kernels.products_run();
    check_sums(kernels, product, random);
    check_codes(kernels, product, 1, 1, random);
    check_codes(kernels, product, 1, 2, random);
    const int planes = 1 + static_cast<int>(random() % kMostPlanes);
    check_codes(kernels, product, planes, 1 + static_cast<int>(random() % kMostFlips), random);
    check_distances(kernels, product, random);
    CHECK(kernels.products_run() >= before + 8);
  }
}

Product random_product(std::mt19937_64& random, int64_t m, int64_t n, int64_t k, int planes,
                       int halves) {
  Planes a(random, planes, m, k), b(random, halves, n, k);
  return Product(random, std::move(a), std::move(b), random());
}

int any_planes(std::mt19937_64& random) {
  return random() % 2 != 0 ? 1 : 1 + static_cast<int>(random() % kMostPlanes);
}

reference::Matrix decoded(const Planes& planes, const Codes& codes) {
  reference::Matrix matrix{planes.words.data(),
                           planes.rows,
                           planes.depth,
                           planes.plane_stride(),
                           codes.planes,
                           codes.c0,
                           {}};
  std::copy_n(codes.c, kMostPlanes, matrix.c);
  return matrix;
}

}  // namespace

// Tiles have up to 8 rows and 32 columns: every remainder of each axis, past several of them.
TEST(products_equal_plain_loops_at_every_tail) {
  std::mt19937_64 random(1);
  const auto check = [&](int64_t m, int64_t n, int64_t k) {
    check_product(random_product(random, m, n, k, any_planes(random), 1 + random() % 2), random);
  };
  for (int64_t m = 1; m <= 17; ++m) {
    for (const int64_t n : {1, 16, 17, 33, 64, 80}) check(m, n, 1 + random() % 140);
  }
  for (int64_t n = 1; n <= 130; ++n) check(1 + random() % 9, n, 1 + random() % 140);
  for (int64_t k = 1; k <= 130; ++k) check(1 + random() % 9, 1 + random() % 70, k);
}

TEST(products_equal_plain_loops_for_all_planes_and_halves) {
  std::mt19937_64 random(2);
  for (int planes = 1; planes <= kMostPlanes; ++planes) {
    for (int halves = 1; halves <= 2; ++halves) {
      for (int64_t m = 1; m <= 12; ++m) {
        const int64_t n = 1 + random() % 90, k = 1 + random() % 200;
        check_product(random_product(random, m, n, k, planes, halves), random);
      }
    }
  }
}

// Byte counters hold 31 steps of 32 bits at most; here every bit of every step counts.
TEST(products_do_not_overflow) {
  std::mt19937_64 random(3);
  for (const int64_t depth : {31 * 32, 32 * 32, 31 * 32 + 1, 63 * 32, 5000}) {
    for (const Fill fill : {Fill::kAllZeros, Fill::kAllOnes, Fill::kAlternating}) {
      for (const int planes : {1, 2}) {
        Planes a(random, planes, 5, depth, fill), b(random, planes, 18, depth, Fill::kAllOnes);
        check_product(Product(random, std::move(a), std::move(b), ~uint64_t{0}), random);
      }
    }
  }
}

// Halves in some panels: every choice of them, because panels between them go in pairs, and a
// packed word holds two.
TEST(halves_in_some_panels) {
  std::mt19937_64 random(4);
  for (uint64_t chosen = 1; chosen < 1 << 7; ++chosen) {
    Planes a(random, any_planes(random), 6, 150), b(random, 2, 100, 150);
    check_product(Product(random, std::move(a), std::move(b), chosen), random);
  }
}

// Attention has up to 128 rows, panels of one head and any depth; sums of 16 bits would overflow at
// 137 of the largest products.
TEST(products_of_bytes_equal_plain_loops) {
  std::mt19937_64 random(6);
  for (int64_t m = 1; m <= 17; ++m) {
    for (const int64_t n : {1, 15, 16, 17, 64, 65}) {
      check_product(ByteProduct(random, m, n, 1 + random() % 200, false), random);
    }
  }
  for (int64_t k = 1; k <= 70; ++k) check_product(ByteProduct(random, 5, 18, k, false), random);
  for (const int64_t k : {4 * 136, 4 * 137, 4 * 136 * 3 + 1, 5000}) {
    check_product(ByteProduct(random, 9, 18, k, true), random);
  }
}

// Codes of every kind times +-1 and exact zeros: what is added up is the product of the values, and
// boundaries on it are kept.
TEST(products_of_codes_are_products_of_values) {
  std::mt19937_64 random(5);
  std::vector<PointCodes> kinds;
  for (int bits = 1; bits <= kMostPlanes; ++bits) {
    for (const bool is_signed : {false, true}) kinds.push_back({bits, is_signed, false});
  }
  for (int round = 0; round < 200; ++round) {
    const PointCodes kind = kinds[random() % kinds.size()], made = kinds[random() % kinds.size()];
    const bool has_zeros = kind.are_signs() && random() % 2 != 0;
    const Codes codes = has_zeros ? signs_with_zeros() : kind.codes();
    const int64_t rows = 1 + random() % 9, cols = 1 + random() % 90, depth = 1 + random() % 300;
    Planes a(random, codes.planes, rows, depth), b(random, 2, cols, depth);
    // x > 0 implies x >= 0, on both sides.
    for (int64_t w = 0; has_zeros && w < a.plane_stride(); ++w) {
      a.words[a.plane_stride() + w] |= a.words[w];
    }
    std::vector<int32_t> zero_rows;
    std::vector<uint64_t> nonzero;
    for (int64_t n = 0; n < cols; ++n) {
      const bool is_zero_row = random() % 40 == 0;
      if (is_zero_row) zero_rows.push_back(static_cast<int32_t>(n));
      for (int64_t w = 0; w < b.stride(); ++w) {
        uint64_t& above = b.words[n * b.stride() + w];
        uint64_t& not_below = b.words[b.plane_stride() + n * b.stride() + w];
        const uint64_t all = low_bits(depth - w * kWordBits);
        not_below = is_zero_row ? not_below | above : above;
        if (is_zero_row) nonzero.push_back(~(not_below & ~above) & all);
      }
    }
    std::vector<int32_t> sums(static_cast<size_t>(rows * cols));
    reference::bgemm(decoded(a, codes), decoded(b, signs_with_zeros()), sums.data());

    const Columns columns(
        {b.words.data(),
         cols,
         depth,
         {zero_rows.data(), nonzero.data(), static_cast<int64_t>(zero_rows.size())}});
    const LeftCodes left(codes);
    const AlignedBuffer<int32_t> constants = columns.constants(left);
    const std::vector<uint64_t> running = a.running();
    Rows operand{running.data(), rows, a.stride(), a.plane_stride(), left.planes, {}};
    std::copy_n(left.coefficient, kMostPlanes, operand.coefficient);

    Boundaries boundaries{made, made.boundaries(), cols, {}, {}};
    const int64_t count = boundaries.levels * cols;
    const int32_t reach = static_cast<int32_t>(depth) * codes.magnitude();
    for (int64_t i = 0; i < count; ++i) {
      const int32_t sum = sums[random() % rows * cols + i % cols];
      const int32_t rise =
          std::clamp(sum + static_cast<int32_t>(random() % 5) - 2, -reach - 1, reach);
      boundaries.rises.push_back(i < cols ? rise : std::max(rise, boundaries.rises[i - cols]));
    }
    for (int64_t i = 0; !made.is_signed && i < count; ++i) {
      const int32_t most = i < cols ? boundaries.rises[i] : boundaries.falls[i - cols];
      boundaries.falls.push_back(std::max(-reach, most - static_cast<int32_t>(random() % 9)));
    }
    Limits limits;
    limits.reserve(cols, boundaries);
    const Panels panels = columns.panels();
    limits.set(boundaries, 0, left.factor, constants.data(), cols, &panels);
    const Codes out = boundaries.codes();
    for (const Kernels& kernels : all_kernels()) {
      std::vector<int32_t> found(sums.size());
      kernels.store_sums(operand, columns.panels(),
                         {found.data(), cols, constants.data(), left.factor == 2});
      CHECK(found == sums);
      Planes packed(random, out.planes, rows, cols, Fill::kAllOnes);
      const Words words = round % 2 == 0 ? Words::kCodes : Words::kRunning;
      kernels.pack_codes(
          operand, columns.panels(),
          {limits.flips(), packed.words.data(), packed.stride(), packed.plane_stride(), words});
      for (int64_t row = 0; words == Words::kRunning && row < out.planes * rows; ++row) {
        to_codes(&packed.words[row * packed.stride()], packed.stride());
      }
      const reference::Matrix values = decoded(packed, out);
      bool same = true;
      for (int64_t i = 0; i < rows * cols; ++i) {
        int32_t code = made.are_signs() ? -1 : out.low();
        for (int level = 0; level < boundaries.levels; ++level) {
          const int64_t at = level * cols + i % cols;
          code += sums[i] > boundaries.rises[at] ||
                  (!boundaries.falls.empty() && sums[i] < boundaries.falls[at]);
        }
        same &= reference::value(values, i / cols, i % cols) == code;
      }
      CHECK(same);
    }
  }
}

TEST(popcount_probe_counts_its_work) {
  for (const Kernels& kernels : all_kernels()) {
    CHECK(kernels.popcount_probe(10) >= 10 * 8 * 64);
  }
}

}  // namespace bitinfer::test
