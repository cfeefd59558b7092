/* A whole worker: listener, session, store, threads and the worker's own copy of a model, on one
 * loop.
 *
 * Created, run and destroyed by main (a test may run several in threads). Only daemon_stop may be
 * called from another thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"

struct daemon;

struct daemon_options {
    const char *listen;       /* HOST:PORT, port 0 for any free one */
    bool insecure;            /* other addresses than loopback are allowed */
    unsigned threads;         /* 0: one for each core */
    uint64_t memory_bytes;    /* for shards; 0: nine tenths of what is available */
    const char *model;        /* the worker's own copy; NULL: everything is shipped */
    const char *transport;    /* of the data plane: one of TRANSPORT_CHOICES; NULL is auto */
    const char *cache;        /* directory for what can be made again; NULL: none */
    uint64_t cache_bytes_max; /* for shards there, see shard_cache_open; 0: none are kept */
    uint64_t spill_bytes;     /* of shards that may lie there beyond memory; 0: none */
    bool handle_signals;      /* SIGTERM drains, SIGINT or a second signal ends at once */
};

/* Opens the model and listens. The kernels must have been selected. Errors: as listener_create and
 * weights_open, STATUS_USAGE (to spill without a cache), STATUS_NO_MEMORY. */
enum status daemon_create(const struct daemon_options *options, struct daemon **out);

/* HOST:PORT with the real port. */
const char *daemon_address(const struct daemon *daemon);

/* Serves one coordinator after another until daemon_stop, or until somebody has it drained. Once.
 */
void daemon_run(struct daemon *daemon);

/* Makes daemon_run say goodbye and return. */
void daemon_stop(struct daemon *daemon);

/* After daemon_run, or instead of it. NULL is allowed. */
void daemon_destroy(struct daemon *daemon);
