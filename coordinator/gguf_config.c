/* Keys stand behind the architecture's name ("deepseek2.block_count"). The translation keeps the
 * first error, as shape.c does, and copies values as they are: bounds are shape.c's business. */
#include "coordinator/gguf_config.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/limits.h"
#include "common/log.h"
#include "coordinator/gguf_keys.h"

#define KEY_BYTES 128

struct translation {
    const struct weights *weights;
    const json_t *metadata;
    const char *architecture;
    json_t *config;
    enum status status; /* the first error */
};

static void format_key(const struct translation *translation, const char *name, char *out) {
    snprintf(out, KEY_BYTES, "%s.%s", translation->architecture, name);
}

static const json_t *find(const struct translation *translation, const char *name) {
    char key[KEY_BYTES];
    format_key(translation, name, key);
    return json_object_get(translation->metadata, key);
}

static void refuse(struct translation *translation, enum status status, const char *name,
                   const char *right) {
    if (translation->status != STATUS_OK)
        return;
    char key[KEY_BYTES];
    format_key(translation, name, key);
    log_error("%s: the metadata's %s %s; take another conversion of the model",
              weights_path(translation->weights), key, right);
    translation->status = status;
}

/* NULL when the key is missing. Anything but a number is an error. */
static const json_t *find_number(struct translation *translation, const char *name) {
    const json_t *value = find(translation, name);
    if (value && !json_is_number(value))
        refuse(translation, STATUS_FORMAT, name, "must be a number");
    return json_is_number(value) ? value : NULL;
}

/* The whole number `name`; `fallback` when it is missing. */
static json_int_t read_integer_or(struct translation *translation, const char *name,
                                  json_int_t fallback) {
    const json_t *value = find_number(translation, name);
    if (value && !json_is_integer(value))
        refuse(translation, STATUS_FORMAT, name, "must be a whole number");
    return json_is_integer(value) ? json_integer_value(value) : fallback;
}

static json_int_t read_integer(struct translation *translation, const char *name) {
    if (!find(translation, name))
        refuse(translation, STATUS_NOT_FOUND, name, "is missing");
    return read_integer_or(translation, name, 0);
}

static void set(struct translation *translation, const char *name, json_t *value) {
    if (json_object_set_new(translation->config, name, value) == 0 ||
        translation->status != STATUS_OK)
        return;
    log_error("%s: no memory for the metadata; free some and try again",
              weights_path(translation->weights));
    translation->status = STATUS_NO_MEMORY;
}

/* Copies the number `name` to config.json's `to`. */
static void copy(struct translation *translation, const char *name, const char *to) {
    const json_t *value = find_number(translation, name);
    if (!value)
        refuse(translation, STATUS_NOT_FOUND, name, "is missing");
    else
        set(translation, to, json_copy((json_t *)value));
}

static void copy_if_there(struct translation *translation, const char *name, const char *to) {
    if (find(translation, name))
        copy(translation, name, to);
}

static bool is_v1(const struct translation *translation) {
    return strcmp(translation->architecture, ARCHITECTURE_V1) == 0;
}

static void translate_sizes(struct translation *translation) {
    json_int_t draft_layers = read_integer_or(translation, KEY_NEXTN_PREDICT_LAYERS, 0);
    set(translation, "num_hidden_layers",
        json_integer(read_integer(translation, KEY_BLOCK_COUNT) - draft_layers));
    set(translation, "num_nextn_predict_layers", json_integer(draft_layers));
    copy(translation, KEY_EMBEDDING_LENGTH, "hidden_size");
    copy(translation, KEY_FEED_FORWARD_LENGTH, "intermediate_size");
    copy(translation, KEY_CONTEXT_LENGTH, "max_position_embeddings");
    copy(translation, KEY_LAYER_NORM_RMS_EPSILON, "rms_norm_eps");
    const json_t *tokens = json_object_get(translation->metadata, KEY_TOKENS);
    if (!find(translation, KEY_VOCAB_SIZE) && json_array_size(tokens) > 0)
        set(translation, "vocab_size", json_integer((json_int_t)json_array_size(tokens)));
    else
        copy(translation, KEY_VOCAB_SIZE, "vocab_size");
    set(translation, "tie_word_embeddings",
        json_boolean(!weights_find(translation->weights, "lm_head.weight")));
}

static void translate_tokens(struct translation *translation) {
    static const char *const NAMES[][2] = {{KEY_BOS, "bos_token_id"}, {KEY_EOS, "eos_token_id"}};
    for (size_t i = 0; i < 2; i++) {
        json_t *value = json_object_get(translation->metadata, NAMES[i][0]);
        if (value)
            set(translation, NAMES[i][1], json_copy(value));
    }
}

/* In every published model mscale is the same as mscale_all_dim, so that cosine and sine are not
 * scaled. */
static void translate_rope(struct translation *translation) {
    copy(translation, KEY_ROPE_FREQ_BASE, "rope_theta");
    set(translation, "rope_interleave", json_true());
    const json_t *type = find(translation, KEY_SCALING_TYPE);
    if (!type || (json_is_string(type) && strcmp(json_string_value(type), "none") == 0))
        return;
    static const char *const NAMES[][2] = {
        {KEY_SCALING_FACTOR, "factor"},
        {KEY_SCALING_ORIGINAL_CONTEXT_LENGTH, "original_max_position_embeddings"},
        {KEY_YARN_BETA_FAST, "beta_fast"},
        {KEY_YARN_BETA_SLOW, "beta_slow"},
    };
    json_t *scaling = json_object();
    json_object_set_new(scaling, "type", json_copy((json_t *)type));
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        const json_t *value = find_number(translation, NAMES[i][0]);
        if (value)
            json_object_set_new(scaling, NAMES[i][1], json_copy((json_t *)value));
        else if (i < 2)
            refuse(translation, STATUS_NOT_FOUND, NAMES[i][0], "is missing");
    }
    const json_t *multiplier = find_number(translation, KEY_YARN_LOG_MULTIPLIER);
    double mscale = multiplier ? json_number_value(multiplier) / YARN_LOG_FACTOR : 0;
    json_object_set_new(scaling, "mscale", json_real(mscale));
    json_object_set_new(scaling, "mscale_all_dim", json_real(mscale));
    set(translation, "rope_scaling", scaling);
}

/* Files with absorbed attention give the cache's sizes as key_length and value_length, and those of
 * heads with "_mla". */
static void translate_latent(struct translation *translation) {
    bool absorbed = find(translation, KEY_KEY_LENGTH_MLA) != NULL;
    json_int_t rope = read_integer(translation, KEY_ROPE_DIMENSION_COUNT);
    json_int_t key = read_integer(translation, absorbed ? KEY_KEY_LENGTH_MLA : KEY_KEY_LENGTH);
    if (key <= rope)
        refuse(translation, STATUS_FORMAT, absorbed ? KEY_KEY_LENGTH_MLA : KEY_KEY_LENGTH,
               "must be above rope.dimension_count");
    set(translation, "qk_rope_head_dim", json_integer(rope));
    set(translation, "qk_nope_head_dim", json_integer(key - rope));
    copy(translation, absorbed ? KEY_VALUE_LENGTH_MLA : KEY_VALUE_LENGTH, "v_head_dim");
    copy(translation, KEY_KV_LORA_RANK, "kv_lora_rank");
    /* Some converters write 0 for models without a query bottleneck. */
    if (read_integer_or(translation, KEY_Q_LORA_RANK, 0) != 0)
        copy(translation, KEY_Q_LORA_RANK, "q_lora_rank");
}

static void translate_multi_head(struct translation *translation) {
    json_int_t heads = read_integer(translation, KEY_HEAD_COUNT);
    json_int_t hidden = read_integer(translation, KEY_EMBEDDING_LENGTH);
    copy_if_there(translation, KEY_HEAD_COUNT_KV, "num_key_value_heads");
    json_int_t rope = read_integer_or(translation, KEY_ROPE_DIMENSION_COUNT, 0);
    if (rope > 0 && heads > 0 && hidden / heads != rope)
        refuse(translation, STATUS_UNSUPPORTED, KEY_ROPE_DIMENSION_COUNT,
               "must be embedding_length / attention.head_count, as RoPE turns whole heads");
}

/* The groups of published models whose older conversions do not tell them. */
static const struct {
    json_int_t layers, experts;
    bool sigmoid;
    int groups, groups_per_token;
    const char *model;
} KNOWN_GROUPS[] = {
    {60, 160, false, 8, 3, "DeepSeek-V2"},
    {61, 256, true, 8, 4, "DeepSeek-V3"},
};

static void translate_groups(struct translation *translation, bool sigmoid) {
    json_int_t groups = read_integer_or(translation, KEY_EXPERT_GROUP_COUNT, 1);
    json_int_t used = read_integer_or(translation, KEY_EXPERT_GROUP_USED_COUNT, 1);
    json_int_t experts = read_integer(translation, KEY_EXPERT_COUNT);
    json_int_t layers =
        json_integer_value(json_object_get(translation->config, "num_hidden_layers"));
    bool told = find(translation, KEY_EXPERT_GROUP_COUNT) != NULL;
    for (size_t i = 0; i < sizeof KNOWN_GROUPS / sizeof *KNOWN_GROUPS && !told; i++) {
        if (KNOWN_GROUPS[i].layers != layers || KNOWN_GROUPS[i].experts != experts ||
            KNOWN_GROUPS[i].sigmoid != sigmoid)
            continue;
        groups = KNOWN_GROUPS[i].groups;
        used = KNOWN_GROUPS[i].groups_per_token;
        log_info("%s does not tell the experts' groups; by its %" JSON_INTEGER_FORMAT
                 " layers of %" JSON_INTEGER_FORMAT " experts it is %s, which has %d groups and "
                 "uses %d for each token",
                 weights_path(translation->weights), layers, experts, KNOWN_GROUPS[i].model,
                 KNOWN_GROUPS[i].groups, KNOWN_GROUPS[i].groups_per_token);
    }
    set(translation, "n_group", json_integer(groups));
    set(translation, "topk_group", json_integer(used));
    set(translation, "topk_method",
        json_string(sigmoid      ? "noaux_tc"
                    : groups > 1 ? "group_limited_greedy"
                                 : "greedy"));
}

static void translate_experts(struct translation *translation) {
    json_int_t score = read_integer_or(translation, KEY_EXPERT_GATING_FUNC, GATING_SOFTMAX);
    bool sigmoid = score == GATING_SIGMOID;
    if (score != GATING_SOFTMAX && !sigmoid)
        refuse(translation, STATUS_UNSUPPORTED, KEY_EXPERT_GATING_FUNC,
               "must be 1 (softmax) or 2 (sigmoid)");
    set(translation, "model_type",
        json_string(is_v1(translation) ? "deepseek"
                    : sigmoid          ? "deepseek_v3"
                                       : "deepseek_v2"));
    set(translation, "scoring_func", json_string(sigmoid ? "sigmoid" : "softmax"));
    copy(translation, KEY_EXPERT_COUNT, "n_routed_experts");
    copy(translation, KEY_EXPERT_USED_COUNT, "num_experts_per_tok");
    copy(translation, KEY_EXPERT_FEED_FORWARD_LENGTH, "moe_intermediate_size");
    copy_if_there(translation, KEY_EXPERT_SHARED_COUNT, "n_shared_experts");
    set(translation, "first_k_dense_replace",
        json_integer(read_integer_or(translation, KEY_LEADING_DENSE_BLOCK_COUNT, 0)));
    const json_t *scale = find_number(translation, KEY_EXPERT_WEIGHTS_SCALE);
    set(translation, "routed_scaling_factor",
        json_real(scale && json_number_value(scale) != 0 ? json_number_value(scale) : 1));
    const json_t *norm = find(translation, KEY_EXPERT_WEIGHTS_NORM);
    if (norm && !json_is_boolean(norm))
        refuse(translation, STATUS_FORMAT, KEY_EXPERT_WEIGHTS_NORM, "must be true or false");
    set(translation, "norm_topk_prob", json_boolean(json_is_true(norm)));
    translate_groups(translation, sigmoid);
}

static enum status find_architecture(struct translation *translation) {
    const char *path = weights_path(translation->weights);
    const char *name = json_string_value(json_object_get(translation->metadata, KEY_ARCHITECTURE));
    if (name && (strcmp(name, ARCHITECTURE_V1) == 0 || strcmp(name, ARCHITECTURE_LATENT) == 0)) {
        translation->architecture = name;
        return STATUS_OK;
    }
    log_error("%s: general.architecture is \"%.40s\": it must be \"deepseek\" or \"deepseek2\", "
              "other models are not supported",
              path, name ? name : "");
    return STATUS_UNSUPPORTED;
}

enum status gguf_config_read(const struct weights *weights, json_t **out) {
    struct translation translation = {.weights = weights, .metadata = weights_metadata(weights)};
    enum status status = find_architecture(&translation);
    if (status != STATUS_OK)
        return status;
    translation.config = json_object();
    translate_sizes(&translation);
    translate_tokens(&translation);
    copy(&translation, KEY_HEAD_COUNT, "num_attention_heads");
    if (is_v1(&translation))
        translate_multi_head(&translation);
    else
        translate_latent(&translation);
    translate_rope(&translation);
    translate_experts(&translation);
    if (translation.status == STATUS_OK)
        *out = translation.config;
    else
        json_decref(translation.config);
    return translation.status;
}
