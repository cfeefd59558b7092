/* What happens when holders of experts are lost, want to leave or come back: others load what no
 * copy is left of, and give it back when it is there again; the generation waits where it must.
 *
 * Used by dispatch, on the engine's thread, between two sendings. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "common/threads.h"
#include "common/weights/weights.h"
#include "coordinator/holders.h"
#include "coordinator/placement.h"
#include "coordinator/rebalance.h"
#include "coordinator/routing.h"

struct failover;

struct failover_options {
    struct placement *placement; /* copies are added and taken away again */
    struct holders *holders;
    const bool *is_expert_layer;   /* (layers of the placement) */
    const struct routing *routing; /* which experts are likely; NULL: all are alike */
    const struct weights *weights; /* for what this process is to hold */
    struct threads *threads;
    uint64_t local_bytes; /* of memory for shards that this process holds */
    bool balances;        /* adds copies where failover_balance finds that they gain */
    uint32_t timeout_s;   /* that a needed expert may be without a holder; 0: it may not */
};

/* The pointers must outlive it; the caller destroys it. Errors: STATUS_NO_MEMORY. */
enum status failover_create(const struct failover_options *options, struct failover **out);
void failover_destroy(struct failover *failover);

/* Where holders have changed: has survivors load what no copy is left of, into memory or else on
 * their disks, and lets workers go that want to leave and whose shards others serve. What this
 * process is to hold instead it loads at once. Errors: STATUS_NO_MEMORY, those of loading. */
enum status failover_react(struct failover *failover);

/* Has workers load copies of experts where what holders did in the last `window_s` seconds shows
 * that this gains (see rebalance.h); `rates` (holders) as there. Only while nobody leaves or loads,
 * nor was lost lately. Errors: STATUS_NO_MEMORY. */
enum status failover_balance(struct failover *failover, const struct load_window *window,
                             double window_s, const double *rates);

/* Takes away copies that are not needed any more (see repair.h and rebalance.h), and has their
 * holders give back the memory. Only where no ticket is open: no frame may be under way that names
 * them, nor a task that uses them. Does nothing where nothing changed since the last time. Errors:
 * STATUS_NO_MEMORY. */
enum status failover_release(struct failover *failover);

/* An expert of `layer` that is needed has no served copy. Says what it waits for, waits a moment
 * for something to change and takes that over. Errors: STATUS_CONNECTION (nobody came to hold it in
 * time; one line), those of failover_react. */
enum status failover_wait(struct failover *failover, uint32_t layer);

/* The needed experts were found: the next wait begins anew. */
void failover_rest(struct failover *failover);
