/* A buffer is the unit of everything: one shard at a time, with one file that is open while it is
 * read. Which buffer goes is decided by ticks, two for each fetch: shards that the fetch asks for
 * have the latest and stay, those that later tasks of the same frame will ask for have the one
 * before and go last, then the one that was used least recently.
 *
 * Where a frame asks for more than there are buffers for, as prompts do, its tasks are computed in
 * parts of half of the buffers, while the other half is read into.
 *
 * A file is opened for each read: that costs microseconds, against milliseconds of reading, and
 * keeps the number of open files small. One that is cut short or damaged is removed, so that the
 * next session fetches it again. */
#include "worker/spill.h"

#include <assert.h>
#include <inttypes.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/cluster_limits.h"
#include "common/config.h"
#include "common/log.h"
#include "common/memory.h"
#include "worker/shard_file.h"

#define FAULT_BYTES 256

struct buffer {
    struct shard_file file; /* with data (buffer_bytes) */
    struct spilled *shard;  /* NULL: none yet */
    uint64_t used;          /* the tick of the last fetch that asked for it */
    bool is_reading;
};

static_assert(offsetof(struct buffer, file) == 0, "a buffer is where its file is");

struct spilled {
    struct expert expert; /* with the buffer's weights */
    uint32_t slot;
    struct buffer *buffer; /* NULL: it has none */
};

struct spill {
    struct spill_options options;
    struct shard_ring *ring; /* NULL: the pool's threads read */
    struct spilled *shards;  /* (shard_count) by ascending slot */
    uint32_t shard_count;
    struct buffer *buffers; /* (buffer_count) */
    uint32_t buffer_count;
    uint8_t *memory; /* (buffer_count, buffer_bytes) */
    size_t buffer_bytes;
    struct buffer **queue; /* (buffer_count) for the pool to read */
    uint32_t queued;
    uint32_t reading; /* buffers */
    uint64_t tick;
    char fault[FAULT_BYTES]; /* "": none */
    /* What was read so far: from since_ns on something is being read. */
    uint64_t uses, reads, bytes, since_ns, busy_ns;
};

/* ---- Files. */

static void describe_file(const struct spill *spill, const struct spilled *shard,
                          char out[PATH_MAX]) {
    const struct expert_store *store = spill->options.store;
    if (!shard_cache_path(spill->options.cache, expert_store_shard(store, shard->slot),
                          expert_store_hash(store, shard->slot), out))
        *out = '\0'; /* opening it fails */
}

/* Takes note that the shard cannot be read; the first time with a line. */
static void fail(struct spill *spill, const struct spilled *shard, int result) {
    char path[PATH_MAX];
    const char *reason = shard_file_reason(result);
    describe_file(spill, shard, path);
    if (result < 0)
        unlink(path);
    if (*spill->fault)
        return;
    const struct shard *range = expert_store_shard(spill->options.store, shard->slot);
    snprintf(spill->fault, FAULT_BYTES,
             "it cannot read expert %" PRIu32 " of layer %" PRIu32 " from its disk, %s",
             range->expert, range->layer, reason);
    log_error("cannot read the spilled shard %s: %s; it is fetched again when a coordinator comes "
              "back for it",
              path, reason);
}

/* The bytes are in the buffer, or never will be. */
static void conclude(struct spill *spill, struct buffer *buffer) {
    const struct shard_file *file = &buffer->file;
    buffer->is_reading = false;
    if (--spill->reading == 0)
        spill->busy_ns += clock_now_ns() - spill->since_ns;
    spill->reads++;
    spill->bytes += file->done < file->bytes ? file->done : file->bytes;
    if (file->result)
        fail(spill, buffer->shard, file->result);
}

/* Takes the reads of io_uring that are done; first waits for one if `waits`. */
static void reap(struct spill *spill, bool waits) {
    struct shard_file *file;
    while (spill->ring && (file = shard_ring_take(spill->ring, waits))) {
        conclude(spill, (struct buffer *)file);
        waits = false;
    }
}

static void read_queued(void *context, size_t index, unsigned thread) {
    (void)thread;
    const struct spill *spill = context;
    shard_file_read(&spill->queue[index]->file);
}

/* Has everything that was queued read. */
static void start_reads(struct spill *spill) {
    if (spill->ring) {
        shard_ring_submit(spill->ring);
        return;
    }
    threads_run(spill->options.threads, spill->queued, read_queued, spill);
    for (uint32_t i = 0; i < spill->queued; i++)
        conclude(spill, spill->queue[i]);
    spill->queued = 0;
}

/* ---- Buffers. */

/* The buffer that can be spared first; NULL if none can. */
static struct buffer *find_buffer(const struct spill *spill) {
    struct buffer *found = NULL;
    for (uint32_t i = 0; i < spill->buffer_count; i++) {
        struct buffer *buffer = &spill->buffers[i];
        if (buffer->used < spill->tick && !buffer->is_reading &&
            (!found || buffer->used < found->used))
            found = buffer;
    }
    return found;
}

/* Gives the shard a buffer and begins to read. False: there is no buffer, or a fault. */
static bool begin_read(struct spill *spill, struct spilled *shard) {
    const struct expert_store *store = spill->options.store;
    struct buffer *buffer = find_buffer(spill);
    char path[PATH_MAX];
    if (!buffer)
        return false;
    describe_file(spill, shard, path);
    if (buffer->shard)
        buffer->shard->buffer = NULL;
    buffer->shard = NULL;
    buffer->file.bytes = expert_store_slot_bytes(store, shard->slot);
    buffer->file.hash = expert_store_hash(store, shard->slot);
    if (shard_file_open(&buffer->file, path)) {
        fail(spill, shard, buffer->file.result);
        return false;
    }
    buffer->shard = shard;
    buffer->is_reading = true;
    shard->buffer = buffer;
    shard->expert = expert_store_view(store, shard->slot, buffer->file.data);
    if (spill->reading++ == 0)
        spill->since_ns = clock_now_ns();
    if (spill->ring)
        shard_ring_queue(spill->ring, &buffer->file);
    else
        spill->queue[spill->queued++] = buffer;
    return true;
}

/* NULL: the expert is none of the spilled ones. */
static struct spilled *shard_of(const struct spill *spill, const struct expert *expert) {
    uintptr_t begin = (uintptr_t)spill->shards, at = (uintptr_t)expert;
    bool inside = at >= begin && at < (uintptr_t)(spill->shards + spill->shard_count);
    return inside ? &spill->shards[(at - begin) / sizeof *spill->shards] : NULL;
}

size_t spill_fetch(struct spill *spill, const struct expert_task *tasks, size_t count) {
    uint32_t taken = 0, half = spill->buffer_count / 2;
    size_t end = count, half_end = count;
    spill->tick += 2;
    for (size_t i = 0; i < count; i++) {
        const struct spilled *shard = shard_of(spill, tasks[i].expert);
        if (shard && shard->buffer)
            shard->buffer->used = spill->tick - 1;
    }
    for (size_t i = 0; i < end; i++) {
        struct spilled *shard = shard_of(spill, tasks[i].expert);
        if (!shard || (i > 0 && tasks[i - 1].expert == tasks[i].expert))
            continue;
        if (taken == half)
            half_end = i;
        if (shard->buffer || begin_read(spill, shard)) {
            shard->buffer->used = spill->tick;
            taken++;
        } else {
            end = half_end < i ? half_end : i;
            taken = taken < half ? taken : half;
        }
    }
    spill->uses += taken;
    start_reads(spill);
    return *spill->fault ? 0 : end;
}

/* ---- For expert_forward. */

static bool is_here(void *context, const struct expert *expert) {
    struct spill *spill = context;
    const struct spilled *shard = shard_of(spill, expert);
    if (!shard || *spill->fault)
        return true;
    reap(spill, false);
    return !shard->buffer->is_reading;
}

static void await(void *context, const struct expert *expert) {
    struct spill *spill = context;
    while (!is_here(spill, expert))
        reap(spill, true);
}

struct expert_arrivals spill_arrivals(struct spill *spill) {
    return (struct expert_arrivals){is_here, await, spill};
}

static int compare_slots(const void *slot, const void *shard) {
    uint32_t left = *(const uint32_t *)slot, right = ((const struct spilled *)shard)->slot;
    return left < right ? -1 : left > right;
}

const struct expert *spill_expert(const struct spill *spill, uint32_t slot) {
    const struct spilled *shard =
        bsearch(&slot, spill->shards, spill->shard_count, sizeof *shard, compare_slots);
    return &shard->expert;
}

const char *spill_fault(const struct spill *spill) {
    return *spill->fault ? spill->fault : NULL;
}

/* ---- All together. */

/* Finds the spilled slots; false when memory is out. */
static bool list_shards(struct spill *spill) {
    const struct expert_store *store = spill->options.store;
    for (uint32_t slot = 0; slot < expert_store_count(store); slot++)
        spill->shard_count += expert_store_is_spilled(store, slot);
    spill->shards = calloc(spill->shard_count + 1u, sizeof *spill->shards);
    if (!spill->shards)
        return false;
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < expert_store_count(store); slot++) {
        size_t bytes = (size_t)SPILL_BUFFER_BYTES(expert_store_slot_bytes(store, slot));
        if (!expert_store_is_spilled(store, slot))
            continue;
        spill->shards[count++].slot = slot;
        spill->buffer_bytes = bytes > spill->buffer_bytes ? bytes : spill->buffer_bytes;
    }
    return true;
}

static bool take_buffers(struct spill *spill) {
    uint64_t room = expert_store_room_bytes(spill->options.store) / spill->buffer_bytes;
    spill->buffer_count = room < spill->shard_count ? (uint32_t)room : spill->shard_count;
    if (spill->buffer_count < SPILL_BUFFERS_MIN) /* of a single shard */
        spill->buffer_count = SPILL_BUFFERS_MIN;
    spill->memory = memory_map(spill->buffer_count * spill->buffer_bytes);
    spill->buffers = calloc(spill->buffer_count, sizeof *spill->buffers);
    spill->queue = calloc(spill->buffer_count, sizeof *spill->queue);
    if (!spill->memory || !spill->buffers || !spill->queue)
        return false;
    for (uint32_t i = 0; i < spill->buffer_count; i++)
        spill->buffers[i].file = (struct shard_file){
            .data = spill->memory + i * spill->buffer_bytes, .room_bytes = spill->buffer_bytes};
    return true;
}

enum status spill_create(const struct spill_options *options, struct spill **out) {
    struct spill *spill = calloc(1, sizeof *spill);
    char size[CONFIG_SIZE_TEXT], room[CONFIG_SIZE_TEXT];
    if (spill)
        spill->options = *options;
    if (!spill || !list_shards(spill) || !take_buffers(spill)) {
        log_error("no memory to read spilled shards into; lower --memory");
        spill_destroy(spill);
        return STATUS_NO_MEMORY;
    }
    if (options->uses_uring)
        spill->ring = shard_ring_open(spill->buffer_count < DISK_READS_MAX ? spill->buffer_count
                                                                           : DISK_READS_MAX);
    log_info("%" PRIu32 " shards (%s) lie on the disk, read into %s", spill->shard_count,
             config_format_size(expert_store_spilled_bytes(options->store), size),
             config_format_size(spill->buffer_count * spill->buffer_bytes, room));
    *out = spill;
    return STATUS_OK;
}

static void report(const struct spill *spill) {
    char size[CONFIG_SIZE_TEXT];
    double seconds = (double)spill->busy_ns / 1e9;
    log_info("read %" PRIu64 " spilled shards, %s in %.2f s, %.2f GB/s; %" PRIu64
             " more were in memory still",
             spill->reads, config_format_size(spill->bytes, size), seconds,
             seconds > 0 ? (double)spill->bytes / seconds / 1e9 : 0, spill->uses - spill->reads);
}

void spill_destroy(struct spill *spill) {
    if (!spill)
        return;
    while (spill->reading)
        reap(spill, true);
    if (spill->reads)
        report(spill);
    shard_ring_close(spill->ring);
    if (spill->memory)
        memory_unmap(spill->memory, spill->buffer_count * spill->buffer_bytes);
    free(spill->queue);
    free(spill->buffers);
    free(spill->shards);
    free(spill);
}
