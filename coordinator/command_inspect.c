/* The same inspection, printed for people or as JSON. */
#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "common/log.h"
#include "coordinator/command.h"
#include "coordinator/inspection.h"
#include "coordinator/options.h"

static const char *attention_name(enum attention_kind kind) {
    return kind == ATTENTION_LATENT ? "latent" : "multi-head";
}

static const char *group_rule_name(enum group_rule rule) {
    static const char *const NAMES[] = {
        [GROUP_NONE] = "all experts compete",
        [GROUP_BEST] = "groups by their best expert",
        [GROUP_TWO_BEST] = "groups by their two best experts",
    };
    return NAMES[rule];
}

static const char *format_name(size_t format) {
    return format < WEIGHT_FORMAT_COUNT ? weight_format_name((enum weight_format)format) : "other";
}

static void print_attention(const struct model_shape *shape) {
    if (shape->attention == ATTENTION_MULTI_HEAD)
        printf("attention     multi-head, %u heads of %u, %u for keys and values\n", shape->heads,
               shape->head_dim, shape->kv_heads);
    else if (shape->q_rank)
        printf("attention     latent, %u heads of %u + %u, values %u, rank %u (queries %u)\n",
               shape->heads, shape->nope_dim, shape->rope_dim, shape->v_dim, shape->kv_rank,
               shape->q_rank);
    else
        printf("attention     latent, %u heads of %u + %u, values %u, rank %u\n", shape->heads,
               shape->nope_dim, shape->rope_dim, shape->v_dim, shape->kv_rank);
}

static void print_architecture(const struct inspection *inspection) {
    const struct model_shape *shape = &inspection->shape;
    printf("family        %s\n", family_name(shape->family));
    printf("layers        %u (%u dense, %u with experts)\n", shape->layers,
           inspection->dense_layers, inspection->expert_layers);
    printf("hidden        %u\n", shape->hidden);
    print_attention(shape);
    printf("experts       %u routed of width %u, %u for each token, %u shared\n", shape->experts,
           shape->expert_inner, shape->experts_per_token, shape->shared_experts);
    if (shape->group_rule == GROUP_NONE)
        printf("groups        none, all experts compete\n");
    else
        printf("groups        %u, of which %u for each token (%s)\n", shape->groups,
               shape->groups_per_token, group_rule_name(shape->group_rule));
    printf("dense width   %u\n", shape->dense_inner);
    printf("vocabulary    %u%s\n", shape->vocabulary,
           shape->tied_head ? ", the head is the embedding" : "");
    printf("context       %u positions%s\n", shape->context, shape->rope.yarn ? ", YaRN" : "");
    printf("draft module  %s\n", shape->draft_layers ? "yes" : "no");
}

static void print_memory(const struct inspection *inspection) {
    const struct model_shape *shape = &inspection->shape;
    char text[CONFIG_SIZE_TEXT];
    printf("\nmemory\n");
    printf("  coordinator     %12s\n", config_format_size(inspection->coordinator_bytes, text));
    printf("  routed experts  %12s  (%llu experts)\n",
           config_format_size(inspection->routed_bytes, text),
           (unsigned long long)inspection->expert_layers * shape->experts);
    printf("  one expert      %12s\n", config_format_size(inspection->expert_bytes, text));
    if (shape->draft_layers)
        printf("  draft module    %12s\n", config_format_size(inspection->draft_bytes, text));
    printf("\nformats\n");
    for (size_t f = 0; f <= WEIGHT_FORMAT_COUNT; f++)
        if (inspection->formats[f].tensors)
            printf("  %-14s  %12s  in %zu tensors\n", format_name(f),
                   config_format_size(inspection->formats[f].bytes, text),
                   inspection->formats[f].tensors);
}

static json_t *attention_to_json(const struct model_shape *shape) {
    if (shape->attention == ATTENTION_MULTI_HEAD)
        return json_pack("{s:s, s:i, s:i, s:i}", "kind", attention_name(shape->attention), "heads",
                         (int)shape->heads, "kv_heads", (int)shape->kv_heads, "head_dim",
                         (int)shape->head_dim);
    return json_pack(
        "{s:s, s:i, s:i, s:i, s:i, s:i, s:i}", "kind", attention_name(shape->attention), "heads",
        (int)shape->heads, "q_rank", (int)shape->q_rank, "kv_rank", (int)shape->kv_rank, "nope_dim",
        (int)shape->nope_dim, "rope_dim", (int)shape->rope_dim, "v_dim", (int)shape->v_dim);
}

static json_t *experts_to_json(const struct inspection *inspection) {
    const struct model_shape *shape = &inspection->shape;
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "layers",
                     (int)inspection->expert_layers, "routed", (int)shape->experts, "shared",
                     (int)shape->shared_experts, "per_token", (int)shape->experts_per_token,
                     "groups", (int)shape->groups, "groups_per_token", (int)shape->groups_per_token,
                     "inner", (int)shape->expert_inner);
}

static json_t *formats_to_json(const struct inspection *inspection) {
    json_t *formats = json_array();
    for (size_t f = 0; f <= WEIGHT_FORMAT_COUNT; f++)
        if (inspection->formats[f].tensors)
            json_array_append_new(formats,
                                  json_pack("{s:s, s:I, s:I}", "format", format_name(f), "tensors",
                                            (json_int_t)inspection->formats[f].tensors, "bytes",
                                            (json_int_t)inspection->formats[f].bytes));
    return formats;
}

static enum status print_json(const struct inspection *inspection) {
    const struct model_shape *shape = &inspection->shape;
    json_t *memory = json_pack("{s:I, s:I, s:I, s:I}", "coordinator_bytes",
                               (json_int_t)inspection->coordinator_bytes, "routed_experts_bytes",
                               (json_int_t)inspection->routed_bytes, "one_expert_bytes",
                               (json_int_t)inspection->expert_bytes, "draft_module_bytes",
                               (json_int_t)inspection->draft_bytes);
    json_t *object =
        json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:o, s:o, s:o, s:o}", "family",
                  family_name(shape->family), "layers", (int)shape->layers, "dense_layers",
                  (int)inspection->dense_layers, "draft_layers", (int)shape->draft_layers, "hidden",
                  (int)shape->hidden, "dense_inner", (int)shape->dense_inner, "vocabulary",
                  (int)shape->vocabulary, "context", (int)shape->context, "attention",
                  attention_to_json(shape), "experts", experts_to_json(inspection), "memory",
                  memory, "formats", formats_to_json(inspection));
    if (!object)
        return STATUS_NO_MEMORY;
    json_dumpf(object, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(object);
    return STATUS_OK;
}

static enum status inspect(const struct inspect_options *options) {
    struct inspection inspection;
    enum status status = inspection_read(options->path, &inspection);
    if (status == STATUS_OK && options->json)
        status = print_json(&inspection);
    else if (status == STATUS_OK) {
        print_architecture(&inspection);
        print_memory(&inspection);
    }
    if (status == STATUS_OK && (fflush(stdout) || ferror(stdout))) {
        log_error("cannot write to standard output: %s", strerror(errno));
        status = STATUS_IO;
    }
    return status;
}

int command_inspect(int argc, char **argv) {
    struct inspect_options options;
    struct option_table table;
    struct config *config = config_create();
    if (!config)
        return status_exit_code(STATUS_NO_MEMORY);
    options_describe_inspect(&options, &table);
    bool done;
    enum status status = config_parse_arguments(config, &table.command, argc, argv, &done);
    if (status == STATUS_OK && !done)
        status = options_check_inspect(&options);
    if (status == STATUS_OK && !done)
        status = inspect(&options);
    config_destroy(config);
    return status_exit_code(status);
}
