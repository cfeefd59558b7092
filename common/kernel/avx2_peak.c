/* The peak of AVX2: eight lanes of f32. For int8, the product and sums of pairs that every AVX2
 * processor has, and where there is AVX-VNNI its single instruction; BF16 has no multiplier. */
#include <cpuid.h>
#include <immintrin.h>

#include "common/kernel/variants.h"

#define LANES        8u
#define VEC          __m256
#define LOAD(p)      _mm256_loadu_ps(p)
#define SET(a)       _mm256_set1_ps(a)
#define ADD(a, b)    _mm256_add_ps(a, b)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define SUM(v)       sum_lanes(v)

static inline float sum_lanes(__m256 v) {
    float lanes[8];
    _mm256_storeu_ps(lanes, v);
    float sum = 0;
    for (int i = 0; i < 8; i++)
        sum += lanes[i];
    return sum;
}

#include "common/kernel/peak_simd.h"

#define START_INT8(zero) _mm256_set1_epi32(zero)
#define ONES_INT8(one)   _mm256_set1_epi8((char)(one))
#define TOTAL_INT8(sum)  total_int8(sum)

static inline double total_int8(__m256i v) {
    int32_t lanes[8];
    _mm256_storeu_si256((__m256i *)lanes, v);
    double sum = 0;
    for (int i = 0; i < 8; i++)
        sum += lanes[i];
    return sum;
}

/* The products do not depend on the sum, so their operand is made to look new each time: the
 * compiler would else take them out of the loop. */
static inline __m256i add_products(__m256i sum, __m256i a, __m256i b) {
    __asm__ volatile("" : "+x"(a));
    __m256i pairs = _mm256_maddubs_epi16(a, b);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#define STEP_PAIRS(sum, a, b) add_products(sum, a, b)
DEFINE_MULTIPLIER(multiply_int8_pairs, , __m256i, START_INT8, __m256i, ONES_INT8, STEP_PAIRS,
                  TOTAL_INT8)

#define VNNI                 __attribute__((target("avxvnni")))
#define STEP_VNNI(sum, a, b) _mm256_dpbusd_avx_epi32(sum, a, b)
DEFINE_MULTIPLIER(multiply_int8_vnni, VNNI, __m256i, START_INT8, __m256i, ONES_INT8, STEP_VNNI,
                  TOTAL_INT8)

static bool has_vnni(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
}

static const struct peak_multiplier MULTIPLIERS[] = {
    MULTIPLIER_F32,
    {PEAK_INT8, NULL, 2 * 32 * PEAK_SUMS, multiply_int8_pairs},
    {PEAK_INT8, has_vnni, 2 * 32 * PEAK_SUMS, multiply_int8_vnni},
};

const struct peak PEAK_AVX2 = PEAK(MULTIPLIERS);
