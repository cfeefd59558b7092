/* The unit of placement: rows [begin, end) of one expert's gate and up projections and the same
 * columns of its down projection. A whole expert is the shard [0, inner). The feed-forward that all
 * rows of a layer meet (its shared experts as one, or a dense layer's) is an expert like others.
 * Rows of the output head can be placed as well.
 *
 * Used by the coordinator (planning, shipping) and the worker (loading), from any thread. */
#pragma once

#include <stdint.h>

#include "common/status.h"
#include "common/weights/weights.h"

/* In place of an expert's number: the feed-forward that all rows of the layer meet; and, in layer
 * 0, the output head, whose inner dimension is the vocabulary. */
#define SHARD_FFN  UINT32_MAX
#define SHARD_HEAD (UINT32_MAX - 1)

struct shard {
    uint32_t layer;
    uint32_t expert;     /* a routed one, SHARD_FFN or SHARD_HEAD */
    uint32_t begin, end; /* range of the inner dimension */
};

/* What all shards of one layer's routed experts have in common, all of its SHARD_FFN, or all of
 * SHARD_HEAD, which has only a gate. */
struct shard_layout {
    uint32_t hidden;
    uint32_t inner; /* of a whole expert */
    enum weight_format gate, up, down;
};

/* One expert, or a slice of one, ready for computing. Points into the memory of its holder. */
struct expert {
    struct matrix gate, up; /* (end - begin, hidden); of SHARD_HEAD, gate has its rows */
    struct matrix down;     /* (hidden, end - begin) */
};

/* A model's layouts are one list: those of routed experts by layer, those of SHARD_FFN by layer,
 * then that of SHARD_HEAD; inner is 0 where there is none. */
#define SHARD_LAYOUTS(layers) (2 * (size_t)(layers) + 1)

/* The shard's layout in that list. */
static inline const struct shard_layout *shard_layout(const struct shard_layout *layouts,
                                                      uint32_t layers, const struct shard *shard) {
    if (shard->expert == SHARD_HEAD)
        return &layouts[2 * layers];
    return &layouts[shard->layer + (shard->expert == SHARD_FFN ? layers : 0)];
}

/* Bytes of the shard of width `end - begin`: gate, up and down behind one another. */
size_t shard_bytes(const struct shard_layout *layout, const struct shard *shard);

/* Boundaries of slices must be multiples of this (or the expert's end). */
uint32_t shard_quantum(const struct shard_layout *layout);

/* The expert whose shard_bytes() bytes start at `storage` (64-byte aligned, not owned). */
struct expert shard_view(const struct shard_layout *layout, const struct shard *shard,
                         const void *storage);

/* The layout of the routed experts of `layer` as the checkpoint has them: all experts of a layer
 * must agree in formats. Errors: as weights_find_matrix, and STATUS_FORMAT where formats differ. */
enum status shard_find_layout(const struct weights *weights, uint32_t layer, uint32_t experts,
                              uint32_t hidden, uint32_t inner, struct shard_layout *out);

/* The same for the layer's SHARD_FFN. */
enum status shard_find_ffn_layout(const struct weights *weights, uint32_t layer, uint32_t hidden,
                                  uint32_t inner, struct shard_layout *out);

/* That of SHARD_HEAD, of a head that is not the embedding. */
enum status shard_find_head_layout(const struct weights *weights, uint32_t hidden,
                                   uint32_t vocabulary, struct shard_layout *out);

/* Reads the shard from the checkpoint into `storage` (shard_bytes() bytes, 64-byte aligned). Errors
 * as weights_read_region, and STATUS_FORMAT where the checkpoint has the expert in other formats or
 * shapes than the layout. */
enum status shard_read(const struct weights *weights, const struct shard_layout *layout,
                       const struct shard *shard, void *storage);
