// What becomes of T: sums, codes or distances.
#pragma once

#include <cstring>

#include "cpu/kernels/table.h"
#include "cpu/kernels/unroll.h"

namespace bitinfer {
namespace {

// T of some rows and neighbouring columns: V::kParts parts make a panel.
template <class V, int kRowCount, int kPartCount>
struct Tile {
  typename V::Sum sums[kRowCount * kPartCount];
};

// An epilogue takes one row of a tile at a time: the parts of kPanelCount
// neighbouring panels. `halved` tells that S is half of what follows from T.

template <class V>
struct SumsEpilogue {
  static constexpr bool kIsLong = false;
  int64_t cols;
  StoreSums to;

  template <int kPanelCount>
  BITINFER_INLINE void row(int64_t row, int64_t panel, const typename V::Sum* parts,
                           bool halved) const {
    const int64_t first = panel * kPanelWidth, columns = kPanelCount * kPanelWidth;
    int32_t* out = to.out + row * to.stride + first;
    if (first + columns <= cols) return store<kPanelCount>(parts, first, halved, out);
    int32_t sums[columns];
    store<kPanelCount>(parts, first, halved, sums);
    std::memcpy(out, sums, (cols - first) * sizeof(int32_t));
  }
  void finish() const {}

 private:
  template <int kPanelCount>
  BITINFER_INLINE void store(const typename V::Sum* parts, int64_t first, bool halved,
                             int32_t* out) const {
    unroll<kPanelCount * V::kParts>([&](auto p) BITINFER_INLINE {
      constexpr int col = p * V::kLanes;
      typename V::Sum sum = V::sub(V::load_sums(to.constant + first + col), parts[p]);
      if (to.doubled) sum = V::sub(sum, parts[p]);
      V::store(out + col, halved ? V::half(sum) : sum);
    });
  }
};

// Where packed codes go, one panel or two at a time: at most one step of the result.
struct CodeWords {
  explicit CodeWords(const PackCodes& to)
      : stride(to.stride), running(to.words == Words::kRunning) {}

  int64_t stride;
  bool running;

  static constexpr int kPanelsPerStep = kStepBits / kPanelWidth;
  static constexpr int64_t kPanelBytes = kPanelWidth / 8;

  // Panels come in ascending order, so what makes running words of codes is there already: the
  // same part of the 32-bit word before.
  template <int kPanelCount>
  BITINFER_INLINE void store(uint64_t* plane, int64_t row, int64_t panel, uint32_t bits) const {
    static_assert(kPanelCount <= kPanelsPerStep, "at most one word of the result");
    char* to = reinterpret_cast<char*>(plane + row * stride) + panel * kPanelBytes;
    uint32_t before = 0;
    if (running && panel >= kPanelsPerStep) {
      std::memcpy(&before, to - kPanelsPerStep * kPanelBytes, kPanelCount * kPanelBytes);
    }
    bits ^= before;
    std::memcpy(to, &bits, kPanelCount * kPanelBytes);  // little-endian
  }
};

// Which sums of some parts lie below their limits, a bit for each.
template <class V, int kPartCount>
BITINFER_INLINE inline uint32_t bits_below(const typename V::Sum* parts, const int32_t* limits) {
  uint32_t bits = 0;
  unroll<kPartCount>([&](auto p) BITINFER_INLINE {
    const auto below = V::below(parts[p], V::load_sums(limits + p * V::kLanes));
    bits |= V::bits_of(below) << (p * V::kLanes);
  });
  return bits;
}

// Code bits after the last panel are 0.
inline void pack_padding(const PackCodes& to, int64_t rows, int64_t panel_count) {
  const CodeWords words(to);
  const int64_t whole = to.stride * (64 / kPanelWidth);
  for (int j = 0; j < to.flips.planes && panel_count < whole; ++j) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t panel = panel_count; panel < whole; ++panel) {
        words.store<1>(to.bits + j * to.plane_stride, row, panel, 0);
      }
    }
  }
}

// The common kind of codes: one plane that one or two flips turn over.
template <class V>
class BitEpilogue {
 public:
  static constexpr bool kIsLong = false;

  BitEpilogue(int64_t rows, int64_t panel_count, const PackCodes& to)
      : bits_(to.bits),
        words_(to),
        first_(to.flips.limits),
        second_(to.flips.count == 2 ? to.flips.limits + to.flips.stride : nullptr),
        starts_(to.flips.starts != 0 ? ~uint32_t{0} : 0),
        rows_(rows),
        panel_count_(panel_count),
        to_(to) {}

  static bool fits(const Flips& flips) {
    return flips.planes == 1 && (flips.count == 1 || flips.count == 2);
  }

  template <int kPanelCount>
  BITINFER_INLINE void row(int64_t row, int64_t panel, const typename V::Sum* parts, bool) const {
    constexpr int kPartCount = kPanelCount * V::kParts;
    const int64_t col = panel * kPanelWidth;
    uint32_t bits = starts_ ^ bits_below<V, kPartCount>(parts, first_ + col);
    if (second_ != nullptr) bits ^= bits_below<V, kPartCount>(parts, second_ + col);
    words_.template store<kPanelCount>(bits_, row, panel, bits);
  }
  void finish() const { pack_padding(to_, rows_, panel_count_); }

 private:
  uint64_t* bits_;
  CodeWords words_;
  const int32_t *first_, *second_;
  uint32_t starts_;
  int64_t rows_, panel_count_;
  PackCodes to_;
};

// Codes of any planes.
template <class V>
class CodesEpilogue {
 public:
  static constexpr bool kIsLong = true;

  CodesEpilogue(int64_t rows, int64_t panel_count, const PackCodes& to)
      : rows_(rows), panel_count_(panel_count), words_(to), to_(to) {}

  template <int kPanelCount>
  BITINFER_INLINE void row(int64_t row, int64_t panel, const typename V::Sum* parts, bool) const {
    constexpr int kPartCount = kPanelCount * V::kParts;
    const Flips& flips = to_.flips;
    uint32_t planes[kMostPlanes] = {};
    if (flips.count_up && is_above_dips<kPartCount>(panel, parts)) {
      unroll<kMostPlanes>([&](auto i) BITINFER_INLINE {
        if (flips.planes == i + 1) count<i + 1, kPartCount>(panel, parts, planes);
      });
    } else {
      turn_over<kPartCount>(panel, parts, planes);
    }
    unroll<kMostPlanes>([&](auto j) BITINFER_INLINE {
      if (j >= flips.planes) return;
      words_.template store<kPanelCount>(to_.bits + j * to_.plane_stride, row, panel, planes[j]);
    });
  }
  void finish() const { pack_padding(to_, rows_, panel_count_); }

 private:
  // Every flip turns over bits of lanes, all planes at once.
  template <int kPartCount>
  BITINFER_INLINE void turn_over(int64_t panel, const typename V::Sum* parts,
                                 uint32_t* planes) const {
    const Flips& flips = to_.flips;
    const int32_t* limits = flips.limits + panel * kPanelWidth;
    typename V::Sum codes[kPartCount];
    unroll<kPartCount>([&](auto p) BITINFER_INLINE { codes[p] = V::set_sums(flips.starts); });
    for (int f = 0; f < flips.count; ++f, limits += flips.stride) {
      const typename V::Sum toggles = V::set_sums(flips.toggles[f]);
      unroll<kPartCount>([&](auto p) BITINFER_INLINE {
        const auto below = V::below(parts[p], V::load_sums(limits + p * V::kLanes));
        codes[p] = V::xor_where(below, codes[p], toggles);
      });
    }
    unroll<kMostPlanes>([&](auto j) BITINFER_INLINE {
      unroll<kPartCount>([&](auto p) BITINFER_INLINE {
        planes[j] |= V::template bits_at<j>(codes[p]) << (p * V::kLanes);
      });
    });
  }

  // Levels have dropped everywhere; the first one drops last.
  template <int kPartCount>
  BITINFER_INLINE bool is_above_dips(int64_t panel, const typename V::Sum* parts) const {
    constexpr uint32_t kAll = ~uint32_t{0} >> (32 - kPartCount * V::kLanes);
    const Flips& flips = to_.flips;
    return flips.starts == 0 ||
           bits_below<V, kPartCount>(parts, flips.limits + panel * kPanelWidth) == kAll;
  }

  // The number of levels below S, whose limits do not rise: a binary search.
  template <int kPlanes, int kPartCount>
  BITINFER_INLINE void count(int64_t panel, const typename V::Sum* parts, uint32_t* planes) const {
    constexpr int kLevels = (1 << kPlanes) - 1;
    const Flips& flips = to_.flips;
    const int64_t step = flips.starts == 0 ? flips.stride : 2 * flips.stride;
    const int32_t* limits = flips.limits + (step - flips.stride) + panel * kPanelWidth;
    unroll<kPartCount>([&](auto p) BITINFER_INLINE {
      typename V::Sum left[kLevels];
      unroll<kLevels>([&](auto level) BITINFER_INLINE {
        left[level] = V::load_sums(limits + level * step + p * V::kLanes);
      });
      unroll<kPlanes>([&](auto i) BITINFER_INLINE {
        constexpr int plane = kPlanes - 1 - i, middle = (1 << plane) - 1;
        const auto below = V::below(parts[p], left[middle]);
        planes[plane] |= V::bits_of(below) << (p * V::kLanes);
        unroll<middle>([&](auto k) BITINFER_INLINE {
          left[k] = V::choose(below, left[middle + 1 + k], left[k]);
        });
      });
    });
  }

  int64_t rows_, panel_count_;
  CodeWords words_;
  PackCodes to_;
};

template <class V>
struct DistanceEpilogue {
  static constexpr bool kIsLong = false;
  int64_t rows, cols;
  StoreDistances to;

  template <int kPanelCount>
  BITINFER_INLINE void row(int64_t row, int64_t panel, const typename V::Sum* parts, bool) const {
    const int64_t first = panel * kPanelWidth;
    uint16_t* out = to.out + row * to.stride + first;
    unroll<kPanelCount * V::kParts>([&](auto p) BITINFER_INLINE {
      constexpr int col = p * V::kLanes;
      typename V::Sum distance = parts[p];
      if (to.constant != nullptr) {
        distance = V::add(distance, V::load_sums(to.constant + first + col));
      }
      V::store_u16(out + col, distance);
    });
  }
  void finish() const {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t col = cols; col < to.stride; ++col) to.out[row * to.stride + col] = 0xffff;
    }
  }
};

// Rows of a tile one after another; those of a long epilogue in a loop, by way of memory.
template <class V, int kRowCount, int kPanelCount, class Epilogue, int kPartCount>
BITINFER_INLINE inline void finish_rows(const Epilogue& epilogue, int64_t row, int64_t panel,
                                        const Tile<V, kRowCount, kPartCount>& tile, bool halved) {
  if constexpr (Epilogue::kIsLong && kRowCount > 1) {
    typename V::Sum sums[kRowCount * kPartCount];  // or the tile itself would have to be in memory
    unroll<kRowCount * kPartCount>([&](auto i) BITINFER_INLINE { sums[i] = tile.sums[i]; });
    for (int r = 0; r < kRowCount; ++r) {
      epilogue.template row<kPanelCount>(row + r, panel, sums + r * kPartCount, halved);
    }
  } else {
    unroll<kRowCount>([&](auto r) BITINFER_INLINE {
      epilogue.template row<kPanelCount>(row + r, panel, tile.sums + r * kPartCount, halved);
    });
  }
}

}  // namespace
}  // namespace bitinfer
