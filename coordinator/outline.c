/* Both sources end in add(): a matrix of so many values in this format belongs to that part of the
 * model. A checkpoint's tensors are told apart by their names in Hugging Face checkpoints; for a
 * model that is not there, the list of matrices follows from its shape. */
#include "coordinator/outline.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

uint64_t matrix_sum_bytes(const struct matrix_sum *sum) {
    uint64_t bytes = 0;
    for (size_t f = 0; f < WEIGHT_FORMAT_COUNT; f++)
        bytes += sum->bytes[f];
    return bytes;
}

static uint32_t formats_of(const struct matrix_sum *sum) {
    uint32_t formats = 0;
    for (size_t f = 0; f < WEIGHT_FORMAT_COUNT; f++)
        formats |= sum->values[f] ? 1u << f : 0;
    return formats;
}

uint32_t outline_expert_formats(const struct outline *outline, const struct model_shape *shape,
                                uint32_t layers) {
    uint32_t formats = 0;
    for (uint32_t l = 0; l < layers; l++) {
        const struct shard_layout *routed = &outline->layers[l].routed;
        if (shape->is_expert_layer[l])
            formats |= 1u << routed->gate | 1u << routed->up | 1u << routed->down;
    }
    return formats;
}

uint32_t outline_formats(const struct outline *outline, const struct model_shape *shape) {
    uint32_t formats =
        formats_of(&outline->head) | outline_expert_formats(outline, shape, shape->layers);
    for (uint32_t l = 0; l < shape->layers; l++) {
        const struct outline_layer *layer = &outline->layers[l];
        formats |= formats_of(&layer->attention) | formats_of(&layer->router) |
                   formats_of(&layer->local_ffn);
    }
    return formats;
}

void outline_layouts(const struct outline *outline, uint32_t layers, struct shard_layout *out) {
    for (uint32_t l = 0; l < layers; l++) {
        out[l] = outline->layers[l].routed;
        out[layers + l] = outline->layers[l].ffn;
    }
    out[2 * layers] = outline->head_rows;
}

static void add(struct matrix_sum *sum, enum weight_format format, uint64_t values,
                uint64_t bytes) {
    if (format >= WEIGHT_FORMAT_COUNT)
        return;
    sum->values[format] += values;
    sum->bytes[format] += bytes;
}

/* ---- From headers. */

/* The part of a layer that the tensor `part`, "mlp.gate.weight" for one, belongs to; NULL for
 * vectors, routed experts and what only the draft module has. */
static struct matrix_sum *part_of(struct outline_layer *layer, const char *part) {
    static const char ATTENTION[] = "self_attn.", SHARED[] = "mlp.shared_experts.";
    static const char ROUTER[] = "mlp.gate.", ROUTED[] = "mlp.experts.", DENSE[] = "mlp.";
    if (strncmp(part, ATTENTION, sizeof ATTENTION - 1) == 0)
        return &layer->attention;
    if (strncmp(part, SHARED, sizeof SHARED - 1) == 0)
        return &layer->local_ffn;
    if (strncmp(part, ROUTER, sizeof ROUTER - 1) == 0)
        return &layer->router;
    if (strncmp(part, ROUTED, sizeof ROUTED - 1) == 0)
        return NULL;
    return strncmp(part, DENSE, sizeof DENSE - 1) == 0 ? &layer->local_ffn : NULL;
}

static uint64_t values_of(const struct tensor *tensor) {
    return tensor->shape[0] * tensor->shape[1] * tensor->shape[2] * tensor->shape[3];
}

/* The scales of an FP8 matrix lie in its memory and are counted there. */
static bool is_scale(const char *name) {
    static const char SUFFIX[] = "_scale_inv";
    size_t length = strlen(name);
    return length >= sizeof SUFFIX - 1 && strcmp(name + length - (sizeof SUFFIX - 1), SUFFIX) == 0;
}

/* What a matrix takes in memory; a stack of matrices is one with all their rows. */
static uint64_t held_bytes(const struct tensor *tensor, enum weight_format format) {
    uint64_t columns = tensor->shape[tensor->dimensions - 1];
    uint64_t rows = columns ? values_of(tensor) / columns : 0;
    if (rows > UINT32_MAX || columns > UINT32_MAX || format >= WEIGHT_FORMAT_COUNT)
        return tensor->bytes;
    return matrix_bytes(format, (uint32_t)rows, (uint32_t)columns);
}

/* Returns the bytes that the coordinator holds of it. */
static uint64_t add_layer_tensor(struct outline_layer *layer, const char *part,
                                 const struct tensor *tensor) {
    struct matrix_sum *sum = part_of(layer, part);
    if (!sum || tensor->dimensions < 2 || is_scale(tensor->name))
        return 0;
    /* The router is held as f32 whatever the file has. */
    enum weight_format format = sum == &layer->router ? WEIGHT_F32 : tensor->format;
    uint64_t bytes = held_bytes(tensor, format);
    add(sum, format, values_of(tensor), bytes);
    return bytes;
}

static void add_tensor(struct outline *outline, const struct model_shape *shape,
                       const struct tensor *tensor) {
    static const char LAYERS[] = "model.layers.";
    const char *head = shape->tied_head ? "model.embed_tokens.weight" : "lm_head.weight";
    if (strncmp(tensor->name, LAYERS, sizeof LAYERS - 1) != 0) {
        uint64_t bytes = tensor->bytes;
        if (strcmp(tensor->name, head) == 0 && tensor->dimensions == 2) {
            bytes = held_bytes(tensor, tensor->format);
            add(&outline->head, tensor->format, values_of(tensor), bytes);
        }
        outline->own_bytes += bytes;
        return;
    }
    char *end;
    unsigned long layer = strtoul(tensor->name + sizeof LAYERS - 1, &end, 10);
    if (*end != '.' || layer >= LAYERS_MAX)
        return;
    uint64_t bytes = add_layer_tensor(&outline->layers[layer], end + 1, tensor);
    if (layer < shape->layers)
        outline->own_bytes += bytes;
}

static uint32_t layers_with_draft(const struct model_shape *shape) {
    return shape->layers + (shape->draft_layers ? 1 : 0);
}

static enum status find_layouts(const struct weights *weights, const struct model_shape *shape,
                                uint32_t layer, struct outline_layer *out) {
    uint32_t hidden = shape->hidden, inner = shape_ffn_inner(shape, layer);
    enum status status = STATUS_OK;
    if (shape->is_expert_layer[layer])
        status = shard_find_layout(weights, layer, shape->experts, hidden, shape->expert_inner,
                                   &out->routed);
    if (!status && inner)
        status = shard_find_ffn_layout(weights, layer, hidden, inner, &out->ffn);
    return status;
}

enum status outline_read(const struct weights *weights, const struct model_shape *shape,
                         struct outline **out) {
    struct outline *outline = calloc(1, sizeof *outline);
    if (!outline)
        return STATUS_NO_MEMORY;
    for (size_t i = 0; i < weights_count(weights); i++)
        add_tensor(outline, shape, weights_at(weights, i));
    for (uint32_t layer = 0; layer < layers_with_draft(shape); layer++) {
        /* A checkpoint may come without its draft module. */
        if (layer == shape->layers && matrix_sum_bytes(&outline->layers[layer].attention) == 0)
            break;
        enum status status = find_layouts(weights, shape, layer, &outline->layers[layer]);
        if (status) {
            free(outline);
            return status;
        }
    }
    if (!shape->tied_head) {
        enum status status =
            shard_find_head_layout(weights, shape->hidden, shape->vocabulary, &outline->head_rows);
        if (status) {
            free(outline);
            return status;
        }
    }
    *out = outline;
    return STATUS_OK;
}

/* ---- From the shape. */

/* Published FP8 checkpoints keep embedding, head and router in BF16. */
static const struct recipe FP8 = {"fp8", 0, WEIGHT_FP8_E4M3, WEIGHT_FP8_E4M3, WEIGHT_BF16};

struct assumption {
    const struct model_shape *shape;
    const struct recipe *recipe;
    uint32_t layer; /* that matrices belong to */
};

/* `part` is the matrix's name in GGUF files, which recipes go by. */
static enum weight_format format_of(const struct assumption *assumption, const char *part,
                                    uint32_t columns) {
    const struct recipe_tensor tensor = {part, assumption->layer, assumption->shape->layers,
                                         2,    columns,           assumption->shape->tied_head};
    if (assumption->recipe == &FP8 && strcmp(part, "token_embd.weight") == 0)
        return FP8.head;
    return recipe_fitting(recipe_wanted(assumption->recipe, &tensor), columns);
}

static void assume(const struct assumption *assumption, const char *part, uint64_t rows,
                   uint64_t columns, struct matrix_sum *sum) {
    if (rows == 0 || columns == 0)
        return;
    enum weight_format format = format_of(assumption, part, (uint32_t)columns);
    add(sum, format, rows * columns, matrix_bytes(format, (uint32_t)rows, (uint32_t)columns));
}

static void assume_attention(const struct assumption *assumption, struct matrix_sum *sum) {
    const struct model_shape *shape = assumption->shape;
    uint64_t hidden = shape->hidden, heads = shape->heads;
    if (shape->attention == ATTENTION_MULTI_HEAD) {
        uint64_t dim = shape->head_dim;
        assume(assumption, "attn_q.weight", heads * dim, hidden, sum);
        assume(assumption, "attn_k.weight", shape->kv_heads * dim, hidden, sum);
        assume(assumption, "attn_v.weight", shape->kv_heads * dim, hidden, sum);
        assume(assumption, "attn_output.weight", hidden, heads * dim, sum);
        return;
    }
    uint64_t query = heads * (shape->nope_dim + shape->rope_dim);
    if (shape->q_rank) {
        assume(assumption, "attn_q_a.weight", shape->q_rank, hidden, sum);
        assume(assumption, "attn_q_b.weight", query, shape->q_rank, sum);
    } else {
        assume(assumption, "attn_q.weight", query, hidden, sum);
    }
    assume(assumption, "attn_kv_a_mqa.weight", shape->kv_rank + shape->rope_dim, hidden, sum);
    assume(assumption, "attn_k_b.weight", heads * shape->kv_rank, shape->nope_dim, sum);
    assume(assumption, "attn_v_b.weight", heads * shape->v_dim, shape->kv_rank, sum);
    assume(assumption, "attn_output.weight", hidden, heads * shape->v_dim, sum);
}

static void assume_layer(const struct assumption *assumption, struct outline_layer *layer) {
    const struct model_shape *shape = assumption->shape;
    uint32_t hidden = shape->hidden, inner = shape->expert_inner;
    assume_attention(assumption, &layer->attention);
    if (!shape->is_expert_layer[assumption->layer]) {
        assume(assumption, "ffn_gate.weight", shape->dense_inner, hidden, &layer->local_ffn);
        assume(assumption, "ffn_up.weight", shape->dense_inner, hidden, &layer->local_ffn);
        assume(assumption, "ffn_down.weight", hidden, shape->dense_inner, &layer->local_ffn);
        layer->ffn = (struct shard_layout){
            .hidden = hidden,
            .inner = shape->dense_inner,
            .gate = format_of(assumption, "ffn_gate.weight", hidden),
            .up = format_of(assumption, "ffn_up.weight", hidden),
            .down = format_of(assumption, "ffn_down.weight", shape->dense_inner),
        };
        return;
    }
    uint32_t shared = shape_ffn_inner(shape, assumption->layer);
    if (shared)
        layer->ffn = (struct shard_layout){
            .hidden = hidden,
            .inner = shared,
            .gate = format_of(assumption, "ffn_gate_shexp.weight", hidden),
            .up = format_of(assumption, "ffn_up_shexp.weight", hidden),
            .down = format_of(assumption, "ffn_down_shexp.weight", shared),
        };
    assume(assumption, "ffn_gate_inp.weight", shape->experts, hidden, &layer->router);
    assume(assumption, "ffn_gate_shexp.weight", shared, hidden, &layer->local_ffn);
    assume(assumption, "ffn_up_shexp.weight", shared, hidden, &layer->local_ffn);
    assume(assumption, "ffn_down_shexp.weight", hidden, shared, &layer->local_ffn);
    layer->routed = (struct shard_layout){
        .hidden = hidden,
        .inner = inner,
        .gate = format_of(assumption, "ffn_gate_exps.weight", hidden),
        .up = format_of(assumption, "ffn_up_exps.weight", hidden),
        .down = format_of(assumption, "ffn_down_exps.weight", inner),
    };
}

static void assume_head(const struct assumption *assumption, struct outline *outline) {
    const struct model_shape *shape = assumption->shape;
    assume(assumption, "output.weight", shape->vocabulary, shape->hidden, &outline->head);
    outline->head_rows =
        (struct shard_layout){.hidden = shape->hidden,
                              .inner = shape->vocabulary,
                              .gate = format_of(assumption, "output.weight", shape->hidden)};
}

enum status outline_assume(const struct model_shape *shape, const char *type,
                           struct outline **out) {
    struct outline *outline = calloc(1, sizeof *outline);
    if (!outline)
        return STATUS_NO_MEMORY;
    struct assumption assumption = {shape, strcmp(type, "fp8") == 0 ? &FP8 : recipe_find(type), 0};
    for (; assumption.layer < layers_with_draft(shape); assumption.layer++) {
        struct outline_layer *layer = &outline->layers[assumption.layer];
        assume_layer(&assumption, layer);
        if (assumption.layer < shape->layers)
            outline->own_bytes += matrix_sum_bytes(&layer->attention) +
                                  matrix_sum_bytes(&layer->router) +
                                  matrix_sum_bytes(&layer->local_ffn);
    }
    struct matrix_sum embedding = {{0}, {0}};
    assumption.layer = UINT32_MAX;
    assume(&assumption, "token_embd.weight", shape->vocabulary, shape->hidden, &embedding);
    if (shape->tied_head)
        outline->head = embedding;
    else
        assume_head(&assumption, outline);
    outline->own_bytes +=
        matrix_sum_bytes(&embedding) + (shape->tied_head ? 0 : matrix_sum_bytes(&outline->head));
    *out = outline;
    return STATUS_OK;
}
