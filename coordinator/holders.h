/* Who can be asked for shards at present: a data connection to each worker that serves, and how far
 * each serves what it is to hold. Workers come and go; the rest of the data plane asks here.
 *
 * Holders [0, workers) are the cluster's; the last one may be this process with a store of its own.
 * Used by the engine's thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "common/transport/transport.h"
#include "coordinator/cluster.h"
#include "worker/expert_store.h"

struct holder {
    const char *address;           /* of a worker, or "in process"; NULL: a place for one */
    struct connection *connection; /* NULL: lost, or not a worker */
    uint32_t session;              /* of the connection, as in struct cluster_look */
    bool silent, leaving;          /* as there */
};

struct holders {
    uint32_t count, workers;
    struct holder *all;         /* (count) */
    uint32_t *served;           /* (count) of the shards that were placed on it, in this order: what
                                   may be used; 0: lost */
    struct cluster *cluster;    /* NULL: no workers */
    struct expert_store *store; /* of the last holder; NULL: all are workers */
    struct transport *transport; /* NULL: no workers */
    uint32_t seen;               /* cluster_changes at the last refresh */
    bool has_changed;            /* since failover last looked */
};

/* `cluster` (workers, loaded) and `store` (filled) may be NULL, but not both; `transport` is one of
 * TRANSPORT_CHOICES. Takes over the data connections. The caller destroys it; both must outlive it.
 * Errors: STATUS_NO_MEMORY, STATUS_IO; one line each. */
enum status holders_create(struct cluster *cluster, struct expert_store *store,
                           const char *transport, struct holders **out);
void holders_destroy(struct holders *holders);

/* Takes over what has changed since the last time: drops the connections of workers that were lost,
 * takes those of workers that are back. */
void holders_refresh(struct holders *holders);

/* The holder behind a connection; `count` if none has it any more. */
uint32_t holders_find(const struct holders *holders, const struct connection *connection);

/* Gives a worker up, with the line that says why (NULL: it was logged). What was posted on its
 * connection completes no more. */
void holders_lose(struct holders *holders, uint32_t holder, const char *reason);
