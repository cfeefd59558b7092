/* One engine step's work: rows of tokens, grouped in segments of consecutive positions of one
 * sequence. A prompt chunk is a segment of many rows, a decode step one row for each sequence;
 * there is no other kind of batch. Built by scheduler or evaluate, read by engine and attention;
 * arrays belong to the builder. */
#pragma once

#include <assert.h>
#include <stdint.h>

#include "common/limits.h"

struct batch_segment {
    uint32_t sequence; /* of the KV cache */
    uint32_t position; /* of its first row in the sequence */
    uint32_t row;      /* first row in the batch */
    uint32_t rows;
};

struct batch {
    const uint32_t *tokens; /* (rows) */
    uint32_t rows;
    const struct batch_segment *segments; /* (segment_count), covering all rows in order */
    uint32_t segment_count;
    uint32_t first_row; /* where it begins in the step that it is a part of; 0: it is the whole */
};

/* In how many micro-batches a batch runs, of which some are with workers while another is here: by
 * the power of two at or below its rows. At most as many as that; 0 counts as 1. */
struct batch_division {
    uint8_t parts[BATCH_SIZES];
};
static_assert(1 << (BATCH_SIZES - 1) == BATCH_ROWS_MAX, "a size for every batch");
