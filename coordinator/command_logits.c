/* Ids are read before the model is opened: their number sets the size of the KV cache, and a
 * mistake in them is found at once. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "common/log.h"
#include "coordinator/command.h"
#include "coordinator/evaluate.h"
#include "coordinator/npy.h"
#include "coordinator/options.h"
#include "coordinator/runtime.h"

struct evaluation {
    uint32_t *ids; /* (count) */
    size_t count;
    uint32_t vocabulary;
    float *logits;       /* (count, vocabulary) */
    float *draft_logits; /* (count - 1, vocabulary), or NULL */
    struct route_log routes;
};

static enum status read_ids(const struct logits_options *options, struct evaluation *evaluation) {
    struct model_shape shape;
    enum status status = model_shape_read(options->model.path, &shape);
    if (status != STATUS_OK)
        return status;
    if (options->mtp && shape.draft_layers == 0) {
        log_error("%s has no draft module; leave out --mtp", options->model.path);
        return STATUS_UNSUPPORTED;
    }
    evaluation->vocabulary = shape.vocabulary;
    status = json_read_ids(options->ids, shape.vocabulary, &evaluation->ids, &evaluation->count);
    if (status != STATUS_OK)
        return status;
    size_t least = options->mtp ? 2 : 1;
    if (evaluation->count < least || evaluation->count > CONTEXT_MAX) {
        log_error("%s has %zu ids; it needs %zu to %d", options->ids, evaluation->count, least,
                  CONTEXT_MAX);
        return STATUS_USAGE;
    }
    return STATUS_OK;
}

static enum status take_memory(const struct logits_options *options,
                               struct evaluation *evaluation) {
    size_t rows = evaluation->count, columns = evaluation->vocabulary;
    evaluation->logits = calloc(rows * columns, sizeof *evaluation->logits);
    if (options->mtp)
        evaluation->draft_logits = calloc((rows - 1) * columns, sizeof *evaluation->draft_logits);
    if (evaluation->logits && (evaluation->draft_logits || !options->mtp))
        return STATUS_OK;
    log_error("no memory for the logits of %zu ids, %zu bytes for each; give fewer ids", rows,
              columns * sizeof *evaluation->logits);
    return STATUS_NO_MEMORY;
}

/* rows of k values each, as JSON lists of lists. */
static json_t *layer_to_json(const struct route_log *routes, uint32_t layer) {
    json_t *ids = json_array(), *weights = json_array();
    for (uint32_t row = 0; row < routes->rows; row++) {
        json_t *row_ids = json_array(), *row_weights = json_array();
        size_t first = ((size_t)layer * routes->rows + row) * routes->k;
        for (size_t i = first; i < first + routes->k; i++) {
            json_array_append_new(row_ids, json_integer(routes->ids[i]));
            json_array_append_new(row_weights, json_real((double)routes->weights[i]));
        }
        json_array_append_new(ids, row_ids);
        json_array_append_new(weights, row_weights);
    }
    return json_pack("{s:I, s:o, s:o}", "layer", (json_int_t)routes->layer_index[layer], "ids", ids,
                     "weights", weights);
}

/* One object at a time, because all of them together may be larger than the model's logits. */
static enum status write_routes(const char *path, const struct route_log *routes) {
    FILE *file = fopen(path, "we");
    if (!file) {
        log_error("cannot create %s: %s; give a file in a folder you can write to", path,
                  strerror(errno));
        return STATUS_IO;
    }
    bool written = true;
    for (uint32_t layer = 0; layer < routes->layers && written; layer++) {
        json_t *object = layer_to_json(routes, layer);
        fputs(layer ? ",\n " : "[", file);
        written = object && !json_dumpf(object, file, JSON_COMPACT | JSON_REAL_PRECISION(9));
        json_decref(object);
    }
    fputs(routes->layers ? "]\n" : "[]\n", file);
    written = written && !ferror(file);
    if (fclose(file) || !written) {
        log_error("cannot write %s: %s", path, strerror(errno));
        return STATUS_IO;
    }
    return STATUS_OK;
}

static enum status write_results(const struct logits_options *options,
                                 const struct evaluation *evaluation) {
    enum status status = npy_write_float32(options->out, evaluation->logits, evaluation->count,
                                           evaluation->vocabulary);
    if (status == STATUS_OK && options->routes)
        status = write_routes(options->routes, &evaluation->routes);
    if (status == STATUS_OK && options->mtp)
        status = npy_write_float32(options->mtp, evaluation->draft_logits, evaluation->count - 1,
                                   evaluation->vocabulary);
    return status;
}

static enum status evaluate(const struct logits_options *options, struct evaluation *evaluation) {
    struct runtime *runtime;
    enum status status;
    if ((status = read_ids(options, evaluation)) || (status = take_memory(options, evaluation)))
        return status;
    struct runtime_options runtime_options = options_for_runtime(&options->model);
    runtime_options.with_draft = options->mtp != NULL;
    if (runtime_options.context < evaluation->count)
        runtime_options.context = (uint32_t)evaluation->count;
    status = runtime_open(&runtime_options, &runtime);
    if (status != STATUS_OK)
        return status;
    status = evaluate_logits(
        runtime_engine(runtime), evaluation->ids, evaluation->count, options->model.batch_tokens,
        evaluation->logits, options->routes ? &evaluation->routes : NULL, evaluation->draft_logits);
    runtime_close(runtime);
    return status == STATUS_OK ? write_results(options, evaluation) : status;
}

int command_logits(int argc, char **argv) {
    struct logits_options options;
    struct option_table table;
    struct config *config = config_create();
    if (!config)
        return status_exit_code(STATUS_NO_MEMORY);
    options_describe_logits(&options, &table);
    bool done;
    enum status status = config_parse_arguments(config, &table.command, argc, argv, &done);
    if (status == STATUS_OK && !done)
        status = options_check_logits(&options);
    if (status == STATUS_OK && !done) {
        options_set_log(&options.model);
        options_set_cache(config, &options.model.cache_directory);
        struct evaluation evaluation = {.count = 0};
        status = evaluate(&options, &evaluation);
        route_log_cleanup(&evaluation.routes);
        free(evaluation.draft_logits);
        free(evaluation.logits);
        free(evaluation.ids);
    }
    config_destroy(config);
    return status_exit_code(status);
}
