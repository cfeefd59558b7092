#include "coordinator/failover.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/cluster_limits.h"
#include "common/config.h"
#include "common/log.h"
#include "coordinator/own_shards.h"
#include "coordinator/release.h"
#include "coordinator/repair.h"

/* How long a wait looks away, and how often it tells of its progress. */
#define WAIT_MS  250
#define REPORT_S 5.0

/* How long after the last change among holders one that is lost is thought to come back. */
#define RETURN_S 60.0

/* How long a worker that begins a new session is relied on meanwhile. */
#define ANEW_S 15.0

/* How fast a machine is taken to read its own copy of the model; and, where that was not measured,
 * to receive shards over its link, and to read them from its disk. */
#define COPY_BYTES_PER_S 0.5e9
#define LINK_BYTES_PER_S 0.1e9
#define DISK_BYTES_PER_S 0.5e9

struct failover {
    struct failover_options options;
    struct own_shards *own; /* NULL: this process holds none */
    /* Of each holder. */
    uint64_t memory_bytes[HOLDERS_MAX]; /* for shards */
    uint64_t spill_bytes[HOLDERS_MAX];  /* that may lie on its disk beyond */
    double disk_rates[HOLDERS_MAX];
    uint32_t asked[HOLDERS_MAX]; /* of the shards that were placed on it: what it was asked for */
    uint32_t reliable[HOLDERS_MAX]; /* as holders->served, of those that seem to stay */
    bool can_hold[HOLDERS_MAX];
    bool respilled[HOLDERS_MAX]; /* more lies on its disk than was planned */
    bool awaited[HOLDERS_MAX];   /* it begins a new session */

    uint64_t awaited_ns; /* since when, the last one; 0: nobody does */
    bool may_release;    /* something has changed since copies were last let go */
    uint64_t changed_ns; /* when holders last changed */
    struct repair_result repair;
    uint32_t suspect;               /* as in struct rebalance_input */
    uint64_t since_ns, reported_ns; /* of the wait; 0: none */
};

enum status failover_create(const struct failover_options *options, struct failover **out) {
    struct failover *failover = calloc(1, sizeof *failover);
    if (failover) {
        failover->options = *options;
        failover->suspect = REBALANCE_NOBODY;
    }
    if (!failover ||
        (options->holders->store && own_shards_create(options->holders->store, options->weights,
                                                      options->threads, &failover->own))) {
        log_error("no memory for the list of workers; end other programs");
        failover_destroy(failover);
        return STATUS_NO_MEMORY;
    }
    for (uint32_t h = 0; h < options->holders->count; h++)
        failover->asked[h] = options->placement->held[h].placed;
    *out = failover;
    return STATUS_OK;
}

void failover_destroy(struct failover *failover) {
    if (!failover)
        return;
    own_shards_destroy(failover->own);
    free(failover);
}

/* For the user. */
static const char *name_of(const struct failover *failover, uint32_t holder) {
    const struct holders *holders = failover->options.holders;
    return holder < holders->workers ? holders->all[holder].address : "this machine";
}

/* Takes over what this process has loaded. */
static void serve_own(struct failover *failover) {
    struct holders *holders = failover->options.holders;
    uint32_t here = holders->workers;
    if (failover->own && holders->served[here] < failover->asked[here] &&
        own_shards_serve(failover->own))
        holders->served[here] = failover->asked[here];
}

/* Why holders get more shards: the generation waits for them, or goes on meanwhile. */
enum extension { EXTENSION_REPAIR, EXTENSION_BALANCE };

/* Gives the holder `count` shards that are new to it: their slots are brought into order. */
static enum status extend_holder(struct failover *failover, uint32_t h, uint32_t count,
                                 enum extension why) {
    struct holders *holders = failover->options.holders;
    const struct holder_shards *held = &failover->options.placement->held[h];
    uint32_t *slots = calloc(count, sizeof *slots), found = 0;
    struct shard *shards = calloc(count, sizeof *shards);
    enum status status = slots && shards ? STATUS_OK : STATUS_NO_MEMORY;
    uint64_t bytes = 0;
    char size[CONFIG_SIZE_TEXT];
    for (uint32_t slot = 0; slot < held->count && !status; slot++) {
        if (held->orders[slot] < failover->asked[h])
            continue;
        slots[found] = slot;
        shards[found++] = held->shards[slot];
        bytes += placement_shard_bytes(failover->options.placement, &held->shards[slot]);
    }
    if (status) {
        log_error("no memory for a list of shards; end other programs");
    } else {
        log_write(why == EXTENSION_REPAIR ? LOG_WARNING : LOG_DEBUG,
                  "%s takes over %" PRIu32 " shards (%s)", name_of(failover, h), found,
                  config_format_size(bytes, size));
        failover->asked[h] = held->placed;
        status = h < holders->workers ? cluster_extend(holders->cluster, h, slots, found)
                                      : own_shards_extend(failover->own, slots, shards, found,
                                                          why == EXTENSION_BALANCE);
    }
    free(shards);
    free(slots);
    return status;
}

/* Gives holders what the placement has for them beyond what they were asked for: workers first,
 * which load on their own. */
static enum status extend_holders(struct failover *failover, enum extension why) {
    enum status status = STATUS_OK;
    for (uint32_t h = 0; h < failover->options.holders->count && !status; h++) {
        uint32_t count = failover->options.placement->held[h].placed - failover->asked[h];
        if (count > 0)
            status = extend_holder(failover, h, count, why);
    }
    serve_own(failover);
    return status;
}

static struct spilling disks_of(const struct failover *failover) {
    const struct placement *placement = failover->options.placement;
    return (struct spilling){
        .layouts = placement->layouts,
        .is_expert_layer = failover->options.is_expert_layer,
        .layers = placement->layers,
        .experts = placement->experts,
        .memory_bytes = failover->memory_bytes,
        .spill_bytes = failover->spill_bytes,
        .disk_rates = failover->disk_rates,
        .holders = placement->holders,
        .routing = failover->options.routing,
    };
}

/* Other shards of the worker are to lie on its disk than in its session, which begins anew. */
static enum status begin_anew(struct failover *failover, uint32_t h) {
    struct holders *holders = failover->options.holders;
    struct holder_shards *held = &failover->options.placement->held[h];
    char size[CONFIG_SIZE_TEXT], spilled[CONFIG_SIZE_TEXT];
    config_format_size(held->spilled_bytes, spilled);
    log_warning("worker %s takes its shards anew: %s, %s on its disk", holders->all[h].address,
                config_format_size(held->bytes, size), held->spilled_bytes ? spilled : "none");
    failover->asked[h] = held->placed;
    failover->awaited[h] = true;
    failover->awaited_ns = clock_now_ns();
    held->released_count = 0;
    holders->served[h] = 0;
    return cluster_reassign(holders->cluster, h);
}

/* Has holders give back what the placement has released. */
static enum status release_slots(struct failover *failover) {
    struct holders *holders = failover->options.holders;
    enum status status = STATUS_OK;
    for (uint32_t h = 0; h < holders->count && !status; h++) {
        struct holder_shards *held = &failover->options.placement->held[h];
        if (held->released_count == 0)
            continue;
        if (failover->respilled[h]) {
            failover->respilled[h] = held->spilled_bytes > 0;
            status = begin_anew(failover, h);
            continue;
        }
        log_debug("%s gives back %" PRIu32 " shards", name_of(failover, h), held->released_count);
        if (h < holders->workers) {
            cluster_release(holders->cluster, h, held->released, held->released_count);
        } else {
            own_shards_wait(failover->own);
            expert_store_withdraw(holders->store, held->released, held->released_count);
            status = expert_store_release(holders->store, held->released, held->released_count);
        }
        held->released_count = 0;
    }
    return status;
}

/* Workers on whose disks repair put something have all in memory while copies are let go, and then
 * what does not fit on their disks: the same as before where nothing was let go. */
static enum status release_in_placement(struct failover *failover, uint32_t *removed) {
    struct placement *placement = failover->options.placement;
    const struct spilling disks = disks_of(failover);
    for (uint32_t h = 0; h < placement->holders; h++)
        if (failover->respilled[h])
            placement_unspill(placement, h);
    enum status status = release_copies(placement, failover->reliable, removed);
    for (uint32_t h = 0; h < placement->holders && !status; h++)
        if (failover->respilled[h])
            status = spilling_mark_holder(&disks, placement, h);
    return status;
}

enum status failover_release(struct failover *failover) {
    struct placement *placement = failover->options.placement;
    const struct holders *holders = failover->options.holders;
    uint64_t before = 0;
    uint32_t removed = 0;
    char size[CONFIG_SIZE_TEXT];
    if (!failover->may_release)
        return STATUS_OK;
    failover->may_release = false;
    for (uint32_t h = 0; h < holders->count; h++)
        failover->reliable[h] =
            holders->all[h].silent || holders->all[h].leaving ? 0 : holders->served[h];
    before = placement_bytes(placement);
    enum status status = release_in_placement(failover, &removed);
    if (status || removed == 0)
        return status;
    log_info("%" PRIu32 " copies of experts are not needed any more (%s)", removed,
             config_format_size(before - placement_bytes(placement), size));
    return release_slots(failover);
}

static void report_missing(const struct failover *failover) {
    char size[CONFIG_SIZE_TEXT];
    config_format_size(failover->repair.bytes_missing, size);
    log_warning("%" PRIu32 " experts find no new holder: the other machines have %s of memory too "
                "little for them; start the lost worker again, or raise the others' --memory or "
                "--spill",
                failover->repair.homeless, size);
}

/* Whether all of what `holder` has is served by others. */
static bool is_spare(const struct failover *failover, uint32_t holder) {
    const struct placement *placement = failover->options.placement;
    const struct holders *holders = failover->options.holders;
    uint32_t served = holders->served[holder];
    bool spare = true;
    holders->served[holder] = 0;
    for (uint32_t layer = 0; layer < placement->layers && spare; layer++)
        for (uint32_t expert = 0; expert < placement->experts && spare; expert++) {
            const struct expert_places *places = placement_find(placement, layer, expert);
            spare = places->count == 0;
            for (uint32_t first = 0; first < places->count && !spare;
                 first = placement_copy_end(places, first))
                spare = placement_copy_is_served(places, first, holders->served);
        }
    holders->served[holder] = served;
    return spare;
}

/* Between two sendings, but a ticket may be open: its replies from there are lost then, and asked
 * of others. */
static void dismiss_leaving(struct failover *failover) {
    struct holders *holders = failover->options.holders;
    for (uint32_t h = 0; h < holders->workers; h++)
        if (holders->all[h].connection && holders->all[h].leaving && is_spare(failover, h)) {
            log_info("worker %s leaves; others hold what it held", holders->all[h].address);
            cluster_dismiss(holders->cluster, h);
            holders->served[h] = 0;
        }
}

/* What the worker can take. One that is described in a file, or joined late, was not measured. */
static void note_room(struct failover *failover, uint32_t h) {
    const struct worker_info *info = cluster_worker(failover->options.holders->cluster, h);
    failover->memory_bytes[h] = info->memory_bytes;
    failover->spill_bytes[h] = info->spill_bytes;
    failover->disk_rates[h] = info->is_measured ? info->figures.disk_bytes_per_s : DISK_BYTES_PER_S;
}

enum status failover_react(struct failover *failover) {
    struct holders *holders = failover->options.holders;
    uint32_t homeless = failover->repair.homeless;
    bool overdue = failover->awaited_ns && clock_elapsed_s(failover->awaited_ns) >= ANEW_S;
    serve_own(failover);
    if (!(holders->has_changed || overdue) || failover->options.timeout_s == 0)
        return STATUS_OK;
    if (overdue)
        failover->awaited_ns = 0;
    holders->has_changed = false;
    failover->may_release = true;
    failover->changed_ns = clock_now_ns();
    for (uint32_t h = 0; h < holders->count; h++) {
        bool is_here = h >= holders->workers;
        bool serves = is_here || holders->all[h].connection;
        failover->awaited[h] &= !overdue && !(serves && holders->served[h] > 0);
        failover->can_hold[h] = (serves && !holders->all[h].leaving) || failover->awaited[h];
        if (is_here)
            failover->memory_bytes[h] = failover->options.local_bytes;
        else if (serves) /* it may have joined since */
            note_room(failover, h);
    }
    const struct spilling disks = disks_of(failover);
    const struct repair_input input = {failover->can_hold, failover->memory_bytes, &disks};
    enum status status = repair_placement(failover->options.placement, &input, &failover->repair);
    if (failover->repair.homeless > homeless)
        report_missing(failover);
    for (uint32_t h = 0; h < holders->workers && !status; h++)
        if (failover->repair.respilled[h]) {
            failover->respilled[h] = true;
            status = begin_anew(failover, h);
        }
    if (!status)
        status = extend_holders(failover, EXTENSION_REPAIR);
    if (!status)
        dismiss_leaving(failover);
    return status;
}

/* How fast shards would get to each holder; 0: it is not to be given any. */
static void find_arrival_rates(const struct failover *failover, double *rates) {
    const struct holders *holders = failover->options.holders;
    for (uint32_t h = 0; h < holders->count; h++) {
        rates[h] = h >= holders->workers ? COPY_BYTES_PER_S : 0;
        if (h >= holders->workers || !holders->all[h].connection || holders->all[h].silent)
            continue;
        const struct worker_info *info = cluster_worker(holders->cluster, h);
        rates[h] = info->has_model     ? COPY_BYTES_PER_S
                   : info->is_measured ? info->link.to_bytes_per_s
                                       : LINK_BYTES_PER_S;
    }
}

/* Whether somebody is about to leave or still has to load what it was given, or was lost and may be
 * back soon. */
static bool is_unsettled(const struct failover *failover) {
    const struct holders *holders = failover->options.holders;
    bool changed_lately = clock_elapsed_s(failover->changed_ns) < RETURN_S;
    for (uint32_t h = 0; h < holders->count; h++) {
        bool is_lost = h < holders->workers && !holders->all[h].connection;
        bool is_behind = holders->served[h] < failover->options.placement->held[h].placed;
        if ((is_lost && is_behind && changed_lately) ||
            (!is_lost && (is_behind || holders->all[h].leaving)))
            return true;
    }
    return false;
}

static void report_balance(const struct failover *failover, const struct load_window *window,
                           double window_s, const struct rebalance_result *result) {
    char size[CONFIG_SIZE_TEXT];
    config_format_size(result->bytes, size);
    log_info("in the last %.1f s %s computed for %.0f %% of the time, %s for %.0f %%: %s %" PRIu32
             " experts (%s), which arrive within %.1f s and are to save %.0f %%",
             window_s, name_of(failover, result->from),
             100 * window->busy_s[result->from] / window_s, name_of(failover, result->to),
             100 * window->busy_s[result->to] / window_s,
             result->copies ? "the latter gets copies of"
                            : "the former keeps less, and others get more, of the slices of",
             result->copies ? result->copies : result->cuts, size, result->arrival_s,
             100 * result->saved_s / window_s);
}

enum status failover_balance(struct failover *failover, const struct load_window *window,
                             double window_s, const double *rates) {
    if (!failover->options.balances || failover->options.timeout_s == 0)
        return STATUS_OK;
    const struct holders *holders = failover->options.holders;
    double arrival_rates[HOLDERS_MAX];
    struct rebalance_result result;
    const struct rebalance_input input = {
        window,          window_s,         rates, arrival_rates, failover->memory_bytes,
        holders->served, failover->suspect};
    failover->suspect = REBALANCE_NOBODY;
    if (is_unsettled(failover))
        return STATUS_OK;
    failover->may_release |= rebalance_note_idle(failover->options.placement, window);
    find_arrival_rates(failover, arrival_rates);
    enum status status = rebalance_placement(failover->options.placement, &input, &result);
    if (status)
        return status;
    failover->suspect = result.suspect;
    if (result.copies == 0 && result.cuts == 0)
        return STATUS_OK;
    report_balance(failover, window, window_s, &result);
    return extend_holders(failover, EXTENSION_BALANCE);
}

static void report_waiting(struct failover *failover, uint32_t layer) {
    uint64_t done, total;
    cluster_bytes_loaded(failover->options.holders->cluster, &done, &total);
    failover->reported_ns = clock_now_ns();
    if (total > 0)
        log_warning("layer %" PRIu32 " waits for workers that load their shards: %.0f %%", layer,
                    100.0 * (double)done / (double)total);
    else
        log_warning("layer %" PRIu32 " waits for a worker to come back, %.0f of at most %" PRIu32
                    " s",
                    layer, clock_elapsed_s(failover->since_ns), failover->options.timeout_s);
}

enum status failover_wait(struct failover *failover, uint32_t layer) {
    struct holders *holders = failover->options.holders;
    if (!failover->since_ns)
        failover->since_ns = failover->reported_ns = clock_now_ns();
    if (!holders->cluster || clock_elapsed_s(failover->since_ns) >= failover->options.timeout_s) {
        if (failover->options.timeout_s)
            log_error("experts of layer %" PRIu32 " had no holder for %" PRIu32
                      " s; start the lost workers again, or raise --worker-timeout",
                      layer, failover->options.timeout_s);
        return STATUS_CONNECTION;
    }
    if (clock_elapsed_s(failover->reported_ns) >= REPORT_S)
        report_waiting(failover, layer);
    cluster_wait(holders->cluster, holders->seen, WAIT_MS);
    holders_refresh(holders);
    return failover_react(failover);
}

void failover_rest(struct failover *failover) {
    if (failover->since_ns)
        log_warning("goes on after %.1f s", clock_elapsed_s(failover->since_ns));
    failover->since_ns = 0;
}
