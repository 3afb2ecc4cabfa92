// Product of bit planes and +-1, written once over a small vector type `V` and compiled per
// instruction set.
//
// V::Word holds 32-bit words of V::kLanes channels; V::kParts of them make a panel. V::Counter
// counts the bits of up to V::kMaxCounts words, V::Sum has one int32 per channel. On AVX-512 a
// counter is a sum and begin/end vanish; elsewhere counters are bytes (at most 8 more a word, so 31
// words fit). T is exact while 2 K times the sum of c_j stays below 2^31.
//
// Operands are running words (running_words.h): two steps are counted at once, by their carry.
//
// Planes are rows: the tile loop counts a row's planes like neighbouring rows, so that they share
// the loads of the weights, and what it counted is added up per row afterwards.
//
// Loop order: a group of panels stays in L1 while all rows pass by it. Panel and row tails use
// narrower tiles; nothing is read past the last panel or the last 32-bit word of a row.
#pragma once

#include <cstring>

#include "cpu/kernels/epilogues_inl.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/unroll.h"

namespace bitinfer {
namespace {

// Rows are owned as 64-bit words and read as 32-bit ones: through memcpy, as aliasing rules demand.
inline uint32_t step_word(const uint64_t* row, int64_t step) {
  uint32_t word;
  std::memcpy(&word, reinterpret_cast<const char*>(row) + step * sizeof word, sizeof word);
  return word;
}

// X of kPlanes planes of kRowCount rows and kPartCount / V::kParts neighbouring panels; the planes
// of a row are neighbours.
template <class V, int kRowCount, int kPlanes, int kPartCount>
BITINFER_INLINE inline Tile<V, kRowCount * kPlanes, kPartCount> count_tile(
    const uint64_t* a, int64_t row_stride, int64_t plane_stride, const uint32_t* b, int64_t steps) {
  using Word = typename V::Word;
  constexpr int kLines = kRowCount * kPlanes, kCells = kLines * kPartCount;
  const auto load_step = [&](int64_t s, Word* words) BITINFER_INLINE {
    unroll<kPartCount>([&](auto p) BITINFER_INLINE {
      words[p] = V::load(b + (p / V::kParts * steps + s) * kPanelWidth + p % V::kParts * V::kLanes);
    });
  };
  const auto line = [&](auto l) BITINFER_INLINE {
    return a + l / kPlanes * row_stride + l % kPlanes * plane_stride;
  };
  Tile<V, kLines, kPartCount> tile;
  Word parity[kCells];  // p[s] of the step before
  unroll<kCells>([&](auto i) BITINFER_INLINE {
    tile.sums[i] = V::zero();
    parity[i] = V::no_bits();
  });
  int64_t s = 0;
  if (steps % 2 != 0) {
    Word words[kPartCount];
    load_step(0, words);
    unroll<kLines>([&](auto l) BITINFER_INLINE {
      const Word row = V::broadcast(step_word(line(l), 0));
      unroll<kPartCount>(
          [&](auto p) BITINFER_INLINE { parity[l * kPartCount + p] = V::bit_xor(row, words[p]); });
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
      unroll<kLines>([&](auto l) BITINFER_INLINE {
        const Word row_first = V::broadcast(step_word(line(l), s));
        const Word row_second = V::broadcast(step_word(line(l), s + 1));
        unroll<kPartCount>([&](auto p) BITINFER_INLINE {
          constexpr int i = l * kPartCount + p;
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

constexpr int at_least_one(int count) { return count > 0 ? count : 1; }

// The left operand as the tile loop wants it. Copied out of Rows, like all that a loop needs: what
// it writes through pointers could change anything that is behind a reference, and compilers would
// read that again for every row.
template <int kPlanes>
struct Left {
  // The planes from `first` on.
  explicit Left(const Rows& rows, int first = 0)
      : bits(rows.bits + first * rows.plane_stride),
        stride(rows.stride),
        plane_stride(kPlanes > 1 ? rows.plane_stride : 0) {
    for (int j = 0; j < kPlanes; ++j) coefficient[j] = rows.coefficient[first + j];
  }

  const uint64_t* bits;
  int64_t stride, plane_stride;
  int32_t coefficient[kPlanes];
};

// Adds sum_j c_j X_j. Where a row has more planes than a tile has rows, tile by tile.
template <class V, int kRowCount, int kPlanes, int kPartCount, int kFirst = 0>
BITINFER_INLINE inline void add_planes(const Left<kPlanes>& a, int64_t row, const uint32_t* b,
                                       int64_t steps, Tile<V, kRowCount, kPartCount>& total) {
  constexpr int kLeft = kPlanes - kFirst;
  constexpr int kTogether = kRowCount > 1 || kLeft < V::kTileRows ? kLeft : V::kTileRows;
  const uint64_t* bits = a.bits + row * a.stride + kFirst * a.plane_stride;
  const auto tile =
      count_tile<V, kRowCount, kTogether, kPartCount>(bits, a.stride, a.plane_stride, b, steps);
  unroll<kTogether>([&](auto j) BITINFER_INLINE {
    const typename V::Sum factor = V::set_sums(a.coefficient[kFirst + j]);
    unroll<kRowCount * kPartCount>([&](auto i) BITINFER_INLINE {
      constexpr int line = i / kPartCount * kTogether + j;
      const typename V::Sum x = tile.sums[line * kPartCount + i % kPartCount];
      total.sums[i] = V::add(total.sums[i], V::multiply(x, factor));
    });
  });
  if constexpr (kTogether < kLeft) {
    add_planes<V, kRowCount, kPlanes, kPartCount, kFirst + kTogether>(a, row, b, steps, total);
  }
}

// T of rows and panels without halves. One plane is its own sum.
template <class V, int kRowCount, int kPlanes, int kPartCount>
BITINFER_INLINE inline Tile<V, kRowCount, kPartCount> plain_tile(const Left<kPlanes>& a,
                                                                 int64_t row, const uint32_t* b,
                                                                 int64_t steps) {
  if constexpr (kPlanes == 1) {
    return count_tile<V, kRowCount, 1, kPartCount>(a.bits + row * a.stride, a.stride, 0, b, steps);
  } else {
    Tile<V, kRowCount, kPartCount> total;
    for (auto& sum : total.sums) sum = V::zero();
    add_planes<V, kRowCount, kPlanes, kPartCount>(a, row, b, steps, total);
    return total;
  }
}

// Not inlined: GCC keeps the counters of the loop in registers only where nothing else is around.
template <class V, int kPlanes, int kRowCount, int kPanelCount, class Epilogue>
__attribute__((noinline)) void plain_rows(const Rows& rows, const Panels& b, int64_t row,
                                          int64_t last, int64_t panel, const Epilogue& to) {
  constexpr int kPartCount = kPanelCount * V::kParts;
  constexpr uintptr_t kLine = 64;  // of the cache
  const Left<kPlanes> a(rows);
  const Epilogue epilogue = to;
  const int64_t steps = b.steps;
  const uint32_t* panels = b.words + panel * steps * kPanelWidth;
  // The next panels come from L2 or L3: a share of them with every tile.
  // Addresses, not pointers: whole lines may lead beyond the end.
  const int64_t panel_bytes = kPanelCount * steps * kPanelWidth * int64_t{sizeof *panels};
  const int64_t tiles = (last - row) / kRowCount;
  const bool is_last = panel + 2 * kPanelCount > b.panel_count;
  const uintptr_t ahead = tiles > 0 && !is_last ? panel_bytes / tiles : 0;
  uintptr_t next = reinterpret_cast<uintptr_t>(panels) + panel_bytes;
  for (; row < last; row += kRowCount) {
    for (const uintptr_t end = next + ahead; next < end; next += kLine) {
      __builtin_prefetch(reinterpret_cast<const void*>(next));
    }
    const auto tile = plain_tile<V, kRowCount, kPlanes, kPartCount>(a, row, panels, steps);
    finish_rows<V, kRowCount, kPanelCount>(epilogue, row, panel, tile, false);
  }
}

// Most counts of rows are sums of whole tiles and tiles of one row more: 21 = 5 + 4 + 4 + 4 + 4.
// What is left is narrower than a tile.
template <class V, int kPlanes, int kPanelCount, class Epilogue>
void plain_panels(const Rows& a, const Panels& b, int64_t panel, const Epilogue& epilogue) {
  constexpr int kTile = at_least_one(V::kTileRows / kPlanes), kTall = kTile + 1;
  int64_t row = 0;
  if constexpr (V::kHasTallTile && kPlanes == 1) {
    const int64_t rest = a.count % kTile;
    if (rest > 0 && rest * kTall <= a.count) {
      plain_rows<V, kPlanes, kTall, kPanelCount>(a, b, 0, rest * kTall, panel, epilogue);
      row = rest * kTall;
    }
  }
  const int64_t rest = (a.count - row) % kTile;
  const int64_t last = a.count - rest;
  if (row < last) plain_rows<V, kPlanes, kTile, kPanelCount>(a, b, row, last, panel, epilogue);
  unroll<kTile - 1>([&](auto i) {
    if (rest != i + 1) return;
    plain_rows<V, kPlanes, i + 1, kPanelCount>(a, b, last, a.count, panel, epilogue);
  });
}

// T of one panel of one or two halves, kPlanes planes at a time.
template <class V, int kPlanes, int kRowCount, class Epilogue>
__attribute__((noinline)) void halves_rows(const Rows& rows, const Panels& b, int64_t row,
                                           int64_t last, int64_t panel, const Epilogue& to) {
  const Epilogue epilogue = to;
  const int64_t steps = b.steps;
  const bool halved = b.has_halves(panel);
  for (; row < last; row += kRowCount) {
    Tile<V, kRowCount, V::kParts> total;
    for (auto& sum : total.sums) sum = V::zero();
    for (int h = 0; h < 1 + halved; ++h) {
      const uint32_t* words = h == 0 ? b.words + panel * steps * kPanelWidth : b.others[panel];
      for (int first = 0; first < rows.planes; first += kPlanes) {
        const Left<kPlanes> a(rows, first);
        add_planes<V, kRowCount, kPlanes, V::kParts>(a, row, words, steps, total);
      }
    }
    finish_rows<V, kRowCount, 1>(epilogue, row, panel, total, halved);
  }
}

// One panel is as many parts as there are rows more in its tile.
template <class V, int kPlanes, class Epilogue>
void halves_panel(const Rows& a, const Panels& b, int64_t panel, const Epilogue& epilogue) {
  constexpr int kTile = at_least_one(V::kTileRows * V::kTilePanels / kPlanes);
  const int64_t last = a.count - a.count % kTile;
  if (last > 0) halves_rows<V, kPlanes, kTile>(a, b, 0, last, panel, epilogue);
  if (last < a.count) halves_rows<V, kPlanes, 1>(a, b, last, a.count, panel, epilogue);
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

template <class V, int kPlanes, class Epilogue>
void product_of_planes(const Rows& a, const Panels& b, const Epilogue& epilogue) {
  const auto is_plain = [&](int64_t panel) { return a.planes == kPlanes && !b.has_halves(panel); };
  for (int64_t panel = 0; panel < b.panel_count;) {
    if (!is_plain(panel)) {
      halves_panel<V, kPlanes>(a, b, panel++, epilogue);
      continue;
    }
    // Tiles begin at multiples of their width: then one never straddles two words of packed codes.
    bool is_whole = panel % V::kTilePanels == 0 && panel + V::kTilePanels <= b.panel_count;
    for (int i = 1; is_whole && i < V::kTilePanels; ++i) is_whole = is_plain(panel + i);
    if (is_whole) {
      plain_panels<V, kPlanes, V::kTilePanels>(a, b, panel, epilogue);
      panel += V::kTilePanels;
    } else {
      plain_panels<V, kPlanes, 1>(a, b, panel++, epilogue);
    }
  }
}

template <class V, class Epilogue>
void multiply(const Rows& a, const Panels& b, const Epilogue& epilogue) {
  // Where a tile has one row, planes have no loads to share: they are counted one after another,
  // and compilers have a quarter of the work.
  if constexpr (V::kTileRows == 1) {
    product_of_planes<V, 1>(a, b, epilogue);
  } else {
    unroll<kMostPlanes>([&](auto i) {
      if (a.planes == i + 1) product_of_planes<V, i + 1>(a, b, epilogue);
    });
  }
}

}  // namespace
}  // namespace bitinfer
