/* Quantised weights in the order in which kernels read them, and activations in 8 bits to go with
 * them.
 *
 * A panel is sixteen rows of a matrix side by side: four consecutive values of each row make 64
 * bytes, so that one instruction multiplies four activations with sixteen rows. Packing keeps every
 * value exactly; formats with 6-bit scales take 1.5 to 3.6 % more room for them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "common/weights/matrix.h"

#define PANEL_ROWS 16u

/* 32 consecutive activations: x[i] is about scale * values[i]. */
struct q8_block {
    float scale;
    float total;     /* scale * the sum of all values */
    float totals[2]; /* of the first and of the last 16 */
    int32_t sum;     /* of all values */
    int8_t values[32];
};

#define Q8_BLOCK_VALUES 32u

/* Whether products with the matrix take its activations in 8 bits. */
bool panel_takes_q8(const struct matrix *matrix);

/* Bytes of one panel of rows with `columns` values, of either kind. */
size_t panel_bytes(enum weight_format format, uint32_t columns);

/* Whether the format and width of the matrix allow packing. `exact` leaves those as they are that
 * would meet activations in 8 bits. */
bool panel_can_pack(const struct matrix *matrix, bool exact);

/* Packs the matrix in place where that is possible (panel_can_pack), in storage of matrix_bytes()
 * that the caller owns and may write: whole panels first, then the rows that fill none, as stored.
 * Formats without blocks become float panels (float_panel.h). Errors: STATUS_NO_MEMORY (for a copy
 * of one panel). */
enum status panel_pack_matrix(struct matrix *matrix, bool exact);

/* The same where the bytes are there already, as panel_pack_matrix left them. */
void panel_adopt_matrix(struct matrix *matrix, bool exact);

/* Packs sixteen rows as stored, weight_row_bytes() apart, into `panel`; they do not overlap. */
void panel_pack(enum weight_format format, const uint8_t *rows, uint32_t columns, uint8_t *panel);

/* In plain C, for the kernel tables; contract in kernel.h. */
void panel_quantise(const float *x, size_t count, struct q8_block *out);

/* Sets the totals of a block whose scale and values are there. */
static inline void panel_total(struct q8_block *block) {
    int sums[2] = {0, 0};
    for (int i = 0; i < 16; i++) {
        sums[0] += block->values[i];
        sums[1] += block->values[i + 16];
    }
    block->sum = sums[0] + sums[1];
    block->total = block->scale * (float)(sums[0] + sums[1]);
    block->totals[0] = block->scale * (float)sums[0];
    block->totals[1] = block->scale * (float)sums[1];
}
