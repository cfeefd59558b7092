/* The worker's side of the control plane: one coordinator at a time, from greeting to goodbye.
 *
 * Owned by the daemon; everything happens on the loop's thread, except measuring, loading and the
 * end of a service, which go to libuv's threads so that health reports keep flowing. It alone
 * decides who uses the store and the thread pool: what measures, then the loader, then the service,
 * one at a time. */
#pragma once

#include <stdint.h>
#include <uv.h>

#include "common/status.h"
#include "common/threads.h"
#include "common/weights/weights.h"
#include "worker/expert_store.h"

struct session;

/* Everything outlives the session. */
struct session_options {
    uv_loop_t *loop;
    struct threads *threads;
    struct expert_store *store;
    uint64_t memory_bytes;          /* what is said to coordinators; the store's limit */
    const char *isa;                /* of the chosen kernels */
    const struct weights *weights;  /* the worker's own copy of a model; may be NULL */
    uint64_t fingerprint;           /* of `weights` */
    const char *transport;          /* of the data plane, see service_options */
    const char *cache_directory;    /* for figures of this machine and shards; may be NULL */
    uint64_t cache_bytes_max;       /* for shards, see shard_cache_open; 0: none are kept */
    uint64_t spill_bytes;           /* of shards that may lie there beyond memory; 0: none */
    void (*drained)(void *context); /* session_drain is through; may call session_close */
    void *context;
};

/* An idle session. Errors: STATUS_NO_MEMORY. */
enum status session_create(const struct session_options *options, struct session **out);

/* A control connection has come: takes over `fd`. Whatever it says, the session survives. */
void session_accept_control(struct session *session, int fd, const char *peer);

/* A data connection has come, opened for `session_id`: takes over `fd`, and closes it if it does
 * not belong to the coordinator that is being served. Before there is an assignment it measures the
 * link, afterwards it carries frames. */
void session_accept_data(struct session *session, int fd, uint64_t session_id, const char *peer);

/* Takes no further coordinator, and asks the one that is served to let go as soon as its shards are
 * held elsewhere. `drained` is called when nobody is served any more, perhaps at once. */
void session_drain(struct session *session);

/* Begins the end: says no more to anybody and stops loading and serving. The loop runs out of work
 * when all is closed; then session_destroy may be called. */
void session_close(struct session *session);
void session_destroy(struct session *session);
