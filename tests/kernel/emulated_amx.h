/* AMX in plain C, for emulated_avx512.h's purpose: each thread's tiles and their configuration, and
 * the instructions as the processor's manual describes them. What the processor answers with a
 * fault ends the program. */
#pragma once

#include "tests/kernel/emulated_avx512.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>

#define EMULATED_TILES 8

struct emulated_amx {
    uint8_t palette; /* 0: not configured */
    uint16_t row_bytes[EMULATED_TILES];
    uint8_t rows[EMULATED_TILES];
    uint8_t tiles[EMULATED_TILES][16][64];
};

static _Thread_local struct emulated_amx emulated_amx;

static inline void emulated_check(int ok, const char *what) {
    if (ok)
        return;
    fprintf(stderr, "emulated AMX: %s\n", what);
    abort();
}

/* A tile that is configured. */
static inline uint8_t (*emulated_tile(int tile))[64] {
    emulated_check(tile >= 0 && tile < EMULATED_TILES && emulated_amx.palette == 1, "no tiles");
    emulated_check(emulated_amx.rows[tile] && emulated_amx.row_bytes[tile], "an empty tile");
    return emulated_amx.tiles[tile];
}

static inline void emulated_loadconfig(const uint8_t *config) {
    emulated_amx = (struct emulated_amx){.palette = config[0]};
    emulated_check(config[0] == 1 && config[1] == 0, "palette or start row");
    for (int i = 2; i < 16; i++)
        emulated_check(config[i] == 0, "a reserved byte");
    for (int t = 0; t < 16; t++) {
        uint16_t bytes = (uint16_t)(config[16 + 2 * t] | config[17 + 2 * t] << 8);
        emulated_check(bytes <= 64 && config[48 + t] <= 16, "a tile too large");
        emulated_check((bytes == 0) == (config[48 + t] == 0), "rows without columns");
        emulated_check(t < EMULATED_TILES || bytes == 0, "too many tiles");
        if (t < EMULATED_TILES) {
            emulated_amx.row_bytes[t] = bytes;
            emulated_amx.rows[t] = config[48 + t];
        }
    }
}

static inline void emulated_release(void) {
    emulated_amx = (struct emulated_amx){0};
}

/* What lies behind a tile's rows and columns becomes 0. */
static inline void emulated_load(int tile, const void *base, size_t stride) {
    uint8_t(*rows)[64] = emulated_tile(tile);
    memset(rows, 0, sizeof emulated_amx.tiles[tile]);
    for (int r = 0; base && r < emulated_amx.rows[tile]; r++)
        memcpy(rows[r], (const uint8_t *)base + (size_t)r * stride, emulated_amx.row_bytes[tile]);
}

static inline void emulated_store(int tile, void *base, size_t stride) {
    uint8_t(*rows)[64] = emulated_tile(tile);
    for (int r = 0; r < emulated_amx.rows[tile]; r++)
        memcpy((uint8_t *)base + (size_t)r * stride, rows[r], emulated_amx.row_bytes[tile]);
}

/* The shapes that a product needs: sums (rows of a, columns of b), b as many rows as a has lanes.
 */
static inline void emulated_check_shapes(int sums, int a, int b) {
    emulated_tile(sums), emulated_tile(a), emulated_tile(b);
    emulated_check(sums != a && sums != b && a != b, "operands that are the same");
    emulated_check(emulated_amx.rows[sums] == emulated_amx.rows[a], "rows of sums and a");
    emulated_check(emulated_amx.row_bytes[sums] == emulated_amx.row_bytes[b], "columns of sums, b");
    emulated_check(emulated_amx.row_bytes[a] == 4 * emulated_amx.rows[b],
                   "columns of a, rows of b");
}

static inline float emulated_flush(float value) {
    return value > -FLT_MIN && value < FLT_MIN ? copysignf(0, value) : value;
}

static inline float emulated_bf16(const uint8_t *lane, int half) {
    uint16_t bits;
    memcpy(&bits, lane + 2 * half, sizeof bits);
    return emulated_flush(f32_from_bf16(bits));
}

/* Sums of even and of odd columns, added at the end; subnormal numbers count as 0. */
static inline void emulated_dpbf16ps(int sums, int a, int b) {
    emulated_check_shapes(sums, a, b);
    for (int m = 0; m < emulated_amx.rows[sums]; m++)
        for (int n = 0; n < emulated_amx.row_bytes[sums] / 4; n++) {
            float parts[2] = {0, 0}, sum;
            for (int k = 0; k < emulated_amx.rows[b]; k++)
                for (int half = 0; half < 2; half++)
                    parts[half] = emulated_flush(
                        fmaf(emulated_bf16(&emulated_amx.tiles[a][m][4 * k], half),
                             emulated_bf16(&emulated_amx.tiles[b][k][4 * n], half), parts[half]));
            uint8_t *out = &emulated_amx.tiles[sums][m][4 * n];
            memcpy(&sum, out, sizeof sum);
            sum = emulated_flush(emulated_flush(sum) + emulated_flush(parts[0] + parts[1]));
            memcpy(out, &sum, sizeof sum);
        }
}

static inline void emulated_dpbuud(int sums, int a, int b) {
    emulated_check_shapes(sums, a, b);
    for (int m = 0; m < emulated_amx.rows[sums]; m++)
        for (int n = 0; n < emulated_amx.row_bytes[sums] / 4; n++) {
            uint32_t sum;
            uint8_t *out = &emulated_amx.tiles[sums][m][4 * n];
            memcpy(&sum, out, sizeof sum);
            for (int k = 0; k < emulated_amx.rows[b]; k++)
                for (int c = 0; c < 4; c++)
                    sum += (uint32_t)emulated_amx.tiles[a][m][4 * k + c] *
                           emulated_amx.tiles[b][k][4 * n + c];
            memcpy(out, &sum, sizeof sum);
        }
}

#define _tile_loadconfig(config)      emulated_loadconfig((const uint8_t *)(config))
#define _tile_release()               emulated_release()
#define _tile_zero(tile)              emulated_load(tile, NULL, 0)
#define _tile_loadd(tile, p, stride)  emulated_load(tile, p, stride)
#define _tile_stored(tile, p, stride) emulated_store(tile, p, stride)
#define _tile_dpbf16ps(sums, a, b)    emulated_dpbf16ps(sums, a, b)
#define _tile_dpbuud(sums, a, b)      emulated_dpbuud(sums, a, b)

/* Two vectors rounded to bf16, `low` first; to even, subnormal numbers to 0. */
static inline __m512i emulated_cvtne2ps_pbh(__m512 high, __m512 low) {
    float in[32];
    uint16_t out[32];
    memcpy(in, &low, sizeof low);
    memcpy(in + 16, &high, sizeof high);
    for (int i = 0; i < 32; i++) {
        uint32_t bits;
        float value = emulated_flush(in[i]);
        memcpy(&bits, &value, sizeof bits);
        if (isnan(value))
            out[i] = (uint16_t)(bits >> 16 | 0x40);
        else
            out[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
    __m512i result;
    memcpy(&result, out, sizeof result);
    return result;
}

#define _mm512_cvtne2ps_pbh(high, low) emulated_cvtne2ps_pbh(high, low)
