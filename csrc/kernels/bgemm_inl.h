// Binary matrix product, written once over a small vector type `V` and compiled per instruction
// set.
//
// V::Word holds 32-bit words of V::kLanes channels; V::kParts of them make a panel. V::Counter
// counts bits for up to V::kMaxSteps steps, V::Sum has one int32 per channel. On AVX-512 a counter
// is a sum and begin/end vanish; elsewhere counters are bytes (at most 8 more a step, so 31 steps
// fit). Sums are exact up to K = 2^30.
//
// Loop order: a group of panels stays in L1 while all rows pass by it. Panel and row tails use
// narrower tiles; nothing is read past the last panel or the last 32-bit word of a row.
#pragma once

#include <cstring>

#include "kernels/kernel_table.h"

namespace bitinfer {
namespace {

alignas(64) constexpr uint32_t kAllOnes[kPanelWidth] = {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u,
                                                        ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u};

// Rows are owned as 64-bit words and read as 32-bit ones: through memcpy, as aliasing rules demand.
inline uint32_t step_word(const uint64_t* row, int64_t step) {
  uint32_t word;
  std::memcpy(&word, reinterpret_cast<const char*>(row) + step * sizeof word, sizeof word);
  return word;
}

template <class V, int kRowCount, int kPartCount>
struct Tile {
  typename V::Sum sums[kRowCount][kPartCount];
};

// X of kRowCount rows and kPartCount / V::kParts neighbouring panels.
template <class V, int kRowCount, int kPartCount>
inline Tile<V, kRowCount, kPartCount> plain_tile(const uint64_t* a, int64_t a_stride,
                                                 const uint32_t* b, int64_t steps) {
  constexpr int kPanelCount = kPartCount / V::kParts;
  Tile<V, kRowCount, kPartCount> tile;
  for (int r = 0; r < kRowCount; ++r) {
    for (int p = 0; p < kPartCount; ++p) tile.sums[r][p] = V::zero();
  }
  for (int64_t first = 0; first < steps; first += V::kMaxSteps) {
    const int64_t last = steps - first < V::kMaxSteps ? steps : first + V::kMaxSteps;
    typename V::Counter counters[kRowCount][kPartCount];
    for (int r = 0; r < kRowCount; ++r) {
      for (int p = 0; p < kPartCount; ++p) counters[r][p] = V::begin(tile.sums[r][p]);
    }
    for (int64_t s = first; s < last; ++s) {
      typename V::Word words[kPartCount];
      for (int panel = 0; panel < kPanelCount; ++panel) {
        for (int p = 0; p < V::kParts; ++p) {
          words[panel * V::kParts + p] =
              V::load(b + (panel * steps + s) * kPanelWidth + p * V::kLanes);
        }
      }
      for (int r = 0; r < kRowCount; ++r) {
        const typename V::Word row = V::broadcast(step_word(a + r * a_stride, s));
        for (int p = 0; p < kPartCount; ++p) {
          counters[r][p] = V::count(counters[r][p], V::bit_xor(row, words[p]));
        }
      }
    }
    for (int r = 0; r < kRowCount; ++r) {
      for (int p = 0; p < kPartCount; ++p) {
        tile.sums[r][p] = V::end(tile.sums[r][p], counters[r][p]);
      }
    }
  }
  return tile;
}

// X of one row and one panel with codes that may be 0: 2 popcount((a ^ b) & m) - popcount(m), where
// m marks the places at which neither side is 0. Rare, so it is kept simple.
template <class V>
inline Tile<V, 1, V::kParts> masked_tile(const uint64_t* a, const uint64_t* a_nonzero,
                                         const uint32_t* b, const uint32_t* b_nonzero,
                                         int64_t steps) {
  Tile<V, 1, V::kParts> tile;
  for (int p = 0; p < V::kParts; ++p) {
    typename V::Sum differing = V::zero(), counted = V::zero();
    for (int64_t first = 0; first < steps; first += V::kMaxSteps) {
      const int64_t last = steps - first < V::kMaxSteps ? steps : first + V::kMaxSteps;
      typename V::Counter differing_bits = V::begin(differing), counted_bits = V::begin(counted);
      for (int64_t s = first; s < last; ++s) {
        const int64_t at = s * kPanelWidth + p * V::kLanes;
        const typename V::Word mask =
            V::bit_and(V::broadcast(a_nonzero != nullptr ? step_word(a_nonzero, s) : ~0u),
                       V::load(b_nonzero != nullptr ? b_nonzero + at : kAllOnes + p * V::kLanes));
        const typename V::Word x = V::bit_xor(V::broadcast(step_word(a, s)), V::load(b + at));
        differing_bits = V::count(differing_bits, V::bit_and(x, mask));
        counted_bits = V::count(counted_bits, mask);
      }
      differing = V::end(differing, differing_bits);
      counted = V::end(counted, counted_bits);
    }
    tile.sums[0][p] = V::sub(differing, V::sub(counted, differing));
  }
  return tile;
}

// S of one panel from its X.
template <class V, bool kMasked>
inline void codes_sum(const typename V::Sum* parts, const Rows& a, int64_t depth,
                      const int32_t* ones, int64_t col, int32_t* sums) {
  for (int p = 0; p < V::kParts; ++p) {
    const typename V::Sum x = parts[p];
    typename V::Sum sum;
    if (kMasked) {
      sum = V::sub(V::zero(), x);
    } else if (a.is_unsigned) {
      sum = V::sub(V::load_sums(ones + col + p * V::kLanes), x);
    } else {
      sum = V::sub(V::sub(V::set_sums(static_cast<int32_t>(depth)), x), x);
    }
    V::store(sums + p * V::kLanes, sum);
  }
}

inline int64_t valid_columns(const Panels& b, int64_t panel) {
  const int64_t left = b.cols - panel * kPanelWidth;
  return left < kPanelWidth ? left : kPanelWidth;
}

template <class V>
struct SumsEpilogue {
  const Rows& a;
  const Panels& b;
  const StoreSums& to;

  template <bool kMasked>
  void panel(int64_t row, int64_t panel, const typename V::Sum* parts) const {
    int32_t sums[kPanelWidth];
    const int64_t col = panel * kPanelWidth;
    codes_sum<V, kMasked>(parts, a, b.depth, to.ones, col, sums);
    std::memcpy(to.out + row * to.stride + col, sums, valid_columns(b, panel) * sizeof(int32_t));
  }
  void finish() const {}
};

template <class V>
struct AffineEpilogue {
  const Rows& a;
  const Panels& b;
  const Affine& to;

  template <bool kMasked>
  void panel(int64_t row, int64_t panel, const typename V::Sum* parts) const {
    int32_t sums[kPanelWidth];
    const int64_t col = panel * kPanelWidth;
    codes_sum<V, kMasked>(parts, a, b.depth, to.ones, col, sums);
    double* out = to.out + row * to.stride + col;
    const double* residual = to.residual != nullptr ? to.residual + row * to.stride + col : nullptr;
    const int64_t columns = valid_columns(b, panel);
    int64_t j = 0;
    for (; j + V::kDoubles <= columns; j += V::kDoubles) {
      auto value = V::mul(V::load(to.scale + col + j), V::convert(sums + j));
      value = V::add(value, V::load(to.bias + col + j));
      if (residual != nullptr) value = V::add(V::load(residual + j), value);
      V::store(out + j, value);
    }
    for (; j < columns; ++j) {
      const double value = to.scale[col + j] * sums[j] + to.bias[col + j];
      out[j] = residual != nullptr ? residual[j] + value : value;
    }
  }
  void finish() const {}
};

template <class V>
struct PackEpilogue {
  const Rows& a;
  const Panels& b;
  const PackCodes& to;

  template <bool kMasked>
  void panel(int64_t row, int64_t panel, const typename V::Sum* parts) const {
    const Thresholds& thresholds = kMasked ? to.masked : to.plain;
    const int64_t col = panel * kPanelWidth;
    uint32_t plus = 0, minus = 0;
    for (int p = 0; p < V::kParts; ++p) {
      const int64_t at = col + p * V::kLanes;
      plus |= V::less(parts[p], thresholds.less + at) << (p * V::kLanes);
      if (thresholds.greater != nullptr) {
        minus |= V::greater(parts[p], thresholds.greater + at) << (p * V::kLanes);
      }
    }
    if (to.nonzero != nullptr) {
      store(to.bits, row, panel, plus);
      store(to.nonzero, row, panel, plus | minus);
    } else {
      store(to.bits, row, panel, plus | minus);
    }
  }

  void finish() const {
    clear_tail(to.bits);
    if (to.nonzero != nullptr) clear_tail(to.nonzero);
  }

 private:
  void store(uint64_t* plane, int64_t row, int64_t panel, uint32_t mask) const {
    const uint16_t bits = static_cast<uint16_t>(mask);
    std::memcpy(reinterpret_cast<char*>(plane + row * to.stride) + panel * sizeof bits, &bits,
                sizeof bits);
  }
  void clear_tail(uint64_t* plane) const {
    const int64_t written = b.panel_count * static_cast<int64_t>(sizeof(uint16_t));
    const int64_t whole = to.stride * static_cast<int64_t>(sizeof(uint64_t));
    if (written == whole) return;
    for (int64_t row = 0; row < a.count; ++row) {
      std::memset(reinterpret_cast<char*>(plane + row * to.stride) + written, 0, whole - written);
    }
  }
};

template <class V>
struct DistanceEpilogue {
  const Rows& a;
  const Panels& b;
  const StoreDistances& to;

  template <bool kMasked>
  void panel(int64_t row, int64_t panel, const typename V::Sum* parts) const {
    const typename V::Sum offset = V::set_sums(kMasked ? static_cast<int32_t>(b.depth) : 0);
    uint16_t* out = to.out + row * to.stride + panel * kPanelWidth;
    for (int p = 0; p < V::kParts; ++p) {
      V::store_u16(out + p * V::kLanes, V::add(parts[p], offset));
    }
  }
  void finish() const {
    for (int64_t row = 0; row < a.count; ++row) {
      for (int64_t col = b.cols; col < to.stride; ++col) to.out[row * to.stride + col] = 0xffff;
    }
  }
};

// Not inlined: GCC keeps the counters of the loop in registers only where nothing else is around.
template <class V, int kRowCount, int kPanelCount, class Epilogue>
__attribute__((noinline)) void plain_rows(const Rows& a, const Panels& b, int64_t row,
                                          int64_t panel, const Epilogue& epilogue) {
  constexpr int kPartCount = kPanelCount * V::kParts;
  const auto tile = plain_tile<V, kRowCount, kPartCount>(
      a.bits + row * a.stride, a.stride, b.words + panel * b.steps * kPanelWidth, b.steps);
  for (int r = 0; r < kRowCount; ++r) {
    for (int p = 0; p < kPanelCount; ++p) {
      epilogue.template panel<false>(row + r, panel + p, tile.sums[r] + p * V::kParts);
    }
  }
}

template <class V, int kPanelCount, class Epilogue>
void plain_panels(const Rows& a, const Panels& b, int64_t panel, const Epilogue& epilogue) {
  int64_t row = 0;
  for (; row + V::kTileRows <= a.count; row += V::kTileRows) {
    plain_rows<V, V::kTileRows, kPanelCount>(a, b, row, panel, epilogue);
  }
  if (V::kTileRows > 2 && row + 2 <= a.count) {
    plain_rows<V, 2, kPanelCount>(a, b, row, panel, epilogue);
    row += 2;
  }
  for (; row < a.count; ++row) plain_rows<V, 1, kPanelCount>(a, b, row, panel, epilogue);
}

template <class V, class Epilogue>
void masked_panel(const Rows& a, const Panels& b, int64_t panel, const Epilogue& epilogue) {
  const uint64_t* a_nonzero = a.is_unsigned ? a.bits : a.nonzero;
  const uint32_t* b_nonzero = b.nonzero != nullptr ? b.nonzero[panel] : nullptr;
  for (int64_t row = 0; row < a.count; ++row) {
    const auto tile = masked_tile<V>(a.bits + row * a.stride,
                                     a_nonzero != nullptr ? a_nonzero + row * a.stride : nullptr,
                                     b.words + panel * b.steps * kPanelWidth, b_nonzero, b.steps);
    epilogue.template panel<true>(row, panel, tile.sums[0]);
  }
}

template <class V>
int64_t popcount_probe(int64_t steps) {
  constexpr int kIndependent = 8;
  typename V::Word a = V::broadcast(0x5bd1e995), b = V::broadcast(0x27d4eb2f);
  typename V::Counter counters[kIndependent];
  for (auto& counter : counters) counter = V::begin(V::zero());
  for (int64_t s = 0; s < steps; ++s) {
    for (auto& counter : counters) {
      counter = V::count(counter, V::bit_xor(a, b));
      V::opaque(a);  // or the compiler would count once for all
    }
  }
  for (auto& counter : counters) V::opaque(counter);
  return steps * kIndependent * V::kLanes * kStepBits;
}

// One counter per instruction set, since everything here is local to its file.
uint64_t product_count = 0;
inline uint64_t products_run() { return __atomic_load_n(&product_count, __ATOMIC_RELAXED); }

template <class V, class Epilogue>
void product(const Rows& a, const Panels& b, const Epilogue& epilogue) {
  constexpr int kHalfTile = V::kTilePanels > 1 ? V::kTilePanels / 2 : 1;
  const auto is_masked = [&](int64_t panel) {
    return a.nonzero != nullptr || (b.nonzero != nullptr && b.nonzero[panel] != nullptr);
  };
  for (int64_t panel = 0; panel < b.panel_count;) {
    if (is_masked(panel)) {
      masked_panel<V>(a, b, panel++, epilogue);
      continue;
    }
    int64_t run = 1;
    while (run < V::kTilePanels && panel + run < b.panel_count && !is_masked(panel + run)) ++run;
    if (run == V::kTilePanels) {
      plain_panels<V, V::kTilePanels>(a, b, panel, epilogue);
      panel += V::kTilePanels;
    } else if (run >= kHalfTile) {
      plain_panels<V, kHalfTile>(a, b, panel, epilogue);
      panel += kHalfTile;
    } else {
      plain_panels<V, 1>(a, b, panel++, epilogue);
    }
  }
  epilogue.finish();
  __atomic_fetch_add(&product_count, 1, __ATOMIC_RELAXED);
}

template <class V>
void store_sums(const Rows& a, const Panels& b, const StoreSums& to) {
  product<V>(a, b, SumsEpilogue<V>{a, b, to});
}

template <class V>
void affine(const Rows& a, const Panels& b, const Affine& to) {
  product<V>(a, b, AffineEpilogue<V>{a, b, to});
}

template <class V>
void pack_codes(const Rows& a, const Panels& b, const PackCodes& to) {
  product<V>(a, b, PackEpilogue<V>{a, b, to});
}

template <class V>
void store_distances(const Rows& a, const Panels& b, const StoreDistances& to) {
  product<V>(a, b, DistanceEpilogue<V>{a, b, to});
}

}  // namespace
}  // namespace bitinfer
