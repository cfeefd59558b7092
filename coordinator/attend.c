/* Scores of a tile are computed at once, turned into exp(score - largest so far), and the values
 * are added up with these weights; where a tile raises the largest score, what was gathered before
 * is scaled down. Tiles that a causal limit hides from a query cost that query nothing. */
#include "coordinator/attend.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "common/kernel/kernel.h"

/* From this many queries on a matrix product is faster than dot products, although it repacks its
 * operands (measured with AVX2, keys of 192 and of 576). */
#define GEMM_QUERIES_MIN 32u

void attend_begin(const struct attend_queries *queries) {
    for (uint32_t i = 0; i < queries->count; i++) {
        queries->largest[i] = -INFINITY;
        queries->totals[i] = 0;
        memset(queries->out + i * queries->out_stride, 0, queries->value_width * sizeof(float));
    }
}

/* scores (count, tile->count) of `count` queries from the `first` on. */
static void score(const struct attend_queries *queries, uint32_t first, uint32_t count,
                  const struct attend_tile *tile, float *scores) {
    const float *values = queries->values + first * queries->stride;
    const struct row_tile keys = {tile->keys, tile->stride, tile->count, tile->key_width};
    if (count >= GEMM_QUERIES_MIN)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)count, (int)tile->count,
                    (int)tile->key_width, 1.0f, values, (int)queries->stride, tile->keys,
                    (int)tile->stride, 0.0f, scores, (int)tile->count);
    else
        kernel_get()->row_dots(&keys, values, queries->stride, count, scores, tile->count);
}

/* How many positions of the tile query i sees. */
static uint32_t seen_positions(const struct attend_queries *queries, uint32_t i,
                               const struct attend_tile *tile) {
    uint32_t limit = queries->position + i % queries->rows + 1;
    if (limit <= tile->position)
        return 0;
    return limit - tile->position < tile->count ? limit - tile->position : tile->count;
}

static void scale_gathered(const struct attend_queries *queries, uint32_t i, float factor) {
    float *out = queries->out + i * queries->out_stride;
    queries->totals[i] *= factor;
    for (uint32_t v = 0; v < queries->value_width; v++)
        out[v] *= factor;
}

/* Turns the scores of query i into weights; those it does not see become 0. */
static void weigh(const struct attend_queries *queries, uint32_t i, const struct attend_tile *tile,
                  float *scores) {
    uint32_t seen = seen_positions(queries, i, tile);
    memset(scores + seen, 0, (tile->count - seen) * sizeof *scores);
    if (seen == 0)
        return;
    float before = queries->largest[i];
    float total = kernel_get()->softmax_part(scores, seen, queries->scale, &queries->largest[i]);
    if (queries->largest[i] > before)
        scale_gathered(queries, i, expf(before - queries->largest[i]));
    queries->totals[i] += total;
}

static void add_block(const struct attend_queries *queries, uint32_t first, uint32_t count,
                      const struct attend_tile *tile, float *scores) {
    score(queries, first, count, tile, scores);
    for (uint32_t i = 0; i < count; i++)
        weigh(queries, first + i, tile, scores + (size_t)i * tile->count);
    const struct row_tile values = {tile->values, tile->stride, tile->count, queries->value_width};
    kernel_get()->row_sums(&values, scores, tile->count, count,
                           queries->out + first * queries->out_stride, queries->out_stride);
}

void attend_add_tile(const struct attend_queries *queries, const struct attend_tile *tile,
                     float *scores) {
    for (uint32_t first = 0, count; first < queries->count; first += count) {
        count = queries->count - first;
        count = count < ATTEND_QUERIES ? count : ATTEND_QUERIES;
        while (count && seen_positions(queries, first, tile) == 0) {
            first++;
            count--;
        }
        if (count)
            add_block(queries, first, count, tile, scores);
    }
}

void attend_end(const struct attend_queries *queries) {
    for (uint32_t i = 0; i < queries->count; i++)
        scale_gathered(queries, i, 1 / queries->totals[i]);
}

void attend_merge(const struct attend_queries *queries, const struct attend_queries *other) {
    for (uint32_t i = 0; i < queries->count; i++) {
        if (other->totals[i] == 0)
            continue;
        float largest = fmaxf(queries->largest[i], other->largest[i]);
        scale_gathered(queries, i, expf(queries->largest[i] - largest));
        queries->largest[i] = largest;
        float factor = expf(other->largest[i] - largest);
        queries->totals[i] += factor * other->totals[i];
        kernel_get()->add_scaled(factor, other->out + i * other->out_stride, queries->value_width,
                                 queries->out + i * queries->out_stride);
    }
}
