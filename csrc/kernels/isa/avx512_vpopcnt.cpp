// AVX-512 F, BW, VL, DQ and VPOPCNTDQ. One step is vpxord + vpopcntd + vpaddd for 512
// multiply-adds: three instructions, of which Zen 5 starts four (two of them popcounts) and Zen 4
// two a clock. The 4 x 4 tile needs 16 counters and 5 registers of operands: 8 loads for 48
// instructions.
#include <immintrin.h>

#include "kernels/bgemm_inl.h"
#include "kernels/isa/isa.h"
#include "kernels/rows_inl.h"

namespace bitinfer {
namespace {

struct Avx512 {
  using Word = __m512i;
  using Counter = __m512i;  // sixteen int32: counters are sums
  using Sum = __m512i;
  static constexpr int kLanes = 16;
  static constexpr int kParts = kPanelWidth / kLanes;
  static constexpr int kTileRows = 4;
  static constexpr int kTilePanels = 4;
  static constexpr int64_t kMaxSteps = int64_t{1} << 40;

  static Word load(const uint32_t* p) { return _mm512_loadu_si512(p); }
  static Word broadcast(uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }
  static Word bit_xor(Word a, Word b) { return _mm512_xor_si512(a, b); }
  static Word bit_and(Word a, Word b) { return _mm512_and_si512(a, b); }
  static Counter count(Counter counter, Word word) {
    return _mm512_add_epi32(counter, _mm512_popcnt_epi32(word));
  }
  static void opaque(Word& word) { __asm__ volatile("" : "+v"(word)); }
  static Counter begin(Sum sum) { return sum; }
  static Sum end(Sum, Counter counter) { return counter; }
  static Sum zero() { return _mm512_setzero_si512(); }
  static Sum set_sums(int32_t value) { return _mm512_set1_epi32(value); }
  static Sum load_sums(const int32_t* p) { return _mm512_loadu_si512(p); }
  static Sum add(Sum a, Sum b) { return _mm512_add_epi32(a, b); }
  static Sum sub(Sum a, Sum b) { return _mm512_sub_epi32(a, b); }
  static void store(int32_t* out, Sum sum) { _mm512_storeu_si512(out, sum); }
  static void store_u16(uint16_t* out, Sum sum) {
    const __m256i words = _mm512_maskz_cvtepi32_epi16(0xffff, sum);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), words);
  }
  static uint32_t less(Sum sum, const int32_t* limit) {
    return _mm512_cmplt_epi32_mask(sum, _mm512_loadu_si512(limit));
  }
  static uint32_t greater(Sum sum, const int32_t* limit) {
    return _mm512_cmpgt_epi32_mask(sum, _mm512_loadu_si512(limit));
  }
  static uint64_t less_u16(const uint16_t* x, uint16_t limit) {
    const __m512i limits = _mm512_set1_epi16(static_cast<short>(limit));
    const uint64_t low = _mm512_cmplt_epu16_mask(_mm512_loadu_si512(x), limits);
    const uint64_t high = _mm512_cmplt_epu16_mask(_mm512_loadu_si512(x + 32), limits);
    return low | high << 32;
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
  static uint32_t greater(Doubles a, Doubles b) { return _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ); }
  static uint32_t equal(Doubles a, Doubles b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
};

constexpr Kernels kTable = kernel_table<Avx512>("avx512_vpopcnt");

}  // namespace

const Kernels& avx512_vpopcnt_kernels() { return kTable; }

}  // namespace bitinfer
