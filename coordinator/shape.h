/* The model's shape: every dimension and every choice in which the families differ, read from
 * config.json (or what a GGUF file has in its place) and checked once. All other code reads these
 * fields and never asks for the family. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/limits.h"
#include "common/status.h"

enum family { FAMILY_DEEPSEEK_V1, FAMILY_DEEPSEEK_V2, FAMILY_DEEPSEEK_V3 };

enum attention_kind {
    ATTENTION_MULTI_HEAD, /* V1: keys and values per head */
    ATTENTION_LATENT,     /* V2, V3: one compressed vector per position */
};

enum score_function { SCORE_SOFTMAX, SCORE_SIGMOID };

/* How a group of experts is scored before the best groups are kept. */
enum group_rule {
    GROUP_NONE,    /* all experts compete */
    GROUP_BEST,    /* V2: the group's best expert */
    GROUP_TWO_BEST /* V3: the sum of its two best choice scores */
};

struct rope_shape {
    double theta;
    bool yarn;
    /* With yarn only. */
    double factor;
    uint32_t original_positions;
    double beta_fast, beta_slow;
    double mscale, mscale_all_dim;
};

struct model_shape {
    enum family family;
    uint32_t layers;       /* without the draft module */
    uint32_t draft_layers; /* multi-token-prediction modules: 0 or 1 is used */
    uint32_t hidden;
    uint32_t vocabulary;
    uint32_t context; /* positions the model was trained for */
    float norm_epsilon;
    bool tied_head; /* the output head is the embedding */

    enum attention_kind attention;
    uint32_t heads;
    uint32_t kv_heads; /* multi-head only */
    uint32_t head_dim; /* multi-head only */
    uint32_t q_rank;   /* latent: 0 without a query bottleneck */
    uint32_t kv_rank, nope_dim, rope_dim, v_dim;
    struct rope_shape rope;
    bool rope_consecutive; /* RoPE pairs elements (2i, 2i + 1), else (i, i + d/2) */

    uint32_t dense_inner;
    uint32_t expert_inner;
    uint32_t experts; /* routed; 0: a dense model is refused */
    uint32_t shared_experts;
    uint32_t experts_per_token;
    bool is_expert_layer[LAYERS_MAX]; /* includes the draft layer, at index `layers` */

    enum score_function score;
    bool score_bias; /* a balancing bias is added for the choice only */
    enum group_rule group_rule;
    uint32_t groups, groups_per_token;
    bool normalise_weights;
    float weight_scale;

    uint32_t bos_id, eos_id; /* UINT32_MAX when the file names none */
};

/* Reads and checks the shape of the model at `path`: a directory with a config.json, or a GGUF
 * file. Errors: STATUS_NOT_FOUND (no file, or a needed key is missing), STATUS_FORMAT (a value of
 * the wrong type or out of bounds, k over the number of experts, groups that do not divide, ...),
 * STATUS_UNSUPPORTED (a model type, attention bias, score function, RoPE scaling or quantisation
 * that skein does not know): one line that names file, key, value and what would be right. For GGUF
 * files also those of weights_open. */
enum status model_shape_read(const char *path, struct model_shape *out);

/* As model_shape_read, from what config.json holds; `place` is named in errors. */
enum status model_shape_parse(const json_t *config, const char *place, struct model_shape *out);

/* Inner dimension of the feed-forward that all rows of a layer meet: a dense layer's, or all shared
 * experts as one; 0: there is none. */
uint32_t shape_ffn_inner(const struct model_shape *shape, uint32_t layer);

/* "DeepSeek V1", "DeepSeek V2", "DeepSeek V3". */
const char *family_name(enum family family);
