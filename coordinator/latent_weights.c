/* Expanding a few rows costs about as much as reading them from memory does, and they are
 * multiplied while they are in the first cache. */
#include "coordinator/latent_weights.h"

#include <string.h>

#include "common/kernel/kernel.h"
#include "common/kernel/matmul.h"

/* Values that latent_absorb() expands at a time: 16 KiB. */
#define ABSORB_VALUES 4096u

struct head_weights latent_find_keys(const struct attention_weights *weights,
                                     const struct model_shape *s, uint32_t head) {
    if (weights->k_b.data)
        return (struct head_weights){&weights->k_b, head * s->kv_rank, s->kv_rank, true};
    if (weights->kv_b.data)
        return (struct head_weights){&weights->kv_b, head * (s->nope_dim + s->v_dim), s->nope_dim,
                                     false};
    return (struct head_weights){&weights->k_up, head * s->nope_dim, s->nope_dim, false};
}

struct head_weights latent_find_values(const struct attention_weights *weights,
                                       const struct model_shape *s, uint32_t head) {
    if (weights->v_b.data)
        return (struct head_weights){&weights->v_b, head * s->v_dim, s->v_dim, false};
    return (struct head_weights){&weights->kv_b, head * (s->nope_dim + s->v_dim) + s->nope_dim,
                                 s->v_dim, false};
}

static uint32_t rows_at_once(uint32_t columns) {
    return columns < ABSORB_VALUES ? ABSORB_VALUES / columns : 1;
}

size_t latent_absorb_floats(const struct model_shape *s) {
    uint32_t columns = s->kv_rank > s->nope_dim ? s->kv_rank : s->nope_dim;
    return columns > ABSORB_VALUES ? columns : ABSORB_VALUES;
}

void latent_absorb(const struct head_weights *keys, const float *q, size_t q_stride, uint32_t count,
                   float *scratch, float *out, size_t out_stride) {
    uint32_t columns = keys->matrix->columns;
    struct row_tile tile = {scratch, columns, rows_at_once(columns), columns};
    for (uint32_t i = 0; !keys->transposed && i < count; i++)
        memset(out + i * out_stride, 0, columns * sizeof(float));
    if (!keys->transposed && count == 1) {
        matmul_add_rows(keys->matrix, keys->first, keys->rows, q, out);
        return;
    }
    for (uint32_t row = 0; row < keys->rows; row += (uint32_t)tile.count) {
        if (keys->rows - row < tile.count)
            tile.count = keys->rows - row;
        matmul_expand(keys->matrix, keys->first + row, (uint32_t)tile.count, 0, columns, scratch,
                      columns);
        if (keys->transposed)
            kernel_get()->row_dots(&tile, q, q_stride, count, out + row, out_stride);
        else
            kernel_get()->row_sums(&tile, q + row, q_stride, count, out, out_stride);
    }
}

bool latent_can_split(enum weight_format format, const struct model_shape *s) {
    uint32_t rows = weight_block_rows(format);
    return s->nope_dim % rows == 0 && s->v_dim % rows == 0;
}

/* Rows [from, from + rows) of one matrix become rows [to, to + rows) of another one. */
static void move_rows(const struct matrix *source, uint32_t from, uint32_t rows,
                      struct matrix *target, uint32_t to) {
    size_t row_bytes = weight_row_bytes(source->format, source->columns);
    memcpy((uint8_t *)target->data + to * row_bytes, source->data + from * row_bytes,
           rows * row_bytes);
    if (!source->scales)
        return;
    size_t across = (source->columns + FP8_BLOCK - 1) / FP8_BLOCK;
    memcpy((float *)target->scales + to / FP8_BLOCK * across,
           source->scales + from / FP8_BLOCK * across, rows / FP8_BLOCK * across * sizeof(float));
}

void latent_split(const struct matrix *kv_b, const struct model_shape *s, struct matrix *keys,
                  struct matrix *values) {
    for (uint32_t head = 0; head < s->heads; head++) {
        uint32_t row = head * (s->nope_dim + s->v_dim);
        move_rows(kv_b, row, s->nope_dim, keys, head * s->nope_dim);
        move_rows(kv_b, row + s->nope_dim, s->v_dim, values, head * s->v_dim);
    }
}
