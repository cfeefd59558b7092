/* Every tensor of the checkpoint is looked up by name in the tables of gguf_names, all are sorted
 * into the file's order, and those of one stack then stand side by side. */
#include "coordinator/export_plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/weights/gguf_names.h"
#include "common/weights/gguf_types.h"

#define SCALE_SUFFIX "_scale_inv"

/* One tensor of the checkpoint with its place. */
struct candidate {
    struct gguf_place place;
    const struct tensor *tensor;
    enum export_kind kind;
};

struct planner {
    const struct weights *weights;
    const struct model_shape *shape;
    const struct recipe *recipe;
    struct candidate *candidates; /* (count) */
    size_t count;
    struct export_plan plan;
};

static bool from_gguf(const struct planner *planner) {
    return weights_metadata(planner->weights) != NULL;
}

static enum status refuse(const struct planner *planner, const char *name, const char *problem) {
    log_error("%s: tensor %s %s; the model is incomplete or of another kind, download it again",
              weights_path(planner->weights), name, problem);
    return STATUS_FORMAT;
}

/* ---- What there is, and where it belongs. */

/* The scales of an FP8 matrix are read with it. */
static bool is_scale(const struct weights *weights, const char *name) {
    size_t length = strlen(name), suffix = sizeof SCALE_SUFFIX - 1;
    char matrix[TENSOR_NAME_BYTES_MAX + 1];
    if (length <= suffix || length > TENSOR_NAME_BYTES_MAX ||
        strcmp(name + length - suffix, SCALE_SUFFIX) != 0)
        return false;
    snprintf(matrix, sizeof matrix, "%.*s", (int)(length - suffix), name);
    return weights_find(weights, matrix) != NULL;
}

/* Directories may hold what the model has twice: the draft module's copies of embedding and head,
 * and a head that is the embedding. */
static bool is_copy(const struct planner *planner, const char *part) {
    return strcmp(part, "nextn.embed_tokens.weight") == 0 ||
           strcmp(part, "nextn.shared_head_head.weight") == 0 ||
           (planner->shape->tied_head && strcmp(part, "output.weight") == 0);
}

static void add(struct planner *planner, const struct tensor *tensor, const char *name,
                enum export_kind kind) {
    struct candidate *candidate = &planner->candidates[planner->count];
    if (!gguf_find_place(name, &candidate->place))
        return;
    candidate->tensor = tensor;
    candidate->kind = kind;
    planner->count++;
}

/* Directories have kv_b whole; GGUF files have it in two parts. */
static void add_parts(struct planner *planner, const struct tensor *tensor, uint32_t layer) {
    char name[TENSOR_NAME_BYTES_MAX + 1];
    snprintf(name, sizeof name, "model.layers.%" PRIu32 ".self_attn.k_b_proj.weight", layer);
    add(planner, tensor, name, EXPORT_KEYS);
    snprintf(name, sizeof name, "model.layers.%" PRIu32 ".self_attn.v_b_proj.weight", layer);
    add(planner, tensor, name, EXPORT_VALUES);
}

/* A tensor that has no name in GGUF files keeps the one that it has in this GGUF file. */
static void add_unknown(struct planner *planner, const struct tensor *tensor) {
    struct candidate *candidate = &planner->candidates[planner->count++];
    *candidate = (struct candidate){.tensor = tensor, .kind = EXPORT_COPY};
    candidate->place.layer = candidate->place.order = UINT32_MAX - 1;
    snprintf(candidate->place.name, sizeof candidate->place.name, "%s", tensor->name);
}

static bool turns(const struct planner *planner, const char *part) {
    const struct model_shape *shape = planner->shape;
    return shape->attention == ATTENTION_MULTI_HEAD && !shape->rope_consecutive &&
           (strcmp(part, "attn_q.weight") == 0 || strcmp(part, "attn_k.weight") == 0);
}

static void consider(struct planner *planner, const struct tensor *tensor) {
    const struct model_shape *shape = planner->shape;
    struct gguf_place place;
    bool known = gguf_find_place(tensor->name, &place), whole = from_gguf(planner);
    if (is_scale(planner->weights, tensor->name))
        return;
    if (known && !whole && is_copy(planner, place.part))
        return;
    bool beyond =
        known && place.layer != GGUF_NO_LAYER && place.layer >= shape->layers + shape->draft_layers;
    if (!whole && (!known || beyond)) {
        planner->plan.skipped++;
        planner->plan.skipped_name = tensor->name;
    } else if (!known)
        add_unknown(planner, tensor);
    else if (!whole && strcmp(place.part, "attn_kv_b.weight") == 0)
        add_parts(planner, tensor, place.layer);
    else if (tensor->dimensions == 1)
        add(planner, tensor, tensor->name, EXPORT_VECTOR);
    else
        add(planner, tensor, tensor->name,
            turns(planner, place.part) ? EXPORT_TURNED : EXPORT_MATRICES);
}

static int compare(uint32_t a, uint32_t b) {
    return a < b ? -1 : a > b;
}

/* The whole model's tensors, then layer by layer, then what is not known. */
static int compare_candidates(const void *left, const void *right) {
    const struct candidate *a = left, *b = right;
    int order = compare(a->place.layer + 1, b->place.layer + 1);
    if (order == 0)
        order = compare(a->place.order, b->place.order);
    if (order == 0)
        order = compare(a->place.expert, b->place.expert);
    return order ? order : strcmp(a->tensor->name, b->tensor->name);
}

static bool same_stack(const struct candidate *a, const struct candidate *b) {
    return a->place.kind == GGUF_EXPERTS && a->place.layer == b->place.layer &&
           a->place.order == b->place.order;
}

/* ---- What each becomes. */

static void set_shape(struct export_tensor *out, uint32_t dimensions, uint64_t outer,
                      uint64_t middle, uint64_t inner) {
    const uint64_t shape[4] = {outer, middle, inner, 1};
    out->dimensions = dimensions;
    memcpy(out->shape, dimensions == 3 ? shape : shape + 1, 3 * sizeof *shape);
    out->shape[3] = 1;
}

/* Sets the shape of a tensor made of matrices, and the source's expected size. */
static enum status shape_matrices(const struct planner *planner, const struct candidate *first,
                                  struct export_tensor *out) {
    const struct model_shape *shape = planner->shape;
    const struct tensor *tensor = first->tensor;
    uint64_t rows = tensor->shape[0], columns = tensor->shape[1];
    uint32_t head_rows = shape->nope_dim + shape->v_dim;
    if (tensor->dimensions != 2 || !rows || !columns || rows > UINT32_MAX || columns > INNER_MAX)
        return refuse(planner, tensor->name, "is no matrix of a reasonable size");
    out->rows = (uint32_t)rows;
    out->columns = (uint32_t)columns;
    bool split = out->kind == EXPORT_KEYS || out->kind == EXPORT_VALUES;
    if (split && rows != (uint64_t)shape->heads * head_rows)
        return refuse(planner, tensor->name, "does not have a row for each value of each head");
    if (out->kind == EXPORT_TURNED && rows % shape->head_dim != 0)
        return refuse(planner, tensor->name, "does not have whole heads");
    if (first->place.kind == GGUF_HEADS && !split && rows % shape->heads != 0)
        return refuse(planner, tensor->name, "does not have as many rows for each head");
    if (out->kind == EXPORT_KEYS)
        set_shape(out, 3, shape->heads, columns, shape->nope_dim);
    else if (out->kind == EXPORT_VALUES)
        set_shape(out, 3, shape->heads, shape->v_dim, columns);
    else if (first->place.kind == GGUF_HEADS)
        set_shape(out, 3, shape->heads, rows / shape->heads, columns);
    else if (first->place.kind == GGUF_EXPERTS)
        set_shape(out, 3, out->sources, rows, columns);
    else
        set_shape(out, 2, 1, rows, columns);
    return STATUS_OK;
}

/* All matrices of a stack are there, once, of one size and of types that can be read. */
static enum status check_sources(const struct planner *planner, const struct candidate *first,
                                 const struct export_tensor *out) {
    if (first->place.kind == GGUF_EXPERTS && out->sources != planner->shape->experts)
        return refuse(planner, first->tensor->name, "and its like are not one for each expert");
    for (uint32_t i = 0; i < out->sources; i++) {
        const struct tensor *found;
        if (first->place.kind == GGUF_EXPERTS && first[i].place.expert != i)
            return refuse(planner, first[i].tensor->name,
                          "stands where another expert's is missing");
        enum status status = weights_find_matrix(planner->weights, first[i].tensor->name, out->rows,
                                                 out->columns, &found);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

static void choose_format(struct planner *planner, const struct candidate *first,
                          struct export_tensor *out) {
    const struct tensor *tensor = first->tensor;
    uint32_t columns = (uint32_t)out->shape[out->dimensions - 1];
    struct recipe_tensor asked = {.part = first->place.part,
                                  .layer = first->place.layer,
                                  .layers = planner->shape->layers,
                                  .dimensions = out->dimensions,
                                  .columns = columns,
                                  .tied_head = planner->shape->tied_head};
    enum weight_format wanted = recipe_wanted(planner->recipe, &asked);
    out->format = recipe_fitting(wanted, columns);
    if (out->format != wanted)
        planner->plan.fallbacks[out->format]++;
    if (weight_is_blocked(tensor->format) && weight_is_blocked(out->format) &&
        tensor->format != out->format)
        planner->plan.requantised++;
}

static enum status plan_copy(struct planner *planner, const struct candidate *candidate,
                             struct export_tensor *out) {
    const struct tensor *tensor = candidate->tensor;
    out->format = tensor->format;
    out->dimensions = tensor->dimensions;
    memcpy(out->shape, tensor->shape, sizeof out->shape);
    out->bytes = tensor->bytes;
    if (tensor->bytes && gguf_type_number_by_name(tensor->type, &out->type))
        return STATUS_OK;
    log_error("%s: tensor %s is of type %s, which is not known, so that it cannot be carried over",
              weights_path(planner->weights), tensor->name, tensor->type);
    return STATUS_UNSUPPORTED;
}

/* Plans the tensor that `count` candidates from `first` on are parts of. */
static enum status plan_tensor(struct planner *planner, const struct candidate *first,
                               size_t count) {
    struct export_plan *plan = &planner->plan;
    struct export_tensor *out = &plan->tensors[plan->count++];
    enum status status = STATUS_OK;
    snprintf(out->name, sizeof out->name, "%s", first->place.name);
    out->kind = first->kind;
    out->source = plan->source_count;
    out->sources = count;
    for (size_t i = 0; i < count; i++) {
        plan->sources[plan->source_count++] = first[i].tensor;
        plan->source_bytes += first[i].tensor->bytes;
    }
    if (out->kind == EXPORT_COPY)
        return plan_copy(planner, first, out);
    if (out->kind == EXPORT_VECTOR) {
        set_shape(out, 2, 1, first->tensor->shape[0], 1);
        out->dimensions = 1;
        if (!out->shape[0] || out->shape[0] > INNER_MAX)
            return refuse(planner, first->tensor->name, "is no vector of a reasonable size");
    } else if ((status = shape_matrices(planner, first, out)) ||
               (status = check_sources(planner, first, out)))
        return status;
    choose_format(planner, first, out);
    uint64_t columns = out->shape[out->dimensions - 1];
    uint64_t values = out->shape[0] * out->shape[1] * out->shape[2];
    plan->values += values;
    out->bytes = values / columns * weight_row_bytes(out->format, (uint32_t)columns);
    gguf_type_number(out->format, &out->type);
    return STATUS_OK;
}

/* Layers of one kind have the same tensors, so one that lacks any has fewer than another. */
static enum status check_layers(const struct planner *planner) {
    const struct model_shape *shape = planner->shape;
    uint32_t counts[LAYERS_MAX] = {0}, most[2] = {1, 1};
    for (size_t i = 0; i < planner->count; i++)
        if (planner->candidates[i].place.layer < LAYERS_MAX)
            counts[planner->candidates[i].place.layer]++;
    for (uint32_t layer = 0; layer < shape->layers; layer++) {
        uint32_t *kind = &most[shape->is_expert_layer[layer]];
        *kind = counts[layer] > *kind ? counts[layer] : *kind;
    }
    for (uint32_t layer = 0; layer < shape->layers; layer++) {
        uint32_t wanted = most[shape->is_expert_layer[layer]];
        if (counts[layer] == wanted)
            continue;
        log_error("%s: layer %" PRIu32 " has %" PRIu32 " tensors, others of its kind have %" PRIu32
                  "; the model is incomplete, download it again",
                  weights_path(planner->weights), layer, counts[layer], wanted);
        return STATUS_FORMAT;
    }
    return STATUS_OK;
}

static enum status plan_all(struct planner *planner) {
    for (size_t at = 0, count; at < planner->count; at += count) {
        const struct candidate *first = &planner->candidates[at];
        count = 1;
        while (at + count < planner->count && same_stack(first, first + count))
            count++;
        enum status status = plan_tensor(planner, first, count);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

enum status export_plan_make(const struct weights *weights, const struct model_shape *shape,
                             const struct recipe *recipe, struct export_plan *out) {
    struct planner planner = {.weights = weights, .shape = shape, .recipe = recipe};
    size_t count = weights_count(weights);
    /* Each kv_b may become two. */
    planner.candidates = calloc(count + LAYERS_MAX, sizeof *planner.candidates);
    planner.plan.tensors = calloc(count + LAYERS_MAX, sizeof *planner.plan.tensors);
    planner.plan.sources = calloc(count + LAYERS_MAX, sizeof *planner.plan.sources);
    enum status status = STATUS_OK;
    if (planner.candidates && planner.plan.tensors && planner.plan.sources) {
        for (size_t i = 0; i < count; i++)
            consider(&planner, weights_at(weights, i));
        qsort(planner.candidates, planner.count, sizeof *planner.candidates, compare_candidates);
        status = plan_all(&planner);
        if (status == STATUS_OK)
            status = check_layers(&planner);
    } else {
        log_error("no memory for the list of %zu tensors; free some and try again", count);
        status = STATUS_NO_MEMORY;
    }
    free(planner.candidates);
    if (status == STATUS_OK)
        *out = planner.plan;
    else
        export_plan_cleanup(&planner.plan);
    return status;
}

void export_plan_cleanup(struct export_plan *plan) {
    free(plan->tensors);
    free(plan->sources);
}
