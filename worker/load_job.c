/* The message is checked before anything is taken from it: its lists come from outside. What they
 * say of shards the store checks. */
#include "worker/load_job.h"

#include <stdlib.h>

#include "common/clock.h"
#include "common/cluster_limits.h"
#include "common/config.h"
#include "common/log.h"

const char *load_job_find_fault(const Control__Assign *assign, uint32_t slots) {
    size_t layouts = assign->n_layer_inner, shards = assign->n_shard_layer;
    if (layouts > SHARD_LAYOUTS(LAYERS_MAX) || (layouts > 0 && layouts % 2 == 0) ||
        assign->n_layer_gate_format != layouts || assign->n_layer_up_format != layouts ||
        assign->n_layer_down_format != layouts || shards > SHARDS_MAX ||
        assign->n_shard_expert != shards || assign->n_shard_begin != shards ||
        assign->n_shard_end != shards)
        return "it cannot take the assignment's lists: too long, or of different lengths";
    if (assign->first_slot != slots)
        return "the assignment does not go on where the last one ended; install the same release "
               "on both machines";
    for (size_t i = 0; i < layouts; i++)
        if (assign->layer_inner[i] > INNER_MAX)
            return "the assignment has a layer that is out of bounds";
    for (size_t i = 0; i < assign->n_spilled_slot; i++)
        if (slots > 0 || assign->spilled_slot[i] >= shards)
            return "the assignment spills slots that are not new; install the same release on both "
                   "machines";
    return NULL;
}

struct load_job *load_job_create(const Control__Assign *assign) {
    struct load_job *job = calloc(1, sizeof *job);
    if (!job)
        return NULL;
    job->layouts = calloc(assign->n_layer_inner + 1, sizeof *job->layouts);
    job->shards = calloc(assign->n_shard_layer + 1, sizeof *job->shards);
    job->spilled = calloc(assign->n_shard_layer + 1, sizeof *job->spilled);
    if (!job->layouts || !job->shards || !job->spilled) {
        load_job_destroy(job);
        return NULL;
    }
    for (size_t i = 0; i < assign->n_layer_inner; i++)
        job->layouts[i] = (struct shard_layout){assign->hidden, assign->layer_inner[i],
                                                (enum weight_format)assign->layer_gate_format[i],
                                                (enum weight_format)assign->layer_up_format[i],
                                                (enum weight_format)assign->layer_down_format[i]};
    for (size_t i = 0; i < assign->n_shard_layer; i++)
        job->shards[i] = (struct shard){assign->shard_layer[i], assign->shard_expert[i],
                                        assign->shard_begin[i], assign->shard_end[i]};
    for (size_t i = 0; i < assign->n_spilled_slot; i++)
        job->spilled[assign->spilled_slot[i]] = true;
    job->assignment = (struct assignment){
        .fingerprint = assign->fingerprint,
        .layouts = job->layouts,
        .layer_count = (uint32_t)assign->n_layer_inner / 2, /* SHARD_LAYOUTS */
        .shards = job->shards,
        .shard_count = (uint32_t)assign->n_shard_layer,
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
    free(job->spilled);
    free(job);
}

/* Reads what the cache has. */
static void load_kept(struct load_job *job) {
    char size[CONFIG_SIZE_TEXT];
    uint64_t started_ns = clock_now_ns(), before = atomic_load(&job->bytes_done);
    if (!job->extends && shard_cache_open(job->cache_directory, job->assignment.fingerprint,
                                          job->assignment.exact, job->cache_bytes_max, &job->cache))
        return;
    expert_store_load_kept(job->store, job->cache, job->extends ? NULL : job->threads,
                           job->uses_uring, &job->bytes_done);
    uint64_t bytes = atomic_load(&job->bytes_done) - before;
    double seconds = clock_elapsed_s(started_ns);
    if (bytes > 0)
        log_info("read %s of shards from %s in %.2f s, %.2f GB/s", config_format_size(bytes, size),
                 job->cache_directory, seconds, (double)bytes / seconds / 1e9);
}

void load_job_run(struct load_job *job) {
    job->status = job->extends
                      ? expert_store_extend(job->store, job->shards, job->assignment.shard_count)
                      : expert_store_assign(job->store, &job->assignment);
    if (job->status)
        return;
    atomic_store(&job->bytes_done, expert_store_bytes_filled(job->store));
    atomic_store(&job->bytes_total, expert_store_bytes(job->store));
    /* Assigning forgets an earlier cancellation, so the job's own flag is asked behind it. */
    if (job->weights && !atomic_load(&job->cancelled) &&
        expert_store_load(job->store, job->weights, job->extends ? NULL : job->threads,
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
        job->status = job->cache ? expert_store_load_spilled(job->store, job->cache, job->weights,
                                                             job->verifies, &job->bytes_done)
                                 : STATUS_NO_MEMORY;
}
