/* config.json is read section by section through a reader that keeps the first error: after it,
 * every further read does nothing, so the sections need no checks of their own and exactly one line
 * is logged. Defaults are those of the published implementations. Where a missing key would change
 * what the model says and publishers do write it (rope_theta, rms_norm_eps), it is required. */
#include "coordinator/shape.h"

#include <float.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "common/log.h"
#include "common/weights/gguf.h"
#include "common/weights/weights.h"
#include "coordinator/gguf_config.h"

/* Room for a value of the file, or for what would be right, in a message. */
#define VALUE_BYTES 120

struct reader {
    const char *path;
    const char *section; /* "" or the name of `object` in the file, with a dot */
    const json_t *object;
    enum status status; /* the first error */
};

static void format_value(const json_t *value, char out[VALUE_BYTES]) {
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6));
    snprintf(out, VALUE_BYTES, "%.100s", text ? text : "?");
    free(text);
}

/* Notes and logs that a key has a wrong value; `right` says what it must be. */
static void refuse(struct reader *reader, enum status status, const char *key, const char *right) {
    if (reader->status != STATUS_OK)
        return;
    char value[VALUE_BYTES];
    format_value(json_object_get(reader->object, key), value);
    log_error("%s: \"%s%s\" is %s: it must be %s", reader->path, reader->section, key, value,
              right);
    reader->status = status;
}

static void refuse_missing(struct reader *reader, const char *key, const char *right) {
    log_error(
        "%s: \"%s%s\" is missing: it must be %s; take the config.json that came with the model",
        reader->path, reader->section, key, right);
    reader->status = STATUS_NOT_FOUND;
}

/* NULL when the key is missing or null, as both mean the same in published files. */
static const json_t *find_value(const struct reader *reader, const char *key) {
    const json_t *value = json_object_get(reader->object, key);
    return json_is_null(value) ? NULL : value;
}

/* The value of a key that must be there; NULL after an error. */
static const json_t *require_value(struct reader *reader, const char *key, const char *right) {
    if (reader->status != STATUS_OK)
        return NULL;
    const json_t *value = find_value(reader, key);
    if (!value)
        refuse_missing(reader, key, right);
    return value;
}

static uint32_t read_count(struct reader *reader, const char *key, uint32_t minimum,
                           uint32_t maximum) {
    char right[VALUE_BYTES];
    snprintf(right, sizeof right, "a whole number from %" PRIu32 " to %" PRIu32, minimum, maximum);
    const json_t *value = require_value(reader, key, right);
    if (!value)
        return 0;
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < minimum || number > maximum) {
        refuse(reader, STATUS_FORMAT, key, right);
        return 0;
    }
    return (uint32_t)number;
}

static uint32_t read_count_or(struct reader *reader, const char *key, uint32_t minimum,
                              uint32_t maximum, uint32_t fallback) {
    return find_value(reader, key) ? read_count(reader, key, minimum, maximum) : fallback;
}

/* A number above `bound`, or from `bound` on where `inclusive`. */
static double read_real(struct reader *reader, const char *key, double bound, bool inclusive) {
    char right[VALUE_BYTES];
    snprintf(right, sizeof right, "a number %s %g", inclusive ? "of at least" : "above", bound);
    const json_t *value = require_value(reader, key, right);
    if (!value)
        return 0;
    double number = json_number_value(value);
    bool finite = json_is_number(value) && number <= FLT_MAX;
    /* Compared as the float that most of these become, lest a tiny one passes and ends as 0. */
    if (!finite || !(inclusive ? (float)number >= bound : (float)number > bound)) {
        refuse(reader, STATUS_FORMAT, key, right);
        return 0;
    }
    return number;
}

static double read_real_or(struct reader *reader, const char *key, double bound, bool inclusive,
                           double fallback) {
    return find_value(reader, key) ? read_real(reader, key, bound, inclusive) : fallback;
}

static bool read_flag_or(struct reader *reader, const char *key, bool fallback) {
    const json_t *value = find_value(reader, key);
    if (value && !json_is_boolean(value))
        refuse(reader, STATUS_FORMAT, key, "true or false");
    return value ? json_is_true(value) : fallback;
}

/* The index of the value among `names` (of `count`), or `fallback` where the key is missing.
 * `right` lists the names. */
static size_t read_choice_or(struct reader *reader, const char *key, const char *const *names,
                             size_t count, const char *right, size_t fallback) {
    const json_t *value = find_value(reader, key);
    if (!value)
        return fallback;
    if (!json_is_string(value)) {
        refuse(reader, STATUS_FORMAT, key, right);
        return fallback;
    }
    for (size_t i = 0; i < count; i++)
        if (strcmp(json_string_value(value), names[i]) == 0)
            return i;
    refuse(reader, STATUS_UNSUPPORTED, key, right);
    return fallback;
}

/* A reader of the object `key`; its status has to be handed back. */
static struct reader enter_section(struct reader *reader, const char *key, const char *section) {
    const json_t *value = find_value(reader, key);
    if (!json_is_object(value))
        refuse(reader, STATUS_FORMAT, key, "null or a JSON object");
    return (struct reader){reader->path, section, value, reader->status};
}

static void read_family(struct reader *reader, struct model_shape *shape) {
    static const char *const NAMES[] = {"deepseek", "deepseek_v2", "deepseek_v3", "kimi_k2"};
    static const enum family FAMILIES[] = {FAMILY_DEEPSEEK_V1, FAMILY_DEEPSEEK_V2,
                                           FAMILY_DEEPSEEK_V3, FAMILY_DEEPSEEK_V3};
    static const char RIGHT[] = "\"deepseek\", \"deepseek_v2\", \"deepseek_v3\" or \"kimi_k2\"";
    if (!require_value(reader, "model_type", RIGHT))
        return;
    size_t choice =
        read_choice_or(reader, "model_type", NAMES, sizeof NAMES / sizeof NAMES[0], RIGHT, 0);
    shape->family = FAMILIES[choice];
}

/* What other models of these types have and skein does not compute. */
static void check_features(struct reader *reader) {
    static const char *const ACTIVATIONS[] = {"silu"};
    read_choice_or(reader, "hidden_act", ACTIVATIONS, 1, "\"silu\"", 0);
    if (read_flag_or(reader, "attention_bias", false))
        refuse(reader, STATUS_UNSUPPORTED, "attention_bias", "false, biases are not supported");
}

static bool is_block_size(const json_t *value) {
    return json_array_size(value) == 2 && json_integer_value(json_array_get(value, 0)) == 128 &&
           json_integer_value(json_array_get(value, 1)) == 128;
}

static void check_quantisation(struct reader *reader) {
    static const char *const METHODS[] = {"fp8"}, *const FORMATS[] = {"e4m3"};
    if (reader->status != STATUS_OK || !find_value(reader, "quantization_config"))
        return;
    struct reader inner = enter_section(reader, "quantization_config", "quantization_config.");
    require_value(&inner, "quant_method", "\"fp8\"");
    read_choice_or(&inner, "quant_method", METHODS, 1, "\"fp8\", other methods are not supported",
                   0);
    read_choice_or(&inner, "fmt", FORMATS, 1, "\"e4m3\"", 0);
    const json_t *block = require_value(&inner, "weight_block_size", "[128, 128]");
    if (block && !is_block_size(block))
        refuse(&inner, STATUS_UNSUPPORTED, "weight_block_size", "[128, 128]");
    reader->status = inner.status;
}

static void read_sizes(struct reader *reader, struct model_shape *shape) {
    /* One index of the table of layers is left for the draft module. */
    shape->layers = read_count(reader, "num_hidden_layers", 1, LAYERS_MAX - 1);
    shape->draft_layers = read_count_or(reader, "num_nextn_predict_layers", 0, LAYERS_MAX - 1, 0);
    shape->hidden = read_count(reader, "hidden_size", 1, HIDDEN_MAX);
    shape->vocabulary = read_count(reader, "vocab_size", 1, VOCABULARY_MAX);
    shape->context = read_count(reader, "max_position_embeddings", 1, CONTEXT_MAX);
    shape->norm_epsilon = (float)read_real(reader, "rms_norm_eps", 0, false);
    shape->tied_head = read_flag_or(reader, "tie_word_embeddings", false);
    shape->dense_inner = read_count(reader, "intermediate_size", 1, INNER_MAX);
}

/* A token id; where the file lists several, the first. */
static uint32_t read_token(struct reader *reader, const char *key, uint32_t vocabulary) {
    const json_t *value = find_value(reader, key);
    if (reader->status != STATUS_OK || !value)
        return UINT32_MAX;
    const json_t *first = json_is_array(value) ? json_array_get(value, 0) : value;
    json_int_t id = json_integer_value(first);
    if (!json_is_integer(first) || id < 0 || id >= (json_int_t)vocabulary) {
        char right[VALUE_BYTES];
        snprintf(right, sizeof right, "a token id from 0 to %" PRIu32 " or null", vocabulary - 1);
        refuse(reader, STATUS_FORMAT, key, right);
    }
    return (uint32_t)id;
}

static void read_multi_head(struct reader *reader, struct model_shape *shape) {
    shape->attention = ATTENTION_MULTI_HEAD;
    shape->kv_heads = read_count_or(reader, "num_key_value_heads", 1, HEADS_MAX, shape->heads);
    if (reader->status != STATUS_OK)
        return;
    if (shape->heads % shape->kv_heads != 0)
        refuse(reader, STATUS_FORMAT, "num_key_value_heads",
               "a divisor of \"num_attention_heads\"");
    shape->head_dim = shape->hidden / shape->heads;
    if (shape->hidden % shape->heads != 0 || shape->head_dim % 2 != 0 ||
        shape->head_dim > HEAD_DIM_MAX)
        refuse(reader, STATUS_FORMAT, "num_attention_heads",
               "such that \"hidden_size\" divided by it is an even number up to 4096");
}

static void read_latent(struct reader *reader, struct model_shape *shape) {
    shape->attention = ATTENTION_LATENT;
    shape->q_rank = read_count_or(reader, "q_lora_rank", 1, RANK_MAX, 0);
    shape->kv_rank = read_count(reader, "kv_lora_rank", 1, RANK_MAX);
    shape->nope_dim = read_count(reader, "qk_nope_head_dim", 1, HEAD_DIM_MAX);
    shape->rope_dim = read_count(reader, "qk_rope_head_dim", 2, HEAD_DIM_MAX);
    shape->v_dim = read_count(reader, "v_head_dim", 1, HEAD_DIM_MAX);
    if (shape->rope_dim % 2 != 0)
        refuse(reader, STATUS_FORMAT, "qk_rope_head_dim",
               "even, as its values are turned in pairs");
}

static void read_yarn(struct reader *reader, const struct model_shape *shape,
                      struct rope_shape *rope) {
    static const char *const TYPES[] = {"yarn"};
    static const char RIGHT[] = "\"yarn\", other kinds of RoPE scaling are not supported";
    struct reader inner = enter_section(reader, "rope_scaling", "rope_scaling.");
    const char *key = find_value(&inner, "rope_type") ? "rope_type" : "type";
    require_value(&inner, key, RIGHT);
    read_choice_or(&inner, key, TYPES, 1, RIGHT, 0);
    if (shape->attention == ATTENTION_MULTI_HEAD)
        refuse(&inner, STATUS_UNSUPPORTED, key,
               "absent for this model type (\"rope_scaling\": null)");
    rope->yarn = true;
    rope->factor = read_real(&inner, "factor", 1, true);
    rope->original_positions =
        read_count(&inner, "original_max_position_embeddings", 1, CONTEXT_MAX);
    rope->beta_fast = read_real_or(&inner, "beta_fast", 0, false, 32);
    rope->beta_slow = read_real_or(&inner, "beta_slow", 0, false, 1);
    if (rope->beta_slow > rope->beta_fast)
        refuse(&inner, STATUS_FORMAT, "beta_slow",
               "at most \"beta_fast\" (32 where that is missing)");
    rope->mscale = read_real_or(&inner, "mscale", 0, true, 1);
    rope->mscale_all_dim = read_real_or(&inner, "mscale_all_dim", 0, true, 0);
    reader->status = inner.status;
}

static void read_attention(struct reader *reader, struct model_shape *shape) {
    shape->heads = read_count(reader, "num_attention_heads", 1, HEADS_MAX);
    bool is_v1 = shape->family == FAMILY_DEEPSEEK_V1;
    if (is_v1)
        read_multi_head(reader, shape);
    else
        read_latent(reader, shape);
    /* GGUF files have V1's queries and keys in another order than config.json tells of. */
    shape->rope_consecutive = read_flag_or(reader, "rope_interleave", !is_v1);
    /* The frequencies are powers of 1/theta and must fall; YaRN divides by its logarithm. */
    shape->rope.theta = read_real(reader, "rope_theta", 1, false);
    if (reader->status == STATUS_OK && find_value(reader, "rope_scaling"))
        read_yarn(reader, shape, &shape->rope);
}

static void read_expert_layers(struct reader *reader, struct model_shape *shape) {
    uint32_t first = read_count(reader, "first_k_dense_replace", 0, shape->layers);
    uint32_t every = read_count_or(reader, "moe_layer_freq", 1, LAYERS_MAX, 1);
    bool any = false;
    if (reader->status != STATUS_OK)
        return;
    for (uint32_t layer = 0; layer < shape->layers + (shape->draft_layers > 0); layer++) {
        shape->is_expert_layer[layer] = layer >= first && layer % every == 0;
        any |= layer < shape->layers && shape->is_expert_layer[layer];
    }
    if (!any)
        refuse(reader, STATUS_UNSUPPORTED, "first_k_dense_replace",
               "such that a layer has experts, dense models are not supported");
}

static void read_experts(struct reader *reader, struct model_shape *shape) {
    /* An explicit null is how a dense model of these types says so. */
    if (reader->status == STATUS_OK &&
        json_is_null(json_object_get(reader->object, "n_routed_experts")))
        refuse(reader, STATUS_UNSUPPORTED, "n_routed_experts",
               "at least 1, dense models are not supported");
    shape->experts = read_count(reader, "n_routed_experts", 0, EXPERTS_MAX);
    if (shape->experts == 0)
        refuse(reader, STATUS_UNSUPPORTED, "n_routed_experts",
               "at least 1, dense models are not supported");
    shape->expert_inner = read_count(reader, "moe_intermediate_size", 1, INNER_MAX);
    shape->shared_experts = read_count_or(reader, "n_shared_experts", 0, EXPERTS_MAX, 0);
    if ((uint64_t)shape->shared_experts * shape->expert_inner > INNER_MAX)
        refuse(reader, STATUS_FORMAT, "n_shared_experts",
               "such that times \"moe_intermediate_size\" it is at most 1048576");
    shape->experts_per_token = read_count(reader, "num_experts_per_tok", 1, EXPERTS_PER_TOKEN_MAX);
    if (shape->experts_per_token > shape->experts)
        refuse(reader, STATUS_FORMAT, "num_experts_per_tok", "at most \"n_routed_experts\"");
    read_expert_layers(reader, shape);
}

static void check_groups(struct reader *reader, const struct model_shape *shape) {
    if (reader->status != STATUS_OK)
        return;
    if (shape->experts % shape->groups != 0) {
        refuse(reader, STATUS_FORMAT, "n_group", "a divisor of \"n_routed_experts\"");
        return;
    }
    uint32_t group_experts = shape->experts / shape->groups;
    if (shape->group_rule == GROUP_TWO_BEST && group_experts < 2)
        refuse(reader, STATUS_FORMAT, "n_group",
               "such that a group has at least 2 of \"n_routed_experts\"");
    if (shape->groups_per_token > shape->groups)
        refuse(reader, STATUS_FORMAT, "topk_group", "at most \"n_group\"");
    if (shape->experts_per_token > shape->groups_per_token * group_experts)
        refuse(reader, STATUS_FORMAT, "num_experts_per_tok",
               "at most what \"topk_group\" groups of experts hold");
}

static void read_router(struct reader *reader, struct model_shape *shape) {
    static const char *const SCORES[] = {"softmax", "sigmoid"};
    static const char *const METHODS[] = {"greedy", "group_limited_greedy", "noaux_tc"};
    static const enum group_rule RULES[] = {GROUP_NONE, GROUP_BEST, GROUP_TWO_BEST};
    bool v3 = shape->family == FAMILY_DEEPSEEK_V3;
    shape->score = read_choice_or(reader, "scoring_func", SCORES, 2, "\"softmax\" or \"sigmoid\"",
                                  v3 ? SCORE_SIGMOID : SCORE_SOFTMAX) == 0
                       ? SCORE_SOFTMAX
                       : SCORE_SIGMOID;
    size_t method =
        read_choice_or(reader, "topk_method", METHODS, 3,
                       "\"greedy\", \"group_limited_greedy\" or \"noaux_tc\"", v3 ? 2 : 0);
    shape->score_bias = RULES[method] == GROUP_TWO_BEST;
    shape->groups = read_count_or(reader, "n_group", 1, GROUPS_MAX, 1);
    shape->groups_per_token = read_count_or(reader, "topk_group", 1, GROUPS_MAX, 1);
    if (RULES[method] == GROUP_NONE)
        shape->groups = shape->groups_per_token = 1;
    shape->group_rule = shape->groups == 1 ? GROUP_NONE : RULES[method];
    check_groups(reader, shape);
    shape->normalise_weights = read_flag_or(reader, "norm_topk_prob", v3);
    shape->weight_scale = shape->family == FAMILY_DEEPSEEK_V1
                              ? (float)read_real_or(reader, "routed_scaling_factor", 0, false, 1)
                              : (float)read_real(reader, "routed_scaling_factor", 0, false);
}

enum status model_shape_parse(const json_t *config, const char *place, struct model_shape *out) {
    struct model_shape shape = {0};
    struct reader reader = {place, "", config, STATUS_OK};
    read_family(&reader, &shape);
    check_features(&reader);
    check_quantisation(&reader);
    read_sizes(&reader, &shape);
    shape.bos_id = read_token(&reader, "bos_token_id", shape.vocabulary);
    shape.eos_id = read_token(&reader, "eos_token_id", shape.vocabulary);
    read_attention(&reader, &shape);
    read_experts(&reader, &shape);
    read_router(&reader, &shape);
    if (reader.status == STATUS_OK)
        *out = shape;
    return reader.status;
}

static enum status read_gguf(const char *path, struct model_shape *out) {
    struct weights *weights;
    enum status status = weights_open(path, &weights);
    if (status != STATUS_OK)
        return status;
    json_t *config;
    status = gguf_config_read(weights, &config);
    if (status == STATUS_OK) {
        status = model_shape_parse(config, path, out);
        json_decref(config);
    }
    weights_close(weights);
    return status;
}

static enum status read_directory(const char *directory, struct model_shape *out) {
    char path[PATH_MAX];
    if ((size_t)snprintf(path, sizeof path, "%s/config.json", directory) >= sizeof path) {
        log_error("%s: the path is too long: give one of less than %d bytes", directory,
                  PATH_MAX - 12);
        return STATUS_NOT_FOUND;
    }
    json_t *root;
    enum status status = json_read_file(path, false, &root);
    if (status != STATUS_OK)
        return status;
    status = model_shape_parse(root, path, out);
    json_decref(root);
    return status;
}

enum status model_shape_read(const char *path, struct model_shape *out) {
    return gguf_is_path(path) ? read_gguf(path, out) : read_directory(path, out);
}

uint32_t shape_ffn_inner(const struct model_shape *shape, uint32_t layer) {
    return shape->is_expert_layer[layer] ? shape->shared_experts * shape->expert_inner
                                         : shape->dense_inner;
}

const char *family_name(enum family family) {
    static const char *const NAMES[] = {
        [FAMILY_DEEPSEEK_V1] = "DeepSeek V1",
        [FAMILY_DEEPSEEK_V2] = "DeepSeek V2",
        [FAMILY_DEEPSEEK_V3] = "DeepSeek V3",
    };
    return NAMES[family];
}
