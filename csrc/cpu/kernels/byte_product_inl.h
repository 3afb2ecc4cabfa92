// Product of bytes, for operands that both have several bits: with n of them the planes of one
// would have to be counted against those of the other, n * n times.
//
// V::dot multiplies the four bytes of each word on the left with those on the right and adds to
// V::Dots, which is wide enough for V::kMostDots words of the largest codes; V::sum_of makes sums
// of it.
#pragma once

#include <cstring>

#include "cpu/kernels/epilogues_inl.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/unroll.h"

namespace bitinfer {
namespace {

// T of kRowCount rows and one panel.
template <class V, int kRowCount>
BITINFER_INLINE inline Tile<V, kRowCount, V::kParts> dot_tile(const uint8_t* a, int64_t row_stride,
                                                              const uint32_t* b, int64_t steps) {
  constexpr int kCells = kRowCount * V::kParts;
  Tile<V, kRowCount, V::kParts> tile;
  for (auto& sum : tile.sums) sum = V::zero();
  for (int64_t s = 0; s < steps;) {
    const int64_t last = steps - s < V::kMostDots ? steps : s + V::kMostDots;
    typename V::Dots dots[kCells];
    unroll<kCells>([&](auto i) BITINFER_INLINE { dots[i] = V::no_dots(); });
    for (; s < last; ++s) {
      typename V::Word columns[V::kParts];
      unroll<V::kParts>([&](auto p) BITINFER_INLINE {
        columns[p] = V::load(b + s * kPanelWidth + p * V::kLanes);
      });
      unroll<kRowCount>([&](auto r) BITINFER_INLINE {
        uint32_t bytes;
        std::memcpy(&bytes, a + r * row_stride + s * kStepBytes, sizeof bytes);
        const typename V::Word row = V::broadcast(bytes);
        unroll<V::kParts>([&](auto p) BITINFER_INLINE {
          constexpr int i = r * V::kParts + p;
          dots[i] = V::dot(dots[i], row, columns[p]);
          if constexpr (V::kIsVector) V::opaque(dots[i]);  // as counters of bits
        });
      });
    }
    unroll<kCells>(
        [&](auto i) BITINFER_INLINE { tile.sums[i] = V::add(tile.sums[i], V::sum_of(dots[i])); });
  }
  return tile;
}

// Not inlined, so that the registers of the loop are its own.
template <class V, int kRowCount, class Epilogue>
__attribute__((noinline)) void dot_rows(const ByteRows& rows, const BytePanels& b, int64_t row,
                                        int64_t last, int64_t panel, const Epilogue& to) {
  const Epilogue epilogue = to;
  const ByteRows a = rows;
  const int64_t steps = b.steps;
  const uint32_t* words = b.words + panel * steps * kPanelWidth;
  for (; row < last; row += kRowCount) {
    const auto tile = dot_tile<V, kRowCount>(a.bytes + row * a.stride, a.stride, words, steps);
    finish_rows<V, kRowCount, 1>(epilogue, row, panel, tile, false);
  }
}

template <class V, class Epilogue>
void multiply(const ByteRows& a, const BytePanels& b, const Epilogue& epilogue) {
  const int64_t last = a.count - a.count % V::kDotRows;
  for (int64_t panel = 0; panel < b.panel_count; ++panel) {
    if (last > 0) dot_rows<V, V::kDotRows>(a, b, 0, last, panel, epilogue);
    if (last < a.count) dot_rows<V, 1>(a, b, last, a.count, panel, epilogue);
  }
}

}  // namespace
}  // namespace bitinfer
