/* What a coordinator assigned, on its way into the store: what is not wanted any more is released,
 * memory is taken, and whatever the worker has itself is read, from its own copy of the model, its
 * cache or its disk.
 *
 * Made and freed on the loop's thread, runs on one of libuv's. Part of the session, which alone
 * looks inside. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "common/threads.h"
#include "common/weights/weights.h"
#include "proto/control.h"
#include "worker/expert_store.h"

struct load_job {
    uv_work_t work;
    void *context;
    struct expert_store *store;
    struct threads *threads;
    struct assignment assignment; /* of the lists below */
    struct shard_layout *layouts;
    struct shard *shards;
    uint32_t *slots;
    bool *spilled;
    uint32_t *released; /* (released_count) slots that were withdrawn */
    uint32_t released_count;
    bool waits;                    /* for what uses such slots beside the service */
    bool extends;                  /* the store by the assignment's shards, beside serving */
    bool verifies;                 /* the bytes of what is spilled already */
    const struct weights *weights; /* NULL: there is no own copy */
    const char *cache_directory;   /* NULL: none */
    uint64_t cache_bytes_max;
    bool uses_uring;           /* to read what is there */
    struct shard_cache *cache; /* NULL: not open yet, or there is none */
    atomic_bool cancelled;
    atomic_uint_least64_t bytes_done, bytes_total;
    enum status status; /* once it has run */
};

/* Why the message cannot be taken; NULL if it can. It extends `serving`; NULL: it is a new one. */
const char *load_job_find_fault(const Control__Assign *assign, const struct expert_store *serving);

/* Copies the message, which has no fault; the caller fills in the rest and frees it with
 * load_job_destroy. NULL when memory is out. */
struct load_job *load_job_create(const Control__Assign *assign);
void load_job_destroy(struct load_job *job);

/* Sets job->status: those of assigning a store, of releasing and extending, and of loading what is
 * spilled. What cannot be read stays missing. */
void load_job_run(struct load_job *job);

/* The widest expert of the message that there may be, further ones of its layers included; and the
 * most rows of the output head in one of its slots. */
uint32_t load_job_inner_max(const Control__Assign *assign);
uint32_t load_job_head_rows(const Control__Assign *assign);
