/* What was asked of holders since the start, by layer, and of how many of them at once.
 *
 * Filled by dispatch and combine on the engine's thread, read between steps. */
#pragma once

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#include "common/status.h"

/* What one holder was asked for in one layer; bytes as the coordinator sees them. */
struct layer_load {
    uint64_t rows, bytes_out, bytes_in;
};

struct statistics {
    uint32_t holders, layers;
    uint64_t *fanout; /* (holders + 1) tokens in layers with experts that visited so many holders */
    struct layer_load *loads; /* (holders, layers) */
};

/* Errors: STATUS_NO_MEMORY, not logged. The caller destroys it. */
enum status statistics_create(uint32_t holders, uint32_t layers, struct statistics **out);
void statistics_destroy(struct statistics *statistics);

struct layer_load *statistics_load(const struct statistics *statistics, uint32_t holder,
                                   uint32_t layer);

/* Mean number of holders that a token visits in a layer with experts; 0 before the first. */
double statistics_fanout_mean(const struct statistics *statistics);

/* One line with the part of tokens for each number of holders. Nothing before the first token. */
void statistics_print_fanout(const struct statistics *statistics, FILE *stream);

/* The fan-out as a list: tokens that visited 1, 2, … `machines` holders, at most all. NULL when
 * memory is out. */
json_t *statistics_fanout_to_json(const struct statistics *statistics, uint32_t machines);

/* {"rows": [], "bytes_out": [], "bytes_in": []} of one holder, by layer. NULL when memory is out.
 */
json_t *statistics_layers_to_json(const struct statistics *statistics, uint32_t holder);
