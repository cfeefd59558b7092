/* The worker's data plane: DISPATCH frames in, COMBINE frames out, for one session.
 *
 * Created by the session when all shards are there; more may come while it works, and some may go:
 * it uses those that the store says are served. Its thread owns the transport, the pool's loop and
 * the expert workspace; the session's thread only calls the functions below. Memory is taken at
 * creation; serving allocates nothing. A peer that breaks the protocol gets a WIRE_ERROR frame and
 * loses its connection; the service stays. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "common/threads.h"
#include "worker/expert_store.h"
#include "worker/spill.h"

struct service;

/* What the assignment agreed on. */
struct service_options {
    struct threads *threads;    /* used by the service's thread alone while it lives */
    struct expert_store *store; /* of experts with rows of `hidden` */
    struct spill *spill;        /* of the store's spilled shards; NULL: there are none */
    uint32_t hidden;
    uint32_t inner_max;       /* the widest expert that the store may ever hold */
    uint32_t batch_rows;      /* most rows in one frame */
    uint32_t entries_per_row; /* most entries for one row */
    uint32_t head_rows;       /* most rows of the output head in a slot; 0: none has any */
    bool tells_spans;         /* answers say when each thread computed */
    const char *transport;    /* one of TRANSPORT_CHOICES; NULL is auto */
};

/* Takes buffers for SERVICE_FRAMES frames and starts the thread. Errors: STATUS_PROTOCOL
 * (dimensions out of bounds), STATUS_NO_MEMORY, STATUS_IO; one
 * line each. */
enum status service_create(const struct service_options *options, struct service **out);

/* Serves the connected socket `fd`, whose WIRE_OPEN frame has been read; takes it over (closed also
 * on error). Errors: STATUS_PROTOCOL when another one is being served, with one line that names
 * `peer`. */
enum status service_attach(struct service *service, int fd, const char *peer);

/* Closes the connection, ends the thread (after the frame at hand) and frees everything. NULL is
 * allowed. */
void service_destroy(struct service *service);
