/* The heart of attention, the same for every kind: some queries meet past positions, a tile of them
 * after the other, and keep what a softmax over all of them needs, so that no memory grows with the
 * context. Positions may be split over several callers, whose results attend_merge() joins. Pure
 * arithmetic on the caller's memory; thread-safe. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Positions of a tile, and queries that are multiplied with it at a time: with V3's width of 576
 * f32 either takes 144 KiB, so that both stay in a second-level cache. */
#define ATTEND_POSITIONS_MAX 64u
#define ATTEND_QUERIES       64u

/* Floats of the scratch that attend_add_tile() needs. */
#define ATTEND_SCORES_FLOATS ((size_t)ATTEND_QUERIES * ATTEND_POSITIONS_MAX)

/* Queries of `rows` consecutive positions from `position` on, of one head or of several heads one
 * behind the other, and what they have gathered so far. Each sees the positions up to its own. */
struct attend_queries {
    const float *values; /* (count, the tiles' key_width), `stride` floats apart */
    size_t stride;
    uint32_t count; /* heads * rows */
    uint32_t rows, position;
    float scale;    /* of scores, over 0 */
    float *largest; /* (count) largest score */
    float *totals;  /* (count) sum of exp(score - largest) */
    float *out;     /* (count, value_width), `out_stride` floats apart: values weighted with that */
    size_t out_stride;
    uint32_t value_width;
};

/* Keys and values of `count` (ATTEND_POSITIONS_MAX or less) positions from `position` on, one row
 * every `stride` floats. They may overlap. */
struct attend_tile {
    const float *keys, *values;
    size_t stride;
    uint32_t key_width;
    uint32_t position, count;
};

/* Nothing gathered yet. */
void attend_begin(const struct attend_queries *queries);

/* Adds a tile; `scores` is scratch of ATTEND_SCORES_FLOATS. Tiles may come in any order. */
void attend_add_tile(const struct attend_queries *queries, const struct attend_tile *tile,
                     float *scores);

/* out[i] = the mean of the values, weighted with the softmax of the scores. Each query has seen at
 * least one position. */
void attend_end(const struct attend_queries *queries);

/* Adds what `other` has gathered over other positions for the same number of queries. */
void attend_merge(const struct attend_queries *queries, const struct attend_queries *other);
