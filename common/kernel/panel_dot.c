/* One function for each format reads a sub-block of one row as whole numbers with a scale and an
 * offset for each half, whatever its layout. Integer sums are exact, so that the vector variants
 * may differ only by the order of the last additions in f32. */
#include "common/kernel/panel_dot.h"

#include "common/kernel/half.h"
#include "common/kernel/panel_formats.h"

/* 32 columns of one row: v = q * scale + offset, scale and offset by half. */
struct sub_block {
    int q[32];
    float scales[2], offsets[2];
};

/* Byte of the column's group that is the row's. */
static uint8_t byte_at(const uint8_t group[64], uint32_t row, uint32_t column) {
    return group[4 * row + column % 4];
}

static int nibble_at(const uint8_t nibbles[4][64], uint32_t row, uint32_t column) {
    return byte_at(nibbles[column / 4 % 4], row, column) >> (column < 16 ? 0 : 4) & 15;
}

static int pair_at(const uint8_t pairs[2][64], uint32_t row, uint32_t column) {
    return byte_at(pairs[column / 16], row, column) >> 2 * (column / 4 % 4) & 3;
}

static int bit_at(const uint8_t bits[64], uint32_t row, uint32_t column) {
    return byte_at(bits, row, column) >> column / 4 & 1;
}

/* One scale and offset for both halves. */
static void set_scale(struct sub_block *out, float scale, float offset) {
    out->scales[0] = out->scales[1] = scale;
    out->offsets[0] = out->offsets[1] = offset;
}

static void read_q4_0(const struct panel_q4_0 *p, uint32_t s, uint32_t row, struct sub_block *out) {
    (void)s;
    for (uint32_t c = 0; c < 32; c++)
        out->q[c] = nibble_at(p->nibbles, row, c) - 8;
    set_scale(out, f32_from_f16(p->scales[row]), 0);
}

static void read_q4_1(const struct panel_q4_1 *p, uint32_t s, uint32_t row, struct sub_block *out) {
    (void)s;
    for (uint32_t c = 0; c < 32; c++)
        out->q[c] = nibble_at(p->nibbles, row, c);
    set_scale(out, f32_from_f16(p->scales[row]), f32_from_f16(p->minimums[row]));
}

static void read_q5_0(const struct panel_q5_0 *p, uint32_t s, uint32_t row, struct sub_block *out) {
    (void)s;
    for (uint32_t c = 0; c < 32; c++)
        out->q[c] = (nibble_at(p->nibbles, row, c) | bit_at(p->bits, row, c) << 4) - 16;
    set_scale(out, f32_from_f16(p->scales[row]), 0);
}

static void read_q5_1(const struct panel_q5_1 *p, uint32_t s, uint32_t row, struct sub_block *out) {
    (void)s;
    for (uint32_t c = 0; c < 32; c++)
        out->q[c] = nibble_at(p->nibbles, row, c) | bit_at(p->bits, row, c) << 4;
    set_scale(out, f32_from_f16(p->scales[row]), f32_from_f16(p->minimums[row]));
}

static void read_q8_0(const struct panel_q8_0 *p, uint32_t s, uint32_t row, struct sub_block *out) {
    (void)s;
    for (uint32_t c = 0; c < 32; c++)
        out->q[c] = byte_at(p->values[c / 4], row, c) - 128;
    set_scale(out, f32_from_f16(p->scales[row]), 0);
}

static void read_q2_k(const struct panel_q2_k *p, uint32_t s, uint32_t row, struct sub_block *out) {
    for (uint32_t c = 0; c < 32; c++)
        out->q[c] = pair_at(p->pairs[s], row, c);
    for (uint32_t h = 0; h < 2; h++) {
        uint8_t small = p->small[2 * s + h][row];
        out->scales[h] = f32_from_f16(p->scales[row]) * (float)(small & 15);
        out->offsets[h] = -f32_from_f16(p->minimums[row]) * (float)(small >> 4);
    }
}

static void read_q3_k(const struct panel_q3_k *p, uint32_t s, uint32_t row, struct sub_block *out) {
    for (uint32_t c = 0; c < 32; c++)
        out->q[c] = (pair_at(p->pairs[s], row, c) | bit_at(p->bits[s], row, c) << 2) - 4;
    for (uint32_t h = 0; h < 2; h++) {
        out->scales[h] = f32_from_f16(p->scales[row]) * (float)p->small_scales[2 * s + h][row];
        out->offsets[h] = 0;
    }
}

static void read_q4_k(const struct panel_q4_k *p, uint32_t s, uint32_t row, struct sub_block *out) {
    for (uint32_t c = 0; c < 32; c++)
        out->q[c] = nibble_at(p->nibbles[s], row, c);
    set_scale(out, f32_from_f16(p->scales[row]) * (float)p->small_scales[s][row],
              -f32_from_f16(p->minimums[row]) * (float)p->small_minimums[s][row]);
}

static void read_q5_k(const struct panel_q5_k *p, uint32_t s, uint32_t row, struct sub_block *out) {
    for (uint32_t c = 0; c < 32; c++)
        out->q[c] = nibble_at(p->nibbles[s], row, c) | bit_at(p->bits[s], row, c) << 4;
    set_scale(out, f32_from_f16(p->scales[row]) * (float)p->small_scales[s][row],
              -f32_from_f16(p->minimums[row]) * (float)p->small_minimums[s][row]);
}

static void read_q6_k(const struct panel_q6_k *p, uint32_t s, uint32_t row, struct sub_block *out) {
    for (uint32_t c = 0; c < 32; c++)
        out->q[c] = (nibble_at(p->nibbles[s], row, c) | pair_at(p->pairs[s], row, c) << 4) - 32;
    for (uint32_t h = 0; h < 2; h++) {
        out->scales[h] = f32_from_f16(p->scales[row]) * (float)p->small_scales[2 * s + h][row];
        out->offsets[h] = 0;
    }
}

static void read_iq4_nl(const struct panel_q4_0 *p, uint32_t s, uint32_t row,
                        struct sub_block *out) {
    (void)s;
    for (uint32_t c = 0; c < 32; c++)
        out->q[c] = LEVELS_OFFSET[nibble_at(p->nibbles, row, c)] - 128;
    set_scale(out, f32_from_f16(p->scales[row]), 0);
}

static void read_iq4_xs(const struct panel_iq4_xs *p, uint32_t s, uint32_t row,
                        struct sub_block *out) {
    for (uint32_t c = 0; c < 32; c++)
        out->q[c] = LEVELS_OFFSET[nibble_at(p->nibbles[s], row, c)] - 128;
    set_scale(out, f32_from_f16(p->scales[row]) * (float)p->small_scales[s][row], 0);
}

static float dot_sub_block(const struct sub_block *w, const struct q8_block *x) {
    float total = 0;
    for (uint32_t h = 0; h < 2; h++) {
        int sum = 0;
        for (uint32_t c = 16 * h; c < 16 * h + 16; c++)
            sum += w->q[c] * x->values[c];
        total += w->scales[h] * (x->scale * (float)sum) + w->offsets[h] * x->totals[h];
    }
    return total;
}

#define DEFINE_DOT(FORMAT, NAME)                                                                   \
    void panel_dot_##NAME(const uint8_t *panel, uint32_t columns, const struct q8_block *x,        \
                          size_t x_stride, size_t batch, float *y, size_t y_stride) {              \
        uint32_t sub_blocks = weight_block(WEIGHT_##FORMAT) / Q8_BLOCK_VALUES;                     \
        size_t block_bytes = panel_bytes(WEIGHT_##FORMAT, weight_block(WEIGHT_##FORMAT));          \
        for (size_t r = 0; r < batch; r++)                                                         \
            for (uint32_t row = 0; row < PANEL_ROWS; row++) {                                      \
                float sum = 0;                                                                     \
                for (uint32_t b = 0; b < columns / Q8_BLOCK_VALUES; b++) {                         \
                    const void *block = panel + b / sub_blocks * block_bytes;                      \
                    struct sub_block w;                                                            \
                    read_##NAME(block, b % sub_blocks, row, &w);                                   \
                    sum += dot_sub_block(&w, x + r * x_stride + b);                                \
                }                                                                                  \
                y[r * y_stride + row] = sum;                                                       \
            }                                                                                      \
    }

BLOCK_FORMATS(DEFINE_DOT)
