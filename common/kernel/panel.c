/* Packing goes value by value: it runs once, while a model is loaded. The dot products here define
 * what the vector variants must give; integer sums are exact, so they may differ only by the order
 * of the last additions in f32. */
#include "common/kernel/panel.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "common/kernel/block_formats.h"
#include "common/kernel/half.h"
#include "common/kernel/panel_formats.h"

static const struct {
    size_t block_bytes; /* of a panel's block */
    uint32_t block_values;
} PANELS[WEIGHT_FORMAT_COUNT] = {
    [WEIGHT_Q4_0] = {sizeof(struct panel_q4_0), 32},
    [WEIGHT_Q8_0] = {sizeof(struct panel_q8_0), 32},
    [WEIGHT_Q4_K] = {sizeof(struct panel_q4_k), 256},
    [WEIGHT_Q6_K] = {sizeof(struct panel_q6_k), 256},
};

bool panel_has_format(enum weight_format format) {
    return PANELS[format].block_bytes > 0;
}

size_t panel_bytes(enum weight_format format, uint32_t columns) {
    return columns / PANELS[format].block_values * PANELS[format].block_bytes;
}

/* Puts the value of (row, column of the sub-block) into nibble groups. */
static void put_nibble(uint8_t nibbles[4][64], uint32_t row, uint32_t column, unsigned value) {
    uint32_t group = column / 4, place = 4 * row + column % 4;
    nibbles[group % 4][place] |= (uint8_t)(value << (group < 4 ? 0 : 4));
}

static unsigned nibble_of(const uint8_t *bytes, uint32_t index, bool high) {
    return high ? bytes[index] >> 4 : bytes[index] & 15u;
}

static void pack_q4_0(const struct block_q4_0 *block, uint32_t row, struct panel_q4_0 *out) {
    out->scales[row] = block->scale;
    for (uint32_t c = 0; c < 32; c++)
        put_nibble(out->nibbles, row, c, nibble_of(block->nibbles, c % 16, c >= 16));
}

static void pack_q8_0(const struct block_q8_0 *block, uint32_t row, struct panel_q8_0 *out) {
    out->scales[row] = block->scale;
    for (uint32_t c = 0; c < 32; c++)
        out->values[c / 4][4 * row + c % 4] = (uint8_t)(block->values[c] + 128);
}

static void pack_q4_k(const struct block_q4_k *block, uint32_t row, struct panel_q4_k *out) {
    out->scales[row] = block->scale;
    out->minimums[row] = block->minimum;
    for (uint32_t s = 0; s < 8; s++) {
        const uint8_t *packed = block->scales;
        out->small_scales[s][row] =
            s < 4 ? packed[s] & 63 : (uint8_t)((packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4);
        out->small_minimums[s][row] =
            s < 4 ? packed[s + 4] & 63 : (uint8_t)(packed[s + 4] >> 4 | (packed[s] >> 6) << 4);
        for (uint32_t c = 0; c < 32; c++)
            put_nibble(out->nibbles[s], row, c, nibble_of(block->nibbles, s / 2 * 32 + c, s % 2));
    }
}

static void pack_q6_k(const struct block_q6_k *block, uint32_t row, struct panel_q6_k *out) {
    out->scales[row] = block->scale;
    for (uint32_t s = 0; s < 16; s++)
        out->small_scales[s][row] = block->scales[s];
    for (uint32_t s = 0; s < 8; s++)
        for (uint32_t c = 0; c < 32; c++) {
            /* Sub-block s is quarter s % 4 of half s / 4. */
            uint32_t half = s / 4, quarter = s % 4, group = c / 4;
            unsigned low =
                nibble_of(block->nibbles, half * 64 + quarter % 2 * 32 + c, quarter >= 2);
            unsigned high = block->pairs[half * 32 + c] >> (2 * quarter) & 3u;
            put_nibble(out->nibbles[s], row, c, low);
            out->pairs[s][group / 4][4 * row + c % 4] |= (uint8_t)(high << (2 * (group % 4)));
        }
}

void panel_pack(enum weight_format format, const uint8_t *rows, uint32_t columns, uint8_t *panel) {
    size_t row_bytes = weight_row_bytes(format, columns), step = PANELS[format].block_bytes;
    uint32_t blocks = columns / PANELS[format].block_values;
    memset(panel, 0, panel_bytes(format, columns));
    for (uint32_t row = 0; row < PANEL_ROWS; row++)
        for (uint32_t b = 0; b < blocks; b++) {
            const uint8_t *source = rows + row * row_bytes;
            void *out = panel + b * step;
            if (format == WEIGHT_Q4_0)
                pack_q4_0((const struct block_q4_0 *)source + b, row, out);
            else if (format == WEIGHT_Q8_0)
                pack_q8_0((const struct block_q8_0 *)source + b, row, out);
            else if (format == WEIGHT_Q4_K)
                pack_q4_k((const struct block_q4_k *)source + b, row, out);
            else
                pack_q6_k((const struct block_q6_k *)source + b, row, out);
        }
}

void panel_quantise(const float *x, size_t count, struct q8_block *out) {
    assert(count % Q8_BLOCK_VALUES == 0);
    for (size_t b = 0; b < count / Q8_BLOCK_VALUES; b++, x += Q8_BLOCK_VALUES) {
        float largest = 0;
        for (uint32_t i = 0; i < Q8_BLOCK_VALUES; i++)
            largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
        float inverse = largest > 0 ? 127 / largest : 0;
        out[b] = (struct q8_block){.scale = largest / 127};
        for (uint32_t i = 0; i < Q8_BLOCK_VALUES; i++) {
            out[b].values[i] = (int8_t)nearbyintf(x[i] * inverse);
            out[b].sums[i / 16] += out[b].values[i];
        }
    }
}

/* The stored value of (row, column of the sub-block) in nibble groups. */
static int nibble_at(const uint8_t nibbles[4][64], uint32_t row, uint32_t column) {
    uint32_t group = column / 4;
    return nibbles[group % 4][4 * row + column % 4] >> (group < 4 ? 0 : 4) & 15;
}

/* Sums of q * activation over the columns [first, first + 16) of one row's sub-block. */
static int dot_nibbles(const uint8_t nibbles[4][64], uint32_t row, const int8_t *values,
                       uint32_t first) {
    int sum = 0;
    for (uint32_t c = first; c < first + 16; c++)
        sum += nibble_at(nibbles, row, c) * values[c];
    return sum;
}

static float dot_block_q4_0(const void *block, uint32_t row, const struct q8_block *x) {
    const struct panel_q4_0 *p = block;
    int sum =
        dot_nibbles(p->nibbles, row, x->values, 0) + dot_nibbles(p->nibbles, row, x->values, 16);
    return f32_from_f16(p->scales[row]) * x->scale * (float)(sum - 8 * (x->sums[0] + x->sums[1]));
}

static float dot_block_q8_0(const void *block, uint32_t row, const struct q8_block *x) {
    const struct panel_q8_0 *p = block;
    int sum = 0;
    for (uint32_t c = 0; c < 32; c++)
        sum += (p->values[c / 4][4 * row + c % 4] - 128) * x->values[c];
    return f32_from_f16(p->scales[row]) * x->scale * (float)sum;
}

static float dot_block_q4_k(const void *block, uint32_t row, const struct q8_block *x) {
    const struct panel_q4_k *p = block;
    float total = 0;
    for (uint32_t s = 0; s < 8; s++) {
        int sum = dot_nibbles(p->nibbles[s], row, x[s].values, 0) +
                  dot_nibbles(p->nibbles[s], row, x[s].values, 16);
        total +=
            x[s].scale * (f32_from_f16(p->scales[row]) * (float)(p->small_scales[s][row] * sum) -
                          f32_from_f16(p->minimums[row]) *
                              (float)(p->small_minimums[s][row] * (x[s].sums[0] + x[s].sums[1])));
    }
    return total;
}

static float dot_block_q6_k(const void *block, uint32_t row, const struct q8_block *x) {
    const struct panel_q6_k *p = block;
    float total = 0;
    for (uint32_t s = 0; s < 16; s++) {
        const struct q8_block *values = &x[s / 2];
        int sum = 0;
        for (uint32_t c = s % 2 * 16; c < s % 2 * 16 + 16; c++) {
            uint32_t group = c / 4;
            int high = p->pairs[s / 2][group / 4][4 * row + c % 4] >> (2 * (group % 4)) & 3;
            sum += (nibble_at(p->nibbles[s / 2], row, c) + 16 * high - 32) * values->values[c];
        }
        total += values->scale * (float)(p->small_scales[s][row] * sum);
    }
    return f32_from_f16(p->scales[row]) * total;
}

#define DEFINE_DOT(FORMAT, NAME)                                                                   \
    void panel_dot_##NAME(const uint8_t *panel, uint32_t columns, const struct q8_block *x,        \
                          size_t x_stride, size_t batch, float *y, size_t y_stride) {              \
        uint32_t values = PANELS[FORMAT].block_values;                                             \
        for (size_t r = 0; r < batch; r++)                                                         \
            for (uint32_t row = 0; row < PANEL_ROWS; row++) {                                      \
                float sum = 0;                                                                     \
                for (uint32_t b = 0; b < columns / values; b++)                                    \
                    sum += dot_block_##NAME(panel + b * PANELS[FORMAT].block_bytes, row,           \
                                            x + r * x_stride + b * (values / Q8_BLOCK_VALUES));    \
                y[r * y_stride + row] = sum;                                                       \
            }                                                                                      \
    }

DEFINE_DOT(WEIGHT_Q4_0, q4_0)
DEFINE_DOT(WEIGHT_Q8_0, q8_0)
DEFINE_DOT(WEIGHT_Q4_K, q4_k)
DEFINE_DOT(WEIGHT_Q6_K, q6_k)
