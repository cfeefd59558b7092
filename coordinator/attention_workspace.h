/* What the kinds of attention share: sizes, scratch and the per-thread memory of one attention
 * object. Internal to attention.c, attention_latent.c and attention_multi_head.c. */
#pragma once

#include "common/arena.h"
#include "common/kernel/matmul.h"
#include "common/threads.h"
#include "coordinator/attend.h"
#include "coordinator/batch.h"
#include "coordinator/model.h"
#include "coordinator/rope.h"

/* Heads that one task of the thread pool handles at most. */
#define HEADS_PER_TASK_MAX 16u

struct attention {
    const struct model_shape *shape;
    struct threads *threads;
    struct kv_cache *cache;
    struct rope *rope;
    struct arena *arena;
    float scale; /* of scores */
    uint32_t heads_per_task, tasks_per_segment;
    float *q_low;   /* (rows, q_rank), latent with a q rank */
    float *q;       /* (rows, heads, key dimensions) */
    float *kv;      /* (rows, kv_rank + rope) or (rows, 2, kv_heads, head_dim): new cache rows */
    float *mixed;   /* (rows, heads, value dimensions): input of the output projection */
    float *scratch; /* (threads, scratch_floats) */
    size_t scratch_floats;
    struct matmul_workspace matmul; /* on the same scratch */
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
    float *scratch;
};

/* Decodes a task number of a loop over segments and blocks of heads. */
struct attention_share attention_find_share(const struct attention_call *call, size_t task,
                                            unsigned thread);

/* Where the position of batch row `row` has its row in the cache. */
float *attention_cache_row(const struct attention_call *call, uint32_t row);

/* Row-wise y = W x for the whole batch. */
void attention_project(const struct attention *attention, const struct matrix *w, const float *x,
                       uint32_t rows, float *y);
