// AArch64 NEON: cnt counts bits per byte, byte counters are widened (uaddlp, uadalp) every 31
// counts. The 2 x 1 tile needs 8 counters, 8 parities and 10 registers of operands of 32.
// A select takes two instructions (mvn, bsl).
#include <arm_neon.h>

#include "cpu/kernels/isa/isa.h"
#include "cpu/kernels/table_inl.h"

namespace bitinfer {
namespace {

struct Neon {
  using Word = uint32x4_t;
  using Counter = uint8x16_t;
  using Sum = int32x4_t;
  using Lanes = uint32x4_t;  // all ones or zeros
  static constexpr bool kIsVector = true;
  static constexpr bool kSumsTerms = false;
  static constexpr int kLanes = 4;
  static constexpr int kParts = kPanelWidth / kLanes;
  static constexpr int kTileRows = 2;
  static constexpr bool kHasTallTile = false;
  static constexpr int kTilePanels = 1;
  static constexpr int64_t kMaxCounts = 31;
  struct Dots {
    int32x4_t low, high;  // two for each column, of the first and the last two columns
  };
  static constexpr int kDotRows = 2;
  static constexpr int64_t kMostDots = int64_t{1} << 40;

  static Word load(const uint32_t* p) { return vld1q_u32(p); }
  static Word broadcast(uint32_t word) { return vdupq_n_u32(word); }
  static Word bit_xor(Word a, Word b) { return veorq_u32(a, b); }
  static Word no_bits() { return vdupq_n_u32(0); }
  static Word carry(Word parity, Word first, Word second) {
    return vbslq_u32(first, vmvnq_u32(second), parity);
  }
  static Counter count(Counter counter, Word word) {
    return vaddq_u8(counter, vcntq_u8(vreinterpretq_u8_u32(word)));
  }
  static void opaque(Word& word) { __asm__ volatile("" : "+w"(word)); }
  static void opaque(Dots& dots) { __asm__ volatile("" : "+w"(dots.low), "+w"(dots.high)); }
  static void opaque(Counter& counter) { __asm__ volatile("" : "+w"(counter)); }
  static Counter begin(Sum) { return vdupq_n_u8(0); }
  static Sum end(Sum sum, Counter counter) {
    const uint32x4_t total = vpadalq_u16(vreinterpretq_u32_s32(sum), vpaddlq_u8(counter));
    return vreinterpretq_s32_u32(total);
  }
  static Dots no_dots() { return {zero(), zero()}; }
  static Dots dot(Dots dots, Word left, Word right) {
    const int8x16_t a = vreinterpretq_s8_u32(left), b = vreinterpretq_s8_u32(right);
    return {vpadalq_s16(dots.low, vmull_s8(vget_low_s8(a), vget_low_s8(b))),
            vpadalq_s16(dots.high, vmull_high_s8(a, b))};
  }
  static Sum sum_of(Dots dots) { return vpaddq_s32(dots.low, dots.high); }
  static Sum zero() { return set_sums(0); }
  static Sum set_sums(int32_t value) { return vdupq_n_s32(value); }
  static Sum load_sums(const int32_t* p) { return vld1q_s32(p); }
  static Sum add(Sum a, Sum b) { return vaddq_s32(a, b); }
  static Sum sub(Sum a, Sum b) { return vsubq_s32(a, b); }
  static Sum multiply(Sum a, Sum b) { return vmulq_s32(a, b); }
  static Sum half(Sum sum) { return vshrq_n_s32(sum, 1); }
  static void store(int32_t* out, Sum sum) { vst1q_s32(out, sum); }
  static void store_u16(uint16_t* out, Sum sum) {
    vst1_u16(out, vmovn_u32(vreinterpretq_u32_s32(sum)));
  }
  static Lanes below(Sum sum, Sum limit) { return vcltq_s32(sum, limit); }
  static uint32_t bits_of(Lanes lanes) { return mask(lanes); }
  static Sum choose(Lanes lanes, Sum then, Sum otherwise) {
    return vbslq_s32(lanes, then, otherwise);
  }
  static Sum xor_where(Lanes lanes, Sum codes, Sum toggles) {
    return veorq_s32(codes, vandq_s32(vreinterpretq_s32_u32(lanes), toggles));
  }
  template <int kBit>
  static uint32_t bits_at(Sum sum) {
    return mask(vtstq_s32(sum, vdupq_n_s32(1 << kBit)));
  }
  static uint64_t less_u16(const uint16_t* x, uint16_t limit) {
    static constexpr uint16_t kBits[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    const uint16x8_t weights = vld1q_u16(kBits), limits = vdupq_n_u16(limit);
    uint64_t bits = 0;
    for (int j = 0; j < 64; j += 8) {
      const uint16x8_t below = vcltq_u16(vld1q_u16(x + j), limits);
      bits |= static_cast<uint64_t>(vaddvq_u16(vandq_u16(below, weights))) << j;
    }
    return bits;
  }

  using Doubles = float64x2_t;
  static constexpr int kDoubles = 2;
  static Doubles load(const double* p) { return vld1q_f64(p); }
  static void store(double* p, Doubles x) { vst1q_f64(p, x); }
  static Doubles set_all(double x) { return vdupq_n_f64(x); }
  static Doubles convert(const int32_t* p) { return vcvtq_f64_s64(vmovl_s32(vld1_s32(p))); }
  static Doubles add(Doubles a, Doubles b) { return vaddq_f64(a, b); }
  static Doubles sub(Doubles a, Doubles b) { return vsubq_f64(a, b); }
  static Doubles mul(Doubles a, Doubles b) { return vmulq_f64(a, b); }
  static Doubles fma(Doubles a, Doubles b, Doubles c) { return vfmaq_f64(c, a, b); }
  static uint32_t greater(Doubles a, Doubles b) { return mask(vcgtq_f64(a, b)); }
  static uint32_t equal(Doubles a, Doubles b) { return mask(vceqq_f64(a, b)); }

  // All ones where the low 29 bits, which a float's significand lacks, are 0.
  using Short = uint64x2_t;
  static Short no_short() { return vdupq_n_u64(0); }
  static Short note_short(Short shorts, Doubles x) {
    const uint64x2_t low = vandq_u64(vreinterpretq_u64_f64(x), vdupq_n_u64(0x1fffffff));
    return vorrq_u64(shorts, vceqzq_u64(low));
  }
  static bool any_short(Short shorts) {
    return (vgetq_lane_u64(shorts, 0) | vgetq_lane_u64(shorts, 1)) != 0;
  }

 private:
  static uint32_t mask(uint32x4_t lanes) {
    static constexpr uint32_t kBits[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(lanes, vld1q_u32(kBits)));
  }
  static uint32_t mask(uint64x2_t lanes) {
    return static_cast<uint32_t>((vgetq_lane_u64(lanes, 0) & 1) | (vgetq_lane_u64(lanes, 1) & 2));
  }
};

constexpr Kernels kTable = kernel_table<Neon>("neon");

}  // namespace

const Kernels& neon_kernels() { return kTable; }

}  // namespace bitinfer
