// The contract between the engine and its kernels: plain pointers in, plain pointers out, one table
// of functions per instruction set. Kernels own no memory and no threads, and throw nothing.
//
// A product of packed rows is computed as X, and the sum of codes S follows from it:
//   plain   X = popcount(a xor b)     pm1 x pm1:  S = K - 2 X
//                                     u1  x pm1:  S = ones - X    (ones: +1 codes of b)
//   masked  X = -S                    ternary codes on either side: bits under a non-zero plane
// So one XOR kernel serves both kinds of activation, and thresholds on S become thresholds on X.
//
// Both operands hold running words (running_words.h), so that X takes half of the popcounts.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/kernels/running_words.h"

namespace bitinfer {

// Weights are interleaved in panels: 16 output channels, whose 32-bit words lie side by side, so
// that one 512-bit load (two of 256, four of 128) holds one step of 32 values of K for the whole
// panel.
inline constexpr int kPanelWidth = 16;
inline constexpr int kStepBits = 32;

// Left operand: `count` rows of running words, `stride` 64-bit words apart.
struct Rows {
  const uint64_t* bits;
  const uint64_t* nonzero;  // same shape, not running, or null: no code is 0
  int64_t count;
  int64_t stride;
  bool is_unsigned;  // bits mean 1 and 0 instead of +1 and -1; then `nonzero` is null

  Rows from(int64_t first, int64_t rows) const {
    return {bits + first * stride, nonzero != nullptr ? nonzero + first * stride : nullptr, rows,
            stride, is_unsigned};
  }
};

// Right operand: `panel_count` panels of [steps][16] running 32-bit words.
struct Panels {
  const uint32_t* words;
  const uint32_t* const* nonzero;  // per panel the same shape, not running, or null: it holds no 0
  int64_t cols;                    // N
  int64_t depth;                   // K, values per row
  int64_t steps;                   // ceil(K / 32)
  int64_t panel_count;             // ceil(N / 16)
};

// S as it is: out[row * stride + col].
struct StoreSums {
  int32_t* out;
  int64_t stride;
  const int32_t* ones;  // +1 codes per column, padded to whole panels
};

// plus = X < less, minus = X > greater. The bits are `plus` where greater is null, `plus | minus`
// where `nonzero` is null, and otherwise `plus` with the non-zero plane `plus | minus`.
// Padding columns hold less = INT32_MIN and greater = INT32_MAX, so that padding bits stay 0.
struct Thresholds {
  const int32_t* less;
  const int32_t* greater;
};
struct PackCodes {
  Thresholds plain;   // on X of the plain product
  Thresholds masked;  // on X of the masked one
  uint64_t* bits;
  uint64_t* nonzero;  // never running
  int64_t stride;     // words per row; every word of a row is written
  Words words;        // of `bits`: kRunning for an operand of the next product
};

// X as a distance: popcount(a xor b), or depth - S for the panels that take the masked product.
// Columns from N to the end of the row hold 0xffff.
struct StoreDistances {
  uint16_t* out;
  int64_t stride;  // a multiple of 64
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

// The sum of a word's codes times its scale, its position's and its segment's vector.
struct EmbeddingRow {
  const uint64_t* bits;     // codes, not running
  const uint64_t* nonzero;  // or null: no code is 0
  double scale;
  const float* position;
  const float* segment;
  int64_t n;
};

// Rows of attention: distances of `keys` >= 1 keys, as store_distances leaves them, and the bits
// that they become, as running words.
struct ScoreRows {
  const uint16_t* distances;
  int64_t stride;
  int64_t rows;
  int64_t keys;
  uint64_t* bits;
  int64_t bits_stride;
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

  void (*embed)(const EmbeddingRow&, double* out);

  // Bit k = x[k] > threshold[k] (0 if threshold is null), as running words; true if some x[k]
  // equals its threshold.
  bool (*pack_greater)(const double* x, const double* threshold, int64_t n, uint64_t* bits);
  // Bit k = x[k] != threshold[k].
  void (*pack_not_equal)(const double* x, const double* threshold, int64_t n, uint64_t* bits);

  // out = scale * S + bias, rows of n, each step rounded to double.
  void (*affine)(const ScaledSums&, int64_t rows, int64_t n, double* out);

  // Every row of x, with what is added, becomes (x - mean) / sqrt(variance + 1e-12) * weight + bias
  // (Ba et al. 2016, "Layer Normalization"; docs/numerics.md has the order of operations), and its
  // bits go to each of the `count` <= kMostSigns signs, which are set as by pack_greater.
  void (*layer_norm)(const NormRows&, Signs* signs, int count);

  // Bit j of a row = softmax > half_step.
  void (*probability_bits)(const ScoreRows&, const ExpTable& table, double half_step);
};

}  // namespace bitinfer
