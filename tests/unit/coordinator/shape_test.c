/* Reading of config.json: the published families, defaults, and every refusal with key and remedy.
 */
#include "coordinator/shape.h"

#include <jansson.h>

#include "tests/unit/files.h"
#include "tests/unit/test.h"

/* As published for DeepSeek-MoE 16B. */
static const char V1[] =
    "{\"model_type\": \"deepseek\", \"bos_token_id\": 100000, \"eos_token_id\": 100001,"
    "\"first_k_dense_replace\": 1, \"hidden_act\": \"silu\", \"hidden_size\": 2048,"
    "\"attention_bias\": false, \"intermediate_size\": 10944, \"max_position_embeddings\": 4096,"
    "\"moe_intermediate_size\": 1408, \"moe_layer_freq\": 1, \"n_routed_experts\": 64,"
    "\"n_shared_experts\": 2, \"norm_topk_prob\": false, \"num_attention_heads\": 16,"
    "\"num_experts_per_tok\": 6, \"num_hidden_layers\": 28, \"num_key_value_heads\": 16,"
    "\"rms_norm_eps\": 1e-06, \"rope_scaling\": null, \"rope_theta\": 10000,"
    "\"scoring_func\": \"softmax\", \"tie_word_embeddings\": false, \"vocab_size\": 102400}";

/* As published for DeepSeek-V2. */
static const char V2[] =
    "{\"model_type\": \"deepseek_v2\", \"bos_token_id\": 100000, \"eos_token_id\": 100001,"
    "\"first_k_dense_replace\": 1, \"hidden_act\": \"silu\", \"hidden_size\": 5120,"
    "\"attention_bias\": false, \"intermediate_size\": 12288, \"kv_lora_rank\": 512,"
    "\"max_position_embeddings\": 163840, \"moe_intermediate_size\": 1536, \"moe_layer_freq\": 1,"
    "\"n_group\": 8, \"n_routed_experts\": 160, \"n_shared_experts\": 2, \"norm_topk_prob\": false,"
    "\"num_attention_heads\": 128, \"num_experts_per_tok\": 6, \"num_hidden_layers\": 60,"
    "\"num_key_value_heads\": 128, \"q_lora_rank\": 1536, \"qk_nope_head_dim\": 128,"
    "\"qk_rope_head_dim\": 64, \"rms_norm_eps\": 1e-06, \"rope_scaling\": {\"beta_fast\": 32,"
    "\"beta_slow\": 1, \"factor\": 40, \"mscale\": 0.707, \"mscale_all_dim\": 0.707,"
    "\"original_max_position_embeddings\": 4096, \"type\": \"yarn\"}, \"rope_theta\": 10000,"
    "\"routed_scaling_factor\": 16.0, \"scoring_func\": \"softmax\", \"topk_group\": 3,"
    "\"topk_method\": \"group_limited_greedy\", \"v_head_dim\": 128, \"vocab_size\": 102400}";

/* As published for DeepSeek-V3. */
static const char V3[] =
    "{\"model_type\": \"deepseek_v3\", \"bos_token_id\": 0, \"eos_token_id\": 1,"
    "\"ep_size\": 1, \"first_k_dense_replace\": 3, \"hidden_act\": \"silu\", \"hidden_size\": 7168,"
    "\"attention_bias\": false, \"intermediate_size\": 18432, \"kv_lora_rank\": 512,"
    "\"max_position_embeddings\": 163840, \"moe_intermediate_size\": 2048, \"moe_layer_freq\": 1,"
    "\"n_group\": 8, \"n_routed_experts\": 256, \"n_shared_experts\": 1, \"norm_topk_prob\": true,"
    "\"num_attention_heads\": 128, \"num_experts_per_tok\": 8, \"num_hidden_layers\": 61,"
    "\"num_key_value_heads\": 128, \"num_nextn_predict_layers\": 1, \"q_lora_rank\": 1536,"
    "\"qk_nope_head_dim\": 128, \"qk_rope_head_dim\": 64, \"quantization_config\": {"
    "\"activation_scheme\": \"dynamic\", \"fmt\": \"e4m3\", \"quant_method\": \"fp8\","
    "\"weight_block_size\": [128, 128]}, \"rms_norm_eps\": 1e-06, \"rope_scaling\": {"
    "\"beta_fast\": 32, \"beta_slow\": 1, \"factor\": 40, \"mscale\": 1.0, \"mscale_all_dim\": 1.0,"
    "\"original_max_position_embeddings\": 4096, \"type\": \"yarn\"}, \"rope_theta\": 10000,"
    "\"routed_scaling_factor\": 2.5, \"scoring_func\": \"sigmoid\", \"tie_word_embeddings\": false,"
    "\"topk_group\": 4, \"topk_method\": \"noaux_tc\", \"v_head_dim\": 128, \"vocab_size\": "
    "129280}";

/* Stands for the value of a key that is taken out. */
#define ABSENT NULL

struct fixture {
    char directory[64];
    struct log_capture log;
};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    test_directory_make(f->directory);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    test_directory_remove(f->directory);
    free(f);
    return 0;
}

/* Sets "key" or "object.key" to the JSON text `value`. */
static void change(json_t *root, const char *key, const char *value) {
    const char *dot = strchr(key, '.');
    json_t *object = root;
    if (dot) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)(dot - key), key);
        object = json_object_get(root, name);
        key = dot + 1;
    }
    if (!value) {
        json_object_del(object, key);
        return;
    }
    json_t *parsed = json_loads(value, JSON_DECODE_ANY, NULL);
    assert_non_null(parsed);
    json_object_set_new(object, key, parsed);
}

/* Reads `base` with one key changed (none where `key` is NULL). */
static enum status read_changed(struct fixture *f, const char *base, const char *key,
                                const char *value, struct model_shape *out) {
    json_t *root = json_loads(base, 0, NULL);
    assert_non_null(root);
    if (key)
        change(root, key, value);
    char *text = json_dumps(root, 0);
    test_file_write(f->directory, "config.json", text);
    free(text);
    json_decref(root);
    return model_shape_read(f->directory, out);
}

static struct model_shape accept(struct fixture *f, const char *base, const char *key,
                                 const char *value) {
    struct model_shape shape;
    memset(&shape, 0xee, sizeof shape);
    log_capture_begin(&f->log);
    enum status status = read_changed(f, base, key, value, &shape);
    fclose(f->log.stream);
    log_init("test", LOG_ERROR, NULL);
    if (status != STATUS_OK || f->log.bytes > 0)
        fail_msg("%s = %s: %s", key ? key : "", value ? value : "absent", f->log.text);
    free(f->log.text);
    return shape;
}

static void published_v1_is_read(void **state) {
    struct model_shape s = accept(*state, V1, NULL, NULL);
    assert_int_equal(s.family, FAMILY_DEEPSEEK_V1);
    assert_int_equal(s.layers, 28);
    assert_int_equal(s.draft_layers, 0);
    assert_int_equal(s.hidden, 2048);
    assert_int_equal(s.vocabulary, 102400);
    assert_int_equal(s.context, 4096);
    assert_float_equal(s.norm_epsilon, 1e-6, 1e-12);
    assert_int_equal(s.attention, ATTENTION_MULTI_HEAD);
    assert_int_equal(s.heads, 16);
    assert_int_equal(s.kv_heads, 16);
    assert_int_equal(s.head_dim, 128);
    assert_int_equal(s.kv_rank, 0);
    assert_false(s.rope_consecutive);
    assert_false(s.rope.yarn);
    assert_int_equal(s.dense_inner, 10944);
    assert_int_equal(s.expert_inner, 1408);
    assert_int_equal(s.experts, 64);
    assert_int_equal(s.shared_experts, 2);
    assert_int_equal(s.experts_per_token, 6);
    assert_false(s.is_expert_layer[0]);
    assert_true(s.is_expert_layer[1]);
    assert_true(s.is_expert_layer[27]);
    assert_false(s.is_expert_layer[28]);
    assert_int_equal(s.score, SCORE_SOFTMAX);
    assert_false(s.score_bias);
    assert_int_equal(s.group_rule, GROUP_NONE);
    assert_int_equal(s.groups, 1);
    assert_int_equal(s.groups_per_token, 1);
    assert_false(s.normalise_weights);
    assert_float_equal(s.weight_scale, 1, 0);
    assert_int_equal(s.bos_id, 100000);
    assert_int_equal(s.eos_id, 100001);
}

static void pairs_of_rope_may_be_told(void **state) {
    assert_true(accept(*state, V1, "rope_interleave", "true").rope_consecutive);
    assert_false(accept(*state, V3, "rope_interleave", "false").rope_consecutive);
}

static void published_v2_is_read(void **state) {
    struct model_shape s = accept(*state, V2, NULL, NULL);
    assert_int_equal(s.family, FAMILY_DEEPSEEK_V2);
    assert_int_equal(s.attention, ATTENTION_LATENT);
    assert_true(s.rope_consecutive);
    assert_int_equal(s.q_rank, 1536);
    assert_int_equal(s.kv_rank, 512);
    assert_int_equal(s.nope_dim, 128);
    assert_int_equal(s.rope_dim, 64);
    assert_int_equal(s.v_dim, 128);
    assert_true(s.rope.yarn);
    assert_float_equal(s.rope.theta, 10000, 0);
    assert_float_equal(s.rope.factor, 40, 0);
    assert_int_equal(s.rope.original_positions, 4096);
    assert_float_equal(s.rope.beta_fast, 32, 0);
    assert_float_equal(s.rope.beta_slow, 1, 0);
    assert_float_equal(s.rope.mscale, 0.707, 1e-9);
    assert_float_equal(s.rope.mscale_all_dim, 0.707, 1e-9);
    assert_int_equal(s.score, SCORE_SOFTMAX);
    assert_false(s.score_bias);
    assert_int_equal(s.group_rule, GROUP_BEST);
    assert_int_equal(s.groups, 8);
    assert_int_equal(s.groups_per_token, 3);
    assert_false(s.normalise_weights);
    assert_float_equal(s.weight_scale, 16, 0);
}

static void published_v3_is_read(void **state) {
    struct model_shape s = accept(*state, V3, NULL, NULL);
    assert_int_equal(s.family, FAMILY_DEEPSEEK_V3);
    assert_int_equal(s.layers, 61);
    assert_int_equal(s.draft_layers, 1);
    assert_false(s.is_expert_layer[2]);
    assert_true(s.is_expert_layer[3]);
    assert_true(s.is_expert_layer[61]);
    assert_false(s.is_expert_layer[62]);
    assert_int_equal(s.score, SCORE_SIGMOID);
    assert_true(s.score_bias);
    assert_int_equal(s.group_rule, GROUP_TWO_BEST);
    assert_int_equal(s.groups, 8);
    assert_int_equal(s.groups_per_token, 4);
    assert_true(s.normalise_weights);
    assert_float_equal(s.weight_scale, 2.5, 0);
    assert_int_equal(s.bos_id, 0);
    assert_int_equal(s.eos_id, 1);
}

static void bundled_models_are_read(void **state) {
    (void)state;
    static const struct {
        const char *directory;
        enum family family;
        enum group_rule rule;
        uint32_t layers, draft_layers, experts, groups, q_rank;
        bool yarn;
    } CASES[] = {
        {TEST_DATA_DIR "/golden/deepseek-moe-tiny", FAMILY_DEEPSEEK_V1, GROUP_NONE, 4, 0, 16, 1, 0,
         false},
        {TEST_DATA_DIR "/golden/deepseek-v2-lite-tiny", FAMILY_DEEPSEEK_V2, GROUP_NONE, 4, 0, 16, 1,
         0, true},
        {TEST_DATA_DIR "/golden/deepseek-v2-tiny", FAMILY_DEEPSEEK_V2, GROUP_BEST, 4, 0, 32, 8, 48,
         true},
        {TEST_DATA_DIR "/golden/deepseek-v3-tiny", FAMILY_DEEPSEEK_V3, GROUP_TWO_BEST, 4, 1, 32, 8,
         48, true},
        {TEST_DATA_DIR "/golden/deepseek-v3-tiny-fp8", FAMILY_DEEPSEEK_V3, GROUP_TWO_BEST, 3, 0, 16,
         4, 160, true},
        {DEMO_MODEL_DIR, FAMILY_DEEPSEEK_V3, GROUP_TWO_BEST, 5, 1, 32, 8, 64, false},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        struct model_shape s;
        assert_int_equal(model_shape_read(CASES[i].directory, &s), STATUS_OK);
        assert_int_equal(s.family, CASES[i].family);
        assert_int_equal(s.group_rule, CASES[i].rule);
        assert_int_equal(s.layers, CASES[i].layers);
        assert_int_equal(s.draft_layers, CASES[i].draft_layers);
        assert_int_equal(s.experts, CASES[i].experts);
        assert_int_equal(s.groups, CASES[i].groups);
        assert_int_equal(s.q_rank, CASES[i].q_rank);
        assert_int_equal(s.rope.yarn, CASES[i].yarn);
    }
}

static void families_default_what_they_may_leave_out(void **state) {
    struct model_shape s = accept(*state, V1, "num_key_value_heads", ABSENT);
    assert_int_equal(s.kv_heads, 16);
    assert_int_equal(accept(*state, V1, "num_key_value_heads", "4").kv_heads, 4);
    assert_int_equal(accept(*state, V1, "scoring_func", ABSENT).score, SCORE_SOFTMAX);
    assert_int_equal(accept(*state, V2, "scoring_func", ABSENT).score, SCORE_SOFTMAX);
    assert_int_equal(accept(*state, V3, "scoring_func", ABSENT).score, SCORE_SIGMOID);
    assert_int_equal(accept(*state, V3, "topk_method", ABSENT).group_rule, GROUP_TWO_BEST);
    assert_false(accept(*state, V1, "norm_topk_prob", ABSENT).normalise_weights);
    assert_true(accept(*state, V3, "norm_topk_prob", ABSENT).normalise_weights);
    assert_int_equal(accept(*state, V3, "num_nextn_predict_layers", ABSENT).draft_layers, 0);
    assert_int_equal(accept(*state, V3, "n_shared_experts", ABSENT).shared_experts, 0);
    assert_int_equal(accept(*state, V3, "n_shared_experts", "null").shared_experts, 0);
    assert_int_equal(accept(*state, V3, "n_shared_experts", "0").shared_experts, 0);
    assert_int_equal(accept(*state, V3, "q_lora_rank", "null").q_rank, 0);
    assert_int_equal(accept(*state, V3, "q_lora_rank", ABSENT).q_rank, 0);
    assert_false(accept(*state, V3, "tie_word_embeddings", ABSENT).tied_head);
    assert_true(accept(*state, V3, "tie_word_embeddings", "true").tied_head);
    assert_float_equal(accept(*state, V1, "routed_scaling_factor", "1.5").weight_scale, 1.5, 0);
    assert_true(accept(*state, V3, "moe_layer_freq", ABSENT).is_expert_layer[60]);
    accept(*state, V3, "attention_bias", ABSENT);
    accept(*state, V3, "hidden_act", ABSENT);
    accept(*state, V3, "quantization_config", "null");
    accept(*state, V3, "quantization_config", ABSENT);
    accept(*state, V3, "quantization_config.fmt", ABSENT);
}

static void rope_scaling_has_defaults(void **state) {
    static const char SHORT[] = "{\"rope_type\": \"yarn\", \"factor\": 32.5,"
                                "\"original_max_position_embeddings\": 4096}";
    struct model_shape s = accept(*state, V3, "rope_scaling", SHORT);
    assert_true(s.rope.yarn);
    assert_float_equal(s.rope.factor, 32.5, 0);
    assert_float_equal(s.rope.beta_fast, 32, 0);
    assert_float_equal(s.rope.beta_slow, 1, 0);
    assert_float_equal(s.rope.mscale, 1, 0);
    assert_float_equal(s.rope.mscale_all_dim, 0, 0);
    assert_false(accept(*state, V3, "rope_scaling", "null").rope.yarn);
    assert_false(accept(*state, V3, "rope_scaling", ABSENT).rope.yarn);
    assert_float_equal(accept(*state, V3, "rope_theta", "50000.5").rope.theta, 50000.5, 0);
}

static void groups_count_only_where_they_are_used(void **state) {
    struct model_shape s = accept(*state, V2, "topk_method", "\"greedy\"");
    assert_int_equal(s.group_rule, GROUP_NONE);
    assert_int_equal(s.groups, 1);
    assert_int_equal(s.groups_per_token, 1);
    /* Kimi-K2 and Moonlight: one group, and still the balancing bias. */
    struct fixture *f = *state;
    json_t *root = json_loads(V3, 0, NULL);
    change(root, "model_type", "\"kimi_k2\"");
    change(root, "n_group", "1");
    change(root, "topk_group", "1");
    char *text = json_dumps(root, 0);
    s = accept(f, text, NULL, NULL);
    assert_int_equal(s.family, FAMILY_DEEPSEEK_V3);
    assert_int_equal(s.group_rule, GROUP_NONE);
    assert_int_equal(s.groups, 1);
    assert_true(s.score_bias);
    free(text);
    json_decref(root);
}

static void v1_ignores_latent_keys(void **state) {
    struct model_shape s = accept(*state, V1, "kv_lora_rank", "-7");
    assert_int_equal(s.attention, ATTENTION_MULTI_HEAD);
    assert_int_equal(s.kv_rank, 0);
}

static void expert_layers_follow_first_and_frequency(void **state) {
    struct model_shape s = accept(*state, V3, "moe_layer_freq", "2");
    for (uint32_t layer = 0; layer < LAYERS_MAX; layer++)
        assert_int_equal(s.is_expert_layer[layer], layer >= 3 && layer <= 61 && layer % 2 == 0);
    s = accept(*state, V3, "first_k_dense_replace", "0");
    assert_true(s.is_expert_layer[0]);
    s = accept(*state, V3, "first_k_dense_replace", "60");
    assert_false(s.is_expert_layer[59]);
    assert_true(s.is_expert_layer[60]);
}

static void token_ids_may_be_null_or_listed(void **state) {
    assert_int_equal(accept(*state, V3, "eos_token_id", "[7, 8]").eos_id, 7);
    assert_int_equal(accept(*state, V3, "eos_token_id", "null").eos_id, UINT32_MAX);
    assert_int_equal(accept(*state, V3, "eos_token_id", ABSENT).eos_id, UINT32_MAX);
    assert_int_equal(accept(*state, V3, "bos_token_id", "null").bos_id, UINT32_MAX);
    assert_int_equal(accept(*state, V3, "bos_token_id", "129279").bos_id, 129279);
}

/* One change that must be refused, and a part of what would be right. */
struct refusal {
    const char *base, *key, *value;
    enum status status;
    const char *right;
};

static void expect_refusal(struct fixture *f, const struct refusal *refusal) {
    struct model_shape shape, before;
    memset(&shape, 0xee, sizeof shape);
    before = shape;
    log_capture_begin(&f->log);
    enum status status = read_changed(f, refusal->base, refusal->key, refusal->value, &shape);
    if (status != refusal->status)
        print_message("%s = %s\n", refusal->key, refusal->value ? refusal->value : "absent");
    assert_int_equal(status, refusal->status);
    assert_memory_equal(&shape, &before, sizeof shape);
    char key[80];
    snprintf(key, sizeof key, "\"%s\"", refusal->key);
    log_capture_expect(&f->log, f->directory, "/config.json", key,
                       refusal->value ? refusal->value : "is missing", refusal->right, NULL);
}

static void missing_keys_are_named(void **state) {
    static const struct refusal CASES[] = {
        {V3, "model_type", ABSENT, STATUS_NOT_FOUND, "\"deepseek_v3\""},
        {V3, "num_hidden_layers", ABSENT, STATUS_NOT_FOUND, "from 1 to 255"},
        {V3, "hidden_size", ABSENT, STATUS_NOT_FOUND, "from 1 to 65536"},
        {V3, "vocab_size", ABSENT, STATUS_NOT_FOUND, "from 1 to 1048576"},
        {V3, "max_position_embeddings", ABSENT, STATUS_NOT_FOUND, "whole number"},
        {V3, "rms_norm_eps", ABSENT, STATUS_NOT_FOUND, "above 0"},
        {V3, "intermediate_size", ABSENT, STATUS_NOT_FOUND, "whole number"},
        {V3, "num_attention_heads", ABSENT, STATUS_NOT_FOUND, "from 1 to 1024"},
        {V3, "kv_lora_rank", ABSENT, STATUS_NOT_FOUND, "whole number"},
        {V3, "qk_nope_head_dim", ABSENT, STATUS_NOT_FOUND, "whole number"},
        {V3, "qk_rope_head_dim", ABSENT, STATUS_NOT_FOUND, "whole number"},
        {V3, "v_head_dim", ABSENT, STATUS_NOT_FOUND, "whole number"},
        {V3, "rope_theta", ABSENT, STATUS_NOT_FOUND, "above 1"},
        {V3, "rope_scaling.type", ABSENT, STATUS_NOT_FOUND, "\"yarn\""},
        {V3, "rope_scaling.factor", ABSENT, STATUS_NOT_FOUND, "at least 1"},
        {V3, "rope_scaling.original_max_position_embeddings", ABSENT, STATUS_NOT_FOUND, "whole"},
        {V3, "n_routed_experts", ABSENT, STATUS_NOT_FOUND, "whole number"},
        {V3, "moe_intermediate_size", ABSENT, STATUS_NOT_FOUND, "whole number"},
        {V3, "num_experts_per_tok", ABSENT, STATUS_NOT_FOUND, "from 1 to 64"},
        {V3, "first_k_dense_replace", ABSENT, STATUS_NOT_FOUND, "from 0 to 61"},
        {V3, "routed_scaling_factor", ABSENT, STATUS_NOT_FOUND, "above 0"},
        {V3, "quantization_config.quant_method", ABSENT, STATUS_NOT_FOUND, "\"fp8\""},
        {V3, "quantization_config.weight_block_size", ABSENT, STATUS_NOT_FOUND, "[128, 128]"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++)
        expect_refusal(*state, &CASES[i]);
    struct fixture *f = *state;
    struct model_shape shape;
    log_capture_begin(&f->log);
    assert_int_equal(read_changed(f, V3, "hidden_size", "null", &shape), STATUS_NOT_FOUND);
    log_capture_expect(&f->log, "\"hidden_size\" is missing", NULL);
}

static const struct refusal NONSENSE[] = {
    {V3, "num_hidden_layers", "0", STATUS_FORMAT, "from 1 to 255"},
    {V3, "num_hidden_layers", "256", STATUS_FORMAT, "from 1 to 255"},
    {V3, "num_nextn_predict_layers", "-1", STATUS_FORMAT, "from 0"},
    {V3, "hidden_size", "0", STATUS_FORMAT, "from 1"},
    {V3, "hidden_size", "-128", STATUS_FORMAT, "from 1"},
    {V3, "hidden_size", "7168.0", STATUS_FORMAT, "a whole number"},
    {V3, "hidden_size", "\"7168\"", STATUS_FORMAT, "a whole number"},
    {V3, "hidden_size", "65537", STATUS_FORMAT, "to 65536"},
    {V3, "hidden_size", "4294967424", STATUS_FORMAT, "to 65536"},
    {V3, "hidden_size", "true", STATUS_FORMAT, "a whole number"},
    {V3, "hidden_size", "[1]", STATUS_FORMAT, "a whole number"},
    {V3, "vocab_size", "0", STATUS_FORMAT, "from 1"},
    {V3, "vocab_size", "1048577", STATUS_FORMAT, "to 1048576"},
    {V3, "max_position_embeddings", "0", STATUS_FORMAT, "from 1"},
    {V3, "max_position_embeddings", "16777217", STATUS_FORMAT, "to 16777216"},
    {V3, "intermediate_size", "1048577", STATUS_FORMAT, "to 1048576"},
    {V3, "rms_norm_eps", "0", STATUS_FORMAT, "above 0"},
    {V3, "rms_norm_eps", "-0.5", STATUS_FORMAT, "above 0"},
    {V3, "rms_norm_eps", "\"x\"", STATUS_FORMAT, "above 0"},
    {V3, "rms_norm_eps", "1e-80", STATUS_FORMAT, "above 0"},
    {V3, "rms_norm_eps", "1e80", STATUS_FORMAT, "above 0"},
    {V3, "tie_word_embeddings", "1", STATUS_FORMAT, "true or false"},
    {V3, "bos_token_id", "-1", STATUS_FORMAT, "from 0 to 129279"},
    {V3, "eos_token_id", "129280", STATUS_FORMAT, "from 0 to 129279"},
    {V3, "eos_token_id", "[]", STATUS_FORMAT, "or null"},
    {V3, "eos_token_id", "\"x\"", STATUS_FORMAT, "or null"},
    {V3, "num_attention_heads", "0", STATUS_FORMAT, "from 1"},
    {V3, "num_attention_heads", "1025", STATUS_FORMAT, "to 1024"},
    {V1, "num_attention_heads", "0", STATUS_FORMAT, "from 1"},
    {V1, "num_attention_heads", "48", STATUS_FORMAT, "\"hidden_size\""},
    {V1, "hidden_size", "0", STATUS_FORMAT, "from 1"},
    {V1, "num_key_value_heads", "0", STATUS_FORMAT, "from 1"},
    {V1, "num_key_value_heads", "3", STATUS_FORMAT, "divisor"},
    {V1, "num_key_value_heads", "32", STATUS_FORMAT, "divisor"},
    {V3, "q_lora_rank", "0", STATUS_FORMAT, "from 1"},
    {V3, "q_lora_rank", "65537", STATUS_FORMAT, "to 65536"},
    {V3, "kv_lora_rank", "0", STATUS_FORMAT, "from 1"},
    {V3, "qk_nope_head_dim", "0", STATUS_FORMAT, "from 1"},
    {V3, "qk_rope_head_dim", "63", STATUS_FORMAT, "even"},
    {V3, "qk_rope_head_dim", "4098", STATUS_FORMAT, "to 4096"},
    {V3, "v_head_dim", "0", STATUS_FORMAT, "from 1"},
    {V3, "rope_theta", "0", STATUS_FORMAT, "above 1"},
    {V3, "rope_theta", "-10000.0", STATUS_FORMAT, "above 1"},
    {V3, "rope_scaling", "3", STATUS_FORMAT, "object"},
    {V3, "rope_scaling.factor", "0", STATUS_FORMAT, "at least 1"},
    {V3, "rope_scaling.factor", "\"40\"", STATUS_FORMAT, "at least 1"},
    {V3, "rope_scaling.original_max_position_embeddings", "0", STATUS_FORMAT, "from 1"},
    {V3, "rope_scaling.beta_fast", "0", STATUS_FORMAT, "above 0"},
    {V3, "rope_scaling.beta_slow", "33", STATUS_FORMAT, "beta_fast"},
    {V3, "rope_scaling.mscale", "-1", STATUS_FORMAT, "at least 0"},
    {V3, "rope_scaling.type", "7", STATUS_FORMAT, "\"yarn\""},
    {V3, "n_routed_experts", "-1", STATUS_FORMAT, "from 0"},
    {V3, "n_routed_experts", "2049", STATUS_FORMAT, "to 2048"},
    {V3, "n_shared_experts", "-1", STATUS_FORMAT, "from 0"},
    {V3, "n_shared_experts", "1024", STATUS_FORMAT, "1048576"},
    {V3, "moe_intermediate_size", "0", STATUS_FORMAT, "from 1"},
    {V3, "num_experts_per_tok", "0", STATUS_FORMAT, "from 1"},
    {V1, "num_experts_per_tok", "65", STATUS_FORMAT, "to 64"},
    {V2, "num_experts_per_tok", "61", STATUS_FORMAT, "\"topk_group\""},
    {V3, "first_k_dense_replace", "62", STATUS_FORMAT, "to 61"},
    {V3, "moe_layer_freq", "0", STATUS_FORMAT, "from 1"},
    {V3, "n_group", "0", STATUS_FORMAT, "from 1"},
    {V3, "n_group", "7", STATUS_FORMAT, "divisor"},
    {V3, "n_group", "256", STATUS_FORMAT, "at least 2"},
    {V3, "topk_group", "9", STATUS_FORMAT, "\"n_group\""},
    {V3, "topk_group", "0", STATUS_FORMAT, "from 1"},
    {V3, "norm_topk_prob", "\"yes\"", STATUS_FORMAT, "true or false"},
    {V3, "routed_scaling_factor", "0", STATUS_FORMAT, "above 0"},
    {V3, "quantization_config", "\"fp8\"", STATUS_FORMAT, "object"},
    {V3, "model_type", "3", STATUS_FORMAT, "\"deepseek_v3\""},
};

static void nonsense_is_refused(void **state) {
    for (size_t i = 0; i < sizeof NONSENSE / sizeof NONSENSE[0]; i++)
        expect_refusal(*state, &NONSENSE[i]);
    struct fixture *f = *state;
    struct model_shape shape;
    log_capture_begin(&f->log);
    assert_int_equal(read_changed(f, V3, "n_routed_experts", "7", &shape), STATUS_FORMAT);
    log_capture_expect(&f->log, "\"num_experts_per_tok\" is 8", "\"n_routed_experts\"", NULL);
}

static void other_models_are_refused_by_name(void **state) {
    static const struct refusal CASES[] = {
        {V3, "model_type", "\"qwen3_moe\"", STATUS_UNSUPPORTED, "\"deepseek_v3\""},
        {V3, "hidden_act", "\"gelu\"", STATUS_UNSUPPORTED, "\"silu\""},
        {V3, "attention_bias", "true", STATUS_UNSUPPORTED, "false"},
        {V3, "scoring_func", "\"tanh\"", STATUS_UNSUPPORTED, "\"softmax\" or \"sigmoid\""},
        {V3, "topk_method", "\"best\"", STATUS_UNSUPPORTED, "\"noaux_tc\""},
        {V3, "rope_scaling.type", "\"linear\"", STATUS_UNSUPPORTED, "\"yarn\""},
        {V3, "rope_scaling.rope_type", "\"llama3\"", STATUS_UNSUPPORTED, "\"yarn\""},
        {V3, "quantization_config.quant_method", "\"gptq\"", STATUS_UNSUPPORTED, "\"fp8\""},
        {V3, "quantization_config.quant_method", "\"awq\"", STATUS_UNSUPPORTED, "\"fp8\""},
        {V3, "quantization_config.fmt", "\"e5m2\"", STATUS_UNSUPPORTED, "\"e4m3\""},
        {V3, "quantization_config.weight_block_size", "[64,128]", STATUS_UNSUPPORTED, "[128, 128]"},
        {V3, "quantization_config.weight_block_size", "[128]", STATUS_UNSUPPORTED, "[128, 128]"},
        {V3, "n_routed_experts", "0", STATUS_UNSUPPORTED, "dense models"},
        {V3, "n_routed_experts", "null", STATUS_UNSUPPORTED, "dense models"},
        {V3, "first_k_dense_replace", "61", STATUS_UNSUPPORTED, "dense models"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++)
        expect_refusal(*state, &CASES[i]);
    struct fixture *f = *state;
    struct model_shape shape;
    log_capture_begin(&f->log);
    assert_int_equal(read_changed(f, V3, "moe_layer_freq", "64", &shape), STATUS_UNSUPPORTED);
    log_capture_expect(&f->log, "dense models", NULL);
    log_capture_begin(&f->log);
    assert_int_equal(
        read_changed(f, V1, "rope_scaling", "{\"type\": \"yarn\", \"factor\": 2}", &shape),
        STATUS_UNSUPPORTED);
    log_capture_expect(&f->log, "\"rope_scaling.type\" is \"yarn\"", "null", NULL);
}

static void missing_file_is_named(void **state) {
    struct fixture *f = *state;
    struct model_shape shape;
    log_capture_begin(&f->log);
    assert_int_equal(model_shape_read(f->directory, &shape), STATUS_NOT_FOUND);
    log_capture_expect(&f->log, f->directory, "config.json", NULL);
    char path[8192];
    memset(path, 'x', sizeof path);
    path[sizeof path - 1] = '\0';
    log_capture_begin(&f->log);
    assert_int_equal(model_shape_read(path, &shape), STATUS_NOT_FOUND);
    log_capture_expect(&f->log, "xxx", NULL);
}

static void families_have_names(void **state) {
    (void)state;
    assert_string_equal(family_name(FAMILY_DEEPSEEK_V1), "DeepSeek V1");
    assert_string_equal(family_name(FAMILY_DEEPSEEK_V2), "DeepSeek V2");
    assert_string_equal(family_name(FAMILY_DEEPSEEK_V3), "DeepSeek V3");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(pairs_of_rope_may_be_told, setup, teardown),
        cmocka_unit_test_setup_teardown(published_v1_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(published_v2_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(published_v3_is_read, setup, teardown),
        cmocka_unit_test(bundled_models_are_read),
        cmocka_unit_test_setup_teardown(families_default_what_they_may_leave_out, setup, teardown),
        cmocka_unit_test_setup_teardown(rope_scaling_has_defaults, setup, teardown),
        cmocka_unit_test_setup_teardown(groups_count_only_where_they_are_used, setup, teardown),
        cmocka_unit_test_setup_teardown(v1_ignores_latent_keys, setup, teardown),
        cmocka_unit_test_setup_teardown(expert_layers_follow_first_and_frequency, setup, teardown),
        cmocka_unit_test_setup_teardown(token_ids_may_be_null_or_listed, setup, teardown),
        cmocka_unit_test_setup_teardown(missing_keys_are_named, setup, teardown),
        cmocka_unit_test_setup_teardown(nonsense_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(other_models_are_refused_by_name, setup, teardown),
        cmocka_unit_test_setup_teardown(missing_file_is_named, setup, teardown),
        cmocka_unit_test(families_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
