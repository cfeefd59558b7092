/* Gives shards to other workers that ask for them (Fetch), out of the store, beside whatever else
 * this worker does.
 *
 * Owned by the session, which says which slots may be looked at; each client that asks has a giver
 * of its own. Everything happens on the loop's thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "proto/channel.h"
#include "worker/expert_store.h"

struct givers; /* all of them, GIVERS_MAX at most */
struct giver;  /* for one client */

/* Gives out of `store`, which outlives it. Errors: STATUS_NO_MEMORY, not logged. The caller
 * destroys it, after all clients' givers. */
enum status givers_create(const struct expert_store *store, struct givers **out);
void givers_destroy(struct givers *givers);

/* The client at `channel` asks for a shard; `*giver` is its own, NULL the first time. Slots
 * [0, slots) of the store may be looked at, or those of them that are served. One that is not
 * filled yet is waited for; what is not among them, or a client too many, is refused with Error.
 * Errors: STATUS_PROTOCOL (the client has not got the last one yet; one line). */
enum status givers_take(struct givers *givers, struct channel *channel, const Control__Fetch *fetch,
                        uint32_t slots, bool served, struct giver **giver);

/* A slot was filled: who waits for it gets it. */
void givers_continue(struct givers *givers);

/* Parts with all clients, because the store is about to change; or with those alone that are given
 * what is not served any more. */
void givers_stop(struct givers *givers);
void givers_release(struct givers *givers);

/* A message to the client has left: sends what there is to send. */
void giver_continue(struct giver *giver);

/* The client is gone. NULL is allowed. */
void giver_destroy(struct giver *giver);
