/* One function for each part of the model, in the order in which a token meets them. A loader
 * carries the place (checkpoint, layer) so that each tensor is one line. Matrices are first only
 * found and given their memory; then all threads read them. */
#include "coordinator/model.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/arena.h"
#include "common/kernel/panel.h"
#include "common/log.h"
#include "common/nodes.h"
#include "coordinator/latent_weights.h"

#define TENSOR_NAME_BYTES 128

/* A matrix that is still to be read. */
struct pending_matrix {
    const char *name; /* the checkpoint's */
    struct region region;
    struct matrix *matrix;
    bool pack;
    struct attention_weights *split; /* the matrix is this one's kv_b, to be taken apart, or NULL */
};

struct loader {
    const struct weights *weights;
    const struct model_shape *shape;
    const struct placement *placement;
    struct arena *arena;
    bool exact;
    uint32_t layer;
    struct pending_matrix *pending; /* (pending_max), the first pending_count in use */
    size_t pending_count, pending_max;
    atomic_int status; /* the first error of a read */
};

/* Memory for a matrix. */
static enum status take_matrix(struct loader *loader, const char *name, enum weight_format format,
                               uint32_t rows, uint32_t columns, struct matrix *out) {
    void *storage = arena_take(loader->arena, matrix_bytes(format, rows, columns), 1);
    if (!storage) {
        log_error("no memory for %s (%u x %u values)", name, rows, columns);
        return STATUS_NO_MEMORY;
    }
    *out = matrix_view(format, rows, columns, storage);
    return STATUS_OK;
}

static enum status add_pending(struct loader *loader, struct pending_matrix matrix) {
    if (loader->pending_count == loader->pending_max) {
        size_t max = 2 * loader->pending_max + 64;
        struct pending_matrix *pending = realloc(loader->pending, max * sizeof *pending);
        if (!pending)
            return STATUS_NO_MEMORY;
        loader->pending = pending;
        loader->pending_max = max;
    }
    loader->pending[loader->pending_count++] = matrix;
    return STATUS_OK;
}

/* Finds a matrix of (rows, columns) by its full name and has a region of it read later; `pack` if
 * it is only used in products. */
static enum status add_region(struct loader *loader, const char *name, uint32_t rows,
                              uint32_t columns, const struct region *region, bool pack,
                              struct matrix *out) {
    const struct tensor *tensor;
    enum status status = weights_find_matrix(loader->weights, name, rows, columns, &tensor);
    if (status == STATUS_OK)
        status = take_matrix(loader, name, tensor->format, region->rows, region->columns, out);
    if (status)
        return status;
    return add_pending(loader, (struct pending_matrix){tensor->name, *region, out, pack, NULL});
}

static enum status add_matrix(struct loader *loader, const char *name, uint32_t rows,
                              uint32_t columns, bool pack, struct matrix *out) {
    const struct region whole = {.rows = rows, .columns = columns};
    return add_region(loader, name, rows, columns, &whole, pack, out);
}

static enum status read_region(const struct loader *loader, const struct pending_matrix *pending,
                               const struct matrix *matrix) {
    return weights_read_region(loader->weights, pending->name, &pending->region,
                               (void *)matrix->data);
}

/* Reads a kv_b aside and takes it apart. */
static enum status read_split(const struct loader *loader, const struct pending_matrix *pending) {
    struct attention_weights *parts = pending->split;
    enum weight_format format = parts->k_up.format;
    uint32_t rows = parts->k_up.rows + parts->v_b.rows, columns = parts->k_up.columns;
    void *storage = aligned_alloc(64, matrix_bytes(format, rows, columns));
    if (!storage) {
        log_error("no memory to read %s (%u x %u values)", pending->name, rows, columns);
        return STATUS_NO_MEMORY;
    }
    const struct matrix kv_b = matrix_view(format, rows, columns, storage);
    enum status status = read_region(loader, pending, &kv_b);
    if (status == STATUS_OK)
        latent_split(&kv_b, loader->shape, &parts->k_up, &parts->v_b);
    free(storage);
    return status;
}

static void read_matrix(void *context, size_t task, unsigned thread) {
    (void)thread;
    struct loader *loader = context;
    const struct pending_matrix *pending = &loader->pending[task];
    if (atomic_load(&loader->status))
        return;
    enum status status = pending->split ? read_split(loader, pending)
                                        : read_region(loader, pending, pending->matrix);
    if (status == STATUS_OK && pending->pack)
        status = panel_pack_matrix(pending->matrix, loader->exact);
    if (status)
        atomic_compare_exchange_strong(&loader->status, &(int){STATUS_OK}, (int)status);
}

static void layer_name(const struct loader *loader, const char *part, char *out) {
    snprintf(out, TENSOR_NAME_BYTES, "model.layers.%u.%s.weight", loader->layer, part);
}

static enum status load_matrix(struct loader *loader, const char *part, uint32_t rows,
                               uint32_t columns, struct matrix *out) {
    char name[TENSOR_NAME_BYTES];
    layer_name(loader, part, name);
    return add_matrix(loader, name, rows, columns, false, out);
}

/* A matrix that is only used in products. */
static enum status load_packed(struct loader *loader, const char *part, uint32_t rows,
                               uint32_t columns, struct matrix *out) {
    char name[TENSOR_NAME_BYTES];
    layer_name(loader, part, name);
    return add_matrix(loader, name, rows, columns, true, out);
}

static enum status load_norm(const struct loader *loader, const char *part, size_t count,
                             float **out) {
    char name[TENSOR_NAME_BYTES];
    layer_name(loader, part, name);
    return weights_load_vector(loader->weights, name, count, loader->arena, out);
}

static enum status load_multi_head(struct loader *loader, struct attention_weights *out) {
    const struct model_shape *s = loader->shape;
    uint32_t q_rows = s->heads * s->head_dim, kv_rows = s->kv_heads * s->head_dim;
    enum status status;
    if ((status = load_packed(loader, "self_attn.q_proj", q_rows, s->hidden, &out->q)) ||
        (status = load_packed(loader, "self_attn.k_proj", kv_rows, s->hidden, &out->k)) ||
        (status = load_packed(loader, "self_attn.v_proj", kv_rows, s->hidden, &out->v)) ||
        (status = load_packed(loader, "self_attn.o_proj", s->hidden, q_rows, &out->o)))
        return status;
    return STATUS_OK;
}

static enum status load_latent_query(struct loader *loader, struct attention_weights *out) {
    const struct model_shape *s = loader->shape;
    uint32_t rows = s->heads * (s->nope_dim + s->rope_dim);
    enum status status;
    if (s->q_rank == 0)
        return load_packed(loader, "self_attn.q_proj", rows, s->hidden, &out->q);
    if ((status = load_packed(loader, "self_attn.q_a_proj", s->q_rank, s->hidden, &out->q_a)) ||
        (status = load_norm(loader, "self_attn.q_a_layernorm", s->q_rank, &out->q_a_norm)) ||
        (status = load_packed(loader, "self_attn.q_b_proj", rows, s->q_rank, &out->q_b)))
        return status;
    return STATUS_OK;
}

/* Wk and Wv from a kv_b: apart where that is possible. */
static enum status load_whole_expansion(struct loader *loader, bool pack,
                                        struct attention_weights *out) {
    const struct model_shape *s = loader->shape;
    uint32_t rows = s->heads * (s->nope_dim + s->v_dim);
    char name[TENSOR_NAME_BYTES];
    layer_name(loader, "self_attn.kv_b_proj", name);
    const struct tensor *tensor;
    enum status status = weights_find_matrix(loader->weights, name, rows, s->kv_rank, &tensor);
    if (status)
        return status;
    if (!latent_can_split(tensor->format, s))
        return add_matrix(loader, name, rows, s->kv_rank, false, &out->kv_b);
    if ((status = take_matrix(loader, name, tensor->format, s->heads * s->nope_dim, s->kv_rank,
                              &out->k_up)) ||
        (status =
             take_matrix(loader, name, tensor->format, s->heads * s->v_dim, s->kv_rank, &out->v_b)))
        return status;
    const struct region whole = {.rows = rows, .columns = s->kv_rank};
    return add_pending(loader, (struct pending_matrix){tensor->name, whole, &out->v_b, pack, out});
}

/* What expands the compressed vector to keys and values. Each head's Wv is multiplied by itself, so
 * it has to be whole panels to be packed. */
static enum status load_latent_expansion(struct loader *loader, struct attention_weights *out) {
    const struct model_shape *s = loader->shape;
    bool pack = s->v_dim % PANEL_ROWS == 0;
    char name[TENSOR_NAME_BYTES];
    layer_name(loader, "self_attn.k_b_proj", name);
    if (!weights_find(loader->weights, name))
        return load_whole_expansion(loader, pack, out);
    enum status status =
        load_matrix(loader, "self_attn.k_b_proj", s->heads * s->kv_rank, s->nope_dim, &out->k_b);
    if (status)
        return status;
    layer_name(loader, "self_attn.v_b_proj", name);
    return add_matrix(loader, name, s->heads * s->v_dim, s->kv_rank, pack, &out->v_b);
}

static enum status load_latent(struct loader *loader, struct attention_weights *out) {
    const struct model_shape *s = loader->shape;
    enum status status;
    if ((status = load_latent_query(loader, out)) ||
        (status = load_packed(loader, "self_attn.kv_a_proj_with_mqa", s->kv_rank + s->rope_dim,
                              s->hidden, &out->kv_a)) ||
        (status = load_norm(loader, "self_attn.kv_a_layernorm", s->kv_rank, &out->kv_a_norm)) ||
        (status = load_latent_expansion(loader, out)) ||
        (status = load_packed(loader, "self_attn.o_proj", s->hidden, s->heads * s->v_dim, &out->o)))
        return status;
    return STATUS_OK;
}

/* [begin, end) of the inner dimension of the feed-forward that all rows of the layer meet. */
static enum status load_ffn_part(struct loader *loader, uint32_t begin, uint32_t end,
                                 struct expert *out) {
    const struct model_shape *s = loader->shape;
    const char *prefix = s->is_expert_layer[loader->layer] ? "mlp.shared_experts" : "mlp";
    uint32_t hidden = s->hidden, inner = shape_ffn_inner(s, loader->layer);
    const struct region rows = {.row = begin, .rows = end - begin, .columns = hidden};
    const struct region columns = {.rows = hidden, .column = begin, .columns = end - begin};
    const struct {
        const char *projection;
        uint32_t rows, columns;
        const struct region *region;
        struct matrix *out;
    } pieces[] = {{"gate_proj", inner, hidden, &rows, &out->gate},
                  {"up_proj", inner, hidden, &rows, &out->up},
                  {"down_proj", hidden, inner, &columns, &out->down}};
    enum status status = STATUS_OK;
    for (size_t i = 0; i < 3 && !status && begin < end; i++) {
        char part[TENSOR_NAME_BYTES / 2], name[TENSOR_NAME_BYTES];
        snprintf(part, sizeof part, "%s.%s", prefix, pieces[i].projection);
        layer_name(loader, part, name);
        status = add_region(loader, name, pieces[i].rows, pieces[i].columns, pieces[i].region, true,
                            pieces[i].out);
    }
    return status;
}

/* What the placement has on workers is loaded here as well, part by part, for when they are lost.
 */
static enum status load_ffn(struct loader *loader, struct layer *out) {
    uint32_t inner = shape_ffn_inner(loader->shape, loader->layer);
    const struct expert_places *places =
        loader->placement ? placement_find(loader->placement, loader->layer, SHARD_FFN) : NULL;
    uint32_t placed = places ? places->count : 0;
    if (inner == 0)
        return STATUS_OK;
    out->ffn_count = 1 + placed;
    out->ffn = arena_take(loader->arena, out->ffn_count, sizeof *out->ffn);
    if (!out->ffn)
        return STATUS_NO_MEMORY;
    enum status status =
        load_ffn_part(loader, 0, placed ? places->parts[0].begin : inner, &out->ffn[0]);
    for (uint32_t i = 0; i < placed && !status; i++)
        status =
            load_ffn_part(loader, places->parts[i].begin, places->parts[i].end, &out->ffn[1 + i]);
    return status;
}

/* The router decides, so it is held in f32 whatever the file stores. */
static enum status load_router(const struct loader *loader, struct layer *out) {
    const struct model_shape *s = loader->shape;
    float *gate;
    enum status status = load_norm(loader, "mlp.gate", (size_t)s->experts * s->hidden, &gate);
    if (status)
        return status;
    out->gate = matrix_view(WEIGHT_F32, s->experts, s->hidden, gate);
    if (!s->score_bias)
        return STATUS_OK;
    char name[TENSOR_NAME_BYTES];
    snprintf(name, sizeof name, "model.layers.%u.mlp.gate.e_score_correction_bias", loader->layer);
    return weights_load_vector(loader->weights, name, s->experts, loader->arena, &out->gate_bias);
}

static enum status load_layer(struct loader *loader, struct layer *out) {
    const struct model_shape *s = loader->shape;
    enum status status;
    if ((status = load_norm(loader, "input_layernorm", s->hidden, &out->attention_norm)) ||
        (status = s->attention == ATTENTION_LATENT ? load_latent(loader, &out->attention)
                                                   : load_multi_head(loader, &out->attention)) ||
        (status = load_norm(loader, "post_attention_layernorm", s->hidden, &out->ffn_norm)))
        return status;
    if (s->is_expert_layer[loader->layer])
        status = load_router(loader, out);
    return status ? status : load_ffn(loader, out);
}

static enum status load_draft(struct loader *loader, struct model *model) {
    uint32_t hidden = loader->shape->hidden;
    struct draft_module *draft = &model->draft;
    enum status status;
    loader->layer = loader->shape->layers;
    if ((status = load_norm(loader, "enorm", hidden, &draft->embedding_norm)) ||
        (status = load_norm(loader, "hnorm", hidden, &draft->hidden_norm)) ||
        (status = load_packed(loader, "eh_proj", hidden, 2 * hidden, &draft->projection)) ||
        (status = load_norm(loader, "shared_head.norm", hidden, &draft->head_norm)))
        return status;
    model->has_draft = true;
    return load_layer(loader, &model->layers[loader->layer]);
}

static enum status load_ends(struct loader *loader, struct model *model) {
    const struct model_shape *s = loader->shape;
    enum status status;
    if ((status = add_matrix(loader, "model.embed_tokens.weight", s->vocabulary, s->hidden, false,
                             &model->embedding)) ||
        (status = weights_load_vector(loader->weights, "model.norm.weight", s->hidden, model->arena,
                                      &model->norm)))
        return status;
    if (s->tied_head) {
        model->head = model->embedding;
        return STATUS_OK;
    }
    return add_matrix(loader, "lm_head.weight", s->vocabulary, s->hidden, true, &model->head);
}

static enum status load_all(struct loader *loader, struct threads *threads, bool with_draft,
                            struct model *model) {
    enum status status = load_ends(loader, model);
    for (; status == STATUS_OK && loader->layer < loader->shape->layers; loader->layer++)
        status = load_layer(loader, &model->layers[loader->layer]);
    if (status == STATUS_OK && with_draft)
        status = load_draft(loader, model);
    if (status)
        return status;
    threads_run(threads, loader->pending_count, read_matrix, loader);
    return (enum status)atomic_load(&loader->status);
}

enum status model_load(const struct weights *weights, const struct model_shape *shape,
                       const struct model_load_options *options, struct threads *threads,
                       struct model **out) {
    if (options->with_draft && shape->draft_layers == 0) {
        log_error(
            "%s: the model has no multi-token-prediction module (num_nextn_predict_layers is 0)",
            weights_path(weights));
        return STATUS_UNSUPPORTED;
    }
    struct model *model = calloc(1, sizeof *model);
    if (!model || !(model->arena = arena_create_dense()) ||
        !(model->layers = arena_take(model->arena, shape->layers + 1u, sizeof *model->layers))) {
        model_destroy(model);
        return STATUS_NO_MEMORY;
    }
    model->shape = *shape;
    struct loader loader = {
        .weights = weights,
        .shape = &model->shape,
        .placement = options->placement,
        .arena = model->arena,
        .exact = options->exact,
    };
    enum status status = load_all(&loader, threads, options->with_draft, model);
    free(loader.pending);
    if (status) {
        model_destroy(model);
        return status;
    }
    *out = model;
    return STATUS_OK;
}

void model_destroy(struct model *model) {
    if (!model)
        return;
    arena_destroy(model->arena);
    free(model);
}

size_t model_bytes(const struct model *model) {
    return arena_bytes(model->arena);
}
