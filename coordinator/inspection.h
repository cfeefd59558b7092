/* What can be said of a model without loading it: where its bytes go and in which formats they are.
 * Used by `inspect`. */
#pragma once

#include "common/status.h"
#include "common/weights/weights.h"
#include "coordinator/shape.h"

struct inspection {
    struct model_shape shape;
    uint32_t expert_layers, dense_layers; /* without the draft module */
    uint64_t coordinator_bytes;           /* all but routed experts and draft module */
    uint64_t routed_bytes;                /* all routed experts, as workers hold them */
    uint64_t expert_bytes;                /* the largest routed expert */
    uint64_t draft_bytes;                 /* the draft module, its experts included */
    struct {
        size_t tensors;
        uint64_t bytes;
    } formats[WEIGHT_FORMAT_COUNT +
              1]; /* by weight_format; the last one: what skein does not read */
};

/* Reads the headers of the checkpoint at `path`. Errors: those of model_shape_read, weights_open
 * and shard_find_layout. */
enum status inspection_read(const char *path, struct inspection *out);
