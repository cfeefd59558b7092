/* Chunks are copied out of the store one by one when the channel has room for them, so nothing here
 * points into the store beyond a call. A giver that was parted with stays until its client is gone,
 * and does nothing. */
#include "worker/giver.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "common/clock.h"
#include "common/cluster_limits.h"
#include "common/config.h"
#include "common/log.h"

struct giver {
    struct givers *givers; /* NULL: it was parted with */
    struct giver *next;
    struct channel *channel;
    bool is_giving;
    uint32_t slot;       /* that is given, or was last */
    size_t offset;       /* bytes of it that were sent */
    uint64_t since_ns;   /* when the client last asked for something or took it */
    uint64_t bytes;      /* that were given in all */
    uint32_t shards;     /* of which these were whole */
    uint64_t started_ns; /* when the client came */
};

struct givers {
    const struct expert_store *store;
    struct giver *first;
    unsigned count;
};

enum status givers_create(const struct expert_store *store, struct givers **out) {
    struct givers *givers = calloc(1, sizeof *givers);
    if (!givers)
        return STATUS_NO_MEMORY;
    givers->store = store;
    *out = givers;
    return STATUS_OK;
}

void givers_destroy(struct givers *givers) {
    free(givers);
}

/* Takes it off the list; nothing is given any more. */
static void part_with(struct giver *giver) {
    struct givers *givers = giver->givers;
    if (!givers)
        return;
    struct giver **link = &givers->first;
    while (*link != giver)
        link = &(*link)->next;
    *link = giver->next;
    givers->count--;
    giver->givers = NULL;
    giver->is_giving = false;
}

void giver_destroy(struct giver *giver) {
    char size[CONFIG_SIZE_TEXT];
    if (!giver)
        return;
    part_with(giver);
    if (giver->shards > 0)
        log_info("gave %" PRIu32 " shards, %s, to %s in %.2f s", giver->shards,
                 config_format_size(giver->bytes, size), channel_peer(giver->channel),
                 clock_elapsed_s(giver->started_ns));
    free(giver);
}

static void say_error(struct channel *channel, const char *text) {
    Control__Error error = CONTROL__ERROR__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    error.text = (char *)text;
    message.kind_case = CONTROL__MESSAGE__KIND_ERROR;
    message.error = &error;
    channel_send(channel, &message);
    channel_finish(channel);
}

void givers_stop(struct givers *givers) {
    while (givers->first) {
        struct giver *giver = givers->first;
        part_with(giver);
        say_error(giver->channel, "its session has ended; ask the coordinator");
    }
}

void givers_release(struct givers *givers) {
    for (struct giver *giver = givers->first, *next; giver; giver = next) {
        next = giver->next;
        if (!giver->is_giving || expert_store_is_served(givers->store, giver->slot))
            continue;
        part_with(giver);
        say_error(giver->channel, "it does not hold that shard any more; ask the coordinator");
    }
}

/* Makes room by parting with the client that has done nothing for the longest time, if that is too
 * long. */
static void drop_idle(struct givers *givers) {
    struct giver *idle = NULL;
    for (struct giver *giver = givers->first; giver; giver = giver->next)
        if (!idle || giver->since_ns < idle->since_ns)
            idle = giver;
    if (!idle || (clock_now_ns() - idle->since_ns) / 1000000 < FETCH_STALL_MS)
        return;
    part_with(idle);
    channel_close(idle->channel);
}

static struct giver *add(struct givers *givers, struct channel *channel) {
    if (givers->count == GIVERS_MAX)
        drop_idle(givers);
    struct giver *giver = givers->count < GIVERS_MAX ? calloc(1, sizeof *giver) : NULL;
    if (!giver)
        return NULL;
    giver->givers = givers;
    giver->channel = channel;
    giver->started_ns = giver->since_ns = clock_now_ns();
    giver->next = givers->first;
    givers->first = giver;
    givers->count++;
    return giver;
}

static void refuse(struct giver *giver, const struct packed_name *name) {
    char text[256];
    snprintf(text, sizeof text,
             "it does not hold [%" PRIu32 ", %" PRIu32 ") of expert %" PRIu32 " in layer %" PRIu32
             " of checkpoint %016" PRIx64 "%s as this release packs it; ask the coordinator",
             name->shard.begin, name->shard.end, name->shard.expert, name->shard.layer,
             name->fingerprint, name->exact ? ", exact," : "");
    log_warning("%s asks for a shard: %s", channel_peer(giver->channel), text);
    part_with(giver);
    say_error(giver->channel, text);
}

enum status givers_take(struct givers *givers, struct channel *channel, const Control__Fetch *fetch,
                        uint32_t slots, bool served, struct giver **out) {
    struct giver *giver = *out ? *out : (*out = add(givers, channel));
    if (!giver) {
        say_error(channel, "it gives shards to too many workers; ask the coordinator");
        return STATUS_OK;
    }
    if (giver->is_giving) {
        log_error("%s asks for a shard before it has got the last one; closing its control "
                  "connection",
                  channel_peer(channel));
        return STATUS_PROTOCOL;
    }
    const struct packed_name name = {fetch->fingerprint,
                                     fetch->packing_version,
                                     fetch->exact_activations,
                                     {fetch->layer, fetch->expert, fetch->begin, fetch->end}};
    /* Workers ask in the order of slots, mostly. */
    uint32_t slot =
        slots == 0 ? 0 : expert_store_find(givers->store, &name, giver->slot, slots, served);
    if (slot == slots) {
        refuse(giver, &name);
        return STATUS_OK;
    }
    giver->since_ns = clock_now_ns();
    giver->slot = slot;
    giver->offset = 0;
    giver->is_giving = true;
    giver_continue(giver);
    return STATUS_OK;
}

static void send_chunk(struct giver *giver, size_t bytes) {
    const uint8_t *packed = expert_store_packed(giver->givers->store, giver->slot);
    size_t rest = bytes - giver->offset;
    Control__Packed chunk = CONTROL__PACKED__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    chunk.offset = giver->offset;
    chunk.data.data = (uint8_t *)packed + giver->offset;
    chunk.data.len = rest < SHIP_CHUNK_BYTES ? rest : SHIP_CHUNK_BYTES;
    giver->offset += chunk.data.len;
    giver->bytes += chunk.data.len;
    if (giver->offset == bytes)
        chunk.hash = XXH3_64bits(packed, bytes);
    message.kind_case = CONTROL__MESSAGE__KIND_PACKED;
    message.packed = &chunk;
    channel_send(giver->channel, &message);
}

void giver_continue(struct giver *giver) {
    if (!giver->is_giving || !expert_store_is_filled(giver->givers->store, giver->slot))
        return;
    size_t bytes = expert_store_slot_bytes(giver->givers->store, giver->slot);
    giver->since_ns = clock_now_ns();
    while (giver->offset < bytes && channel_pending(giver->channel) < SHIP_WRITES_MAX)
        send_chunk(giver, bytes);
    if (giver->offset == bytes) {
        giver->is_giving = false;
        giver->shards++;
    }
}

void givers_continue(struct givers *givers) {
    for (struct giver *giver = givers->first; giver; giver = giver->next)
        giver_continue(giver);
}
