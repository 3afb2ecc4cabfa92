// Binary matrix product, written once over a small vector type `V` and compiled per instruction
// set.
//
// V::Word holds 32-bit words of V::kLanes channels; V::kParts of them make a panel. V::Counter
// counts the bits of up to V::kMaxCounts words, V::Sum has one int32 per channel. On AVX-512 a
// counter is a sum and begin/end vanish; elsewhere counters are bytes (at most 8 more a word, so 31
// words fit). Sums are exact up to K = 2^30.
//
// Operands are running words (running_words.h): two steps are counted at once, by their carry.
//
// Loop order: a group of panels stays in L1 while all rows pass by it. Panel and row tails use
// narrower tiles; nothing is read past the last panel or the last 32-bit word of a row.
#pragma once

#include <cstring>

#include "cpu/kernels/kernel_table.h"

namespace bitinfer {
namespace {

#define BITINFER_INLINE __attribute__((always_inline))

template <int... I>
struct Indices {};
template <int kCount, int... I>
struct IndicesUpTo : IndicesUpTo<kCount - 1, kCount - 1, I...> {};
template <int... I>
struct IndicesUpTo<0, I...> {
  using type = Indices<I...>;
};
template <int kValue>
struct Index {
  constexpr operator int() const { return kValue; }
};

template <class Body, int... I>
BITINFER_INLINE inline void unroll(const Body& body, Indices<I...>) {
  (body(Index<I>{}), ...);
}

// body(0), body(1), .. with constants. Compilers keep arrays in registers only if every index is a
// constant before they start; GCC unrolls loops too late for that, which costs a sixth of the
// speed.
template <int kCount, class Body>
BITINFER_INLINE inline void unroll(const Body& body) {
  unroll(body, typename IndicesUpTo<kCount>::type{});
}

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
  typename V::Sum sums[kRowCount * kPartCount];
};

// X of kRowCount rows and kPartCount / V::kParts neighbouring panels.
template <class V, int kRowCount, int kPartCount>
BITINFER_INLINE inline Tile<V, kRowCount, kPartCount> plain_tile(const uint64_t* a,
                                                                 int64_t a_stride,
                                                                 const uint32_t* b, int64_t steps) {
  using Word = typename V::Word;
  constexpr int kCells = kRowCount * kPartCount;
  const auto load_step = [&](int64_t s, Word* words) BITINFER_INLINE {
    unroll<kPartCount>([&](auto p) BITINFER_INLINE {
      words[p] = V::load(b + (p / V::kParts * steps + s) * kPanelWidth + p % V::kParts * V::kLanes);
    });
  };
  Tile<V, kRowCount, kPartCount> tile;
  Word parity[kCells];  // p[s] of the step before
  unroll<kCells>([&](auto i) BITINFER_INLINE {
    tile.sums[i] = V::zero();
    parity[i] = V::no_bits();
  });
  int64_t s = 0;
  if (steps % 2 != 0) {
    Word words[kPartCount];
    load_step(0, words);
    unroll<kRowCount>([&](auto r) BITINFER_INLINE {
      const Word row = V::broadcast(step_word(a + r * a_stride, 0));
      unroll<kPartCount>(
          [&](auto p) BITINFER_INLINE { parity[r * kPartCount + p] = V::bit_xor(row, words[p]); });
    });
    s = 1;
  }
  while (s < steps) {
    const int64_t last = steps - s < 2 * V::kMaxCounts ? steps : s + 2 * V::kMaxCounts;
    typename V::Counter counters[kCells];
    unroll<kCells>([&](auto i) BITINFER_INLINE { counters[i] = V::begin(tile.sums[i]); });
    for (; s < last; s += 2) {
      Word first[kPartCount], second[kPartCount];
      load_step(s, first);
      load_step(s + 1, second);
      unroll<kRowCount>([&](auto r) BITINFER_INLINE {
        const Word row_first = V::broadcast(step_word(a + r * a_stride, s));
        const Word row_second = V::broadcast(step_word(a + r * a_stride, s + 1));
        unroll<kPartCount>([&](auto p) BITINFER_INLINE {
          constexpr int i = r * kPartCount + p;
          const Word next = V::bit_xor(row_second, second[p]);
          const Word carry = V::carry(parity[i], V::bit_xor(row_first, first[p]), next);
          parity[i] = next;
          counters[i] = V::count(counters[i], carry);
          // Or GCC copies counters around; vectors of the compiler's own it keeps itself.
          if constexpr (V::kIsVector) V::opaque(counters[i]);
        });
      });
    }
    unroll<kCells>([&](auto i)
                       BITINFER_INLINE { tile.sums[i] = V::end(tile.sums[i], counters[i]); });
  }
  unroll<kCells>([&](auto i) BITINFER_INLINE {
    const typename V::Sum twice = V::add(tile.sums[i], tile.sums[i]);
    tile.sums[i] = V::end(twice, V::count(V::begin(twice), parity[i]));
  });
  return tile;
}

// Which codes of a row are not 0, for one step.
inline uint32_t nonzero_step(const Rows& a, int64_t row, int64_t step) {
  if (a.nonzero != nullptr) return step_word(a.nonzero + row * a.stride, step);
  if (!a.is_unsigned) return ~0u;
  const uint64_t* bits = a.bits + row * a.stride;
  return step > 0 ? step_word(bits, step) ^ step_word(bits, step - 1) : step_word(bits, step);
}

// X of one row and one panel with codes that may be 0: 2 popcount((a ^ b) & m) - popcount(m), where
// m marks the places at which neither side is 0. Rare, so it is kept simple.
template <class V>
inline Tile<V, 1, V::kParts> masked_tile(const Rows& a, int64_t row, const Panels& b,
                                         int64_t panel) {
  const uint64_t* a_bits = a.bits + row * a.stride;
  const uint32_t* b_words = b.words + panel * b.steps * kPanelWidth;
  const uint32_t* b_nonzero = b.nonzero != nullptr ? b.nonzero[panel] : nullptr;
  Tile<V, 1, V::kParts> tile;
  for (int p = 0; p < V::kParts; ++p) {
    typename V::Sum differing = V::zero(), counted = V::zero();
    typename V::Word parity = V::no_bits();
    for (int64_t first = 0; first < b.steps; first += V::kMaxCounts) {
      const int64_t last = b.steps - first < V::kMaxCounts ? b.steps : first + V::kMaxCounts;
      typename V::Counter differing_bits = V::begin(differing), counted_bits = V::begin(counted);
      for (int64_t s = first; s < last; ++s) {
        const int64_t at = s * kPanelWidth + p * V::kLanes;
        const typename V::Word mask =
            V::bit_and(V::broadcast(nonzero_step(a, row, s)),
                       V::load(b_nonzero != nullptr ? b_nonzero + at : kAllOnes + p * V::kLanes));
        const typename V::Word next =
            V::bit_xor(V::broadcast(step_word(a_bits, s)), V::load(b_words + at));
        differing_bits = V::count(differing_bits, V::bit_and(V::bit_xor(parity, next), mask));
        counted_bits = V::count(counted_bits, mask);
        parity = next;
      }
      differing = V::end(differing, differing_bits);
      counted = V::end(counted, counted_bits);
    }
    tile.sums[p] = V::sub(differing, V::sub(counted, differing));
  }
  return tile;
}

// S of one part of a panel from its X; `col` is the part's first column.
template <class V, bool kMasked>
BITINFER_INLINE inline typename V::Sum codes_sum(typename V::Sum x, const Rows& a, int64_t depth,
                                                 const int32_t* ones, int64_t col) {
  if (kMasked) return V::sub(V::zero(), x);
  if (a.is_unsigned) return V::sub(V::load_sums(ones + col), x);
  return V::sub(V::sub(V::set_sums(static_cast<int32_t>(depth)), x), x);
}

// What becomes of X. An epilogue takes one row of a tile at a time: the parts of kPanelCount
// neighbouring panels. It holds copies of all it needs, because what it writes through pointers
// could change anything that is behind a reference, and compilers would read that again for every
// row.

template <class V>
struct SumsEpilogue {
  Rows a;
  Panels b;
  StoreSums to;

  template <bool kMasked, int kPanelCount>
  BITINFER_INLINE void row(int64_t row, int64_t panel, const typename V::Sum* parts) const {
    const int64_t first = panel * kPanelWidth, columns = kPanelCount * kPanelWidth;
    int32_t* out = to.out + row * to.stride + first;
    if (first + columns <= b.cols) return store<kMasked, kPanelCount>(parts, first, out);
    int32_t sums[columns];
    store<kMasked, kPanelCount>(parts, first, sums);
    std::memcpy(out, sums, (b.cols - first) * sizeof(int32_t));
  }
  void finish() const {}

 private:
  template <bool kMasked, int kPanelCount>
  BITINFER_INLINE void store(const typename V::Sum* parts, int64_t first, int32_t* out) const {
    unroll<kPanelCount * V::kParts>([&](auto p) BITINFER_INLINE {
      constexpr int col = p * V::kLanes;
      V::store(out + col, codes_sum<V, kMasked>(parts[p], a, b.depth, to.ones, first + col));
    });
  }
};

template <class V>
struct PackEpilogue {
  Rows a;
  Panels b;
  PackCodes to;

  template <bool kMasked, int kPanelCount>
  BITINFER_INLINE void row(int64_t row, int64_t panel, const typename V::Sum* parts) const {
    static_assert(kPanelCount <= kPanelsPerStep, "at most one word of the result");
    const Thresholds& thresholds = kMasked ? to.masked : to.plain;
    uint32_t plus = 0, minus = 0;
    unroll<kPanelCount * V::kParts>([&](auto p) BITINFER_INLINE {
      plus |= V::less(parts[p], thresholds.less + panel * kPanelWidth + p * V::kLanes)
              << (p * V::kLanes);
    });
    if (thresholds.greater != nullptr) {
      unroll<kPanelCount * V::kParts>([&](auto p) BITINFER_INLINE {
        minus |= V::greater(parts[p], thresholds.greater + panel * kPanelWidth + p * V::kLanes)
                 << (p * V::kLanes);
      });
    }
    const uint32_t bits = to.nonzero != nullptr ? plus : plus | minus;
    store<kPanelCount>(place(to.bits, row, panel), bits ^ word_before<kPanelCount>(row, panel));
    if (to.nonzero != nullptr) store<kPanelCount>(place(to.nonzero, row, panel), plus | minus);
  }

  // Code bits after the last panel are 0.
  void finish() const {
    const int64_t whole = to.stride * (64 / kPanelWidth);
    for (int64_t row = 0; row < a.count && b.panel_count < whole; ++row) {
      for (int64_t panel = b.panel_count; panel < whole; ++panel) {
        store<1>(place(to.bits, row, panel), word_before<1>(row, panel));
        if (to.nonzero != nullptr) store<1>(place(to.nonzero, row, panel), 0);
      }
    }
  }

 private:
  static constexpr int kPanelsPerStep = kStepBits / kPanelWidth;
  static constexpr int64_t kPanelBytes = kPanelWidth / 8;

  BITINFER_INLINE char* place(uint64_t* plane, int64_t row, int64_t panel) const {
    return reinterpret_cast<char*>(plane + row * to.stride) + panel * kPanelBytes;
  }
  template <int kPanelCount>
  BITINFER_INLINE static void store(char* to, uint32_t bits) {
    std::memcpy(to, &bits, kPanelCount * kPanelBytes);  // little-endian
  }
  // What makes running words of code words. Panels come in ascending order, so the same part of
  // the 32-bit word before is there already.
  template <int kPanelCount>
  BITINFER_INLINE uint32_t word_before(int64_t row, int64_t panel) const {
    uint32_t bits = 0;
    if (to.words == Words::kRunning && panel >= kPanelsPerStep) {
      std::memcpy(&bits, place(to.bits, row, panel - kPanelsPerStep), kPanelCount * kPanelBytes);
    }
    return bits;
  }
};

template <class V>
struct DistanceEpilogue {
  Rows a;
  Panels b;
  StoreDistances to;

  template <bool kMasked, int kPanelCount>
  BITINFER_INLINE void row(int64_t row, int64_t panel, const typename V::Sum* parts) const {
    const typename V::Sum offset = V::set_sums(kMasked ? static_cast<int32_t>(b.depth) : 0);
    uint16_t* out = to.out + row * to.stride + panel * kPanelWidth;
    unroll<kPanelCount * V::kParts>([&](auto p) BITINFER_INLINE {
      V::store_u16(out + p * V::kLanes, V::add(parts[p], offset));
    });
  }
  void finish() const {
    for (int64_t row = 0; row < a.count; ++row) {
      for (int64_t col = b.cols; col < to.stride; ++col) to.out[row * to.stride + col] = 0xffff;
    }
  }
};

// Not inlined: GCC keeps the counters of the loop in registers only where nothing else is around.
template <class V, int kRowCount, int kPanelCount, class Epilogue>
__attribute__((noinline)) void plain_rows(const Rows a, const Panels b, int64_t row, int64_t last,
                                          int64_t panel, const Epilogue epilogue) {
  constexpr int kPartCount = kPanelCount * V::kParts;
  constexpr int kLineWords = 64 / sizeof(uint32_t);  // of a line of the cache
  const uint32_t* panels = b.words + panel * b.steps * kPanelWidth;
  // The next panels come from L2 or L3: a share of them with every tile.
  const int64_t panel_words = kPanelCount * b.steps * kPanelWidth;
  const int64_t tiles = (last - row) / kRowCount;
  const bool is_last = panel + 2 * kPanelCount > b.panel_count;
  const int64_t ahead = tiles > 0 && !is_last ? panel_words / tiles : 0;
  const uint32_t* next = panels + panel_words;
  for (; row < last; row += kRowCount) {
    for (const uint32_t* end = next + ahead; next < end; next += kLineWords) {
      __builtin_prefetch(next);
    }
    const auto tile =
        plain_tile<V, kRowCount, kPartCount>(a.bits + row * a.stride, a.stride, panels, b.steps);
    unroll<kRowCount>([&](auto r) BITINFER_INLINE {
      epilogue.template row<false, kPanelCount>(row + r, panel, tile.sums + r * kPartCount);
    });
  }
}

// Most counts of rows are sums of whole tiles and tiles of one row more: 21 = 5 + 4 + 4 + 4 + 4.
// What is left is narrower than a tile.
template <class V, int kPanelCount, class Epilogue>
void plain_panels(const Rows& a, const Panels& b, int64_t panel, const Epilogue& epilogue) {
  constexpr int kTall = V::kTileRows + 1;
  int64_t row = 0;
  if constexpr (V::kHasTallTile) {
    const int64_t rest = a.count % V::kTileRows;
    if (rest > 0 && rest * kTall <= a.count) {
      plain_rows<V, kTall, kPanelCount>(a, b, 0, rest * kTall, panel, epilogue);
      row = rest * kTall;
    }
  }
  const int64_t rest = (a.count - row) % V::kTileRows;
  const int64_t last = a.count - rest;
  if (row < last) plain_rows<V, V::kTileRows, kPanelCount>(a, b, row, last, panel, epilogue);
  unroll<V::kTileRows - 1>([&](auto i) {
    if (rest == i + 1) plain_rows<V, i + 1, kPanelCount>(a, b, last, a.count, panel, epilogue);
  });
}

template <class V, class Epilogue>
void masked_panel(const Rows& a, const Panels& b, int64_t panel, const Epilogue& epilogue) {
  for (int64_t row = 0; row < a.count; ++row) {
    const auto tile = masked_tile<V>(a, row, b, panel);
    epilogue.template row<true, 1>(row, panel, tile.sums);
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
  const auto is_masked = [&](int64_t panel) {
    return a.nonzero != nullptr || (b.nonzero != nullptr && b.nonzero[panel] != nullptr);
  };
  for (int64_t panel = 0; panel < b.panel_count;) {
    if (is_masked(panel)) {
      masked_panel<V>(a, b, panel++, epilogue);
      continue;
    }
    // Tiles begin at multiples of their width: then one never straddles two words of packed codes.
    bool is_whole = panel % V::kTilePanels == 0 && panel + V::kTilePanels <= b.panel_count;
    for (int i = 1; is_whole && i < V::kTilePanels; ++i) is_whole = !is_masked(panel + i);
    if (is_whole) {
      plain_panels<V, V::kTilePanels>(a, b, panel, epilogue);
      panel += V::kTilePanels;
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
void pack_codes(const Rows& a, const Panels& b, const PackCodes& to) {
  product<V>(a, b, PackEpilogue<V>{a, b, to});
}

template <class V>
void store_distances(const Rows& a, const Panels& b, const StoreDistances& to) {
  product<V>(a, b, DistanceEpilogue<V>{a, b, to});
}

}  // namespace
}  // namespace bitinfer
