/* Wk and Wv of one head of latent attention, wherever the checkpoint has them: keys = Wk c and
 * values = Wv c for a compressed vector c. Pure functions over the model's matrices; thread-safe.
 *
 * A checkpoint stores both in one matrix, kv_b, or Wk transposed and Wv, as k_b and v_b. kv_b is
 * taken apart while loading where its format allows, because Wv is multiplied as it is, and packed,
 * while absorbed attention needs the product with the transposed Wk, which packed rows cannot give.
 */
#pragma once

#include "coordinator/model.h"

/* The rows of a matrix that are Wk or Wv of one head. */
struct head_weights {
    const struct matrix *matrix;
    uint32_t first, rows;
    bool transposed; /* (kv_rank, nope) instead of (nope, kv_rank) */
};

struct head_weights latent_find_keys(const struct attention_weights *weights,
                                     const struct model_shape *shape, uint32_t head);
struct head_weights latent_find_values(const struct attention_weights *weights,
                                       const struct model_shape *shape, uint32_t head);

/* Floats of scratch that latent_absorb() needs. */
size_t latent_absorb_floats(const struct model_shape *shape);

/* out[i] (kv_rank) = Wk^T q[i] for `count` vectors q (nope), `q_stride` and `out_stride` floats
 * apart: some rows of Wk at a time, which are expanded in `scratch`. */
void latent_absorb(const struct head_weights *keys, const float *q, size_t q_stride, uint32_t count,
                   float *scratch, float *out, size_t out_stride);

/* Moves the rows of kv_b (heads * (nope + v), kv_rank) to `keys` (heads * nope, kv_rank) and
 * `values` (heads * v, kv_rank), matrices of the same format in memory of their own. */
void latent_split(const struct matrix *kv_b, const struct model_shape *shape, struct matrix *keys,
                  struct matrix *values);

/* Whether that can be done: blocks of scales of several rows must not be cut. */
bool latent_can_split(enum weight_format format, const struct model_shape *shape);
