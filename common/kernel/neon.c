/* NEON of ARMv8.2 with its dot products of signed bytes: four lanes. Everything is loaded as bytes,
 * which need not be aligned. */
#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#define LANES        4
#define VEC          float32x4_t
#define LOAD(p)      vreinterpretq_f32_u8(vld1q_u8((const uint8_t *)(p)))
#define STORE(p, v)  vst1q_f32(p, v)
#define SET(a)       vdupq_n_f32(a)
#define ZERO()       vdupq_n_f32(0)
#define ADD(a, b)    vaddq_f32(a, b)
#define MUL(a, b)    vmulq_f32(a, b)
#define DIV(a, b)    vdivq_f32(a, b)
#define FMA(a, b, c) vfmaq_f32(c, a, b)
#define MAX(a, b)    vmaxq_f32(a, b)
#define MIN(a, b)    vminq_f32(a, b)
#define ROUND(v)     vrndnq_f32(v)
#define POW2(v)      pow2_lanes(v)
#define SUM(v)       vaddvq_f32(v)
#define BEST(v)      vmaxvq_f32(v)

static inline float32x4_t pow2_lanes(float32x4_t v) {
    int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(v), vdupq_n_s32(127));
    return vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23));
}

#define LOAD_16_BITS(p) vreinterpret_u16_u8(vld1_u8((const uint8_t *)(p)))
#define LOAD_F16(p)     vcvt_f32_f16(vreinterpret_f16_u16(LOAD_16_BITS(p)))
#define SET_F16(half)   vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half)))
#define LOAD_BF16(p)    vreinterpretq_f32_u32(vshll_n_u16(LOAD_16_BITS(p), 16))
#define LOAD_FP8(p)     high_fp8(vreinterpret_u16_u8(vzip1_u8(vdup_n_u8(0), load_four(p))))

static inline uint8x8_t load_four(const void *p) {
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return vcreate_u8(four);
}

/* The high bytes of 16-bit lanes. */
static inline float32x4_t high_fp8(uint16x4_t lanes) {
    int16x4_t moved = vshr_n_s16(vreinterpret_s16_u16(lanes), 1);
    return vcvt_f32_f16(vreinterpret_f16_s16(vand_s16(moved, vdup_n_s16((int16_t)0xbf80))));
}

#include "common/kernel/simd.h"

#define IVEC              int32x4_t
#define ILOAD(p)          vreinterpretq_s32_u8(vld1q_u8(p))
#define ISET(a)           vdupq_n_s32(a)
#define ISET8(a)          vreinterpretq_s32_u8(vdupq_n_u8(a))
#define IADD(a, b)        vaddq_s32(a, b)
#define ISUB(a, b)        vsubq_s32(a, b)
#define IAND(a, b)        vandq_s32(a, b)
#define IOR(a, b)         vorrq_s32(a, b)
#define SHIFT_LEFT(v, n)  vreinterpretq_s32_u16(vshlq_n_u16(vreinterpretq_u16_s32(v), n))
#define SHIFT_RIGHT(v, n) vreinterpretq_s32_u16(vshrq_n_u16(vreinterpretq_u16_s32(v), n))
#define ILOOKUP(t, v)     vreinterpretq_s32_u8(vqtbl1q_u8(vld1q_u8(t), vreinterpretq_u8_s32(v)))
#define DOT_ROWS(groups, vectors, bits, first, count, x, x_stride, rows, dots)                     \
    dot_rows((groups)[0] + (first), bits, count, (x)->values + 4 * (first), x_stride, rows, dots)
#define Q8_OFFSET      0
#define FLOATS(v)      vcvtq_f32_s32(v)
#define LOAD_U8(p)     vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(load_four(p)))))
#define LOAD_I8(p)     vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load_four(p)))))
#define STORE_I8(p, v) store_bytes(p, v)
#define ABS(v)         vabsq_f32(v)
#define PANEL_BATCH    4
#define PANEL_SIDE     1

static inline void store_bytes(int8_t *p, float32x4_t v) {
    int16x4_t words = vqmovn_s32(vcvtnq_s32_f32(v));
    int8x8_t bytes = vqmovn_s16(vcombine_s16(words, words));
    int32_t four = vget_lane_s32(vreinterpret_s32_s8(bytes), 0);
    memcpy(p, &four, sizeof four);
}

/* Bytes of fewer than eight bits are the same with a sign; those of eight bits become signed when
 * their highest bit is flipped. Sixteen activations are loaded at a time and taken lane by lane, so
 * that they cost less than the registers that more vectors side by side would take. */
static inline __attribute__((always_inline)) void dot_rows(const int32x4_t *groups, int bits,
                                                           int count, const int8_t *values,
                                                           size_t x_stride, int rows,
                                                           int32x4_t (*dots)[4]) {
    int8x16_t w[8];
    UNROLL for (int g = 0; g < count; g++) w[g] =
        vreinterpretq_s8_s32(bits == 8 ? veorq_s32(groups[g], ISET8(0x80)) : groups[g]);
    UNROLL for (int r = 0; r < rows; r++) {
        int32x4_t sums[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
        UNROLL for (int half = 0; half < count / 4; half++) {
            int8x16_t x = vld1q_s8(values + r * x_stride * sizeof(struct q8_block) + 16 * half);
            sums[half] = vdotq_laneq_s32(sums[half], w[4 * half], x, 0);
            sums[half] = vdotq_laneq_s32(sums[half], w[4 * half + 1], x, 1);
            sums[half] = vdotq_laneq_s32(sums[half], w[4 * half + 2], x, 2);
            sums[half] = vdotq_laneq_s32(sums[half], w[4 * half + 3], x, 3);
        }
        dots[r][0] = vaddq_s32(sums[0], sums[1]);
    }
}

#include "common/kernel/panel_simd.h"

#include "common/kernel/block_simd.h"

#define EVEN_BF16(v)        vreinterpretq_f32_s32(vshlq_n_s32(v, 16))
#define ODD_BF16(v)         vreinterpretq_f32_s32(vandq_s32(v, ISET((int)0xffff0000)))
#define LOAD_PAIRS_fp8(...) LOAD_EACH(load_pair_fp8, __VA_ARGS__)
#define FP8_INPUT_FACTOR    1.0f
#define FP8_SUM_FACTOR      FP8_FACTOR
#define ARRANGE_fp8         ARRANGE_NOTHING
#define FLOAT_PANELS        1
#define FLOAT_BATCH         4

static inline void load_pair_fp8(const uint8_t *p, float32x4_t (*w)[2]) {
    for (size_t v = 0; v < PANEL_ROWS / LANES; v++) {
        uint16x4_t lanes = LOAD_16_BITS(p + 8 * v);
        w[v][0] = high_fp8(vshl_n_u16(lanes, 8));
        w[v][1] = high_fp8(lanes);
    }
}

#include "common/kernel/float_panel_simd.h"

const struct kernel KERNEL_NEON = TABLE("neon", PEAK_NEON);
