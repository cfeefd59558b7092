/* Packing moves four values at a time; it runs once, while a model is loaded, in place. */
#include "common/kernel/panel.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/kernel/block_formats.h"
#include "common/kernel/blocks.h"
#include "common/kernel/float_panel.h"
#include "common/kernel/half.h"
#include "common/kernel/panel_formats.h"
#include "common/log.h"

static const struct {
    size_t block_bytes; /* of a panel's block */
    uint32_t block_values;
} PANELS[WEIGHT_FORMAT_COUNT] = {
    [WEIGHT_Q4_0] = {sizeof(struct panel_q4_0), 32},
    [WEIGHT_Q4_1] = {sizeof(struct panel_q4_1), 32},
    [WEIGHT_Q5_0] = {sizeof(struct panel_q5_0), 32},
    [WEIGHT_Q5_1] = {sizeof(struct panel_q5_1), 32},
    [WEIGHT_Q8_0] = {sizeof(struct panel_q8_0), 32},
    [WEIGHT_Q2_K] = {sizeof(struct panel_q2_k), 256},
    [WEIGHT_Q3_K] = {sizeof(struct panel_q3_k), 256},
    [WEIGHT_Q4_K] = {sizeof(struct panel_q4_k), 256},
    [WEIGHT_Q5_K] = {sizeof(struct panel_q5_k), 256},
    [WEIGHT_Q6_K] = {sizeof(struct panel_q6_k), 256},
    [WEIGHT_IQ4_NL] = {sizeof(struct panel_q4_0), 32},
    [WEIGHT_IQ4_XS] = {sizeof(struct panel_iq4_xs), 256},
};

bool panel_takes_q8(const struct matrix *matrix) {
    return matrix->packed && weight_is_blocked(matrix->format);
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
#define FOUR_BIT  0x01010101u

/* The nibbles of a sub-block whose 32 columns lie in the low (shift 0) or high (4) nibbles of 32
 * bytes. */
static void pack_nibbles(const uint8_t *bytes, unsigned shift, uint32_t row,
                         uint8_t nibbles[4][64]) {
    for (uint32_t g = 0; g < 4; g++)
        put_four(nibbles[g], row,
                 (four_at(bytes + 4 * g) >> shift & FOUR_LOW) |
                     (four_at(bytes + 16 + 4 * g) >> shift & FOUR_LOW) << 4);
}

/* Blocks of 32 have columns c and c + 16 in one byte, as groups g and g + 4 want it. */
static void pack_bytes(const uint8_t nibbles[16], uint32_t row, uint8_t out[4][64]) {
    for (uint32_t g = 0; g < 4; g++)
        put_four(out[g], row, four_at(nibbles + 4 * g));
}

/* Pairs of 32 columns at bit `shift` of 32 bytes. */
static void pack_pairs(const uint8_t *bytes, unsigned shift, uint32_t row, uint8_t pairs[2][64]) {
    for (uint32_t h = 0; h < 2; h++) {
        uint32_t four = 0;
        for (uint32_t j = 0; j < 4; j++)
            four |= (four_at(bytes + 16 * h + 4 * j) >> shift & FOUR_PAIR) << (2 * j);
        put_four(pairs[h], row, four);
    }
}

/* Bit `shift` of 32 bytes. */
static void pack_bits(const uint8_t *bytes, unsigned shift, uint32_t row, uint8_t bits[64]) {
    uint32_t four = 0;
    for (uint32_t g = 0; g < 8; g++)
        four |= (four_at(bytes + 4 * g) >> shift & FOUR_BIT) << g;
    put_four(bits, row, four);
}

/* 32 bits, one for each column. */
static void pack_bit_string(const uint8_t string[4], uint32_t row, uint8_t bits[64]) {
    uint8_t bytes[32];
    for (uint32_t i = 0; i < 32; i++)
        bytes[i] = string[i / 8] >> i % 8 & 1;
    pack_bits(bytes, 0, row, bits);
}

/* The eight scales and minimums of Q4_K and Q5_K. */
static void pack_small_scales(const uint8_t packed[12], uint32_t row, uint8_t scales[8][PANEL_ROWS],
                              uint8_t minimums[8][PANEL_ROWS]) {
    for (uint32_t s = 0; s < 8; s++) {
        scales[s][row] =
            s < 4 ? packed[s] & 63 : (uint8_t)((packed[s + 4] & 15) | packed[s - 4] >> 6 << 4);
        minimums[s][row] =
            s < 4 ? packed[s + 4] & 63 : (uint8_t)(packed[s + 4] >> 4 | packed[s] >> 6 << 4);
    }
}

static void pack_q4_0(const struct block_q4_0 *block, uint32_t row, struct panel_q4_0 *out) {
    out->scales[row] = block->scale;
    pack_bytes(block->nibbles, row, out->nibbles);
}

static void pack_q4_1(const struct block_q4_1 *block, uint32_t row, struct panel_q4_1 *out) {
    out->scales[row] = block->scale;
    out->minimums[row] = block->minimum;
    pack_bytes(block->nibbles, row, out->nibbles);
}

static void pack_q5_0(const struct block_q5_0 *block, uint32_t row, struct panel_q5_0 *out) {
    out->scales[row] = block->scale;
    pack_bit_string(block->fifth_bits, row, out->bits);
    pack_bytes(block->nibbles, row, out->nibbles);
}

static void pack_q5_1(const struct block_q5_1 *block, uint32_t row, struct panel_q5_1 *out) {
    out->scales[row] = block->scale;
    out->minimums[row] = block->minimum;
    pack_bit_string(block->fifth_bits, row, out->bits);
    pack_bytes(block->nibbles, row, out->nibbles);
}

static void pack_q8_0(const struct block_q8_0 *block, uint32_t row, struct panel_q8_0 *out) {
    out->scales[row] = block->scale;
    for (uint32_t g = 0; g < 8; g++)
        put_four(out->values[g], row,
                 four_at((const uint8_t *)block->values + 4 * g) ^ 0x80808080u);
}

static void pack_q2_k(const struct block_q2_k *block, uint32_t row, struct panel_q2_k *out) {
    out->scales[row] = block->scale;
    out->minimums[row] = block->minimum;
    for (uint32_t s = 0; s < 16; s++)
        out->small[s][row] = block->scales[s];
    for (uint32_t s = 0; s < 8; s++)
        pack_pairs(block->pairs + s / 4 * 32, s % 4 * 2, row, out->pairs[s]);
}

static void pack_q3_k(const struct block_q3_k *block, uint32_t row, struct panel_q3_k *out) {
    out->scales[row] = block->scale;
    for (uint32_t s = 0; s < 16; s++) {
        int low = block->scales[s % 8] >> s / 8 * 4 & 15;
        int high = block->scales[8 + s % 4] >> s / 4 * 2 & 3;
        out->small_scales[s][row] = (int8_t)((low | high << 4) - 32);
    }
    for (uint32_t s = 0; s < 8; s++) {
        pack_bits(block->third_bits, s, row, out->bits[s]);
        pack_pairs(block->pairs + s / 4 * 32, s % 4 * 2, row, out->pairs[s]);
    }
}

static void pack_q4_k(const struct block_q4_k *block, uint32_t row, struct panel_q4_k *out) {
    out->scales[row] = block->scale;
    out->minimums[row] = block->minimum;
    pack_small_scales(block->scales, row, out->small_scales, out->small_minimums);
    for (uint32_t s = 0; s < 8; s++)
        pack_nibbles(block->nibbles + s / 2 * 32, s % 2 * 4, row, out->nibbles[s]);
}

static void pack_q5_k(const struct block_q5_k *block, uint32_t row, struct panel_q5_k *out) {
    out->scales[row] = block->scale;
    out->minimums[row] = block->minimum;
    pack_small_scales(block->scales, row, out->small_scales, out->small_minimums);
    for (uint32_t s = 0; s < 8; s++) {
        pack_bits(block->fifth_bits, s, row, out->bits[s]);
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
        pack_pairs(block->pairs + half * 32, 2 * quarter, row, out->pairs[s]);
    }
}

static void pack_iq4_nl(const struct block_iq4_nl *block, uint32_t row, struct panel_q4_0 *out) {
    out->scales[row] = block->scale;
    pack_bytes(block->nibbles, row, out->nibbles);
}

static void pack_iq4_xs(const struct block_iq4_xs *block, uint32_t row, struct panel_iq4_xs *out) {
    out->scales[row] = block->scale;
    for (uint32_t s = 0; s < 8; s++) {
        int low = block->low_scales[s / 2] >> s % 2 * 4 & 15,
            high = block->high_scales >> 2 * s & 3;
        out->small_scales[s][row] = (int8_t)((low | high << 4) - 32);
        pack_bytes(block->nibbles + 16 * s, row, out->nibbles[s]);
    }
}

#define PACK_CASE(FORMAT, NAME)                                                                    \
    case WEIGHT_##FORMAT:                                                                          \
        pack_##NAME(source, row, out);                                                             \
        break;

static void pack_block(enum weight_format format, const void *source, uint32_t row, void *out) {
    switch (format) {
        BLOCK_FORMATS(PACK_CASE)
    default:
        assert(!"a format with blocks");
    }
}

void panel_pack(enum weight_format format, const uint8_t *rows, uint32_t columns, uint8_t *panel) {
    size_t row_bytes = weight_row_bytes(format, columns), step = PANELS[format].block_bytes;
    size_t block_bytes = weight_row_bytes(format, PANELS[format].block_values);
    uint32_t blocks = columns / PANELS[format].block_values;
    for (uint32_t row = 0; row < PANEL_ROWS; row++)
        for (uint32_t b = 0; b < blocks; b++)
            pack_block(format, rows + row * row_bytes + b * block_bytes, row, panel + b * step);
}

bool panel_can_pack(const struct matrix *matrix, bool exact) {
    return weight_is_blocked(matrix->format) ? !exact : matrix->columns % FLOAT_PANEL_COLUMNS == 0;
}

/* From the last panel to the first, because a packed panel may be larger than its rows: what it
 * overwrites behind them has been packed before. */
enum status panel_pack_matrix(struct matrix *matrix, bool exact) {
    uint32_t panels = matrix->rows / PANEL_ROWS;
    if (!panel_can_pack(matrix, exact) || panels == 0)
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

void panel_adopt_matrix(struct matrix *matrix, bool exact) {
    matrix->packed = panel_can_pack(matrix, exact) && matrix->rows >= PANEL_ROWS;
}

void panel_quantise(const float *x, size_t count, struct q8_block *out) {
    assert(count % Q8_BLOCK_VALUES == 0);
    for (size_t b = 0; b < count / Q8_BLOCK_VALUES; b++, x += Q8_BLOCK_VALUES) {
        float largest = 0;
        for (uint32_t i = 0; i < Q8_BLOCK_VALUES; i++)
            largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
        float inverse = largest > 0 ? 127 / largest : 0;
        out[b].scale = largest / 127;
        for (uint32_t i = 0; i < Q8_BLOCK_VALUES; i++)
            out[b].values[i] = (int8_t)nearbyintf(x[i] * inverse);
        panel_total(&out[b]);
    }
}
