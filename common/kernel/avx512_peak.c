/* The peak of AVX-512: sixteen lanes of f32, and the dot products of BF16 pairs and of int8
 * quadruples (VNNI) where the processor has them. */
#include <immintrin.h>

#include "common/kernel/variants.h"

#define LANES        16u
#define VEC          __m512
#define LOAD(p)      _mm512_loadu_ps(p)
#define SET(a)       _mm512_set1_ps(a)
#define ADD(a, b)    _mm512_add_ps(a, b)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define SUM(v)       _mm512_reduce_add_ps(v)

#include "common/kernel/peak_simd.h"

#define BF16                 __attribute__((target("avx512bf16")))
#define ONES_BF16(one)       (__m512bh) _mm512_set1_epi32((one)*0x3f803f80)
#define STEP_BF16(sum, a, b) _mm512_dpbf16_ps(sum, a, b)
DEFINE_MULTIPLIER(multiply_bf16, BF16, __m512, START_F32, __m512bh, ONES_BF16, STEP_BF16, TOTAL_F32)

static bool has_bf16(void) {
    return __builtin_cpu_supports("avx512bf16");
}

#define START_INT8(zero) _mm512_set1_epi32(zero)
#define ONES_INT8(one)   _mm512_set1_epi8((char)(one))
#define TOTAL_INT8(sum)  (double)_mm512_reduce_add_epi32(sum)

/* As in avx2_peak.c: the products must look new each time. */
static inline __m512i add_products(__m512i sum, __m512i a, __m512i b) {
    __asm__ volatile("" : "+v"(a));
    __m512i pairs = _mm512_maddubs_epi16(a, b);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

#define STEP_PAIRS(sum, a, b) add_products(sum, a, b)
DEFINE_MULTIPLIER(multiply_int8_pairs, , __m512i, START_INT8, __m512i, ONES_INT8, STEP_PAIRS,
                  TOTAL_INT8)

#define VNNI                 __attribute__((target("avx512vnni")))
#define STEP_VNNI(sum, a, b) _mm512_dpbusd_epi32(sum, a, b)
DEFINE_MULTIPLIER(multiply_int8_vnni, VNNI, __m512i, START_INT8, __m512i, ONES_INT8, STEP_VNNI,
                  TOTAL_INT8)

static bool has_vnni(void) {
    return __builtin_cpu_supports("avx512vnni");
}

static const struct peak_multiplier MULTIPLIERS[] = {
    MULTIPLIER_F32,
    {PEAK_BF16, has_bf16, 2 * 32 * PEAK_SUMS, multiply_bf16},
    {PEAK_INT8, NULL, 2 * 64 * PEAK_SUMS, multiply_int8_pairs},
    {PEAK_INT8, has_vnni, 2 * 64 * PEAK_SUMS, multiply_int8_vnni},
};

const struct peak PEAK_AVX512 = PEAK(MULTIPLIERS);
