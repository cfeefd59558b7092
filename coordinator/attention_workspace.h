/* What the kinds of attention share: the memory of one attention object and the way work is split
 * into tasks. Internal to attention.c and the attention_*.c files. */
#pragma once

#include "common/arena.h"
#include "common/kernel/matmul.h"
#include "common/threads.h"
#include "coordinator/attend.h"
#include "coordinator/batch.h"
#include "coordinator/kv_cache.h"
#include "coordinator/model.h"
#include "coordinator/rope.h"

/* The memory of one thread. */
struct attention_scratch {
    float *weights;  /* of one head in f32 */
    float *tile;     /* (ATTEND_POSITIONS_MAX, row) of the cache in f32 */
    float *expanded; /* (ATTEND_POSITIONS_MAX, key + value) of one head */
    float *scores;   /* ATTEND_SCORES_FLOATS */
    float *queries;  /* of one block of queries */
    float *sums;     /* their results */
    float *largest;  /* their state, see attend.h */
    float *totals;
    void *prepared;  /* the tile or the sums, see matmul_prepare() */
    float *products; /* what matmul_tile() needs */
};

/* How large its parts are; the others are the same for every kind. */
struct attention_sizes {
    size_t weights, tile, expanded, queries, sums; /* floats */
    size_t query_rows;                             /* queries of a block */
    size_t prepared_bytes;
};

/* Where latent attention keeps queries and partial results while several tasks share a head. */
/* Tasks of one such loop at most, for each thread. */
#define ATTENTION_SPLIT_TASKS_PER_THREAD 4u

struct attention_split {
    uint32_t tasks_max;
    float *queries;          /* (threads * ATTEND_QUERIES, kv_rank + rope) */
    float *sums;             /* (tasks_max, ATTEND_QUERIES, kv_rank) */
    float *largest, *totals; /* (tasks_max, ATTEND_QUERIES) */
};

struct attention {
    const struct model_shape *shape;
    struct threads *threads;
    struct kv_cache *cache;
    struct rope *rope;
    struct arena *arena;
    float scale;  /* of scores */
    float *q_low; /* (rows, q_rank), latent with a q rank */
    float *q;     /* (rows, heads, key dimensions) */
    float *kv;    /* (rows, kv_rank + rope) or (rows, 2 * kv_heads, head_dim): new cache rows */
    float *mixed; /* (rows, heads, value dimensions): input of the output projection */
    struct attention_scratch *scratch; /* (threads) */
    struct attention_split split;
    struct matmul_workspace matmul;
};

/* One layer's call, as the tasks see it. */
struct attention_call {
    struct attention *attention;
    const struct attention_weights *weights;
    uint32_t layer;
    const struct batch *batch;
};

/* A task's share: heads [head, head + heads) of one segment, and its thread's scratch. */
struct attention_share {
    const struct batch_segment *segment;
    uint32_t head, heads;
    const struct attention_scratch *scratch;
};

/* Decodes a task number of a loop over segments and blocks of `heads_per_task` heads. */
struct attention_share attention_find_share(const struct attention_call *call,
                                            uint32_t heads_per_task, size_t task, unsigned thread);

/* Tasks of that loop. */
size_t attention_count_tasks(const struct attention_call *call, uint32_t heads_per_task);

/* Stores the batch row's new cache row (width). */
void attention_write_cache(const struct attention_call *call, uint32_t row, const float *values);

/* One of several products with the same input. */
struct attention_product {
    const struct matrix *w;
    float *y; /* (rows, w->rows), `y_stride` floats apart */
    size_t y_stride;
};

/* Row-wise y = W x of all products in one loop; their matrices have as many columns. */
void attention_project(const struct attention *attention, const struct attention_product *products,
                       size_t count, const float *x, uint32_t rows);
