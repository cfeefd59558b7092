/* AVX2 with FMA and F16C: eight lanes. */
#include <immintrin.h>
#include <stdint.h>

#define LANES        8
#define VEC          __m256
#define LOAD(p)      _mm256_loadu_ps(p)
#define STORE(p, v)  _mm256_storeu_ps(p, v)
#define SET(a)       _mm256_set1_ps(a)
#define ZERO()       _mm256_setzero_ps()
#define ADD(a, b)    _mm256_add_ps(a, b)
#define MUL(a, b)    _mm256_mul_ps(a, b)
#define DIV(a, b)    _mm256_div_ps(a, b)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define MAX(a, b)    _mm256_max_ps(a, b)
#define MIN(a, b)    _mm256_min_ps(a, b)
#define ROUND(v)     _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define POW2(v)      pow2_lanes(v)
#define SUM(v)       sum_lanes(v)
#define BEST(v)      best_lanes(v)

static inline __m256 pow2_lanes(__m256 v) {
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

static inline float sum_lanes(__m256 v) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

static inline float best_lanes(__m256 v) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

#define LOAD_F16(p)   _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define SET_F16(half) _mm256_cvtph_ps(_mm_set1_epi16((short)(half)))
#define LOAD_BF16(p)                                                                               \
    _mm256_castsi256_ps(                                                                           \
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p))), 16))
#define LOAD_FP8(p) load_fp8(p)

static inline __m256 load_fp8(const uint8_t *p) {
    __m128i bits = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)p));
    __m128i sign = _mm_and_si128(bits, _mm_set1_epi16((short)0x8000));
    __m128i magnitude = _mm_slli_epi16(_mm_and_si128(bits, _mm_set1_epi16(0x7f)), 7);
    return _mm256_cvtph_ps(_mm_or_si128(sign, magnitude));
}

#include "common/kernel/simd.h"

#define IVEC              __m256i
#define ILOAD(p)          ((__m256i)LOAD_ONCE(p))
#define ISET(a)           _mm256_set1_epi32(a)
#define ISET8(a)          _mm256_set1_epi8(a)
#define IADD(a, b)        _mm256_add_epi32(a, b)
#define ISUB(a, b)        _mm256_sub_epi32(a, b)
#define IAND(a, b)        _mm256_and_si256(a, b)
#define IOR(a, b)         _mm256_or_si256(a, b)
#define SHIFT_LEFT(v, n)  _mm256_slli_epi16(v, n)
#define SHIFT_RIGHT(v, n) _mm256_srli_epi16(v, n)
#define ILOOKUP(t, v)                                                                              \
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(t))), v)
#define DOT_ROWS       dot_rows
#define Q8_OFFSET      0
#define FLOATS(v)      _mm256_cvtepi32_ps(v)
#define LOAD_U8(p)     _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p)))
#define LOAD_I8(p)     _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p)))
#define STORE_I8(p, v) store_bytes(p, v)
#define ABS(v)         _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v)
#define PANEL_BATCH    4
#define PANEL_SIDE     2

/* Values of eight bits would overflow 16 bits with their offset, so it is taken off and their sign
 * is moved to the activations: 2 x 128 x 127 fits. */
static inline __m256i signed_pairs(__m256i w, __m256i x) {
    __m256i values = _mm256_xor_si256(w, _mm256_set1_epi8((char)0x80));
    return _mm256_maddubs_epi16(_mm256_abs_epi8(values), _mm256_sign_epi8(x, values));
}

static inline __m256i broadcast_four(const int8_t *values) {
    int four;
    memcpy(&four, values, sizeof four);
    return _mm256_set1_epi32(four);
}

#define DOT_INLINE static inline __attribute__((always_inline))

/* Bytes of eight bits: only one pair fits into 16 bits. */
DOT_INLINE void dot_bytes(const __m256i (*groups)[8], size_t vectors, const struct q8_block *x,
                          size_t x_stride, int rows, __m256i (*dots)[2]) {
    UNROLL for (int g = 0; g < 8; g++) {
        UNROLL for (int r = 0; r < rows; r++) {
            __m256i a = broadcast_four(x[r * x_stride].values + 4 * g);
            UNROLL for (size_t i = 0; i < vectors; i++) {
                __m256i pairs = signed_pairs(groups[i][g], a);
                __m256i sum = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                dots[r][i] = g ? _mm256_add_epi32(dots[r][i], sum) : sum;
            }
        }
    }
}

/* At most two rows, whose sums fit in the registers. Pairs are summed in 16 bits for as many groups
 * as fit: a pair is at most 2 x 127 times the largest value. */
DOT_INLINE void dot_pairs(const __m256i (*groups)[8], size_t vectors, int bits, int first,
                          int count, const struct q8_block *x, size_t x_stride, int rows,
                          __m256i (*dots)[2]) {
    int together = bits <= 4 ? 8 : bits == 5 ? 4 : 2;
    together = together < count ? together : count;
    UNROLL for (int start = first; start < first + count; start += together) {
        __m256i pairs[2][2];
        UNROLL for (int g = start; g < start + together; g++) {
            UNROLL for (int r = 0; r < rows; r++) {
                __m256i a = broadcast_four(x[r * x_stride].values + 4 * g);
                UNROLL for (size_t i = 0; i < vectors; i++) {
                    __m256i pair = _mm256_maddubs_epi16(groups[i][g], a);
                    pairs[r][i] = g == start ? pair : _mm256_add_epi16(pairs[r][i], pair);
                    /* Else the compiler forms all products before it adds them, and spills. */
                    __asm__("" : "+x"(pairs[r][i]));
                }
            }
        }
        UNROLL for (int r = 0; r < rows; r++) {
            UNROLL for (size_t i = 0; i < vectors; i++) {
                __m256i sum = _mm256_madd_epi16(pairs[r][i], _mm256_set1_epi16(1));
                dots[r][i] = start == first ? sum : _mm256_add_epi32(dots[r][i], sum);
            }
        }
    }
}

DOT_INLINE void dot_rows(const __m256i (*groups)[8], size_t vectors, int bits, int first, int count,
                         const struct q8_block *x, size_t x_stride, int rows, __m256i (*dots)[2]) {
    if (bits == 8) {
        dot_bytes(groups, vectors, x, x_stride, rows, dots);
        return;
    }
    UNROLL for (int r = 0; r < rows; r += 2)
        dot_pairs(groups, vectors, bits, first, count, x + r * x_stride, x_stride,
                  rows - r < 2 ? 1 : 2, dots + r);
}

static inline void store_bytes(int8_t *p, __m256 v) {
    __m256i wide = _mm256_cvtps_epi32(v);
    __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(words, words));
}

#include "common/kernel/panel_simd.h"

#include "common/kernel/block_simd.h"

#define EVEN_BF16(v)        _mm256_castsi256_ps(_mm256_slli_epi32(v, 16))
#define ODD_BF16(v)         _mm256_castsi256_ps(_mm256_and_si256(v, ISET((int)0xffff0000)))
#define LOAD_PAIRS_fp8(...) LOAD_EACH(load_pair_fp8, __VA_ARGS__)
#define FLOAT_PANELS        1
#define FLOAT_BATCH         4

/* E4M3 becomes the upper half of an f32 of the same fields without a conversion, which would take
 * most of the time. The exponent's bias is larger by 120, so E4M3's subnormal numbers are f32's,
 * and activations are scaled up on their way in, lest products be so small. Weights that were
 * scaled to 448 have a subnormal one in some ten thousand, so processors that take long over those
 * may.
 *
 * Of each pair of bytes, which are signed, a multiplication takes one and moves it by four bits.
 * The halves of words are taken from both 128-bit lanes: w[0] has rows 0 to 3 and 8 to 11. */
#define FP8_INPUT_FACTOR          0x1p64f
#define FP8_SUM_FACTOR            0x1p56f
#define ARRANGE_fp8(sums, panels) ((void)(panels), arrange_fp8(sums))

static inline void load_pair_fp8(const uint8_t *p, __m256 (*w)[2]) {
    __m256i lanes = ILOAD(p), fields = _mm256_set1_epi16((short)0x87f0);
    __m256i columns[2] = {_mm256_maddubs_epi16(_mm256_set1_epi16(16), lanes),
                          _mm256_srai_epi16(lanes, 4)};
    for (size_t c = 0; c < 2; c++) {
        __m256i upper = _mm256_and_si256(columns[c], fields), zero = _mm256_setzero_si256();
        w[0][c] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, upper));
        w[1][c] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, upper));
    }
}

static inline void arrange_fp8(__m256 sums[2]) {
    __m256 low = sums[0], high = sums[1];
    sums[0] = _mm256_permute2f128_ps(low, high, 0x20);
    sums[1] = _mm256_permute2f128_ps(low, high, 0x31);
}

#include "common/kernel/float_panel_simd.h"

const struct kernel KERNEL_AVX2 = TABLE("avx2", PEAK_AVX2);
