/* Tensors are told apart by name, as the published checkpoints name them: the draft module is the
 * layer behind the last one, routed experts stand under "mlp.experts.". Routed experts are counted
 * as they lie in a worker's memory, so that the figures can be compared with --memory. */
#include "coordinator/inspection.h"

#include <stdlib.h>
#include <string.h>

#include "common/weights/shard.h"

/* The layer in "model.layers.17.…"; UINT32_MAX for tensors outside of layers. */
static uint32_t layer_of(const char *name) {
    static const char PREFIX[] = "model.layers.";
    if (strncmp(name, PREFIX, sizeof PREFIX - 1) != 0)
        return UINT32_MAX;
    char *end;
    unsigned long layer = strtoul(name + sizeof PREFIX - 1, &end, 10);
    return *end == '.' && layer < LAYERS_MAX ? (uint32_t)layer : UINT32_MAX;
}

static void count_tensor(struct inspection *inspection, const struct tensor *tensor) {
    uint32_t layer = layer_of(tensor->name);
    size_t format =
        tensor->format < WEIGHT_FORMAT_COUNT ? (size_t)tensor->format : WEIGHT_FORMAT_COUNT;
    inspection->formats[format].tensors++;
    inspection->formats[format].bytes += tensor->bytes;
    if (layer != UINT32_MAX && layer >= inspection->shape.layers)
        inspection->draft_bytes += tensor->bytes;
    else if (layer == UINT32_MAX || !strstr(tensor->name, ".mlp.experts."))
        inspection->coordinator_bytes += tensor->bytes;
}

static enum status count_experts(struct inspection *inspection, const struct weights *weights) {
    const struct model_shape *shape = &inspection->shape;
    for (uint32_t layer = 0; layer < shape->layers; layer++) {
        if (!shape->is_expert_layer[layer]) {
            inspection->dense_layers++;
            continue;
        }
        struct shard_layout layout;
        enum status status = shard_find_layout(weights, layer, shape->experts, shape->hidden,
                                               shape->expert_inner, &layout);
        if (status != STATUS_OK)
            return status;
        uint64_t bytes =
            shard_bytes(&layout, &(struct shard){.layer = layer, .end = shape->expert_inner});
        inspection->expert_layers++;
        inspection->routed_bytes += bytes * shape->experts;
        if (bytes > inspection->expert_bytes)
            inspection->expert_bytes = bytes;
    }
    return STATUS_OK;
}

enum status inspection_read(const char *path, struct inspection *out) {
    struct inspection inspection = {.expert_layers = 0};
    struct weights *weights;
    enum status status = model_shape_read(path, &inspection.shape);
    if (status != STATUS_OK)
        return status;
    status = weights_open(path, &weights);
    if (status != STATUS_OK)
        return status;
    for (size_t i = 0; i < weights_count(weights); i++)
        count_tensor(&inspection, weights_at(weights, i));
    status = count_experts(&inspection, weights);
    weights_close(weights);
    if (status == STATUS_OK)
        *out = inspection;
    return status;
}
