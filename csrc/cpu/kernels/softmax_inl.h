// Bits and codes of softmax, from distances and tables.
#pragma once

#include <cstdint>

#include "cpu/kernels/round_inl.h"
#include "cpu/kernels/running_words.h"
#include "cpu/kernels/table.h"
#include "cpu/kernels/unroll.h"

namespace bitinfer {
namespace {

inline uint64_t sum_terms_one_by_one(const uint16_t* distances, int64_t count, uint16_t nearest,
                                     const uint64_t* fixed) {
  // Four scalar sums: compilers would gather or insert vectors here, which is slower on every CPU.
  uint64_t partial[4] = {};
  int64_t j = 0;
  for (; j + 4 <= count; j += 4) {
    for (int i = 0; i < 4; ++i) {
      partial[i] += fixed[distances[j + i] - nearest];
      __asm__ volatile("" : "+r"(partial[i]));
    }
  }
  for (; j < count; ++j) partial[0] += fixed[distances[j] - nearest];
  return partial[0] + partial[1] + partial[2] + partial[3];
}

// How many terms are above the limit: the first ones, because the table falls. Without a branch
// that depends on the limit.
template <class V>
int64_t terms_above(const ExpTable& table, double limit) {
  const typename V::Doubles limits = V::set_all(limit);
  int64_t count = 0, t = 0;
  for (; t + V::kDoubles <= table.size; t += V::kDoubles) {
    count += __builtin_popcount(V::greater(V::load(table.value + t), limits));
  }
  for (; t < table.size; ++t) count += table.value[t] > limit;
  return count;
}

inline uint16_t smallest(const uint16_t* values, int64_t count) {
  uint16_t least = 0xffff;
  for (int64_t j = 0; j < count; ++j) least = values[j] < least ? values[j] : least;
  return least;
}

template <class V>
BITINFER_INLINE inline uint64_t sum_terms(const uint16_t* distances, int64_t count,
                                          uint16_t nearest, const ExpTable& table) {
  if constexpr (V::kSumsTerms) {
    if (table.fixed_bytes != nullptr) {
      return V::sum_terms_by_bytes(distances, (count + 63) / 64 * 64, nearest, table.fixed_bytes);
    }
  }
  return sum_terms_one_by_one(distances, count, nearest, table.fixed);
}

// Some rows at a time, because the steps of one row wait for one another.
struct RowBlock {
  static constexpr int64_t kMost = 16;
  int64_t first, rows;
  uint16_t nearest[kMost];
  uint64_t sums[kMost];  // in units of the table

  const uint16_t* distances(const ScoreRows& scores, int64_t r) const {
    return scores.distances + (first + r) * scores.stride;
  }
};

template <class V, class Body>
BITINFER_INLINE inline void for_each_block(const ScoreRows& scores, const ExpTable& table,
                                           Body body) {
  const int64_t padded = (scores.keys + 63) / 64 * 64;
  for (int64_t first = 0; first < scores.rows; first += RowBlock::kMost) {
    const int64_t left = scores.rows - first;
    RowBlock block{first, left < RowBlock::kMost ? left : RowBlock::kMost, {}, {}};
    for (int64_t r = 0; r < block.rows; ++r) {
      block.nearest[r] = smallest(block.distances(scores, r), padded);
    }
    for (int64_t r = 0; r < block.rows; ++r) {
      block.sums[r] =
          sum_terms<V>(block.distances(scores, r), scores.keys, block.nearest[r], table);
    }
    body(block);
  }
}

// Keys at fewer than `terms` steps of the table from the nearest one are nearer than this.
inline uint16_t distance_limit(uint16_t nearest, int64_t terms) {
  const int64_t end = nearest + terms;
  return static_cast<uint16_t>(end < 0xffff ? end : 0xffff);
}

// p_j = e(t_j) / sum e > half_step, with t_j the distance from the row's nearest key. The largest
// term is e(0) = 1, and a term is off by half a unit of the table at most, so the sum's relative
// error is below keys * unit / 2: 1.5e-14 for 512 keys, 9e-13 for 4096.
template <class V>
void probability_bits(const ScoreRows& scores, const ExpTable& table, double half_step,
                      const PlaneRows& to) {
  const int64_t words = (scores.keys + 63) / 64;
  for_each_block<V>(scores, table, [&](const RowBlock& block) BITINFER_INLINE {
    uint16_t below[RowBlock::kMost];
    for (int64_t r = 0; r < block.rows; ++r) {
      const double limit = half_step * (static_cast<double>(block.sums[r]) * table.unit);
      below[r] = distance_limit(block.nearest[r], terms_above<V>(table, limit));
    }
    for (int64_t r = 0; r < block.rows; ++r) {
      const uint16_t* distances = block.distances(scores, r);
      uint64_t* bits = to.bits + (block.first + r) * to.stride;
      uint64_t running = 0;
      for (int64_t w = 0; w < words; ++w) {
        bits[w] = running = running_word(V::less_u16(distances + w * 64, below[r]), running);
      }
    }
  });
}

// Codes of one row's terms.
class TermCodes {
 public:
  static constexpr int kMostLevels = (1 << kMostPlanes) - 1;

  TermCodes(const ExpTable& table, const Quantizer& quantizer, uint64_t sum)
      : table_(table),
        quantizer_(quantizer),
        total_(static_cast<double>(sum) * table.unit),
        inverse_total_(1.0 / total_) {}

  // How many terms have at least code low + 1, low + 2 and so on, for all codes there are: the
  // first ones, because the table falls and rounding keeps the order.
  int count(int64_t* counts) const {
    const int levels = code(0) - quantizer_.low;
    search(levels, counts);
    for (int k = 0; k < levels; ++k) {
      // The search is by values alone, which may miss by the rounding of the limit.
      int64_t& end = counts[k];
      while (end > 0 && code(end - 1) <= quantizer_.low + k) --end;
      while (end < table_.size && code(end) > quantizer_.low + k) ++end;
    }
    return levels;
  }

 private:
  int32_t code(int64_t t) const { return code_of(table_.value[t] * inverse_total_, quantizer_); }

  // Terms above the middle between two codes: without a branch that depends on it, and for all
  // codes at a time, because the steps of one search wait for one another.
  void search(int levels, int64_t* counts) const {
    const double step = 1.0 / quantizer_.inverse_step;
    double limits[kMostLevels];
    const double* first[kMostLevels];
    for (int k = 0; k < levels; ++k) {
      limits[k] = (quantizer_.offset + (quantizer_.low + k + 0.5) * step) * total_;
      first[k] = table_.value;
    }
    for (int64_t left = table_.size, half; left > 1; left -= half) {
      half = left / 2;
      for (int k = 0; k < levels; ++k) first[k] += first[k][half - 1] > limits[k] ? half : 0;
    }
    for (int k = 0; k < levels; ++k) counts[k] = first[k] - table_.value + (*first[k] > limits[k]);
  }

  const ExpTable& table_;
  const Quantizer& quantizer_;
  double total_, inverse_total_;
};

inline uint16_t largest(const uint16_t* values, int64_t count) {
  uint16_t most = 0;
  for (int64_t j = 0; j < count; ++j) most = values[j] > most ? values[j] : most;
  return most;
}

template <class V>
void row_sums(const ScoreRows& scores, const ExpTable& table, RowSum* sums) {
  for_each_block<V>(scores, table, [&](const RowBlock& block) BITINFER_INLINE {
    for (int64_t r = 0; r < block.rows; ++r) {
      sums[block.first + r] = {block.sums[r], block.nearest[r],
                               largest(block.distances(scores, r), scores.keys)};
    }
  });
}

template <class V>
void probability_codes(const ScoreRows& scores, const RowSum* sums, const ExpTable& table,
                       const Quantizer& quantizer, const PlaneRows& to) {
  const int64_t words = (scores.keys + 63) / 64;
  for (int64_t r = 0; r < scores.rows; ++r) {
    int64_t counts[TermCodes::kMostLevels];
    const int levels = TermCodes(table, quantizer, sums[r].terms).count(counts);
    const uint16_t* distances = scores.distances + r * scores.stride;
    uint64_t* bits = to.bits + r * to.stride;
    uint64_t running[kMostPlanes] = {};
    for (int64_t w = 0; w < words; ++w) {
      uint64_t planes[kMostPlanes] = {};
      for (int k = 0; k < levels; ++k) {
        const uint16_t limit = distance_limit(sums[r].nearest, counts[k]);
        const uint64_t nearer = V::less_u16(distances + w * 64, limit);
        const uint64_t toggled = static_cast<uint64_t>(k ^ (k + 1));
        unroll<kMostPlanes>(
            [&](auto j) BITINFER_INLINE { planes[j] ^= (toggled >> j & 1) != 0 ? nearer : 0; });
      }
      for (int j = 0; j < quantizer.planes; ++j) {
        running[j] = running_word(planes[j], running[j]);
        bits[j * to.plane_stride + w] = running[j];
      }
    }
  }
}

}  // namespace
}  // namespace bitinfer
