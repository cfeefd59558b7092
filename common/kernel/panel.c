/* Packing moves four values at a time; it runs once, while a model is loaded. The dot products
 * define what the vector variants must give; integer sums are exact, so they may differ only by the
 * order of the last additions in f32. */
#include "common/kernel/panel.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/kernel/block_formats.h"
#include "common/kernel/float_panel.h"
#include "common/kernel/half.h"
#include "common/kernel/panel_formats.h"
#include "common/log.h"

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

bool panel_takes_q8(const struct matrix *matrix) {
    return matrix->packed && panel_has_format(matrix->format);
}

size_t panel_bytes(enum weight_format format, uint32_t columns) {
    if (!weight_is_blocked(format))
        return PANEL_ROWS * weight_row_bytes(format, columns);
    return columns / PANELS[format].block_values * PANELS[format].block_bytes;
}

/* Four values of one row and group. */
static void put_four(uint8_t group[64], uint32_t row, uint32_t four) {
    memcpy(group + 4 * row, &four, sizeof four);
}

static uint32_t four_at(const uint8_t *bytes) {
    uint32_t four;
    memcpy(&four, bytes, sizeof four);
    return four;
}

#define FOUR_LOW  0x0f0f0f0fu
#define FOUR_PAIR 0x03030303u

/* The nibbles of a sub-block whose 32 columns lie in the low (shift 0) or high (4) nibbles of 32
 * bytes. */
static void pack_nibbles(const uint8_t *bytes, unsigned shift, uint32_t row,
                         uint8_t nibbles[4][64]) {
    for (uint32_t g = 0; g < 4; g++)
        put_four(nibbles[g], row,
                 (four_at(bytes + 4 * g) >> shift & FOUR_LOW) |
                     (four_at(bytes + 16 + 4 * g) >> shift & FOUR_LOW) << 4);
}

/* A block of Q4_0 has columns c and c + 16 in one byte already, as groups g and g + 4 want it. */
static void pack_q4_0(const struct block_q4_0 *block, uint32_t row, struct panel_q4_0 *out) {
    out->scales[row] = block->scale;
    for (uint32_t g = 0; g < 4; g++)
        put_four(out->nibbles[g], row, four_at(block->nibbles + 4 * g));
}

static void pack_q8_0(const struct block_q8_0 *block, uint32_t row, struct panel_q8_0 *out) {
    out->scales[row] = block->scale;
    for (uint32_t g = 0; g < 8; g++)
        put_four(out->values[g], row,
                 four_at((const uint8_t *)block->values + 4 * g) ^ 0x80808080u);
}

static void pack_q4_k(const struct block_q4_k *block, uint32_t row, struct panel_q4_k *out) {
    const uint8_t *packed = block->scales;
    out->scales[row] = block->scale;
    out->minimums[row] = block->minimum;
    for (uint32_t s = 0; s < 8; s++) {
        out->small_scales[s][row] =
            s < 4 ? packed[s] & 63 : (uint8_t)((packed[s + 4] & 15) | packed[s - 4] >> 6 << 4);
        out->small_minimums[s][row] =
            s < 4 ? packed[s + 4] & 63 : (uint8_t)(packed[s + 4] >> 4 | packed[s] >> 6 << 4);
        pack_nibbles(block->nibbles + s / 2 * 32, s % 2 * 4, row, out->nibbles[s]);
    }
}

/* Sub-block s is quarter s % 4 of half s / 4. */
static void pack_q6_k(const struct block_q6_k *block, uint32_t row, struct panel_q6_k *out) {
    out->scales[row] = block->scale;
    for (uint32_t s = 0; s < 16; s++)
        out->small_scales[s][row] = block->scales[s];
    for (uint32_t s = 0; s < 8; s++) {
        uint32_t half = s / 4, quarter = s % 4;
        pack_nibbles(block->nibbles + half * 64 + quarter % 2 * 32, quarter / 2 * 4, row,
                     out->nibbles[s]);
        for (uint32_t h = 0; h < 2; h++) {
            uint32_t pairs = 0;
            for (uint32_t j = 0; j < 4; j++)
                pairs |= (four_at(block->pairs + half * 32 + 16 * h + 4 * j) >> (2 * quarter) &
                          FOUR_PAIR)
                         << (2 * j);
            put_four(out->pairs[s][h], row, pairs);
        }
    }
}

void panel_pack(enum weight_format format, const uint8_t *rows, uint32_t columns, uint8_t *panel) {
    size_t row_bytes = weight_row_bytes(format, columns), step = PANELS[format].block_bytes;
    uint32_t blocks = columns / PANELS[format].block_values;
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

/* From the last panel to the first, because a packed panel may be larger than its rows: what it
 * overwrites behind them has been packed before. */
enum status panel_pack_matrix(struct matrix *matrix, bool exact) {
    uint32_t panels = matrix->rows / PANEL_ROWS;
    bool can_pack = weight_is_blocked(matrix->format) ? panel_has_format(matrix->format) && !exact
                                                      : matrix->columns % FLOAT_PANEL_COLUMNS == 0;
    if (!can_pack || panels == 0)
        return STATUS_OK;
    size_t row_bytes = weight_row_bytes(matrix->format, matrix->columns);
    size_t rows_bytes = PANEL_ROWS * row_bytes;
    size_t packed_bytes = panel_bytes(matrix->format, matrix->columns);
    uint8_t *data = (uint8_t *)matrix->data, *rows = malloc(rows_bytes);
    if (!rows) {
        log_error("no memory to pack a matrix of %u columns", matrix->columns);
        return STATUS_NO_MEMORY;
    }
    memmove(data + panels * packed_bytes, data + panels * rows_bytes,
            matrix->rows % PANEL_ROWS * row_bytes);
    for (uint32_t p = panels; p-- > 0;) {
        memcpy(rows, data + p * rows_bytes, rows_bytes);
        if (weight_is_blocked(matrix->format))
            panel_pack(matrix->format, rows, matrix->columns, data + p * packed_bytes);
        else
            float_panel_pack(matrix->format, rows, matrix->columns, data + p * packed_bytes);
    }
    free(rows);
    matrix->packed = true;
    return STATUS_OK;
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
