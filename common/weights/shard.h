/* The unit of placement: rows [begin, end) of one expert's gate and up projections and the same
 * columns of its down projection. A whole expert is the shard [0, inner).
 *
 * Used by the coordinator (planning, shipping) and the worker (loading), from any thread. */
#pragma once

#include <stdint.h>

#include "common/status.h"
#include "common/weights/weights.h"

struct shard {
    uint32_t layer;
    uint32_t expert;
    uint32_t begin, end; /* range of the inner dimension */
};

/* What all shards of one layer have in common. */
struct shard_layout {
    uint32_t hidden;
    uint32_t inner; /* of a whole expert */
    enum weight_format gate, up, down;
};

/* One expert, or a slice of one, ready for computing. Points into the memory of its holder. */
struct expert {
    struct matrix gate, up; /* (end - begin, hidden) */
    struct matrix down;     /* (hidden, end - begin) */
};

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

/* Reads the shard from the checkpoint into `storage` (shard_bytes() bytes, 64-byte aligned). Errors
 * as weights_read_region, and STATUS_FORMAT where the checkpoint has the expert in other formats or
 * shapes than the layout. */
enum status shard_read(const struct weights *weights, const struct shard_layout *layout,
                       const struct shard *shard, void *storage);
