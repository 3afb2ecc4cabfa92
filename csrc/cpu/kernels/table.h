// The contract between the engine and its kernels: plain pointers in, plain pointers out, one table
// of functions per instruction set. Kernels own no memory and no threads, and throw nothing.
//
// Codes are bit planes: the value of a left operand is c0 + sum_j c_j plane_j, a column of the
// right one is +-1, or the half of a sum of two such halves. With X_jh = popcount(plane_j xor
// half_h), a product of both is
//
//   S = (A - sum_h sum_j c_j X_jh) / D
//
// where A depends on the column, and D is the number of halves. The kernels compute
//
//   T = sum_h sum_j c_j X_jh                    (cpu/columns.h: from T to S and back)
//
// with the common factor of all c_j taken out, so that one plane and one half are T = X. Rows of
// planes and halves are running words (running_words.h), which take half of the popcounts.
//
// Where both operands have several bits, in attention, they are bytes: S = A - T, too.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/planes.h"
#include "cpu/kernels/running_words.h"

namespace bitinfer {

// Weights are interleaved in panels: 16 output channels, whose 32-bit words lie side by side, so
// that one 512-bit load (two of 256, four of 128) holds one step of 32 values of K for the whole
// panel.
inline constexpr int kPanelWidth = 16;
inline constexpr int kStepBits = 32;

// Codes of kMostPlanes bits have one boundary less than there are codes, and the dip of GELU
// crosses each of them twice.
inline constexpr int kMostFlips = 2 * ((1 << kMostPlanes) - 1);

// Left operand: `count` rows of `planes` bit planes each. A row's words are `stride` 64-bit words
// from those of the row before, and a plane's `plane_stride` words from those of the plane before.
struct Rows {
  const uint64_t* bits;
  int64_t count;
  int64_t stride;
  int64_t plane_stride;
  int planes;
  int32_t coefficient[kMostPlanes];  // c_j over their common factor; 1 where there is one plane

  Rows from(int64_t first, int64_t rows) const {
    Rows part = *this;
    part.bits += first * stride;
    part.count = rows;
    return part;
  }
};

// Right operand: `panel_count` panels of [steps][16] running 32-bit words.
struct Panels {
  const uint32_t* words;          // the first half of every panel, panels side by side
  const uint32_t* const* others;  // the second half of each panel, or null: this panel has one;
                                  // null altogether where no panel has two
  int64_t cols;                   // N
  int64_t steps;                  // ceil(K / 32)
  int64_t panel_count;            // ceil(N / 16)

  bool has_halves(int64_t panel) const { return others != nullptr && others[panel] != nullptr; }
};

// Operands of bytes. On the left `count` rows of code - c0, from 0 to 15, `stride` bytes from row
// to row. On the right panels of [steps][16] words of four neighbouring bytes of a column each,
// which are the values with the other sign, from -8 to 8: T = sum left * right. Left bytes after
// the last value are 0.
inline constexpr int kStepBytes = 4;
inline constexpr int kMostByteProduct = ((1 << kMostPlanes) - 1) << (kMostPlanes - 1);
struct ByteRows {
  const uint8_t* bytes;
  int64_t count, stride;
};
struct BytePanels {
  const uint32_t* words;
  int64_t cols;         // N
  int64_t steps;        // ceil(K / 4)
  int64_t panel_count;  // ceil(N / 16)
};

// S as it is: out[row * stride + col] = (constant[col] - factor * T) >> (has two halves).
struct StoreSums {
  int32_t* out;
  int64_t stride;
  const int32_t* constant;  // A of every column, padded to whole panels
  bool doubled;             // the common factor of all c_j is 2 (and else 1)
};

// Codes of S. Bit j of a code is bit j of `starts`, turned over by every flip below S that toggles
// plane j. In terms of T a flip lies below S where T < limit. The limits of columns from N on are
// such that their bits are 0.
struct Flips {
  const int32_t* limits;  // [count][stride]
  int64_t stride;         // at least the columns, padded to whole panels
  int count;
  // A code is the number of levels below S: the flip of level k, 0 .. 2^planes - 2, toggles
  // k ^ (k + 1), and limits do not rise from level to level. Where `starts` is not 0, levels dip:
  // each has one more flip before its own, whose limits do not fall from level to level, and below
  // which the level counts as well.
  bool count_up;
  uint8_t toggles[kMostFlips];  // set of planes (bit j: plane j); with one plane each toggles it
  uint8_t starts;               // set of planes
  int planes;
};
struct PackCodes {
  Flips flips;
  uint64_t* bits;  // every word of a row is written
  int64_t stride;
  int64_t plane_stride;
  Words words;  // kRunning for an operand of the next product
};

// Distances from the largest score there can be: constant + T. Columns from N to the end of the row
// hold 0xffff.
struct StoreDistances {
  uint16_t* out;
  int64_t stride;           // a multiple of 64
  const int32_t* constant;  // of every column, padded to whole panels; null: 0
};

// exp(-t * scale) for t = 0 .. size-1, non-increasing, as doubles and as integers in units of
// `unit` (a power of two). Sums of the integers do not depend on their order; the builder of the
// table chooses `unit` so that the longest sequence cannot overflow them.
struct ExpTable {
  const double* value;
  const uint64_t* fixed;
  // [kExpBytes][kExpByteColumns], byte b of term t, or null for longer tables.
  const uint8_t* fixed_bytes;
  int64_t size;
  double unit;
};
inline constexpr int kExpBytes = 7;  // hold terms up to 2^55
// At least one more than there are terms; the columns after them are 0.
inline constexpr int kExpByteColumns = 128;

// scale * S + bias of a product: `sums` are rows of S one after another; scale and bias are per
// column.
struct ScaledSums {
  const int32_t* sums;
  const double* scale;
  const double* bias;
};

// Rows of n doubles, one after another.
struct NormRows {
  double* x;
  int64_t rows;
  int64_t n;
  const double* weight;
  const double* bias;
  ScaledSums added;  // to x, before anything else, as fma(scale, S, bias); no `sums`: nothing
};

// Where the bits x > threshold of some rows go.
struct Signs {
  const double* threshold;  // float32 values, which makes it cheap to notice that x is none
  uint64_t* bits;           // running words
  int64_t stride;           // words per row
  bool any_equal;           // set to true if some x equals its threshold, and else left alone
};
inline constexpr int kMostSigns = 3;

// Codes of values u: round(u * inverse_step) between `low` and `high`, half to even, where what
// lies within 2^-40 of half an odd number counts as exactly there. Planes hold the bits of code -
// low.
struct Quantizer {
  double offset;  // taken from u before
  double inverse_step;
  int32_t low, high;
  int planes;
};
struct PlaneRows {
  uint64_t* bits;  // running words
  int64_t stride, plane_stride;
};

// Values that are affine in a product's sums: act(scale * S + bias) + shift, each step rounded.
enum class Activation { kRelu, kGelu };
struct Values {
  ScaledSums from;
  Activation activation;
  const double* shift;  // per column
  // The same numbers as floats, and a bound of all that is added, in magnitude.
  const float *rough_scale, *rough_bias, *rough_shift;
  double magnitude;
};

// The sum of a word's codes times its scale, its position's and its segment's vector.
struct EmbeddingRow {
  const uint64_t* bits;     // codes, not running
  const uint64_t* nonzero;  // or null: no code is 0
  double scale;
  const float* position;
  const float* segment;
  int64_t n;
};

// Rows of attention: distances of `keys` >= 1 keys, as store_distances leaves them.
struct ScoreRows {
  const uint16_t* distances;
  int64_t stride;
  int64_t rows;
  int64_t keys;
};
struct RowSum {
  uint64_t terms;              // the sum of the row's terms, in units of the table
  uint16_t nearest, farthest;  // distances
};

struct Kernels {
  const char* name;
  uint64_t (*products_run)();  // by this table's own code in this process: proof of what ran

  // Runs 8 x `steps` independent xor + popcount + add of one vector each, in registers only;
  // returns how many codes that multiplies. Timing it gives what plain steps could reach at most;
  // running words go up to a fifth beyond.
  int64_t (*popcount_probe)(int64_t steps);

  void (*store_sums)(const Rows&, const Panels&, const StoreSums&);
  void (*pack_codes)(const Rows&, const Panels&, const PackCodes&);
  void (*store_distances)(const Rows&, const Panels&, const StoreDistances&);
  // The same of bytes.
  void (*store_byte_sums)(const ByteRows&, const BytePanels&, const StoreSums&);
  void (*pack_byte_codes)(const ByteRows&, const BytePanels&, const PackCodes&);
  void (*store_byte_distances)(const ByteRows&, const BytePanels&, const StoreDistances&);

  void (*embed)(const EmbeddingRow&, double* out);

  // Bit k = x[k] > threshold[k] (0 if threshold is null), as running words; true if some x[k]
  // equals its threshold.
  bool (*pack_greater)(const double* x, const double* threshold, int64_t n, uint64_t* bits);
  // Bit k = x[k] >= threshold[k], as running words: the second plane of signs with zeros.
  void (*pack_not_less)(const double* x, const double* threshold, int64_t n, uint64_t* bits);

  // Codes of x[row * n + k] + shift[k] - offset, rows of n values.
  void (*quantize)(const double* x, const double* shift, int64_t rows, int64_t n, const Quantizer&,
                   const PlaneRows& to);
  // The smallest value of `rows` rows of n sums, or `least` if that is not larger.
  double (*least_value)(const Values&, int64_t rows, int64_t n, double least);
  // Codes of the same values - offset.
  void (*value_codes)(const Values&, int64_t rows, int64_t n, const Quantizer&,
                      const PlaneRows& to);

  // out = scale * S + bias, rows of n, each step rounded to double.
  void (*affine)(const ScaledSums&, int64_t rows, int64_t n, double* out);

  // Every row of x, with what is added, becomes (x - mean) / sqrt(variance + 1e-12) * weight + bias
  // (Ba et al. 2016, "Layer Normalization"; docs/numerics.md has the order of operations), and its
  // bits go to each of the `count` <= kMostSigns signs, which are set as by pack_greater.
  void (*layer_norm)(const NormRows&, Signs* signs, int count);

  // Bit j of a row = softmax > half_step, as running words.
  void (*probability_bits)(const ScoreRows&, const ExpTable& table, double half_step,
                           const PlaneRows& to);
  // The sum of each row, and with it codes of softmax - offset, of any bits.
  void (*row_sums)(const ScoreRows&, const ExpTable& table, RowSum* sums);
  void (*probability_codes)(const ScoreRows&, const RowSum* sums, const ExpTable& table,
                            const Quantizer&, const PlaneRows& to);
};

}  // namespace bitinfer
