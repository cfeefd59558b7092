/* Where a model's weights are and in which formats, without loading any: what each layer's
 * attention, router and local feed-forward take, the layout of its routed experts, and what the
 * coordinator keeps of it all. From the headers of a checkpoint, or from config.json and a type
 * that the weights are assumed to have, for models that are not there yet. Used for planning and
 * for counting what a token costs. */
#pragma once

#include <stdint.h>

#include "common/status.h"
#include "common/weights/shard.h"
#include "common/weights/weights.h"
#include "coordinator/recipe.h"
#include "coordinator/shape.h"

/* What --type of `skein plan` takes. */
#define OUTLINE_TYPE_CHOICES "fp8|" RECIPE_CHOICES

/* Matrices that every row of activations meets, summed up by format. A row costs one multiplication
 * for each value. */
struct matrix_sum {
    uint64_t bytes[WEIGHT_FORMAT_COUNT], values[WEIGHT_FORMAT_COUNT];
};

struct outline_layer {
    struct matrix_sum attention, router;
    struct matrix_sum local_ffn; /* a dense layer's feed-forward, or all shared experts */
    struct shard_layout routed;  /* of expert layers */
    struct shard_layout ffn;     /* of that feed-forward, as an expert; inner 0: there is none */
};

struct outline {
    struct outline_layer layers[LAYERS_MAX]; /* (shape.layers, then the draft module's) */
    struct matrix_sum head;
    struct shard_layout head_rows; /* of a head that is not the embedding, else inner is 0 */
    uint64_t own_bytes; /* memory for the coordinator's weights, without the draft module */
};

/* From the headers of an open checkpoint. The caller frees *out. Errors: those of
 * shard_find_layout; STATUS_NO_MEMORY. */
enum status outline_read(const struct weights *weights, const struct model_shape *shape,
                         struct outline **out);

/* As if the model were there with weights of `type`, one of OUTLINE_TYPE_CHOICES. The caller frees
 * *out. Errors: STATUS_NO_MEMORY. */
enum status outline_assume(const struct model_shape *shape, const char *type, struct outline **out);

/* The layouts of the first `layers` layers and of the head, SHARD_LAYOUTS(layers), into `out`. */
void outline_layouts(const struct outline *outline, uint32_t layers, struct shard_layout *out);

/* The formats of all matrices that are multiplied: bit f stands for enum weight_format f. */
uint32_t outline_formats(const struct outline *outline, const struct model_shape *shape);

/* Those of the routed experts in the first `layers` layers. */
uint32_t outline_expert_formats(const struct outline *outline, const struct model_shape *shape,
                                uint32_t layers);

uint64_t matrix_sum_bytes(const struct matrix_sum *sum);
