/* The functions of AVX-512 (F, BW, DQ, VL, VNNI): sixteen lanes. For the variants that are built on
 * them, each of which compiles them with its own flags. */
#include <immintrin.h>
#include <stdint.h>

#define LANES        16
#define VEC          __m512
#define LOAD(p)      _mm512_loadu_ps(p)
#define STORE(p, v)  _mm512_storeu_ps(p, v)
#define SET(a)       _mm512_set1_ps(a)
#define ZERO()       _mm512_setzero_ps()
#define ADD(a, b)    _mm512_add_ps(a, b)
#define MUL(a, b)    _mm512_mul_ps(a, b)
#define DIV(a, b)    _mm512_div_ps(a, b)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define MAX(a, b)    _mm512_max_ps(a, b)
#define MIN(a, b)    _mm512_min_ps(a, b)
#define ROUND(v)     _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define POW2(v)      _mm512_scalef_ps(_mm512_set1_ps(1.0f), v)
#define SUM(v)       _mm512_reduce_add_ps(v)
#define BEST(v)      _mm512_reduce_max_ps(v)

#define LOAD_F16(p)   _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define SET_F16(half) _mm512_cvtph_ps(_mm256_set1_epi16((short)(half)))
#define LOAD_BF16(p)                                                                               \
    _mm512_castsi512_ps(                                                                           \
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(p))), 16))
#define LOAD_FP8(p) load_fp8(p)

static inline __m512 load_fp8(const uint8_t *p) {
    __m256i bits = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));
    __m256i sign = _mm256_and_si256(bits, _mm256_set1_epi16((short)0x8000));
    __m256i magnitude = _mm256_slli_epi16(_mm256_and_si256(bits, _mm256_set1_epi16(0x7f)), 7);
    return _mm512_cvtph_ps(_mm256_or_si256(sign, magnitude));
}

#include "common/kernel/simd.h"

#define IVEC              __m512i
#define ILOAD(p)          ((__m512i)LOAD_ONCE(p))
#define ISET(a)           _mm512_set1_epi32(a)
#define ISET8(a)          _mm512_set1_epi8(a)
#define IADD(a, b)        _mm512_add_epi32(a, b)
#define ISUB(a, b)        _mm512_sub_epi32(a, b)
#define IAND(a, b)        _mm512_and_si512(a, b)
#define IOR(a, b)         _mm512_or_si512(a, b)
#define SHIFT_LEFT(v, n)  _mm512_slli_epi16(v, n)
#define SHIFT_RIGHT(v, n) _mm512_srli_epi16(v, n)
#define ILOOKUP(t, v)                                                                              \
    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(t))), v)
#define DOT_ROWS(groups, vectors, bits, first, count, x, x_stride, rows, dots)                     \
    ((void)(bits),                                                                                 \
     dot_rows((groups)[0] + (first), count, (x)->values + 4 * (first), x_stride, rows, dots))
#define Q8_OFFSET  128
#define FLOATS(v)  _mm512_cvtepi32_ps(v)
#define LOAD_U8(p) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define LOAD_I8(p) _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define STORE_I8(p, v)                                                                             \
    _mm_storeu_si128((__m128i *)(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v)))
#define ABS(v)      _mm512_abs_ps(v)
#define PANEL_BATCH 8
#define PANEL_SIDE  1

/* Two sums, so that one multiplication need not wait for the other, where many follow each other.
 * `values` are those of the first row for the first group. */
static inline __attribute__((always_inline)) void dot_rows(const __m512i *groups, int count,
                                                           const int8_t *values, size_t x_stride,
                                                           int rows, __m512i (*dots)[1]) {
    const int chains = rows == 1 || count == 8 ? 2 : 1;
    UNROLL for (int r = 0; r < rows; r++) {
        __m512i sums[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
        UNROLL for (int g = 0; g < count; g++) {
            int four;
            memcpy(&four, values + r * x_stride * sizeof(struct q8_block) + 4 * g, sizeof four);
            sums[g % chains] =
                _mm512_dpbusd_epi32(sums[g % chains], groups[g], _mm512_set1_epi32(four));
        }
        dots[r][0] = chains == 1 ? sums[0] : _mm512_add_epi32(sums[0], sums[1]);
    }
}

#include "common/kernel/panel_simd.h"

#include "common/kernel/block_simd.h"

#define EVEN_BF16(v)   _mm512_castsi512_ps(_mm512_slli_epi32(v, 16))
#define ODD_BF16(v)    _mm512_castsi512_ps(_mm512_and_si512(v, ISET((int)0xffff0000)))
#define LOAD_PAIRS_fp8 load_pairs_fp8
#define ARRANGE_fp8    arrange_fp8
#define FLOAT_PANELS   2
#define FLOAT_BATCH    8

/* E4M3 becomes the upper half of an f32 without a conversion, as avx2.c explains. Of two panels,
 * one in each half of the vector: w[0] has their even rows and w[1] the odd ones. */
#define FP8_INPUT_FACTOR 0x1p64f
#define FP8_SUM_FACTOR   0x1p56f

static inline void load_pairs_fp8(const uint8_t *p, size_t panel_bytes, size_t panels,
                                  __m512 (*w)[2]) {
    const __m512i fields = _mm512_set1_epi16((short)0x87f0), upper = ISET((int)0xffff0000);
    __m256i first = _mm256_loadu_si256((const __m256i *)(const void *)p);
    __m512i lanes = _mm512_slli_epi32(_mm512_cvtepu16_epi32(first), 16);
    if (panels > 1) {
        __m256i second = _mm256_loadu_si256((const __m256i *)(const void *)(p + panel_bytes));
        lanes = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
    }
    __m512i columns[2] = {_mm512_maddubs_epi16(_mm512_set1_epi16(16), lanes),
                          _mm512_srai_epi16(lanes, 4)};
    for (size_t c = 0; c < 2; c++) {
        __m512i values = IAND(columns[c], fields);
        if (panels > 1)
            w[1][c] = _mm512_castsi512_ps(IAND(values, upper));
        w[0][c] = _mm512_castsi512_ps(panels > 1 ? _mm512_slli_epi32(values, 16) : values);
    }
}

static inline void arrange_fp8(__m512 *sums, size_t panels) {
    if (panels == 1)
        return;
    __m512 even = sums[0], odd = sums[1];
    const __m512i first = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    sums[0] = _mm512_permutex2var_ps(even, first, odd);
    sums[1] = _mm512_permutex2var_ps(even, _mm512_add_epi32(first, ISET(8)), odd);
}

#include "common/kernel/float_panel_simd.h"
