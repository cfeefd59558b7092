/* Where workers get the shards from that they cannot read themselves: from another worker that has
 * the same shard, else from here; so that each byte leaves this machine once, if it can.
 *
 * Bookkeeping without sockets or clock: for each worker, how each of its slots stands. Owned by the
 * cluster and used by its members, on the loop's thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "common/weights/shard.h"

struct sources;

/* For workers [0, workers). The caller destroys it. Errors: STATUS_NO_MEMORY, not logged. */
enum status sources_create(uint32_t workers, struct sources **out);
void sources_destroy(struct sources *sources);

/* The worker is given `shard` in `slot`, which has nothing, or the same shard from an earlier
 * session. Errors: STATUS_NO_MEMORY, not logged. */
enum status sources_assign(struct sources *sources, uint32_t worker, uint32_t slot,
                           const struct shard *shard);

/* The worker no longer has, nor is to have, what the slot had, if anything. */
void sources_release(struct sources *sources, uint32_t worker, uint32_t slot);

/* The worker has the slot, which was assigned, on its disk: others are not told to ask for it, and
 * it is sent from here alone. */
void sources_spill(struct sources *sources, uint32_t worker, uint32_t slot);

/* Whether a worker may be asked by others. One that is only reachable on the machine that it shares
 * with this process (`is_local`) is asked by its like; for others it is no nearer than we are. One
 * that is leaving is asked where there is nobody else. */
struct source_health {
    bool usable, is_local, is_leaving;
};
void sources_set_health(struct sources *sources, uint32_t worker, struct source_health health);

/* The worker cannot read the slots [begin[i], end[i]) (count ranges, ascending). In a session's
 * first call that means that it has all others; later, that the workers that were named for these
 * slots did not give them, and these are not named to it again. False: they are not slots for which
 * it may say so; nothing has changed then. */
bool sources_need(struct sources *sources, uint32_t worker, const uint32_t *begin,
                  const uint32_t *end, size_t count);

/* What to do next for a worker. */
enum source {
    SOURCE_NONE,  /* nothing: it lacks nothing, or all is named or sent */
    SOURCE_LATER, /* nothing yet: what it lacks is being sent to somebody else, who will have it */
    SOURCE_HERE,  /* send it the slot */
    SOURCE_PEER,  /* tell it that the peer has the slot's shard */
};

/* Takes note that this is done; `peer` is set with SOURCE_PEER only. */
enum source sources_next(struct sources *sources, uint32_t worker, uint32_t *slot, uint32_t *peer);

/* All of the slot was sent from here. */
void sources_note_sent(struct sources *sources, uint32_t worker, uint32_t slot);

/* The worker has all of its slots. Returns how many of them other workers gave in this session. */
uint32_t sources_note_ready(struct sources *sources, uint32_t worker);

/* The worker was lost: it has nothing, until its slots are assigned again. */
void sources_forget(struct sources *sources, uint32_t worker);
