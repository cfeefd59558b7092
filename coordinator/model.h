/* The coordinator's own weights: everything but the routed experts, in the format of the
 * checkpoint.
 *
 * Loaded once by runtime, then read-only. Matrices keep their stored format, packed where a product
 * of packed weights exists (common/kernel/panel); only vectors (norms, biases) and the router are
 * held as f32. */
#pragma once

#include "common/status.h"
#include "common/threads.h"
#include "common/weights/shard.h"
#include "common/weights/weights.h"
#include "coordinator/placement.h"
#include "coordinator/shape.h"

/* Shapes in the names of models.md: H hidden, h heads. Matrices that a kind lacks have no data. */
struct attention_weights {
    struct matrix
        q; /* multi-head (h * head_dim, H); latent without q rank (h * (nope + rope), H) */
    struct matrix k, v; /* multi-head (kv_heads * head_dim, H) */
    struct matrix q_a;  /* latent (q_rank, H) */
    float *q_a_norm;    /* (q_rank) */
    struct matrix q_b;  /* latent (h * (nope + rope), q_rank) */
    struct matrix kv_a; /* latent (kv_rank + rope, H) */
    float *kv_a_norm;   /* (kv_rank) */
    /* Latent: per head Wk, which is not packed, and Wv, which is (see latent_weights.h). Wk is one
     * of k_up and k_b, or with Wv in kv_b where that cannot be taken apart. */
    struct matrix k_up; /* (h * nope, kv_rank) */
    struct matrix k_b;  /* (h * kv_rank, nope): transposed, as GGUF files have it */
    struct matrix v_b;  /* (h * v, kv_rank) */
    struct matrix kv_b; /* (h * (nope + v), kv_rank): per head nope rows of Wk, v rows of Wv */
    struct matrix o;    /* (H, h * v) */
};

struct layer {
    float *attention_norm; /* (H) */
    struct attention_weights attention;
    float *ffn_norm;    /* (H) */
    struct expert *ffn; /* (ffn_count) the dense feed-forward, or all shared experts as one */
    uint32_t ffn_count; /* 0: none; else the coordinator's part (whose inner dimension may be 0)
                           and one for each that the placement has on a worker */
    struct matrix gate; /* expert layers: router (experts, H), f32 */
    float *gate_bias;   /* (experts), NULL without a balancing bias */
};

/* Multi-token prediction: what stands around its layer, which is layers[shape.layers]. */
struct draft_module {
    float *embedding_norm;    /* enorm (H) */
    float *hidden_norm;       /* hnorm (H) */
    struct matrix projection; /* eh_proj (H, 2 H) */
    float *head_norm;         /* shared_head.norm (H) */
};

struct model {
    struct model_shape shape;
    struct arena *arena;
    struct matrix embedding; /* (vocabulary, H) */
    struct matrix head;      /* (vocabulary, H) */
    float *norm;             /* (H) */
    struct layer *layers;    /* (shape.layers, plus one with a draft module) */
    bool has_draft;
    struct draft_module draft;
};

struct model_load_options {
    const struct placement *placement; /* where each layer's feed-forward is cut; NULL: nowhere */
    bool with_draft;                   /* the draft module too */
    bool exact;                        /* no weights are packed for 8-bit activations */
};

/* Loads the weights of `shape` from `weights`, on all of `threads`. The caller destroys the model.
 * Errors: as weights_load_matrix (a tensor is missing, has another shape or
 * type); STATUS_UNSUPPORTED when a draft module is asked for and the model has none;
 * STATUS_NO_MEMORY. */
enum status model_load(const struct weights *weights, const struct model_shape *shape,
                       const struct model_load_options *options, struct threads *threads,
                       struct model **out);
void model_destroy(struct model *model);

/* Bytes of memory taken for weights. */
size_t model_bytes(const struct model *model);
