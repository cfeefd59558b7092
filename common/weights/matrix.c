/* Sizes are computed in size_t from 32-bit dimensions that common/limits.h bounds: at most
 * 2^20 x 2^20 x 4 bytes, so no product overflows. */
#include "common/weights/matrix.h"

static const struct {
    const char *name;
    uint32_t value_bytes;
    uint32_t block;
} FORMATS[WEIGHT_FORMAT_COUNT] = {
    [WEIGHT_F32] = {"F32", 4, 1},
    [WEIGHT_F16] = {"F16", 2, 1},
    [WEIGHT_BF16] = {"BF16", 2, 1},
    [WEIGHT_FP8_E4M3] = {"FP8", 1, FP8_BLOCK},
};

const char *weight_format_name(enum weight_format format) {
    return (unsigned)format < WEIGHT_FORMAT_COUNT ? FORMATS[format].name : "unknown";
}

size_t weight_row_bytes(enum weight_format format, uint32_t columns) {
    return (size_t)columns * FORMATS[format].value_bytes;
}

uint32_t weight_block(enum weight_format format) {
    return FORMATS[format].block;
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
    return (bytes + 63) / 64 * 64;
}

struct matrix matrix_view(enum weight_format format, uint32_t rows, uint32_t columns,
                          const void *storage) {
    struct matrix matrix = {format, rows, columns, storage, NULL};
    if (format == WEIGHT_FP8_E4M3)
        matrix.scales = (const float *)(matrix.data + data_bytes(format, rows, columns));
    return matrix;
}
