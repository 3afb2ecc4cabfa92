// AVX2: bits are counted by looking up both nibbles of every byte (vpshufb), into byte counters
// that are widened every 31 counts. The 2 x 1 tile keeps 4 counters, 4 parities, the table and the
// mask within 16 registers. Bytes are multiplied in pairs (vpmaddubsw): the 4 x 1 tile keeps 8
// sums.
#include <immintrin.h>

#include "cpu/kernels/isa/isa.h"
#include "cpu/kernels/table_inl.h"

namespace bitinfer {
namespace {

struct Avx2 {
  using Word = __m256i;
  using Counter = __m256i;  // 32 bytes
  using Sum = __m256i;      // eight int32
  using Lanes = __m256i;    // all ones or zeros
  static constexpr bool kIsVector = true;
  static constexpr bool kSumsTerms = false;
  static constexpr int kLanes = 8;
  static constexpr int kParts = kPanelWidth / kLanes;
  static constexpr int kTileRows = 2;
  static constexpr bool kHasTallTile = false;
  static constexpr int kTilePanels = 1;
  static constexpr int64_t kMaxCounts = 31;
  using Dots = __m256i;  // sixteen int16, two for each column
  static constexpr int kDotRows = 4;
  static constexpr int64_t kMostDots = INT16_MAX / (2 * kMostByteProduct);

  static Word load(const uint32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Word broadcast(uint32_t word) { return _mm256_set1_epi32(static_cast<int>(word)); }
  static Word bit_xor(Word a, Word b) { return _mm256_xor_si256(a, b); }
  static Word no_bits() { return _mm256_setzero_si256(); }
  static Word carry(Word parity, Word first, Word second) {
    // first ? ~second : parity
    return _mm256_xor_si256(parity, _mm256_andnot_si256(_mm256_xor_si256(parity, second), first));
  }
  static Counter count(Counter counter, Word word) {
    const __m256i nibble = _mm256_set1_epi8(0x0f);
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                           0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(word, nibble));
    const __m256i high =
        _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(word, 4), nibble));
    return _mm256_add_epi8(counter, _mm256_add_epi8(low, high));
  }
  static void opaque(Word& word) { __asm__ volatile("" : "+x"(word)); }
  static Counter begin(Sum) { return _mm256_setzero_si256(); }
  static Sum end(Sum sum, Counter counter) {
    const __m256i pairs = _mm256_maddubs_epi16(counter, _mm256_set1_epi8(1));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static Dots no_dots() { return _mm256_setzero_si256(); }
  static Dots dot(Dots dots, Word left, Word right) {
    return _mm256_add_epi16(dots, _mm256_maddubs_epi16(left, right));
  }
  static Sum sum_of(Dots dots) { return _mm256_madd_epi16(dots, _mm256_set1_epi16(1)); }
  static Sum zero() { return _mm256_setzero_si256(); }
  static Sum set_sums(int32_t value) { return _mm256_set1_epi32(value); }
  static Sum load_sums(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Sum add(Sum a, Sum b) { return _mm256_add_epi32(a, b); }
  static Sum sub(Sum a, Sum b) { return _mm256_sub_epi32(a, b); }
  static Sum multiply(Sum a, Sum b) { return _mm256_mullo_epi32(a, b); }
  static Sum half(Sum sum) { return _mm256_srai_epi32(sum, 1); }
  static void store(int32_t* out, Sum sum) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), sum);
  }
  static void store_u16(uint16_t* out, Sum sum) {
    // packus works within 128-bit halves; the permutation brings their low parts together.
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(sum, sum), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(words));
  }
  static Lanes below(Sum sum, Sum limit) { return _mm256_cmpgt_epi32(limit, sum); }
  static uint32_t bits_of(Lanes lanes) {  // the highest bit of each
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(lanes)));
  }
  static Sum choose(Lanes lanes, Sum then, Sum otherwise) {
    return _mm256_blendv_epi8(otherwise, then, lanes);
  }
  static Sum xor_where(Lanes lanes, Sum codes, Sum toggles) {
    return _mm256_xor_si256(codes, _mm256_and_si256(lanes, toggles));
  }
  template <int kBit>
  static uint32_t bits_at(Sum sum) {
    return bits_of(_mm256_slli_epi32(sum, 31 - kBit));
  }
  static uint64_t less_u16(const uint16_t* x, uint16_t limit) {
    const __m256i limits = _mm256_set1_epi16(static_cast<short>(limit));
    uint64_t bits = 0;
    for (int j = 0; j < 64; j += 32) {
      // packs works within 128-bit halves; the permutation restores the order of the 32 bytes.
      const __m256i below =
          _mm256_packs_epi16(less_lanes(x + j, limits), less_lanes(x + j + 16, limits));
      const __m256i ordered = _mm256_permute4x64_epi64(below, 0xd8);
      bits |= static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_epi8(ordered))) << j;
    }
    return bits;
  }

  using Doubles = __m256d;
  static constexpr int kDoubles = 4;
  static Doubles load(const double* p) { return _mm256_loadu_pd(p); }
  static void store(double* p, Doubles x) { _mm256_storeu_pd(p, x); }
  static Doubles set_all(double x) { return _mm256_set1_pd(x); }
  static Doubles convert(const int32_t* p) {
    return _mm256_cvtepi32_pd(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Doubles add(Doubles a, Doubles b) { return _mm256_add_pd(a, b); }
  static Doubles sub(Doubles a, Doubles b) { return _mm256_sub_pd(a, b); }
  static Doubles mul(Doubles a, Doubles b) { return _mm256_mul_pd(a, b); }
  static Doubles fma(Doubles a, Doubles b, Doubles c) { return _mm256_fmadd_pd(a, b, c); }
  static uint32_t greater(Doubles a, Doubles b) {
    return static_cast<uint32_t>(_mm256_movemask_pd(_mm256_cmp_pd(a, b, _CMP_GT_OQ)));
  }
  static uint32_t equal(Doubles a, Doubles b) {
    return static_cast<uint32_t>(_mm256_movemask_pd(_mm256_cmp_pd(a, b, _CMP_EQ_OQ)));
  }

  // All ones where the low 29 bits, which a float's significand lacks, are 0.
  using Short = __m256i;
  static Short no_short() { return _mm256_setzero_si256(); }
  static Short note_short(Short shorts, Doubles x) {
    const __m256i low = _mm256_and_si256(_mm256_castpd_si256(x), _mm256_set1_epi64x(0x1fffffff));
    return _mm256_or_si256(shorts, _mm256_cmpeq_epi64(low, _mm256_setzero_si256()));
  }
  static bool any_short(Short shorts) { return _mm256_testz_si256(shorts, shorts) == 0; }

 private:
  // All ones where x < limit: the saturating limit - x is then not 0.
  static __m256i less_lanes(const uint16_t* x, __m256i limits) {
    const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    const __m256i rest = _mm256_subs_epu16(limits, values);
    const __m256i zero = _mm256_setzero_si256();
    return _mm256_xor_si256(_mm256_cmpeq_epi16(rest, zero), _mm256_cmpeq_epi16(zero, zero));
  }
};

constexpr Kernels kTable = kernel_table<Avx2>("avx2");

}  // namespace

const Kernels& avx2_kernels() { return kTable; }

}  // namespace bitinfer
