/* Sends one worker the shards that it is to get from here.
 *
 * Owned by the cluster; everything happens on its loop's thread, except reading, which goes to
 * libuv's threads. */
#pragma once

#include <stdbool.h>
#include <uv.h>

#include "common/status.h"
#include "common/weights/weights.h"
#include "coordinator/placement.h"
#include "proto/channel.h"

struct shipment;

/* A shard, and where the worker wants it. */
struct shipment_item {
    uint32_t slot;
    struct shard shard;
};

struct shipment_options {
    uv_loop_t *loop;
    struct channel *channel;
    const struct weights *weights;
    const struct placement *placement; /* for the layouts of shards */
    size_t shard_bytes_max;            /* of what it may be asked to send */

    /* The next shard; false: there is none at present. Called whenever one can be sent. */
    bool (*next)(void *context, struct shipment_item *out);

    /* All of the slot has been handed to the channel. */
    void (*sent)(void *context, uint32_t slot);

    /* The checkpoint cannot be read; one line was logged. */
    void (*failed)(void *context, enum status status);
    void *context;
};

/* Begins with shipment_continue. Errors: STATUS_NO_MEMORY, not logged. */
enum status shipment_start(const struct shipment_options *options, struct shipment **out);

/* A message of the channel has left, or there may be a next shard. */
void shipment_continue(struct shipment *shipment);

/* Ends it, wherever it is, and frees it. `failed` does not come any more. NULL is allowed. */
void shipment_end(struct shipment *shipment);
