/* AVX-512 in plain C: included ahead of a kernel's source file (-include) that is compiled for a
 * processor without it. SIMD Everywhere supplies most intrinsics under their own names; what its
 * version in Debian 12 lacks is here. <immintrin.h> is kept out. */
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <math.h>
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

#define _IMMINTRIN_H_INCLUDED
#define __IMMINTRIN_H

#include "common/kernel/half.h"

/* All that is asked for is there, and nothing is compiled for more than the machine has. */
#define __builtin_cpu_supports(name) 1
#define target(name)

#ifndef _MM_FROUND_NO_EXC
#define _MM_FROUND_NO_EXC SIMDE_MM_FROUND_NO_EXC
#endif

/* TO name(FROM v): lane by lane, VALUE of the lane `x`. */
#define EMULATE_LANES(NAME, FROM, FROM_LANE, TO, TO_LANE, VALUE)                                   \
    static inline TO emulated_##NAME(FROM v) {                                                     \
        FROM_LANE in[sizeof v / sizeof(FROM_LANE)];                                                \
        TO_LANE out[sizeof(TO) / sizeof(TO_LANE)];                                                 \
        TO result;                                                                                 \
        memcpy(in, &v, sizeof v);                                                                  \
        for (size_t i = 0; i < sizeof out / sizeof *out; i++) {                                    \
            FROM_LANE x = in[i];                                                                   \
            out[i] = (TO_LANE)(VALUE);                                                             \
        }                                                                                          \
        memcpy(&result, out, sizeof result);                                                       \
        return result;                                                                             \
    }

EMULATE_LANES(cvtph_ps, __m256i, uint16_t, __m512, float, f32_from_f16(x))
EMULATE_LANES(cvtepu8_epi32, __m128i, uint8_t, __m512i, int32_t, x)
EMULATE_LANES(cvtepi8_epi32, __m128i, int8_t, __m512i, int32_t, x)
EMULATE_LANES(cvtepu16_epi32, __m256i, uint16_t, __m512i, int32_t, x)
EMULATE_LANES(cvtepi32_ps, __m512i, int32_t, __m512, float, x)
EMULATE_LANES(cvtps_epi32, __m512, float, __m512i, int32_t, lrintf(x))

#define _mm512_cvtph_ps(v)       emulated_cvtph_ps(v)
#define _mm512_cvtepu8_epi32(v)  emulated_cvtepu8_epi32(v)
#define _mm512_cvtepi8_epi32(v)  emulated_cvtepi8_epi32(v)
#define _mm512_cvtepu16_epi32(v) emulated_cvtepu16_epi32(v)
#define _mm512_cvtepi32_ps(v)    emulated_cvtepi32_ps(v)
#define _mm512_cvtps_epi32(v)    emulated_cvtps_epi32(v)

/* The order in which the lanes are added is the compiler's choice; this is gcc's. */
static inline float emulated_reduce(__m512 v, int wants_sum) {
    float lanes[16];
    memcpy(lanes, &v, sizeof lanes);
    for (int width = 8; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            lanes[i] = wants_sum ? lanes[i] + lanes[i + width] : fmaxf(lanes[i], lanes[i + width]);
    return lanes[0];
}

static inline int emulated_reduce_integers(__m512i v) {
    int32_t lanes[16], sum = 0;
    memcpy(lanes, &v, sizeof lanes);
    for (int i = 0; i < 16; i++)
        sum += lanes[i];
    return sum;
}

#define _mm512_reduce_add_ps(v)    emulated_reduce(v, 1)
#define _mm512_reduce_max_ps(v)    emulated_reduce(v, 0)
#define _mm512_reduce_add_epi32(v) emulated_reduce_integers(v)
