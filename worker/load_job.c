/* The message is checked before anything is taken from it: its lists come from outside. What they
 * say of shards the store checks. */
#include "worker/load_job.h"

#include <inttypes.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/cluster_limits.h"
#include "common/config.h"
#include "common/log.h"
#include "worker/store_loading.h"

static bool ascends(const uint32_t *slots, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (slots[i] >= SHARDS_MAX || (i > 0 && slots[i] <= slots[i - 1]))
            return false;
    return true;
}

static int compare_slots(const void *a, const void *b) {
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return left < right ? -1 : left > right;
}

/* Where the slot is in the ascending list; NULL: it is not. */
static const uint32_t *find_slot(const uint32_t *slots, size_t count, uint32_t slot) {
    return count == 0 ? NULL : bsearch(&slot, slots, count, sizeof slot, compare_slots);
}

/* Why the message's slots cannot be released and filled, whose lists ascend; NULL if they can. */
static const char *find_slot_fault(const Control__Assign *assign,
                                   const struct expert_store *serving) {
    for (size_t i = 0; i < assign->n_released_slot; i++)
        if (!serving || !expert_store_may_release(serving, assign->released_slot[i]))
            return "the assignment releases slots that are not served from memory; install the "
                   "same release on both machines";
    for (size_t i = 0; i < assign->n_slot && serving; i++)
        if (expert_store_slot_bytes(serving, assign->slot[i]) > 0 &&
            !find_slot(assign->released_slot, assign->n_released_slot, assign->slot[i]))
            return "the assignment fills slots that hold something; install the same release on "
                   "both machines";
    for (size_t i = 0; i < assign->n_spilled_slot; i++)
        if (serving || !find_slot(assign->slot, assign->n_slot, assign->spilled_slot[i]))
            return "the assignment spills slots that are not new; install the same release on both "
                   "machines";
    return NULL;
}

const char *load_job_find_fault(const Control__Assign *assign, const struct expert_store *serving) {
    size_t layouts = assign->n_layer_inner, shards = assign->n_shard_layer;
    if (layouts > SHARD_LAYOUTS(LAYERS_MAX) || (layouts > 0 && layouts % 2 == 0) ||
        assign->n_layer_gate_format != layouts || assign->n_layer_up_format != layouts ||
        assign->n_layer_down_format != layouts || shards > SHARDS_MAX ||
        assign->n_shard_expert != shards || assign->n_shard_begin != shards ||
        assign->n_shard_end != shards || assign->n_slot != shards)
        return "it cannot take the assignment's lists: too long, or of different lengths";
    if (!ascends(assign->slot, shards) || !ascends(assign->released_slot, assign->n_released_slot))
        return "the assignment's slots are out of bounds or of order; install the same release on "
               "both machines";
    for (size_t i = 0; i < layouts; i++)
        if (assign->layer_inner[i] > INNER_MAX)
            return "the assignment has a layer that is out of bounds";
    return find_slot_fault(assign, serving);
}

struct load_job *load_job_create(const Control__Assign *assign) {
    struct load_job *job = calloc(1, sizeof *job);
    if (!job)
        return NULL;
    job->layouts = calloc(assign->n_layer_inner + 1, sizeof *job->layouts);
    job->shards = calloc(assign->n_shard_layer + 1, sizeof *job->shards);
    job->slots = calloc(assign->n_shard_layer + 1, sizeof *job->slots);
    job->spilled = calloc(assign->n_shard_layer + 1, sizeof *job->spilled);
    job->released = calloc(assign->n_released_slot + 1, sizeof *job->released);
    if (!job->layouts || !job->shards || !job->slots || !job->spilled || !job->released) {
        load_job_destroy(job);
        return NULL;
    }
    for (size_t i = 0; i < assign->n_layer_inner; i++)
        job->layouts[i] = (struct shard_layout){assign->hidden, assign->layer_inner[i],
                                                (enum weight_format)assign->layer_gate_format[i],
                                                (enum weight_format)assign->layer_up_format[i],
                                                (enum weight_format)assign->layer_down_format[i]};
    for (size_t i = 0; i < assign->n_shard_layer; i++) {
        job->shards[i] = (struct shard){assign->shard_layer[i], assign->shard_expert[i],
                                        assign->shard_begin[i], assign->shard_end[i]};
        job->slots[i] = assign->slot[i];
    }
    for (size_t i = 0; i < assign->n_spilled_slot; i++)
        job->spilled[find_slot(assign->slot, assign->n_slot, assign->spilled_slot[i]) -
                     assign->slot] = true;
    job->released_count = (uint32_t)assign->n_released_slot;
    for (uint32_t i = 0; i < job->released_count; i++)
        job->released[i] = assign->released_slot[i];
    job->assignment = (struct assignment){
        .fingerprint = assign->fingerprint,
        .layouts = job->layouts,
        .layer_count = (uint32_t)assign->n_layer_inner / 2, /* SHARD_LAYOUTS */
        .shards = job->shards,
        .shard_count = (uint32_t)assign->n_shard_layer,
        .slots = job->slots,
        .spilled = job->spilled,
        .exact = assign->exact_activations,
    };
    atomic_init(&job->cancelled, false);
    atomic_init(&job->bytes_done, 0);
    atomic_init(&job->bytes_total, 0);
    return job;
}

uint32_t load_job_inner_max(const Control__Assign *assign) {
    uint32_t max = 1;
    for (size_t i = 0; i < assign->n_layer_inner / 2; i++)
        if (assign->layer_inner[i] > max)
            max = assign->layer_inner[i];
    for (size_t i = 0; i < assign->n_shard_end; i++)
        if (assign->shard_expert[i] == SHARD_FFN &&
            assign->shard_end[i] > max + assign->shard_begin[i])
            max = assign->shard_end[i] - assign->shard_begin[i];
    return max;
}

uint32_t load_job_head_rows(const Control__Assign *assign) {
    uint32_t max = 0;
    for (size_t i = 0; i < assign->n_shard_end; i++)
        if (assign->shard_expert[i] == SHARD_HEAD &&
            assign->shard_end[i] > max + assign->shard_begin[i])
            max = assign->shard_end[i] - assign->shard_begin[i];
    return max;
}

void load_job_destroy(struct load_job *job) {
    if (!job)
        return;
    free(job->layouts);
    free(job->shards);
    free(job->slots);
    free(job->spilled);
    free(job->released);
    free(job);
}

/* Reads what the cache has. */
static void load_kept(struct load_job *job) {
    char size[CONFIG_SIZE_TEXT];
    uint64_t started_ns = clock_now_ns(), before = atomic_load(&job->bytes_done);
    if (!job->extends && shard_cache_open(job->cache_directory, job->assignment.fingerprint,
                                          job->assignment.exact, job->cache_bytes_max, &job->cache))
        return;
    store_load_kept(job->store, job->cache, job->extends ? NULL : job->threads, job->uses_uring,
                    &job->bytes_done);
    uint64_t bytes = atomic_load(&job->bytes_done) - before;
    double seconds = clock_elapsed_s(started_ns);
    if (bytes > 0)
        log_info("read %s of shards from %s in %.2f s, %.2f GB/s", config_format_size(bytes, size),
                 job->cache_directory, seconds, (double)bytes / seconds / 1e9);
}

/* Releases first: what comes may take that memory and those slots. */
static enum status change(const struct load_job *job) {
    uint64_t before = expert_store_bytes(job->store);
    char size[CONFIG_SIZE_TEXT];
    enum status status = expert_store_release(job->store, job->released, job->released_count);
    if (status)
        return status;
    if (job->released_count > 0)
        log_info("released %" PRIu32 " shards, %s", job->released_count,
                 config_format_size(before - expert_store_bytes(job->store), size));
    return expert_store_extend(job->store, job->slots, job->shards, job->assignment.shard_count);
}

void load_job_run(struct load_job *job) {
    job->status = job->extends ? change(job) : expert_store_assign(job->store, &job->assignment);
    if (job->status)
        return;
    atomic_store(&job->bytes_done, expert_store_bytes_filled(job->store));
    atomic_store(&job->bytes_total, expert_store_bytes(job->store));
    /* Assigning forgets an earlier cancellation, so the job's own flag is asked behind it. */
    if (job->weights && !atomic_load(&job->cancelled) &&
        store_load(job->store, job->weights, job->extends ? NULL : job->threads,
                   &job->bytes_done) &&
        !atomic_load(&job->cancelled))
        log_warning("%s cannot be read to the end; asking the coordinator for the rest",
                    weights_path(job->weights));
    bool caches = job->cache_directory && job->cache_bytes_max > 0;
    bool spills = expert_store_spilled_bytes(job->store) > 0;
    if (((!job->weights && caches) || spills) && (job->cache || !job->extends) &&
        !atomic_load(&job->cancelled))
        load_kept(job);
    if (spills && !atomic_load(&job->cancelled))
        job->status = job->cache ? store_load_spilled(job->store, job->cache, job->weights,
                                                      job->verifies, &job->bytes_done)
                                 : STATUS_NO_MEMORY;
}
