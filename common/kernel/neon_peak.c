/* The peak of NEON: four lanes of f32, the dot products of int8 quadruples, and where the processor
 * has them the products of small matrices, 2 x 8 by 8 x 2 of int8 and 2 x 4 by 4 x 2 of BF16. The
 * file is compiled for all of these; nothing else in it has a use for the optional ones. */
#include <arm_neon.h>
#include <sys/auxv.h>

#include "common/kernel/variants.h"

#define LANES        4u
#define VEC          float32x4_t
#define LOAD(p)      vld1q_f32(p)
#define SET(a)       vdupq_n_f32(a)
#define ADD(a, b)    vaddq_f32(a, b)
#define FMA(a, b, c) vfmaq_f32(c, a, b)
#define SUM(v)       vaddvq_f32(v)

#include "common/kernel/peak_simd.h"

#define ONES_BF16(one)       vreinterpretq_bf16_u32(vdupq_n_u32((uint32_t)(one)*0x3f803f80))
#define STEP_BF16(sum, a, b) vbfmmlaq_f32(sum, a, b)
DEFINE_MULTIPLIER(multiply_bf16, , float32x4_t, START_F32, bfloat16x8_t, ONES_BF16, STEP_BF16,
                  TOTAL_F32)

#define START_INT8(zero)       vdupq_n_s32(zero)
#define ONES_INT8(one)         vdupq_n_s8((int8_t)(one))
#define TOTAL_INT8(sum)        (double)vaddlvq_s32(sum)
#define STEP_DOT(sum, a, b)    vdotq_s32(sum, a, b)
#define STEP_MATRIX(sum, a, b) vmmlaq_s32(sum, a, b)
DEFINE_MULTIPLIER(multiply_int8_dot, , int32x4_t, START_INT8, int8x16_t, ONES_INT8, STEP_DOT,
                  TOTAL_INT8)
DEFINE_MULTIPLIER(multiply_int8_matrix, , int32x4_t, START_INT8, int8x16_t, ONES_INT8, STEP_MATRIX,
                  TOTAL_INT8)

static bool has_bf16(void) {
    return getauxval(AT_HWCAP2) & HWCAP2_BF16;
}

static bool has_int8_matrix(void) {
    return getauxval(AT_HWCAP2) & HWCAP2_I8MM;
}

static const struct peak_multiplier MULTIPLIERS[] = {
    MULTIPLIER_F32,
    {PEAK_BF16, has_bf16, 2 * 16 * PEAK_SUMS, multiply_bf16},
    {PEAK_INT8, NULL, 2 * 16 * PEAK_SUMS, multiply_int8_dot},
    {PEAK_INT8, has_int8_matrix, 2 * 32 * PEAK_SUMS, multiply_int8_matrix},
};

const struct peak PEAK_NEON = PEAK(MULTIPLIERS);
