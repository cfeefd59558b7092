/* The peak of AMX: products of tiles; f32 and reading are AVX-512's.
 *
 * Four tiles of sums, each used again after the three others, keep the unit busy whose result takes
 * longer than its turn. */
#include <immintrin.h>
#include <string.h>

#include "common/kernel/variants.h"

#define LANES        16u
#define VEC          __m512
#define LOAD(p)      _mm512_loadu_ps(p)
#define SET(a)       _mm512_set1_ps(a)
#define ADD(a, b)    _mm512_add_ps(a, b)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define SUM(v)       _mm512_reduce_add_ps(v)

#include "common/kernel/peak_simd.h"

#define TILE_BYTES 1024u
#define TILE_SUMS  4u
#define TILE_LANES 256u /* sums in a tile */

/* Tiles 0 to 3 become 0, tiles 4 and 5 `operand`; all are 16 rows of 64 bytes. */
static void fill_tiles(const uint8_t operand[TILE_BYTES]) {
    _Alignas(64) uint8_t config[64] = {1};
    for (int i = 0; i < 6; i++) {
        config[16 + 2 * i] = 64;
        config[48 + i] = 16;
    }
    __asm__ volatile("" : : "r"(config), "r"(operand) : "memory");
    _tile_loadconfig(config);
    _tile_loadd(4, operand, 64);
    _tile_loadd(5, operand, 64);
}

/* double NAME(rounds): in each round STEP for four tiles of sums of TYPE; ONE fills the operands.
 */
#define DEFINE_TILE_MULTIPLIER(NAME, ONE_TYPE, ONE, STEP, TYPE)                                    \
    static double NAME(size_t rounds) {                                                            \
        _Alignas(64) ONE_TYPE operand[TILE_BYTES / sizeof(ONE_TYPE)];                              \
        TYPE sums[TILE_SUMS][TILE_LANES];                                                          \
        for (size_t i = 0; i < TILE_BYTES / sizeof *operand; i++)                                  \
            operand[i] = ONE;                                                                      \
        fill_tiles((const uint8_t *)operand);                                                      \
        for (size_t round = 0; round < rounds; round++) {                                          \
            STEP(0, 4, 5);                                                                         \
            STEP(1, 4, 5);                                                                         \
            STEP(2, 4, 5);                                                                         \
            STEP(3, 4, 5);                                                                         \
        }                                                                                          \
        _tile_stored(0, sums[0], 64);                                                              \
        _tile_stored(1, sums[1], 64);                                                              \
        _tile_stored(2, sums[2], 64);                                                              \
        _tile_stored(3, sums[3], 64);                                                              \
        _tile_release();                                                                           \
        double total = 0;                                                                          \
        for (size_t i = 0; i < TILE_SUMS * TILE_LANES; i++)                                        \
            total += (double)sums[i / TILE_LANES][i % TILE_LANES];                                 \
        return total;                                                                              \
    }

DEFINE_TILE_MULTIPLIER(multiply_bf16_tiles, uint16_t, 0x3f80, _tile_dpbf16ps, float)
DEFINE_TILE_MULTIPLIER(multiply_int8_tiles, uint8_t, 1, _tile_dpbuud, int32_t)

static const struct peak_multiplier MULTIPLIERS[] = {
    MULTIPLIER_F32,
    {PEAK_BF16, NULL, 2 * 32 * TILE_LANES *TILE_SUMS, multiply_bf16_tiles},
    {PEAK_INT8, NULL, 2 * 64 * TILE_LANES *TILE_SUMS, multiply_int8_tiles},
};

const struct peak PEAK_AMX = PEAK(MULTIPLIERS);
