/* Sizes are computed in size_t from 32-bit dimensions that common/limits.h bounds: at most
 * 2^20 x 2^20 x 4 bytes, so no product overflows. */
#include "common/weights/matrix.h"

#include "common/kernel/panel.h"

static const struct {
    const char *name;
    uint32_t stored_values; /* that are stored together in ... */
    uint32_t stored_bytes;
    uint32_t block;      /* columns that share scales */
    uint32_t block_rows; /* rows that do */
} FORMATS[WEIGHT_FORMAT_COUNT] = {
    [WEIGHT_F32] = {"F32", 1, 4, 1, 1},
    [WEIGHT_F16] = {"F16", 1, 2, 1, 1},
    [WEIGHT_BF16] = {"BF16", 1, 2, 1, 1},
    [WEIGHT_FP8_E4M3] = {"FP8", 1, 1, FP8_BLOCK, FP8_BLOCK},
    [WEIGHT_Q4_0] = {"Q4_0", 32, 18, 32, 1},
    [WEIGHT_Q4_1] = {"Q4_1", 32, 20, 32, 1},
    [WEIGHT_Q5_0] = {"Q5_0", 32, 22, 32, 1},
    [WEIGHT_Q5_1] = {"Q5_1", 32, 24, 32, 1},
    [WEIGHT_Q8_0] = {"Q8_0", 32, 34, 32, 1},
    [WEIGHT_Q2_K] = {"Q2_K", 256, 84, 256, 1},
    [WEIGHT_Q3_K] = {"Q3_K", 256, 110, 256, 1},
    [WEIGHT_Q4_K] = {"Q4_K", 256, 144, 256, 1},
    [WEIGHT_Q5_K] = {"Q5_K", 256, 176, 256, 1},
    [WEIGHT_Q6_K] = {"Q6_K", 256, 210, 256, 1},
    [WEIGHT_IQ4_NL] = {"IQ4_NL", 32, 18, 32, 1},
    [WEIGHT_IQ4_XS] = {"IQ4_XS", 256, 136, 256, 1},
};

const char *weight_format_name(enum weight_format format) {
    return (unsigned)format < WEIGHT_FORMAT_COUNT ? FORMATS[format].name : "unknown";
}

size_t weight_row_bytes(enum weight_format format, uint32_t columns) {
    size_t stored_values = FORMATS[format].stored_values;
    return (columns + stored_values - 1) / stored_values * FORMATS[format].stored_bytes;
}

uint32_t weight_block(enum weight_format format) {
    return FORMATS[format].block;
}

uint32_t weight_block_rows(enum weight_format format) {
    return FORMATS[format].block_rows;
}

bool weight_is_blocked(enum weight_format format) {
    return FORMATS[format].stored_values > 1;
}

static size_t blocks(uint32_t values) {
    return ((size_t)values + FP8_BLOCK - 1) / FP8_BLOCK;
}

static size_t data_bytes(enum weight_format format, uint32_t rows, uint32_t columns) {
    return (rows * weight_row_bytes(format, columns) + 3) / 4 * 4;
}

size_t matrix_bytes(enum weight_format format, uint32_t rows, uint32_t columns) {
    size_t bytes = data_bytes(format, rows, columns);
    if (format == WEIGHT_FP8_E4M3)
        bytes += blocks(rows) * blocks(columns) * sizeof(float);
    if (weight_is_blocked(format)) {
        size_t packed = rows / PANEL_ROWS * panel_bytes(format, columns) +
                        rows % PANEL_ROWS * weight_row_bytes(format, columns);
        bytes = packed > bytes ? packed : bytes;
    }
    return (bytes + 63) / 64 * 64;
}

struct matrix matrix_view(enum weight_format format, uint32_t rows, uint32_t columns,
                          const void *storage) {
    struct matrix matrix = {format, rows, columns, storage, NULL, false};
    if (format == WEIGHT_FP8_E4M3)
        matrix.scales = (const float *)(matrix.data + data_bytes(format, rows, columns));
    return matrix;
}
