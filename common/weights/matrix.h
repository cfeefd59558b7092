/* A weight matrix in the format it is stored in, and the arithmetic of its storage.
 *
 * Nothing here owns memory: a matrix points into whoever holds the bytes (model arena, expert
 * store). Values are only ever expanded in tiles, by common/kernel. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum weight_format {
    WEIGHT_F32,
    WEIGHT_F16,
    WEIGHT_BF16,
    WEIGHT_FP8_E4M3, /* with one f32 scale for each block of 128 x 128 values */
    /* Blocks of consecutive values of one row that carry their own scales, as GGUF files have them;
     * common/kernel/block_formats.h has their layouts. */
    WEIGHT_Q4_0,
    WEIGHT_Q4_1,
    WEIGHT_Q5_0,
    WEIGHT_Q5_1,
    WEIGHT_Q8_0,
    WEIGHT_Q2_K,
    WEIGHT_Q3_K,
    WEIGHT_Q4_K,
    WEIGHT_Q5_K,
    WEIGHT_Q6_K,
    WEIGHT_IQ4_NL,
    WEIGHT_IQ4_XS,
    WEIGHT_FORMAT_COUNT
};

/* Rows and columns of one FP8 scale block. */
#define FP8_BLOCK 128u

struct matrix {
    enum weight_format format;
    uint32_t rows;       /* outputs */
    uint32_t columns;    /* inputs */
    const uint8_t *data; /* (rows, columns) row-major, matrix_row_bytes() apart */
    const float *scales; /* FP8: (ceil(rows / 128), ceil(columns / 128)); else NULL */
    bool packed;         /* whole panels of rows are packed, see common/kernel/panel.h */
};

/* "F32", "F16", "BF16", "FP8", "Q4_0", ... Never NULL. */
const char *weight_format_name(enum weight_format format);

/* Bytes of `columns` consecutive values of one row that start with a block; a last block that is
 * cut short counts whole. */
size_t weight_row_bytes(enum weight_format format, uint32_t columns);

/* A row may be cut at multiples of this many values, so that no block is shared. */
uint32_t weight_block(enum weight_format format);

/* The same for columns, which only FP8's square blocks restrict: they may be cut at multiples of
 * this many rows. */
uint32_t weight_block_rows(enum weight_format format);

/* Whether a row's values are stored in blocks with their own scales: rows are then whole blocks,
 * and only whole blocks can be expanded. */
bool weight_is_blocked(enum weight_format format);

/* Bytes that a matrix takes in memory or on the wire, packed or not: its data, then (FP8, padded to
 * 4) its scales. Always a multiple of 64, so that matrices can follow one another. */
size_t matrix_bytes(enum weight_format format, uint32_t rows, uint32_t columns);

/* The matrix whose matrix_bytes() bytes start at `storage` (64-byte aligned, not owned). */
struct matrix matrix_view(enum weight_format format, uint32_t rows, uint32_t columns,
                          const void *storage);
