// AVX-512 F, BW, VL, DQ, VBMI, VNNI and VPOPCNTDQ. Two steps are vpxord, vpxord, vpternlogd,
// vpopcntd, vpaddd for 1024 multiply-adds: five instructions, of which Zen 5 starts four and Zen 4
// two a clock. The 4 x 2 tile needs 8 counters, 8 parities and 6 registers of operands: 12 loads
// for 40 of those instructions (compilers add copies of registers, which cost no execution); the 5
// x 2 tile needs 26. Products of bytes are one instruction (vpdpbusd) for 64 multiply-adds.
#include <immintrin.h>

#include "cpu/kernels/isa/isa.h"
#include "cpu/kernels/table_inl.h"

namespace bitinfer {
namespace {

struct Avx512 {
  using Word = __m512i;
  using Counter = __m512i;  // sixteen int32: counters are sums
  using Sum = __m512i;
  using Lanes = __mmask16;
  static constexpr bool kIsVector = true;
  static constexpr bool kSumsTerms = true;
  static constexpr int kLanes = 16;
  static constexpr int kParts = kPanelWidth / kLanes;
  static constexpr int kTileRows = 4;
  static constexpr bool kHasTallTile = true;
  static constexpr int kTilePanels = 2;
  static constexpr int64_t kMaxCounts = int64_t{1} << 40;
  using Dots = __m512i;  // sixteen int32: sums
  static constexpr int kDotRows = 8;
  static constexpr int64_t kMostDots = int64_t{1} << 40;

  static Word load(const uint32_t* p) { return _mm512_loadu_si512(p); }
  static Word broadcast(uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }
  static Word bit_xor(Word a, Word b) { return _mm512_xor_si512(a, b); }
  static Word no_bits() { return _mm512_setzero_si512(); }
  static Word carry(Word parity, Word first, Word second) {
    return _mm512_ternarylogic_epi32(parity, first, second, 0x74);  // first ? ~second : parity
  }
  static Counter count(Counter counter, Word word) {
    return _mm512_add_epi32(counter, _mm512_popcnt_epi32(word));
  }
  static void opaque(Word& word) { __asm__ volatile("" : "+v"(word)); }
  static Counter begin(Sum sum) { return sum; }
  static Sum end(Sum, Counter counter) { return counter; }
  static Dots no_dots() { return _mm512_setzero_si512(); }
  static Dots dot(Dots dots, Word left, Word right) {
    return _mm512_dpbusd_epi32(dots, left, right);
  }
  static Sum sum_of(Dots dots) { return dots; }
  static Sum zero() { return _mm512_setzero_si512(); }
  static Sum set_sums(int32_t value) { return _mm512_set1_epi32(value); }
  static Sum load_sums(const int32_t* p) { return _mm512_loadu_si512(p); }
  static Sum add(Sum a, Sum b) { return _mm512_add_epi32(a, b); }
  static Sum sub(Sum a, Sum b) { return _mm512_sub_epi32(a, b); }
  static Sum multiply(Sum a, Sum b) { return _mm512_mullo_epi32(a, b); }
  static Sum half(Sum sum) { return _mm512_maskz_srai_epi32(0xffff, sum, 1); }
  static void store(int32_t* out, Sum sum) { _mm512_storeu_si512(out, sum); }
  static void store_u16(uint16_t* out, Sum sum) {
    const __m256i words = _mm512_maskz_cvtepi32_epi16(0xffff, sum);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), words);
  }
  static Lanes below(Sum sum, Sum limit) { return _mm512_cmplt_epi32_mask(sum, limit); }
  static uint32_t bits_of(Lanes lanes) { return lanes; }
  static Sum choose(Lanes lanes, Sum then, Sum otherwise) {
    return _mm512_mask_blend_epi32(lanes, otherwise, then);
  }
  static Sum xor_where(Lanes lanes, Sum codes, Sum toggles) {
    return _mm512_mask_xor_epi32(codes, lanes, codes, toggles);
  }
  template <int kBit>
  static uint32_t bits_at(Sum sum) {
    return _mm512_test_epi32_mask(sum, _mm512_set1_epi32(1 << kBit));
  }
  static uint64_t less_u16(const uint16_t* x, uint16_t limit) {
    const __m512i limits = _mm512_set1_epi16(static_cast<short>(limit));
    const __mmask64 low = _mm512_cmplt_epu16_mask(_mm512_loadu_si512(x), limits);
    const __mmask64 high = _mm512_cmplt_epu16_mask(_mm512_loadu_si512(x + 32), limits);
    // In mask registers: with shifts, GCC 12 may spill 32 bits of a mask and read 64 back.
    return _mm512_kunpackd(high, low);
  }

  // Sum of terms of an ExpTable, 64 keys at a time: byte b of all their terms is one permutation of
  // 128 bytes, and vpsadbw adds bytes. Distances beyond the table come out as column 127, which is
  // 0.
  static uint64_t sum_terms_by_bytes(const uint16_t* distances, int64_t padded_count,
                                     uint16_t nearest, const uint8_t* bytes) {
    constexpr int kBytes = kExpBytes;
    const __m512i from = _mm512_set1_epi16(static_cast<short>(nearest));
    __m512i sums[kBytes];
    unroll<kBytes>([&](auto b) BITINFER_INLINE { sums[b] = _mm512_setzero_si512(); });
    for (int64_t j = 0; j < padded_count; j += 64) {
      const __m512i terms = _mm512_maskz_inserti64x4(
          0xff, _mm512_maskz_broadcast_i64x4(0xff, narrow_terms(distances + j, from)),
          narrow_terms(distances + j + 32, from), 1);
      unroll<kBytes>([&](auto b) BITINFER_INLINE {
        const uint8_t* row = bytes + b * kExpByteColumns;
        const __m512i values =
            _mm512_permutex2var_epi8(_mm512_loadu_si512(row), terms, _mm512_loadu_si512(row + 64));
        const __m512i added = _mm512_sad_epu8(values, _mm512_setzero_si512());
        sums[b] = _mm512_add_epi64(sums[b], added);
      });
    }
    __m512i total = _mm512_setzero_si512();
    unroll<kBytes>([&](auto b) BITINFER_INLINE {
      const __m512i shifted = _mm512_maskz_slli_epi64(0xff, total, 8);
      total = _mm512_add_epi64(shifted, sums[kBytes - 1 - b]);
    });
    uint64_t lanes[8], sum = 0;
    _mm512_storeu_si512(lanes, total);
    for (const uint64_t lane : lanes) sum += lane;
    return sum;
  }

  using Doubles = __m512d;
  static constexpr int kDoubles = 8;
  static Doubles load(const double* p) { return _mm512_loadu_pd(p); }
  static void store(double* p, Doubles x) { _mm512_storeu_pd(p, x); }
  static Doubles set_all(double x) { return _mm512_set1_pd(x); }
  static Doubles convert(const int32_t* p) {
    // The masked form: GCC 12 warns of an uninitialized operand inside the plain one.
    const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_maskz_cvtepi32_pd(0xff, words);
  }
  static Doubles add(Doubles a, Doubles b) { return _mm512_add_pd(a, b); }
  static Doubles sub(Doubles a, Doubles b) { return _mm512_sub_pd(a, b); }
  static Doubles mul(Doubles a, Doubles b) { return _mm512_mul_pd(a, b); }
  static Doubles fma(Doubles a, Doubles b, Doubles c) { return _mm512_fmadd_pd(a, b, c); }
  static uint32_t greater(Doubles a, Doubles b) { return _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ); }
  static uint32_t equal(Doubles a, Doubles b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }

  // The smallest of the low 29 bits, in which a double has more of a significand than a float.
  using Short = __m512i;
  static Short no_short() { return _mm512_set1_epi64(-1); }
  static Short note_short(Short shorts, Doubles x) {
    const __m512i low = _mm512_and_si512(_mm512_castpd_si512(x), _mm512_set1_epi64(0x1fffffff));
    return _mm512_maskz_min_epu64(0xff, shorts, low);
  }
  static bool any_short(Short shorts) { return _mm512_testn_epi64_mask(shorts, shorts) != 0; }

 private:
  static __m256i narrow_terms(const uint16_t* distances, __m512i nearest) {
    const __m512i terms = _mm512_sub_epi16(_mm512_loadu_si512(distances), nearest);
    return _mm512_maskz_cvtusepi16_epi8(~__mmask32{0}, terms);  // saturates
  }
};

constexpr Kernels kTable = kernel_table<Avx512>("avx512_vpopcnt");

}  // namespace

const Kernels& avx512_vpopcnt_kernels() { return kTable; }

}  // namespace bitinfer
