/* Nothing is loaded: the model's headers or its config.json, and figures of machines, are all that
 * a plan needs. Machines that the file only names are asked; those that it describes need not
 * exist. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cluster_limits.h"
#include "common/kernel/kernel.h"
#include "common/log.h"
#include "common/machine_record.h"
#include "common/memory.h"
#include "common/threads.h"
#include "coordinator/cluster.h"
#include "coordinator/cluster_file.h"
#include "coordinator/command.h"
#include "coordinator/options.h"
#include "coordinator/plan_report.h"
#include "coordinator/planning.h"
#include "coordinator/what_if.h"

struct planned {
    const struct plan_options *options;
    struct model_shape shape;
    struct outline *outline;
    struct shard_layout layouts[SHARD_LAYOUTS(LAYERS_MAX)];
    struct cluster_file cluster;
    struct planning *planning;
    uint64_t fingerprint;        /* of the weights; 0: there are none yet */
    struct cluster *connections; /* to the workers that are asked; NULL: none */
    uint32_t asked[WORKERS_MAX]; /* number among those, UINT32_MAX: not asked */
    struct planning_worker workers[WORKERS_MAX];
    struct what_ifs what_ifs;
    const char *names[HOLDERS_MAX];
    const char *kinds[WORKERS_MAX]; /* what all machines of an entry are called */
    char unnamed[WORKERS_MAX][24];
    uint64_t memory_bytes[HOLDERS_MAX];
};

static enum status read_headers(struct planned *planned) {
    struct weights *weights;
    enum status status = weights_open(planned->options->path, &weights);
    if (status) {
        if (status == STATUS_NOT_FOUND)
            log_warning("to plan before the weights are there, say with --type what they will be");
        return status;
    }
    if (!(status = weights_fingerprint(weights, &planned->fingerprint)))
        status = outline_read(weights, &planned->shape, &planned->outline);
    weights_close(weights);
    return status;
}

static enum status read_model(struct planned *planned) {
    const struct plan_options *options = planned->options;
    enum status status = model_shape_read(options->path, &planned->shape);
    if (status)
        return status;
    status = options->type ? outline_assume(&planned->shape, options->type, &planned->outline)
                           : read_headers(planned);
    if (status == STATUS_OK)
        outline_layouts(planned->outline, planned->shape.layers, planned->layouts);
    return status;
}

/* ---- Machines that are there. */

/* Asks the workers that are only named what they have, and how fast they are. */
static enum status ask_workers(struct planned *planned) {
    const struct machine_work work = {
        outline_expert_formats(planned->outline, &planned->shape, planned->shape.layers), false};
    const struct cluster_file *cluster = &planned->cluster;
    const char *addresses[WORKERS_MAX];
    uint32_t count = 0;
    for (uint32_t w = 0; w < cluster->count; w++) {
        planned->asked[w] = UINT32_MAX;
        if (cluster->workers[w].described)
            continue;
        planned->asked[w] = count;
        addresses[count++] = cluster->workers[w].address;
    }
    if (count == 0)
        return STATUS_OK;
    enum status status =
        cluster_connect(addresses, count, planned->fingerprint, false, &planned->connections);
    return status ? status
                  : cluster_measure(planned->connections, &work, NULL, NULL,
                                    planned->options->cache_directory);
}

/* Measures this machine where it is the coordinator. */
static enum status measure_here(struct planned *planned) {
    struct cluster_machine *coordinator = &planned->cluster.coordinator;
    struct machine_figures *figures = &coordinator->figures;
    const struct machine_work work = {outline_formats(planned->outline, &planned->shape), false};
    struct threads *threads;
    if (coordinator->described)
        return STATUS_OK;
    enum status status;
    if ((status = memory_available(&figures->memory_bytes)) || (status = kernel_select("auto")) ||
        (status = threads_create(0, &threads)))
        return status;
    figures->threads = threads_count(threads);
    snprintf(figures->isa, sizeof figures->isa, "%s", kernel_get()->name);
    status = machine_record_complete(planned->options->cache_directory, threads, &work,
                                     MACHINE_MEASURE_BYTES, figures);
    threads_destroy(threads);
    coordinator->described = status == STATUS_OK;
    return status;
}

/* Puts together what is known of each worker. */
static void list_workers(struct planned *planned) {
    const struct cluster_file *cluster = &planned->cluster;
    for (uint32_t w = 0; w < cluster->count; w++) {
        const struct cluster_machine *machine = &cluster->workers[w];
        const struct worker_info *info =
            planned->asked[w] == UINT32_MAX
                ? NULL
                : cluster_worker(planned->connections, planned->asked[w]);
        planned->workers[w] = planning_worker_of(info, machine);
        planned->memory_bytes[w] = planned->workers[w].memory_bytes;
        snprintf(planned->unnamed[w], sizeof planned->unnamed[w], "worker %u", w + 1);
        planned->names[w] = machine->name      ? machine->name
                            : machine->address ? machine->address
                                               : planned->unnamed[w];
        planned->kinds[w] = machine->kind ? machine->kind : planned->names[w];
    }
    planned->names[cluster->count] =
        cluster->coordinator.name ? cluster->coordinator.name : "coordinator";
}

/* ---- The plan. */

static bool is_quantised(const struct planned *planned) {
    for (uint32_t layer = 0; layer < planned->shape.layers; layer++)
        if (planned->shape.is_expert_layer[layer] &&
            weight_is_blocked(planned->layouts[layer].gate))
            return true;
    return false;
}

static enum status make_plan(struct planned *planned, struct planning_input *input) {
    const struct plan_options *options = planned->options;
    const struct cluster_file *cluster = &planned->cluster;
    *input = (struct planning_input){
        .shape = &planned->shape,
        .outline = planned->outline,
        .layouts = planned->layouts,
        .layers = planned->shape.layers,
        .workers = planned->workers,
        .worker_count = cluster->count,
        .coordinator = &cluster->coordinator.figures,
        .link_bytes_per_s = cluster->coordinator.link.to_bytes_per_s,
        .kv_format = is_quantised(planned) ? WEIGHT_F16 : WEIGHT_F32,
        .may_round = is_quantised(planned),
        .popularity = options->popularity,
        .kind = planning_kind(options->placement),
        .objective = planning_objective(options->optimize),
        .replicas = planning_replicas(options->replicas),
        .offload = planning_offload(options->offload),
        .decode = {1, options->context / 2, 1},
        .prefill = {options->batch_tokens, options->batch_tokens / 2, 1},
    };
    uint64_t spare =
        planning_spare_bytes(input, cluster->coordinator.figures.memory_bytes, options->context);
    input->local_bytes =
        options->memory_bytes == PLANNING_MEMORY_AUTO ? spare : options->memory_bytes;
    planned->memory_bytes[cluster->count] = input->local_bytes;
    return planning_create(input, &planned->planning);
}

static enum status flush_output(void) {
    if (fflush(stdout) || ferror(stdout)) {
        log_error("cannot write to standard output: %s", strerror(errno));
        return STATUS_IO;
    }
    return STATUS_OK;
}

/* Takes over the object; NULL: memory is out. */
static enum status print_json(json_t *object) {
    if (!object)
        return STATUS_NO_MEMORY;
    json_dumpf(object, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(object);
    return flush_output();
}

static enum status print_plan(const struct planned *planned, const struct planning_input *input) {
    const struct plan_options *options = planned->options;
    const struct plan_report report = {
        .shape = &planned->shape,
        .outline = planned->outline,
        .planning = planned->planning,
        .layers = planned->shape.layers,
        .names = planned->names,
        .memory_bytes = planned->memory_bytes,
        .holders = planning_plan(planned->planning)->placement->holders,
        .workers = planned->cluster.count,
        .coordinator_bytes = planned->cluster.coordinator.figures.memory_bytes,
        .expert_bytes = planning_expert_bytes(input),
        .cache_bytes = planning_cache_bytes(input, options->context),
        .context = options->context,
        .decode = input->decode,
        .prefill = planning_prefill(planned->planning),
        .what_ifs = &planned->what_ifs,
    };
    if (options->json)
        return print_json(plan_report_to_json(&report));
    plan_report_print(&report, stdout);
    return flush_output();
}

/* Says with what the model would fit; returns STATUS_NO_MEMORY unless something else fails. */
static enum status print_unfit(struct planned *planned, const struct planning_input *input) {
    enum status status = what_if_fit(input, planned->kinds, &planned->what_ifs);
    if (status)
        return status;
    plan_report_warn_unfit(&planned->what_ifs);
    if (planned->options->json)
        status = print_json(plan_report_unfit_to_json(&planned->what_ifs));
    return status ? status : STATUS_NO_MEMORY;
}

static enum status plan_and_print(struct planned *planned) {
    struct planning_input input;
    enum status status = make_plan(planned, &input);
    if (status == STATUS_NO_MEMORY)
        return print_unfit(planned, &input);
    if (status ||
        (status = what_if_find(&input, planned->planning, planned->kinds, &planned->what_ifs)))
        return status;
    return print_plan(planned, &input);
}

static enum status run_plan(const struct plan_options *options) {
    struct planned *planned = calloc(1, sizeof *planned);
    enum status status = planned ? STATUS_OK : STATUS_NO_MEMORY;
    if (status)
        return status;
    planned->options = options;
    if (!(status = cluster_file_read(options->cluster, &planned->cluster)) &&
        !(status = read_model(planned)) && !(status = ask_workers(planned)) &&
        !(status = measure_here(planned))) {
        list_workers(planned);
        status = plan_and_print(planned);
    }
    planning_destroy(planned->planning);
    cluster_destroy(planned->connections);
    cluster_file_cleanup(&planned->cluster);
    free(planned->outline);
    free(planned);
    return status;
}

int command_plan(int argc, char **argv) {
    struct plan_options options;
    struct option_table table;
    struct config *config = config_create();
    if (!config)
        return status_exit_code(STATUS_NO_MEMORY);
    options_describe_plan(&options, &table);
    bool done;
    enum status status = config_parse_arguments(config, &table.command, argc, argv, &done);
    if (status == STATUS_OK && !done)
        status = options_check_plan(&options);
    if (status == STATUS_OK && !done) {
        options_set_cache(config, &options.cache_directory);
        status = run_plan(&options);
    }
    config_destroy(config);
    return status_exit_code(status);
}
