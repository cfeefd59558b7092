/* A peer is another worker that was named as a source. It is dialled when the first shard is asked
 * of it and kept until the fetcher ends, because the coordinator names further shards while the
 * first ones come. Bytes go into the slot at once; the hash in the last message says whether they
 * are what was sent, and until then the slot counts as missing.
 *
 * A peer that fails stays on the list, so that it is not tried again when it is named for further
 * shards before the coordinator has heard of it. Channels close by themselves; peers are freed by
 * whoever is last: here, or in on_end. */
#include "worker/fetcher.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/address.h"
#include "common/clock.h"
#include "common/cluster_limits.h"
#include "common/config.h"
#include "common/log.h"
#include "proto/channel.h"
#include "proto/dial.h"

#define TICK_MS 250

struct peer {
    struct fetcher *fetcher; /* NULL: it was left, only its channel is not closed yet */
    struct peer *next;
    char address[ADDRESS_TEXT_BYTES_MAX];
    struct dial *dial;       /* while connecting */
    struct channel *channel; /* afterwards */
    uint32_t *slots;         /* (count) that were asked of it, of which `done` have come */
    size_t count, done, capacity;
    bool is_lost;      /* it failed: nothing is asked of it any more */
    bool is_asked;     /* for slots[done] */
    uint64_t offset;   /* bytes of it that have come */
    uint64_t since_ns; /* when the peer was last waited for anew */
    uint64_t started_ns, bytes;
};

struct fetcher {
    struct fetcher_options options;
    uv_timer_t timer;
    struct peer *peers;
    unsigned peer_count;
    bool *is_awaited; /* (SHARDS_MAX) from some peer; backed with memory where it is touched */
};

static void peer_free(struct peer *peer) {
    free(peer->slots);
    free(peer);
}

/* Waits for nothing from the peer any more. */
static void abandon(struct peer *peer) {
    for (size_t i = peer->done; i < peer->count; i++)
        peer->fetcher->is_awaited[peer->slots[i]] = false;
    if (peer->dial)
        dial_cancel(peer->dial);
    peer->dial = NULL;
}

/* Takes the peer off the list. Where there is a channel on_end frees it, else the caller. */
static void leave(struct peer *peer) {
    struct peer **link = &peer->fetcher->peers;
    while (*link != peer)
        link = &(*link)->next;
    *link = peer->next;
    abandon(peer);
    peer->fetcher->peer_count--;
    peer->fetcher = NULL;
}

static void report(const struct peer *peer) {
    char size[CONFIG_SIZE_TEXT];
    double seconds = clock_elapsed_s(peer->started_ns);
    if (peer->bytes > 0)
        log_info("got %zu shards, %s, from worker %s in %.2f s", peer->done,
                 config_format_size(peer->bytes, size), peer->address, seconds);
}

/* Ends what is under way with the peer and takes it off the list. Its channel ends by itself. */
static void part_with(struct peer *peer) {
    report(peer);
    leave(peer);
    if (peer->channel)
        channel_close(peer->channel);
    else
        peer_free(peer);
}

/* Gives up on the peer and hands back what it has not given; from one that owes nothing it merely
 * parts. Called by everything that goes wrong. */
static void fail(struct peer *peer, const char *reason) {
    const struct fetcher_options options = peer->fetcher->options;
    size_t missing = peer->count - peer->done;
    if (missing == 0) {
        part_with(peer);
        return;
    }
    report(peer);
    log_warning("worker %s: %s; asking the coordinator for the %zu shards that it was to give",
                peer->address, reason, missing);
    abandon(peer);
    uint32_t *slots = peer->slots;
    const uint32_t *rest = slots + peer->done;
    peer->slots = NULL;
    peer->count = peer->done = peer->capacity = 0;
    peer->bytes = peer->offset = 0;
    peer->is_asked = false;
    peer->is_lost = true;
    if (peer->channel)
        channel_close(peer->channel);
    options.failed(options.context, rest, missing); /* the peer may be gone afterwards */
    free(slots);
}

/* Asks for the next shard, unless the peer is busy with one. */
static void ask(struct peer *peer) {
    if (!peer->channel || peer->is_asked || peer->done == peer->count)
        return;
    const struct packed_name name =
        expert_store_name(peer->fetcher->options.store, peer->slots[peer->done]);
    Control__Fetch fetch = CONTROL__FETCH__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    fetch.fingerprint = name.fingerprint;
    fetch.packing_version = name.version;
    fetch.exact_activations = name.exact;
    fetch.layer = name.shard.layer;
    fetch.expert = name.shard.expert;
    fetch.begin = name.shard.begin;
    fetch.end = name.shard.end;
    message.kind_case = CONTROL__MESSAGE__KIND_FETCH;
    message.fetch = &fetch;
    peer->is_asked = true;
    peer->offset = 0;
    peer->since_ns = clock_now_ns();
    channel_send(peer->channel, &message);
}

/* Whether the chunk is the next one; the last one must have the right hash. */
static bool take_chunk(struct peer *peer, const Control__Packed *chunk) {
    struct expert_store *store = peer->fetcher->options.store;
    uint32_t slot = peer->slots[peer->done];
    if (!peer->is_asked || chunk->offset != peer->offset || chunk->data.len == 0 ||
        !expert_store_receive(store, slot, chunk->offset, chunk->data.data, chunk->data.len))
        return false;
    peer->offset += chunk->data.len;
    peer->since_ns = clock_now_ns();
    return peer->offset < expert_store_slot_bytes(store, slot) ||
           expert_store_adopt(store, slot, chunk->hash);
}

static enum status handle_packed(struct peer *peer, const Control__Packed *chunk) {
    struct fetcher *fetcher = peer->fetcher;
    if (peer->done == peer->count || !take_chunk(peer, chunk)) {
        fail(peer, "sent bytes that are not those of the shard; is its memory sound?");
        return STATUS_OK;
    }
    uint32_t slot = peer->slots[peer->done];
    if (!expert_store_is_filled(fetcher->options.store, slot))
        return STATUS_OK;
    peer->bytes += peer->offset;
    peer->offset = 0;
    peer->is_asked = false;
    peer->done++;
    fetcher->is_awaited[slot] = false;
    fetcher->options.filled(fetcher->options.context, slot);
    if (peer->fetcher) /* the last slot ends it all */
        ask(peer);
    return STATUS_OK;
}

static enum status on_message(void *context, const Control__Message *message) {
    struct peer *peer = context;
    char reason[LOG_LINE_BYTES_MAX / 2];
    switch (message->kind_case) {
    case CONTROL__MESSAGE__KIND_PACKED:
        return handle_packed(peer, message->packed);
    case CONTROL__MESSAGE__KIND_ERROR:
        snprintf(reason, sizeof reason, "%.300s", message->error->text);
        break;
    default:
        snprintf(reason, sizeof reason, "answers with %s; is it a skein-worker of this release?",
                 control_kind_name(message));
        break;
    }
    fail(peer, reason);
    return STATUS_OK;
}

static void on_end(void *context, enum status status) {
    struct peer *peer = context;
    peer->channel = NULL;
    if (!peer->fetcher)
        peer_free(peer);
    else if (!peer->is_lost)
        fail(peer, status == STATUS_TIMEOUT      ? "no sign of life any more"
                   : status == STATUS_CONNECTION ? "connection lost"
                                                 : "its messages cannot be taken");
}

static const struct channel_handlers HANDLERS = {on_message, NULL, on_end};

static void on_connected(void *context, int fd, const char *reason) {
    struct peer *peer = context;
    peer->dial = NULL;
    if (fd < 0) {
        fail(peer, reason);
        return;
    }
    if (channel_open(peer->fetcher->options.loop, fd, peer->address, &HANDLERS, peer,
                     &peer->channel)) {
        fail(peer, "no resources for a connection");
        return;
    }
    channel_trust(peer->channel);
    ask(peer);
}

/* Whether the peer has been waited for too long, and why that may be; else NULL. */
static const char *find_delay(const struct peer *peer) {
    uint64_t ms = (clock_now_ns() - peer->since_ns) / 1000000;
    if (peer->dial && ms >= CONNECT_TIMEOUT_MS)
        return "no connection in time; does a firewall let workers reach each other?";
    if (peer->is_asked && ms >= FETCH_STALL_MS)
        return "gave nothing for too long";
    return NULL;
}

static void on_tick(uv_timer_t *timer) {
    struct fetcher *fetcher = timer->data;
    for (struct peer *peer = fetcher->peers; peer; peer = peer->next) {
        const char *delay = find_delay(peer);
        if (delay) {
            fail(peer, delay); /* the list, or all, may be another now; the rest can wait */
            return;
        }
    }
}

enum status fetcher_create(const struct fetcher_options *options, struct fetcher **out) {
    struct fetcher *fetcher = calloc(1, sizeof *fetcher);
    bool *is_awaited = calloc(SHARDS_MAX, sizeof *is_awaited);
    if (!fetcher || !is_awaited) {
        free(is_awaited);
        free(fetcher);
        return STATUS_NO_MEMORY;
    }
    fetcher->is_awaited = is_awaited;
    fetcher->options = *options;
    uv_timer_init(options->loop, &fetcher->timer);
    fetcher->timer.data = fetcher;
    uv_timer_start(&fetcher->timer, on_tick, TICK_MS, TICK_MS);
    *out = fetcher;
    return STATUS_OK;
}

/* Finds the peer, or begins to connect to a new one. */
static enum status find_peer(struct fetcher *fetcher, const char *text, struct peer **out) {
    struct address address;
    for (struct peer *peer = fetcher->peers; peer; peer = peer->next)
        if (strcmp(peer->address, text) == 0) {
            *out = peer;
            return STATUS_OK;
        }
    if (strlen(text) >= ADDRESS_TEXT_BYTES_MAX || !address_parse(text, &address) ||
        fetcher->peer_count == WORKERS_MAX)
        return STATUS_PROTOCOL;
    struct peer *peer = calloc(1, sizeof *peer);
    if (!peer)
        return STATUS_NO_MEMORY;
    strcpy(peer->address, text);
    peer->started_ns = peer->since_ns = clock_now_ns();
    if (dial_start(fetcher->options.loop, &address, on_connected, peer, &peer->dial)) {
        free(peer);
        return STATUS_NO_MEMORY;
    }
    peer->fetcher = fetcher;
    peer->next = fetcher->peers;
    fetcher->peers = peer;
    fetcher->peer_count++;
    *out = peer;
    return STATUS_OK;
}

enum status fetcher_add(struct fetcher *fetcher, const char *address, uint32_t slot) {
    const struct expert_store *store = fetcher->options.store;
    struct peer *peer;
    if (slot >= expert_store_count(store) || expert_store_is_filled(store, slot) ||
        fetcher->is_awaited[slot])
        return STATUS_PROTOCOL;
    enum status status = find_peer(fetcher, address, &peer);
    if (status || peer->is_lost)
        return status ? status : STATUS_REFUSED;
    if (peer->count == peer->capacity) {
        size_t capacity = peer->capacity ? 2 * peer->capacity : 64;
        uint32_t *slots = realloc(peer->slots, capacity * sizeof *slots);
        if (!slots)
            return STATUS_NO_MEMORY;
        peer->slots = slots;
        peer->capacity = capacity;
    }
    peer->slots[peer->count++] = slot;
    fetcher->is_awaited[slot] = true;
    ask(peer);
    return STATUS_OK;
}

uint64_t fetcher_bytes_under_way(const struct fetcher *fetcher) {
    uint64_t bytes = 0;
    for (const struct peer *peer = fetcher->peers; peer; peer = peer->next)
        bytes += peer->offset;
    return bytes;
}

static void on_timer_closed(uv_handle_t *handle) {
    struct fetcher *fetcher = handle->data;
    free(fetcher->is_awaited);
    free(fetcher);
}

void fetcher_destroy(struct fetcher *fetcher) {
    if (!fetcher)
        return;
    while (fetcher->peers)
        part_with(fetcher->peers);
    uv_close((uv_handle_t *)&fetcher->timer, on_timer_closed);
}
