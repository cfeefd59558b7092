/* The heart of attention, the same for every kind: scores of some queries against past positions,
 * softmax under each query's limit, weighted sum of values. Pure arithmetic on the caller's memory;
 * thread-safe. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "coordinator/kv_cache.h"

/* Queries that go through attend() together at most; bounds the caller's score scratch. */
#define ATTEND_QUERIES_MAX 64u

/* Where keys and values of past positions are: rows in the cache's pages or in one flat array.
 * Within a row the key starts at key_offset, the value at value_offset; they may overlap. */
struct attend_source {
    const struct kv_cache *cache; /* NULL: flat */
    uint32_t layer, sequence;     /* of the cache */
    const float *flat;
    size_t stride; /* floats from one position's row to the next */
    uint32_t key_offset, key_width;
    uint32_t value_offset, value_width;
};

/* The run of positions from `position` on (below `end`) whose rows lie one behind the other:
 * returns the first row and how many there are. */
const float *attend_run(const struct attend_source *source, uint32_t position, uint32_t end,
                        uint32_t *count);

/* out[i] = sum over positions p < limits[i] of softmax_p(scale * query[i] . key[p]) * value[p].
 * queries (count, key_width) contiguous, out (count, value_width) contiguous, count <=
 * ATTEND_QUERIES_MAX; `scores` has room for count * (the largest limit) floats. */
void attend(const struct attend_source *source, const float *queries, uint32_t count,
            const uint32_t *limits, float scale, float *scores, float *out);
