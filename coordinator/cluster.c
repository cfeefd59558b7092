/* One loop for all workers, on a thread of its own. What the engine's thread may see or ask for
 * stands under one mutex; it waits on the condition for what it needs, and rings the loop's bell
 * when it has asked for something. */
#include "coordinator/cluster.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "common/cluster_limits.h"
#include "common/log.h"
#include "coordinator/link_record.h"
#include "coordinator/measurement.h"
#include "coordinator/member.h"

/* How often deadlines are looked at. */
#define TICK_MS 50

static void on_tick(uv_timer_t *timer) {
    struct cluster *cluster = timer->data;
    for (uint32_t i = 0; i < cluster->count; i++)
        member_tick(&cluster->members[i]);
    cluster_watch_tick(cluster);
}

/* Everything ends: the loop runs out of handles, and with it the thread. */
static void close_all(struct cluster *cluster) {
    for (uint32_t i = 0; i < cluster->count; i++)
        member_close(&cluster->members[i]);
    cluster_watch_close(cluster);
    uv_close((uv_handle_t *)&cluster->timer, NULL);
    uv_close((uv_handle_t *)&cluster->bell, NULL);
}

/* The engine's thread wants something. */
static void on_bell(uv_async_t *bell) {
    struct cluster *cluster = bell->data;
    pthread_mutex_lock(&cluster->mutex);
    bool closes = cluster->wants_to_close;
    pthread_mutex_unlock(&cluster->mutex);
    if (closes)
        close_all(cluster);
    for (uint32_t i = 0; i < cluster->count && !closes; i++)
        member_advance(&cluster->members[i]);
}

static void *thread_main(void *argument) {
    struct cluster *cluster = argument;
    uv_run(&cluster->loop, UV_RUN_DEFAULT);
    return NULL;
}

static enum status create(uint32_t count, struct cluster **out) {
    struct cluster *cluster = NULL;
    if (count > WORKERS_MAX) {
        log_error("%" PRIu32 " workers, at most %d are allowed", count, WORKERS_MAX);
        return STATUS_USAGE;
    }
    int wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    cluster = calloc(1, sizeof *cluster + count * sizeof *cluster->members);
    if (wake_fd < 0 || !cluster || sources_create(count, &cluster->sources) ||
        uv_loop_init(&cluster->loop)) {
        log_error("no memory for a cluster of %" PRIu32 " workers; end other programs", count);
        if (cluster)
            sources_destroy(cluster->sources);
        free(cluster);
        if (wake_fd >= 0)
            close(wake_fd);
        return STATUS_NO_MEMORY;
    }
    cluster->wake_fd = wake_fd;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&cluster->mutex, NULL);
    pthread_cond_init(&cluster->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    uv_async_init(&cluster->loop, &cluster->bell, on_bell);
    uv_timer_init(&cluster->loop, &cluster->timer);
    cluster->timer.data = cluster->bell.data = cluster;
    atomic_init(&cluster->changes, 0);
    *out = cluster;
    return STATUS_OK;
}

static enum status start_thread(struct cluster *cluster) {
    uv_timer_start(&cluster->timer, on_tick, TICK_MS, TICK_MS);
    if (pthread_create(&cluster->thread, NULL, thread_main, cluster)) {
        log_error("cannot start the thread that watches the workers; lower --threads");
        return STATUS_NO_MEMORY;
    }
    cluster->has_thread = true;
    return STATUS_OK;
}

/* Waits until every worker is in `state` with nothing left to measure, or was lost for now; or
 * until a loss ends it all. */
static enum status await_state(struct cluster *cluster, enum member_state state) {
    pthread_mutex_lock(&cluster->mutex);
    for (;;) {
        uint32_t arrived = 0;
        for (uint32_t i = 0; i < cluster->count; i++) {
            const struct member *member = &cluster->members[i];
            arrived += (member->state == state && !member->to_measure) ||
                       member->state == MEMBER_LOST || member->reconnect_ms > 0;
        }
        if (cluster->status || arrived == cluster->count)
            break;
        pthread_cond_wait(&cluster->changed, &cluster->mutex);
    }
    enum status status = cluster->status;
    pthread_mutex_unlock(&cluster->mutex);
    return status;
}

/* Whether at least one worker has answered. */
static enum status check_present(const struct cluster *cluster) {
    uint32_t present = 0, listed = 0;
    for (uint32_t i = 0; i < cluster->count; i++) {
        present += cluster_is_alive(cluster, i);
        listed += cluster->members[i].listed;
    }
    if (present == 0)
        return STATUS_CONNECTION; /* each was logged */
    if (present < listed)
        log_warning("goes on without %" PRIu32 " of %" PRIu32
                    " workers, which are called until they join",
                    listed - present, listed);
    return STATUS_OK;
}

enum status cluster_connect(const char *const *addresses, uint32_t count, uint64_t fingerprint,
                            bool tolerates_loss, struct cluster **out) {
    struct cluster *cluster;
    enum status status = create(count, &cluster);
    if (status)
        return status;
    cluster->fingerprint = fingerprint;
    cluster->tolerates_loss = tolerates_loss;
    for (; cluster->count < count && !status; cluster->count++)
        status =
            member_start(&cluster->members[cluster->count], cluster, addresses[cluster->count]);
    if (!status)
        status = start_thread(cluster);
    if (!status)
        status = await_state(cluster, MEMBER_GREETED);
    if (!status)
        status = check_present(cluster);
    if (status) {
        cluster_destroy(cluster);
        return status;
    }
    *out = cluster;
    return STATUS_OK;
}

/* On the caller's thread; the loop's keeps the health reports flowing meanwhile. */
static enum status probe_link(struct cluster *cluster, struct member *member, const char *transport,
                              const char *directory) {
    pthread_mutex_lock(&cluster->mutex);
    int fd = member->data_fd;
    member->data_fd = -1;
    pthread_mutex_unlock(&cluster->mutex);
    if (fd < 0)
        return STATUS_CONNECTION; /* lost since, which was logged */
    enum status status =
        measurement_probe_link(fd, member->info.address, transport, &member->info.link);
    char late[128];
    snprintf(late, sizeof late,
             "did not answer all probes of its link within %d s; is the network that slow, or the "
             "machine busy?",
             PROBE_TIMEOUT_MS / 1000);
    if (status == STATUS_TIMEOUT)
        member_log_loss(member, late);
    else if (status == STATUS_CONNECTION)
        member_log_loss(member,
                        "closed the data connection while its link was measured; see its log");
    else if (status)
        member_log_loss(member, NULL);
    member->info.is_measured = !status;
    if (!status) {
        link_record_settle(directory, member->info.address, &member->info.link);
        return STATUS_OK;
    }
    pthread_mutex_lock(&cluster->mutex);
    member->dropped = true;
    pthread_mutex_unlock(&cluster->mutex);
    uv_async_send(&cluster->bell);
    return cluster->tolerates_loss ? STATUS_OK : status;
}

enum status cluster_measure(struct cluster *cluster, const struct machine_work *work,
                            const bool *wanted, const char *transport, const char *directory) {
    pthread_mutex_lock(&cluster->mutex);
    cluster->work = *work;
    for (uint32_t i = 0; i < cluster->count; i++)
        cluster->members[i].to_measure =
            (!wanted || wanted[i]) && cluster->members[i].state == MEMBER_GREETED;
    pthread_mutex_unlock(&cluster->mutex);
    uv_async_send(&cluster->bell);
    enum status status = await_state(cluster, MEMBER_GREETED);
    for (uint32_t i = 0; i < cluster->count && !status; i++)
        if ((!wanted || wanted[i]) && cluster_is_alive(cluster, i))
            status = probe_link(cluster, &cluster->members[i], transport, directory);
    pthread_mutex_lock(&cluster->mutex);
    if (cluster->status) /* the loop's thread noticed first */
        status = cluster->status;
    pthread_mutex_unlock(&cluster->mutex);
    return status;
}

void cluster_destroy(struct cluster *cluster) {
    if (!cluster)
        return;
    if (cluster->has_thread) {
        pthread_mutex_lock(&cluster->mutex);
        cluster->wants_to_close = true;
        pthread_mutex_unlock(&cluster->mutex);
        uv_async_send(&cluster->bell);
        pthread_join(cluster->thread, NULL);
    } else {
        close_all(cluster);
        uv_run(&cluster->loop, UV_RUN_DEFAULT);
    }
    uv_loop_close(&cluster->loop);
    for (uint32_t i = 0; i < cluster->count; i++) {
        struct member *member = &cluster->members[i];
        if (member->data_fd >= 0)
            close(member->data_fd);
        free(member->slots);
        free(member->spilled);
        free((char *)member->info.address);
    }
    sources_destroy(cluster->sources);
    pthread_cond_destroy(&cluster->changed);
    pthread_mutex_destroy(&cluster->mutex);
    close(cluster->wake_fd);
    free(cluster->watch.path);
    free(cluster);
}

/* Takes over which of the worker's shards are to lie on its disk; the mutex is held, or nothing was
 * assigned yet. */
static bool list_spilled(struct member *member, const struct holder_shards *held) {
    free(member->spilled);
    member->spilled = calloc(held->spilled_slots + 1u, sizeof *member->spilled);
    member->spilled_count = 0;
    for (uint32_t slot = 0; slot < held->spilled_slots && member->spilled; slot++)
        if (held->spilled[slot])
            member->spilled[member->spilled_count++] = slot;
    return member->spilled;
}

static enum status report_no_memory(const struct member *member) {
    log_error("no memory to list the shards of worker %s; end other programs",
              member->info.address);
    return STATUS_NO_MEMORY;
}

enum status cluster_load(struct cluster *cluster, const struct cluster_load_options *options) {
    assert(options->placement->holders >= cluster->count);
    cluster->load = *options;
    cluster->bytes_total = 0;
    for (uint32_t i = 0; i < cluster->count; i++) {
        const struct holder_shards *held = &options->placement->held[i];
        cluster->bytes_total += held->bytes;
        enum status status = cluster_extend(cluster, i, NULL, held->count);
        if (status)
            return status;
        if (!list_spilled(&cluster->members[i], held))
            return report_no_memory(&cluster->members[i]);
    }
    pthread_mutex_lock(&cluster->mutex);
    cluster->may_load = true;
    pthread_mutex_unlock(&cluster->mutex);
    uv_async_send(&cluster->bell);
    enum status status = await_state(cluster, MEMBER_SERVING);
    pthread_mutex_lock(&cluster->mutex);
    cluster->is_loaded = true;
    pthread_mutex_unlock(&cluster->mutex);
    return status;
}

enum status cluster_follow(struct cluster *cluster, const char *path) {
    char *copy = strdup(path);
    if (!copy) {
        log_error("no memory to follow %s; end other programs", path);
        return STATUS_NO_MEMORY;
    }
    pthread_mutex_lock(&cluster->mutex);
    cluster->watch.path = copy;
    pthread_mutex_unlock(&cluster->mutex);
    return STATUS_OK;
}

uint32_t cluster_size(const struct cluster *cluster) {
    return cluster->count;
}

const struct worker_info *cluster_worker(const struct cluster *cluster, uint32_t worker) {
    return &cluster->members[worker].info;
}

uint32_t cluster_changes(const struct cluster *cluster) {
    return atomic_load(&cluster->changes);
}

int cluster_wake_fd(const struct cluster *cluster) {
    return cluster->wake_fd;
}

void cluster_clear_wake(struct cluster *cluster) {
    eventfd_t changes;
    eventfd_read(cluster->wake_fd, &changes); /* fails where there were none, which is as good */
}

void cluster_wait(struct cluster *cluster, uint32_t seen, int timeout_ms) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += timeout_ms % 1000 * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    pthread_mutex_lock(&cluster->mutex);
    while (cluster_changes(cluster) == seen)
        if (pthread_cond_timedwait(&cluster->changed, &cluster->mutex, &until))
            break;
    pthread_mutex_unlock(&cluster->mutex);
}

void cluster_look(struct cluster *cluster, uint32_t worker, struct cluster_look *out) {
    struct member *member = &cluster->members[worker];
    pthread_mutex_lock(&cluster->mutex);
    *out = (struct cluster_look){
        .address = member->info.address,
        .session = member->session,
        .served = member->served,
        .data_fd = member->data_fd,
        .serves = member->serves,
        .silent = member->silent,
        .leaving = member->leaving || (member->serves && !member->listed),
    };
    member->data_fd = -1;
    pthread_mutex_unlock(&cluster->mutex);
}

bool cluster_is_alive(const struct cluster *cluster, uint32_t worker) {
    return atomic_load(&cluster->members[worker].alive);
}

void cluster_lose(struct cluster *cluster, uint32_t worker, uint32_t session, const char *reason) {
    struct member *member = &cluster->members[worker];
    pthread_mutex_lock(&cluster->mutex);
    bool is_news = member->session == session && member->serves;
    if (is_news) {
        member->serves = false;
        member->dropped = true;
        member_note_change(cluster);
    }
    pthread_mutex_unlock(&cluster->mutex);
    if (!is_news)
        return;
    member_log_loss(member, reason);
    uv_async_send(&cluster->bell);
}

/* Room for slots [0, count); the mutex is held. */
static bool reserve_slots(struct member *member, uint32_t count) {
    if (count <= member->count)
        return true;
    struct member_slot *all = realloc(member->slots, count * sizeof *all);
    if (!all)
        return false;
    memset(all + member->count, 0, (count - member->count) * sizeof *all);
    member->slots = all;
    member->count = count;
    return true;
}

enum status cluster_extend(struct cluster *cluster, uint32_t worker, const uint32_t *slots,
                           uint32_t count) {
    struct member *member = &cluster->members[worker];
    const struct placement *placement = cluster->load.placement;
    uint32_t end = 0;
    for (uint32_t i = 0; i < count; i++)
        end = (slots ? slots[i] : i) < end ? end : (slots ? slots[i] : i) + 1;
    pthread_mutex_lock(&cluster->mutex);
    bool has_room = reserve_slots(member, end);
    for (uint32_t i = 0; i < count && has_room; i++) {
        struct member_slot *slot = &member->slots[slots ? slots[i] : i];
        slot->shard = placement->held[worker].shards[slots ? slots[i] : i];
        slot->is_wanted = true;
        member->given++;
        member->bytes += placement_shard_bytes(placement, &slot->shard);
    }
    pthread_mutex_unlock(&cluster->mutex);
    if (!has_room)
        return report_no_memory(member);
    uv_async_send(&cluster->bell);
    return STATUS_OK;
}

enum status cluster_reassign(struct cluster *cluster, uint32_t worker) {
    struct member *member = &cluster->members[worker];
    const struct holder_shards *held = &cluster->load.placement->held[worker];
    pthread_mutex_lock(&cluster->mutex);
    bool has_room = reserve_slots(member, held->count) && list_spilled(member, held);
    for (uint32_t i = 0; i < held->count && has_room; i++) {
        struct member_slot *slot = &member->slots[i];
        const struct shard *shard = &held->shards[i];
        slot->is_released |= slot->is_wanted;
        slot->is_wanted = shard->end > 0;
        slot->shard = *shard;
    }
    member->given = held->placed;
    member->bytes = held->bytes;
    member->serves = false;
    member->dismissed = member->begins_anew = true;
    member_note_change(cluster);
    pthread_mutex_unlock(&cluster->mutex);
    uv_async_send(&cluster->bell);
    return has_room ? STATUS_OK : report_no_memory(member);
}

void cluster_release(struct cluster *cluster, uint32_t worker, const uint32_t *slots,
                     uint32_t count) {
    struct member *member = &cluster->members[worker];
    pthread_mutex_lock(&cluster->mutex);
    for (uint32_t i = 0; i < count; i++) {
        struct member_slot *slot = &member->slots[slots[i]];
        member->bytes -= placement_shard_bytes(cluster->load.placement, &slot->shard);
        slot->is_wanted = false;
        slot->is_released = true;
        member->to_release = true;
    }
    pthread_mutex_unlock(&cluster->mutex);
    uv_async_send(&cluster->bell);
}

void cluster_bytes_loaded(struct cluster *cluster, uint64_t *bytes_done, uint64_t *bytes_total) {
    *bytes_done = *bytes_total = 0;
    pthread_mutex_lock(&cluster->mutex);
    for (uint32_t i = 0; i < cluster->count; i++) {
        const struct member *member = &cluster->members[i];
        if (member->state != MEMBER_LOADING && member->state != MEMBER_EXTENDING)
            continue;
        *bytes_done += member->bytes_done;
        *bytes_total += member->bytes;
    }
    pthread_mutex_unlock(&cluster->mutex);
}

void cluster_dismiss(struct cluster *cluster, uint32_t worker) {
    struct member *member = &cluster->members[worker];
    pthread_mutex_lock(&cluster->mutex);
    member->serves = false;
    member->dismissed = true;
    member_note_change(cluster);
    pthread_mutex_unlock(&cluster->mutex);
    uv_async_send(&cluster->bell);
}
