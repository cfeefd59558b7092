/* Packing moves words between places a row apart; it runs once, while a model is loaded. The dot
 * products define what the vector variants must give, but for the order of the additions. */
#include "common/kernel/float_panel.h"

#include <assert.h>
#include <string.h>

#include "common/kernel/half.h"
#include "common/kernel/panel.h"

/* Columns [2 p, 2 p + 2) of all rows are `pair_bytes` each and lie together. */
static inline void pack_pairs(const uint8_t *rows, size_t row_bytes, size_t pair_bytes,
                              uint8_t *panel) {
    for (size_t at = 0; at < row_bytes; at += pair_bytes)
        for (size_t row = 0; row < PANEL_ROWS; row++, panel += pair_bytes)
            memcpy(panel, rows + row * row_bytes + at, pair_bytes);
}

void float_panel_pack(enum weight_format format, const uint8_t *rows, uint32_t columns,
                      uint8_t *panel) {
    size_t row_bytes = weight_row_bytes(format, columns);
    assert(columns % FLOAT_PANEL_COLUMNS == 0);
    if (format == WEIGHT_F32 || format == WEIGHT_BF16)
        pack_pairs(rows, row_bytes, 4, panel);
    else
        pack_pairs(rows, row_bytes, 2, panel);
}

static float f32_at(const uint8_t *panel, uint32_t row, uint32_t column) {
    float value;
    memcpy(&value, panel + (column * PANEL_ROWS + row) * sizeof value, sizeof value);
    return value;
}

static float f16_at(const uint8_t *panel, uint32_t row, uint32_t column) {
    uint16_t bits;
    memcpy(&bits, panel + (column * PANEL_ROWS + row) * sizeof bits, sizeof bits);
    return f32_from_f16(bits);
}

/* The place of a value where pairs of columns lie together. */
static size_t pair_place(uint32_t row, uint32_t column) {
    return column / 2 * 2 * PANEL_ROWS + 2 * row + column % 2;
}

static float bf16_at(const uint8_t *panel, uint32_t row, uint32_t column) {
    uint16_t bits;
    memcpy(&bits, panel + pair_place(row, column) * sizeof bits, sizeof bits);
    return f32_from_bf16(bits);
}

static float fp8_at(const uint8_t *panel, uint32_t row, uint32_t column) {
    return f32_from_fp8(panel[pair_place(row, column)]);
}

#define DEFINE_DOT(FORMAT, NAME)                                                                   \
    void float_panel_dot_##NAME(const uint8_t *panels, size_t count, uint32_t columns,             \
                                const float *scales, const float *x, size_t x_stride,              \
                                size_t batch, float *y, size_t y_stride) {                         \
        size_t panel_bytes = PANEL_ROWS * weight_row_bytes(FORMAT, columns);                       \
        for (size_t r = 0; r < batch; r++)                                                         \
            for (uint32_t row = 0; row < count * PANEL_ROWS; row++) {                              \
                const uint8_t *panel = panels + row / PANEL_ROWS * panel_bytes;                    \
                float sum = 0;                                                                     \
                for (uint32_t c = 0; c < columns; c++)                                             \
                    sum += NAME##_at(panel, row % PANEL_ROWS, c) * x[r * x_stride + c] *           \
                           (scales ? scales[c / FP8_BLOCK] : 1);                                   \
                y[r * y_stride + row] = sum;                                                       \
            }                                                                                      \
    }

DEFINE_DOT(WEIGHT_F32, f32)
DEFINE_DOT(WEIGHT_F16, f16)
DEFINE_DOT(WEIGHT_BF16, bf16)
DEFINE_DOT(WEIGHT_FP8_E4M3, fp8)
