/* Dispatch: from routed rows to work for each holder of shards. Returns a ticket that combine
 * consumes.
 *
 * A holder is a worker behind a data connection, or the in-process expert store when there are no
 * workers; the rest of the engine cannot tell. Used by the engine thread. Between dispatch_send and
 * combine_await the engine is free to compute. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/arena.h"
#include "common/limits.h"
#include "common/status.h"
#include "common/transport/transport.h"
#include "coordinator/cluster.h"
#include "coordinator/placement.h"
#include "worker/expert.h"
#include "worker/expert_store.h"

/* One holder's part of one ticket. */
struct ticket_part {
    uint8_t *frame;   /* DISPATCH frame to send; remote holders */
    uint8_t *reply;   /* COMBINE frame received; remote holders */
    uint32_t *row_of; /* (rows_max) batch row -> row of this part, UINT32_MAX: not visited */
    uint32_t rows;    /* rows in the part */
    uint32_t entries; /* (row, shard) pairs in the part */
    struct expert_task *tasks; /* (rows_max * k), in-process holder */
};

/* Work under way between dispatch and combine. */
struct ticket {
    bool in_use;
    uint64_t sequence;
    uint32_t layer, rows;
    const float *x;            /* (rows, hidden), the caller's, unchanged until combined */
    uint32_t pending;          /* completions still to come */
    struct ticket_part *parts; /* (holders) */
};

/* Figures of one holder since the start, for the user. */
struct holder_stats {
    const char *address; /* "in process" without workers */
    uint32_t shards;
    uint64_t rows;
    double busy_s;
    uint64_t bytes_out, bytes_in; /* as the coordinator sees it: out is to the worker */
};

/* Shared with combine.c, which is the other half of this module; nobody else looks inside. */
struct dispatch {
    struct arena *arena;
    const struct placement *placement;
    uint32_t hidden, rows_max, k;
    struct transport *transport;     /* NULL: in process */
    struct connection **connections; /* (holders) */
    struct cluster *cluster;         /* NULL: in process */
    struct expert_store *store;      /* NULL: workers */
    struct expert_workspace *workspace;
    struct threads *threads;
    struct ticket tickets[TICKETS_MAX];
    uint64_t sequence;
    uint32_t *expert_first;       /* (experts + 1) into by_expert */
    uint32_t *by_expert;          /* (rows_max * k) row * k + choice, sorted by expert, then row */
    bool failed;                  /* a holder was lost: nothing can be dispatched any more */
    struct holder_stats *stats;   /* (holders) */
    uint64_t visits, routed_rows; /* holders visited, and rows, summed over layers and steps */
};

struct dispatch_options {
    struct threads *threads;
    const struct placement *placement;  /* must outlive the dispatch */
    struct cluster *cluster;            /* workers, loaded; or NULL */
    struct expert_store *store;         /* in process, filled; or NULL */
    struct expert_workspace *workspace; /* of the engine's size; used in process */
    uint32_t hidden, rows_max, experts_per_token;
};

/* Takes over the workers' data connections and all buffers it will need. Errors: STATUS_NO_MEMORY,
 * STATUS_IO. */
enum status dispatch_create(const struct dispatch_options *options, struct dispatch **out);
void dispatch_destroy(struct dispatch *dispatch);

/* Sends every row of x (rows, hidden) to the holders of its experts: experts (rows, k), weights
 * (rows, k). `x` must stay as it is until combine_await. At most TICKETS_MAX tickets are open at a
 * time. Errors: STATUS_CONNECTION (a worker is gone; the line names it). */
enum status dispatch_send(struct dispatch *dispatch, uint32_t layer, const float *x, uint32_t rows,
                          const uint32_t *experts, const float *weights, struct ticket **out);

/* Mean number of holders that a token visits in an expert layer; 0 before the first. */
double dispatch_fanout_mean(const struct dispatch *dispatch);
