/* Nothing is loaded: the model's headers or its config.json, and figures of machines, are all that
 * a plan needs. Machines that the file only names are asked; those that it describes need not
 * exist. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "common/log.h"
#include "coordinator/cluster_file.h"
#include "coordinator/command.h"
#include "coordinator/options.h"
#include "coordinator/plan_report.h"
#include "coordinator/planning.h"

struct planned {
    const struct plan_options *options;
    struct model_shape shape;
    struct outline *outline;
    struct shard_layout layouts[LAYERS_MAX];
    struct cluster_file cluster;
    struct planning *planning;
    const char *names[HOLDERS_MAX];
    char unnamed[WORKERS_MAX][16];
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
    for (uint32_t layer = 0; status == STATUS_OK && layer < planned->shape.layers; layer++)
        planned->layouts[layer] = planned->outline->layers[layer].routed;
    return status;
}

static enum status check_machines(const struct planned *planned) {
    const struct cluster_file *cluster = &planned->cluster;
    for (uint32_t w = 0; w < cluster->count; w++)
        if (!cluster->workers[w].described) {
            log_error("%s: %s: give memory, read_gb_per_s and gops", planned->options->cluster,
                      cluster->workers[w].address);
            return STATUS_UNSUPPORTED;
        }
    if (!cluster->coordinator.described) {
        log_error("%s: give the coordinator's memory, read_gb_per_s and gops",
                  planned->options->cluster);
        return STATUS_UNSUPPORTED;
    }
    return STATUS_OK;
}

static void name_machines(struct planned *planned) {
    const struct cluster_file *cluster = &planned->cluster;
    for (uint32_t w = 0; w < cluster->count; w++) {
        const struct cluster_machine *worker = &cluster->workers[w];
        snprintf(planned->unnamed[w], sizeof planned->unnamed[w], "worker %u", w + 1);
        planned->names[w] = worker->name      ? worker->name
                            : worker->address ? worker->address
                                              : planned->unnamed[w];
        planned->memory_bytes[w] = worker->figures.memory_bytes;
    }
    planned->names[cluster->count] =
        cluster->coordinator.name ? cluster->coordinator.name : "coordinator";
}

static enum weight_format cache_format(const struct planned *planned) {
    for (uint32_t layer = 0; layer < planned->shape.layers; layer++)
        if (planned->shape.is_expert_layer[layer] &&
            weight_is_blocked(planned->layouts[layer].gate))
            return WEIGHT_F16;
    return WEIGHT_F32;
}

static enum status make_plan(struct planned *planned, struct planning_input *input) {
    const struct plan_options *options = planned->options;
    const struct cluster_file *cluster = &planned->cluster;
    struct planning_worker workers[WORKERS_MAX];
    for (uint32_t w = 0; w < cluster->count; w++)
        workers[w] =
            (struct planning_worker){cluster->workers[w].figures.memory_bytes,
                                     &cluster->workers[w].figures, &cluster->workers[w].link};
    *input = (struct planning_input){
        .shape = &planned->shape,
        .outline = planned->outline,
        .layouts = planned->layouts,
        .layers = planned->shape.layers,
        .workers = workers,
        .worker_count = cluster->count,
        .coordinator = &cluster->coordinator.figures,
        .link_bytes_per_s = cluster->coordinator.link.to_bytes_per_s,
        .kv_format = cache_format(planned),
        .popularity = options->popularity,
        .kind = planning_kind(options->placement),
        .objective = planning_objective(options->optimize),
        .replicas = planning_replicas(options->replicas),
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
        .cache_bytes = planning_cache_bytes(input, options->context),
        .context = options->context,
        .decode = input->decode,
        .prefill = input->prefill,
    };
    if (options->json) {
        json_t *object = plan_report_to_json(&report);
        if (!object)
            return STATUS_NO_MEMORY;
        json_dumpf(object, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(object);
    } else {
        plan_report_print(&report, stdout);
    }
    if (fflush(stdout) || ferror(stdout)) {
        log_error("cannot write to standard output: %s", strerror(errno));
        return STATUS_IO;
    }
    return STATUS_OK;
}

static enum status run_plan(const struct plan_options *options) {
    struct planned *planned = calloc(1, sizeof *planned);
    struct planning_input input;
    enum status status = planned ? STATUS_OK : STATUS_NO_MEMORY;
    if (status)
        return status;
    planned->options = options;
    if (!(status = cluster_file_read(options->cluster, &planned->cluster)) &&
        !(status = check_machines(planned)) && !(status = read_model(planned))) {
        name_machines(planned);
        if (!(status = make_plan(planned, &input)))
            status = print_plan(planned, &input);
    }
    planning_destroy(planned->planning);
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
    if (status == STATUS_OK && !done)
        status = run_plan(&options);
    config_destroy(config);
    return status_exit_code(status);
}
