/* Opening is a list of steps that each add one part to the runtime; closing frees the parts that
 * are there, in reverse. Whatever can be refused without loading gigabytes is checked first:
 * configuration, tensor directory, workers' reach and memory. */
#include "coordinator/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/kernel/kernel.h"
#include "common/log.h"
#include "common/machine_record.h"
#include "common/memory.h"
#include "coordinator/cluster.h"
#include "coordinator/gguf_tokenizer.h"
#include "coordinator/local_workers.h"
#include "coordinator/node_limit.h"
#include "coordinator/planning.h"
#include "coordinator/progress.h"
#include "coordinator/worker_list.h"
#include "coordinator/worker_report.h"
#include "worker/store_loading.h"

/* Context when none is asked for: a long conversation, yet a small cache on every model. */
#define CONTEXT_DEFAULT 8192u

/* Positions that are looked back at in the decode steps that are planned for. */
#define DECODE_CONTEXT 512u

struct runtime {
    struct runtime_options options;
    struct model_shape shape;
    uint32_t layers; /* with the draft layer where it is loaded */
    struct weights *weights;
    struct tokenizer *tokenizer;
    struct threads *threads;
    struct shard_layout *layouts; /* SHARD_LAYOUTS(layers) */
    uint64_t fingerprint;
    struct worker_list worker_list;
    struct local_workers *local_workers;
    struct cluster *cluster; /* NULL: in process */
    struct outline *outline;
    struct machine_figures machine; /* this one, where a plan needs it */
    struct planning *planning;
    struct placement *placement; /* the plan's */
    uint64_t local_bytes;        /* for experts here, beside workers */
    struct expert_store *store;  /* of this process, the last holder; NULL: all are workers */
    struct model *model;
    struct kv_cache *cache;
    struct expert_workspace *workspace;
    struct holders *holders;
    struct failover *failover;
    const char *holder_names[HOLDERS_MAX];
    struct trace *trace;
    struct node_limit *node_limit; /* NULL: none */
    struct dispatch *dispatch;
    struct engine *engine;
};

/* STATUS_NOT_FOUND: the model has none. */
static enum status open_gguf_tokenizer(struct runtime *runtime) {
    const char *path = runtime->options.model_path;
    json_t *tokenizer, *config;
    enum status status = gguf_tokenizer_read(runtime->weights, &tokenizer, &config);
    if (status)
        return status;
    struct tokenizer_source source = {tokenizer, path, config, path};
    status = tokenizer_parse(&source, runtime->shape.vocabulary, &runtime->tokenizer);
    json_decref(tokenizer);
    json_decref(config);
    return status;
}

static enum status open_checkpoint(struct runtime *runtime) {
    const char *path = runtime->options.model_path;
    enum status status;
    if ((status = kernel_select(runtime->options.isa)) ||
        (status = model_shape_read(path, &runtime->shape)) ||
        (status = weights_open(path, &runtime->weights)))
        return status;
    status = weights_metadata(runtime->weights)
                 ? open_gguf_tokenizer(runtime)
                 : tokenizer_load(path, runtime->shape.vocabulary, &runtime->tokenizer);
    if (status && status != STATUS_NOT_FOUND)
        return status;
    return threads_create(runtime->options.threads, &runtime->threads);
}

static enum status find_layouts(struct runtime *runtime) {
    const struct model_shape *shape = &runtime->shape;
    runtime->layers = shape->layers + (runtime->options.with_draft && shape->draft_layers ? 1 : 0);
    runtime->layouts = calloc(SHARD_LAYOUTS(runtime->layers), sizeof *runtime->layouts);
    if (!runtime->layouts)
        return STATUS_NO_MEMORY;
    enum status status = outline_read(runtime->weights, shape, &runtime->outline);
    if (status == STATUS_OK)
        outline_layouts(runtime->outline, runtime->layers, runtime->layouts);
    return status;
}

static enum status start_local_workers(struct runtime *runtime) {
    const struct runtime_options *options = &runtime->options;
    unsigned each = threads_count(runtime->threads) / options->local_workers;
    return local_workers_start(options->local_workers, each ? each : 1, options->model_path,
                               options->isa, options->transport, &runtime->local_workers);
}

static bool follows_cluster(const struct runtime *runtime) {
    const struct runtime_options *options = &runtime->options;
    return options->follows_cluster && options->cluster && options->worker_timeout_s > 0;
}

/* Workers of the list, and places for those that it may gain: its entries behind the last one. */
static uint32_t count_places(const struct runtime *runtime) {
    uint32_t count = runtime->worker_list.count;
    uint32_t further = follows_cluster(runtime) ? WORKERS_JOINING_MAX : 0;
    return count + (further < WORKERS_MAX - count ? further : WORKERS_MAX - count);
}

static enum status connect_workers(struct runtime *runtime) {
    const struct runtime_options *options = &runtime->options;
    int ways =
        (options->workers != NULL) + (options->cluster != NULL) + (options->local_workers > 0);
    if (ways == 0)
        return STATUS_OK;
    if (ways > 1) {
        log_error("--workers, --cluster and --local-workers exclude each other; give one of them");
        return STATUS_USAGE;
    }
    bool tolerates_loss = options->worker_timeout_s > 0;
    enum status status = weights_fingerprint(runtime->weights, &runtime->fingerprint);
    if (status)
        return status;
    if (options->local_workers) {
        if ((status = start_local_workers(runtime)))
            return status;
        return cluster_connect(local_workers_addresses(runtime->local_workers),
                               options->local_workers, runtime->fingerprint, tolerates_loss,
                               &runtime->cluster);
    }
    status = options->workers ? worker_list_split(options->workers, &runtime->worker_list)
                              : worker_list_read(options->cluster, &runtime->worker_list);
    if (status)
        return status;
    return cluster_connect(runtime->worker_list.addresses, count_places(runtime),
                           runtime->fingerprint, tolerates_loss, &runtime->cluster);
}

/* Asks the workers that no file describes how fast they are. Those on this machine share it, so
 * what each of them could do alone means nothing. */
static enum status measure_workers(struct runtime *runtime) {
    const struct cluster_file *file = &runtime->worker_list.file;
    const struct machine_work work = {
        outline_expert_formats(runtime->outline, &runtime->shape, runtime->layers),
        runtime->options.exact};
    bool wanted[WORKERS_MAX];
    if (!runtime->cluster || runtime->options.local_workers)
        return STATUS_OK;
    for (uint32_t w = 0; w < cluster_size(runtime->cluster); w++)
        wanted[w] = w >= file->count || !file->workers[w].described;
    enum status status =
        cluster_measure(runtime->cluster, &work, wanted, runtime->options.transport,
                        runtime->options.cache_directory);
    for (uint32_t w = 0; w < cluster_size(runtime->cluster) && !status; w++)
        if (cluster_is_alive(runtime->cluster, w))
            worker_report_log(cluster_worker(runtime->cluster, w));
    return status;
}

/* Whether this process is a holder: the last one, or the only one. */
static bool holds_experts(const struct runtime *runtime) {
    return !runtime->cluster || runtime->placement->holders > cluster_size(runtime->cluster);
}

/* Whether the routed experts are in quantised formats and meet activations of 8 bits where those
 * have a product for them. */
static bool rounds_activations(const struct runtime *runtime) {
    if (runtime->options.exact)
        return false;
    for (uint32_t layer = 0; layer < runtime->layers; layer++)
        if (runtime->shape.is_expert_layer[layer] &&
            weight_is_blocked(runtime->layouts[layer].gate))
            return true;
    return false;
}

/* By itself the cache is no coarser than the products are. */
static enum weight_format cache_format(const struct runtime *runtime) {
    const char *name = runtime->options.kv_cache;
    if (strcmp(name, "auto") == 0)
        return rounds_activations(runtime) ? WEIGHT_F16 : WEIGHT_F32;
    if (strcmp(name, "f32") == 0)
        return WEIGHT_F32;
    if (strcmp(name, "f16") == 0)
        return WEIGHT_F16;
    return strcmp(name, "bf16") == 0 ? WEIGHT_BF16 : WEIGHT_Q8_0;
}

static uint32_t context_positions(const struct runtime *runtime) {
    if (runtime->options.context)
        return runtime->options.context;
    uint32_t trained = runtime->shape.context;
    return trained < CONTEXT_DEFAULT ? trained : CONTEXT_DEFAULT;
}

/* What the workers said of themselves; figures as far as they are known. Returns whether all are.
 * Workers that are not there offer no memory. */
static bool list_workers(const struct runtime *runtime, struct planning_worker *out) {
    uint32_t count = runtime->cluster ? cluster_size(runtime->cluster) : 0;
    bool known = count > 0 && !runtime->options.local_workers;
    for (uint32_t w = 0; w < count; w++) {
        const struct cluster_file *file = &runtime->worker_list.file;
        out[w] = (struct planning_worker){0};
        if (!cluster_is_alive(runtime->cluster, w))
            continue;
        out[w] = planning_worker_of(cluster_worker(runtime->cluster, w),
                                    file->count ? &file->workers[w] : NULL);
        known &= out[w].figures != NULL;
    }
    return known;
}

/* Memory for routed experts of this process beside workers. By itself what can be spared, without
 * what workers on the same machine have been promised; none where figures are not known. */
static enum status find_local_bytes(const struct runtime *runtime,
                                    const struct planning_input *input, uint64_t *out) {
    uint64_t available;
    char name[sizeof((struct worker_info *)NULL)->name] = "";
    *out = runtime->options.memory_bytes;
    if (*out != PLANNING_MEMORY_AUTO)
        return STATUS_OK;
    *out = 0;
    if (!input->coordinator)
        return STATUS_OK;
    enum status status = memory_available(&available);
    if (status)
        return status;
    gethostname(name, sizeof name - 1);
    for (uint32_t w = 0; w < input->worker_count; w++) {
        const struct worker_info *worker = cluster_worker(runtime->cluster, w);
        if (strcmp(worker->name, name) == 0)
            available -= worker->memory_bytes < available ? worker->memory_bytes : available;
    }
    *out = planning_spare_bytes(input, available, context_positions(runtime));
    return STATUS_OK;
}

static void log_figures(const struct machine_figures *figures) {
    log_debug("this machine reads %.2f GB/s", figures->read_bytes_per_s / 1e9);
    for (size_t f = 0; f < WEIGHT_FORMAT_COUNT; f++)
        if (figures->formats[f].decode_bytes_per_s > 0)
            log_debug("%s weights: %.2f GB/s for one row, %.1f GMAC/s in batches",
                      weight_format_name((enum weight_format)f),
                      figures->formats[f].decode_bytes_per_s / 1e9,
                      figures->formats[f].batch_macs_per_s / 1e9);
}

static enum status measure_here(struct runtime *runtime) {
    const struct machine_work work = {outline_formats(runtime->outline, &runtime->shape),
                                      runtime->options.exact};
    struct machine_figures *machine = &runtime->machine;
    machine->threads = threads_count(runtime->threads);
    snprintf(machine->isa, sizeof machine->isa, "%s", kernel_get()->name);
    enum status status = machine_record_complete(runtime->options.cache_directory, runtime->threads,
                                                 &work, MACHINE_MEASURE_BYTES, machine);
    if (status == STATUS_OK)
        log_figures(machine);
    return status;
}

static enum status plan(struct runtime *runtime) {
    const struct runtime_options *options = &runtime->options;
    struct planning_worker workers[WORKERS_MAX];
    struct planning_input input = {
        .shape = &runtime->shape,
        .outline = runtime->outline,
        .layouts = runtime->layouts,
        .layers = runtime->layers,
        .workers = workers,
        .worker_count = runtime->cluster ? cluster_size(runtime->cluster) : 0,
        .kv_format = cache_format(runtime),
        .wire = options->wire,
        .may_round = rounds_activations(runtime),
        .popularity = options->popularity,
        .kind = planning_kind(options->placement),
        .objective = planning_objective(options->optimize),
        .replicas = planning_replicas(options->replicas),
        .offload = options->nodes_max ? OFFLOAD_NONE : planning_offload(options->offload),
        .decode = {1, DECODE_CONTEXT, 1},
        .prefill = {options->batch_rows, options->batch_rows / 2, 1},
    };
    enum status status;
    if (list_workers(runtime, workers)) {
        if ((status = measure_here(runtime)))
            return status;
        input.coordinator = &runtime->machine;
    }
    if ((status = find_local_bytes(runtime, &input, &input.local_bytes)) ||
        (status = planning_create(&input, &runtime->planning)))
        return status;
    runtime->local_bytes = input.local_bytes;
    runtime->placement = planning_plan(runtime->planning)->placement;
    return STATUS_OK;
}

/* What the cluster's progress is shown with. */
struct load_display {
    struct progress *progress;
    const struct cluster *cluster;
};

static void show_loading(void *context, const struct cluster_loading *loading) {
    const struct load_display *display = context;
    atomic_uint_least64_t *counter = progress_counter(display->progress);
    if (counter)
        atomic_store(counter, loading->bytes_done);
    progress_set_source(display->progress, "from other workers", loading->bytes_given);
    if (loading->worker_bytes_total > 0)
        progress_set_part(
            display->progress, loading->worker,
            cluster_worker(display->cluster, loading->worker)->address,
            (uint32_t)(100 * loading->worker_bytes_done / loading->worker_bytes_total));
}

static enum status load_workers(struct runtime *runtime, struct progress *progress) {
    struct load_display display = {progress, runtime->cluster};
    const struct cluster_load_options options = {
        .placement = runtime->placement,
        .weights = runtime->weights,
        .fingerprint = runtime->fingerprint,
        .batch_rows = runtime->options.batch_rows,
        .hidden = runtime->shape.hidden,
        .entries_per_row = dispatch_entries_per_row(runtime->shape.experts_per_token),
        .exact = runtime->options.exact,
        .wants_spans = runtime->options.trace != NULL,
        .progress = show_loading,
        .context = &display,
    };
    enum status status = cluster_load(runtime->cluster, &options);
    return status || !follows_cluster(runtime)
               ? status
               : cluster_follow(runtime->cluster, runtime->options.cluster);
}

static enum status load_in_process(struct runtime *runtime, struct progress *progress) {
    const struct holder_shards *held = &runtime->placement->held[runtime->placement->holders - 1];
    const struct assignment assignment = {
        .layouts = runtime->layouts,
        .layer_count = runtime->layers,
        .shards = held->shards,
        .shard_count = held->count,
        .exact = runtime->options.exact,
    };
    enum status status;
    if ((status = expert_store_create(UINT64_MAX, &runtime->store)) ||
        (status = expert_store_assign(runtime->store, &assignment)))
        return status;
    status =
        store_load(runtime->store, runtime->weights, runtime->threads, progress_counter(progress));
    expert_store_serve(runtime->store);
    return status;
}

static enum status load(struct runtime *runtime) {
    struct progress *progress = progress_start(
        "loading experts", placement_bytes(runtime->placement), runtime->options.show_progress);
    enum status status = runtime->cluster ? load_workers(runtime, progress) : STATUS_OK;
    if (!status && holds_experts(runtime))
        status = load_in_process(runtime, progress);
    progress_stop(progress);
    if (status)
        return status;
    const struct model_load_options own = {runtime->placement, runtime->options.with_draft,
                                           runtime->options.exact};
    return model_load(runtime->weights, &runtime->shape, &own, runtime->threads, &runtime->model);
}

/* The widest feed-forward that runs on the coordinator. */
static uint32_t inner_max(const struct model_shape *shape) {
    uint32_t widest =
        shape->expert_inner > shape->dense_inner ? shape->expert_inner : shape->dense_inner;
    uint32_t shared = shape->shared_experts * shape->expert_inner;
    return shared > widest ? shared : widest;
}

static enum status find_holders(struct runtime *runtime) {
    enum status status = holders_create(runtime->cluster, runtime->store,
                                        runtime->options.transport, &runtime->holders);
    if (status)
        return status;
    const struct failover_options options = {
        .placement = runtime->placement,
        .holders = runtime->holders,
        .is_expert_layer = runtime->shape.is_expert_layer,
        .routing = planning_routing(runtime->planning),
        .weights = runtime->weights,
        .threads = runtime->threads,
        .local_bytes = runtime->local_bytes,
        .balances = runtime->cluster && !runtime->options.local_workers && !runtime->node_limit &&
                    planning_replicas(runtime->options.replicas) != REPLICAS_NONE,
        .timeout_s = runtime->options.worker_timeout_s,
    };
    return failover_create(&options, &runtime->failover);
}

static enum status limit_nodes(struct runtime *runtime) {
    if (!runtime->options.nodes_max || !runtime->cluster)
        return STATUS_OK;
    return node_limit_create(runtime->placement, runtime->options.nodes_max,
                             runtime->shape.experts_per_token, &runtime->node_limit);
}

static void name_holders(struct runtime *runtime) {
    for (uint32_t h = 0; runtime->holders && h < runtime->holders->count; h++)
        runtime->holder_names[h] = runtime->holders->all[h].address;
}

static enum status start_trace(struct runtime *runtime) {
    if (!runtime->options.trace)
        return STATUS_OK;
    return trace_create(runtime->options.trace, runtime->threads, runtime->holder_names,
                        runtime->holders->workers, &runtime->trace);
}

/* In how many parts batches run: as predicted, or always as many as --overlap and their rows allow.
 */
static struct batch_division divide(const struct runtime *runtime) {
    const char *overlap = runtime->options.overlap;
    struct batch_division division = {{0}};
    if (!runtime->cluster || (overlap && strcmp(overlap, "off") == 0))
        return division;
    if (!overlap || strcmp(overlap, "auto") == 0)
        return planning_divide(runtime->planning, runtime->options.batch_rows);
    uint32_t most = strcmp(overlap, "2") == 0 ? 2 : TICKETS_MAX;
    for (uint32_t size = 0; size < BATCH_SIZES; size++)
        division.parts[size] = (uint8_t)(1u << size < most ? 1u << size : most);
    return division;
}

static enum status build_engine(struct runtime *runtime) {
    const struct model_shape *shape = &runtime->shape;
    uint32_t rows = runtime->options.batch_rows;
    const struct kv_cache_options cache = {
        .layers = runtime->layers,
        .positions_max = context_positions(runtime),
        .sequences_max = runtime->options.sequences ? runtime->options.sequences : 1,
        .format = cache_format(runtime),
    };
    enum status status;
    if ((status = kv_cache_create(shape, &cache, &runtime->cache)) ||
        (status = expert_workspace_create(runtime->threads, shape->hidden, inner_max(shape), rows,
                                          &runtime->workspace)))
        return status;
    double read_rates[HOLDERS_MAX];
    for (uint32_t h = 0; h < runtime->placement->holders; h++)
        read_rates[h] = planning_read_rate(runtime->planning, h);
    const struct dispatch_options dispatch = {
        .threads = runtime->threads,
        .placement = runtime->placement,
        .holders = runtime->holders,
        .failover = runtime->failover,
        .trace = runtime->trace,
        .read_rates = read_rates,
        .format = planning_wire(runtime->planning),
        .first_copies_only = runtime->node_limit != NULL,
        .workspace = runtime->workspace,
        .hidden = shape->hidden,
        .rows_max = rows,
        .experts_per_token = shape->experts_per_token,
    };
    if ((status = dispatch_create(&dispatch, &runtime->dispatch)))
        return status;
    const struct engine_options engine = {
        .model = runtime->model,
        .threads = runtime->threads,
        .cache = runtime->cache,
        .dispatch = runtime->dispatch,
        .rows_max = rows,
        .trace = runtime->trace,
        .node_limit = runtime->node_limit,
        .division = divide(runtime),
    };
    return engine_create(&engine, &runtime->engine);
}

enum status runtime_open(const struct runtime_options *options, struct runtime **out) {
    struct runtime *runtime = calloc(1, sizeof *runtime);
    if (!runtime)
        return STATUS_NO_MEMORY;
    runtime->options = *options;
    enum status status;
    if ((status = open_checkpoint(runtime)) || (status = find_layouts(runtime)) ||
        (status = connect_workers(runtime)) || (status = measure_workers(runtime)) ||
        (status = plan(runtime)) || (status = limit_nodes(runtime)) || (status = load(runtime)) ||
        (status = find_holders(runtime)) || (status = start_trace(runtime)) ||
        (status = build_engine(runtime))) {
        runtime_close(runtime);
        return status;
    }
    *out = runtime;
    return STATUS_OK;
}

void runtime_close(struct runtime *runtime) {
    if (!runtime)
        return;
    engine_destroy(runtime->engine);
    failover_destroy(runtime->failover);
    name_holders(runtime); /* for the trace, with those that have joined */
    /* The frames after the transport that may still be moving them. */
    holders_destroy(runtime->holders);
    dispatch_destroy(runtime->dispatch);
    trace_destroy(runtime->trace);
    expert_workspace_destroy(runtime->workspace);
    kv_cache_destroy(runtime->cache);
    model_destroy(runtime->model);
    expert_store_destroy(runtime->store);
    node_limit_destroy(runtime->node_limit);
    planning_destroy(runtime->planning);
    cluster_destroy(runtime->cluster);
    local_workers_stop(runtime->local_workers);
    worker_list_cleanup(&runtime->worker_list);
    free(runtime->layouts);
    free(runtime->outline);
    threads_destroy(runtime->threads);
    tokenizer_destroy(runtime->tokenizer);
    weights_close(runtime->weights);
    free(runtime);
}

const struct model_shape *runtime_shape(const struct runtime *runtime) {
    return &runtime->shape;
}

const struct tokenizer *runtime_tokenizer(const struct runtime *runtime) {
    return runtime->tokenizer;
}

struct engine *runtime_engine(struct runtime *runtime) {
    return runtime->engine;
}

int runtime_wake_fd(const struct runtime *runtime) {
    return runtime->cluster ? cluster_wake_fd(runtime->cluster) : -1;
}

void runtime_attend(struct runtime *runtime) {
    cluster_clear_wake(runtime->cluster);
    dispatch_attend(runtime->dispatch);
}

struct threads *runtime_threads(struct runtime *runtime) {
    return runtime->threads;
}

const struct outline *runtime_outline(const struct runtime *runtime) {
    return runtime->outline;
}

size_t runtime_holder_stats(const struct runtime *runtime, struct holder_stats *out, size_t max) {
    size_t holders = runtime->placement->holders;
    for (size_t h = 0; h < holders && h < max; h++) {
        out[h] = runtime->dispatch->stats[h];
        out[h].address = runtime->holders->all[h].address;
        out[h].shards = placement_shards(runtime->placement, (uint32_t)h);
    }
    return holders;
}

const struct cluster *runtime_cluster(const struct runtime *runtime) {
    return runtime->cluster;
}

const struct planning *runtime_planning(const struct runtime *runtime) {
    return runtime->planning;
}

const struct statistics *runtime_statistics(const struct runtime *runtime) {
    return runtime->dispatch->statistics;
}
