/* The metadata of GGUF files as the model's shape: published models, old conversions that lack
 * keys, every refusal with its key, and random damage. */
#include "coordinator/gguf_config.h"

#include "coordinator/gguf_tokenizer.h"
#include "coordinator/shape.h"
#include "tests/unit/common/weights/gguf_file.h"
#include "tests/unit/random.h"

struct pair {
    const char *key; /* behind the architecture, if it has no dot in front */
    uint32_t type;
    double number;
    const char *text;
};

static const struct pair V3[] = {
    {"block_count", GGUF_U32, 61, NULL},
    {"context_length", GGUF_U32, 163840, NULL},
    {"embedding_length", GGUF_U32, 7168, NULL},
    {"feed_forward_length", GGUF_U32, 18432, NULL},
    {"attention.head_count", GGUF_U32, 128, NULL},
    {"attention.head_count_kv", GGUF_U32, 1, NULL},
    {"rope.freq_base", GGUF_F32, 10000, NULL},
    {"attention.layer_norm_rms_epsilon", GGUF_F32, 1e-6, NULL},
    {"expert_used_count", GGUF_U32, 8, NULL},
    {"expert_group_count", GGUF_U32, 8, NULL},
    {"expert_group_used_count", GGUF_U32, 4, NULL},
    {"leading_dense_block_count", GGUF_U32, 3, NULL},
    {"vocab_size", GGUF_U32, 129280, NULL},
    {"attention.q_lora_rank", GGUF_U32, 1536, NULL},
    {"attention.kv_lora_rank", GGUF_U32, 512, NULL},
    {"attention.key_length", GGUF_U32, 576, NULL},
    {"attention.value_length", GGUF_U32, 512, NULL},
    {"attention.key_length_mla", GGUF_U32, 192, NULL},
    {"attention.value_length_mla", GGUF_U32, 128, NULL},
    {"expert_feed_forward_length", GGUF_U32, 2048, NULL},
    {"expert_count", GGUF_U32, 256, NULL},
    {"expert_shared_count", GGUF_U32, 1, NULL},
    {"expert_weights_scale", GGUF_F32, 2.5, NULL},
    {"expert_weights_norm", GGUF_BOOL, 1, NULL},
    {"expert_gating_func", GGUF_U32, 2, NULL},
    {"rope.dimension_count", GGUF_U32, 64, NULL},
    {"rope.scaling.type", GGUF_STRING, 0, "yarn"},
    {"rope.scaling.factor", GGUF_F32, 40, NULL},
    {"rope.scaling.original_context_length", GGUF_U32, 4096, NULL},
    {"rope.scaling.yarn_log_multiplier", GGUF_F32, 0.1, NULL},
    {".tokenizer.ggml.bos_token_id", GGUF_U32, 0, NULL},
    {".tokenizer.ggml.eos_token_id", GGUF_U32, 1, NULL},
};

/* What differs from V3 above; a type of GGUF_ARRAY removes the key. */
#define ABSENT GGUF_ARRAY

static const struct pair V2[] = {
    {"block_count", GGUF_U32, 60, NULL},
    {"embedding_length", GGUF_U32, 5120, NULL},
    {"expert_used_count", GGUF_U32, 6, NULL},
    {"expert_group_used_count", GGUF_U32, 3, NULL},
    {"leading_dense_block_count", GGUF_U32, 1, NULL},
    {"attention.key_length", GGUF_U32, 192, NULL},
    {"attention.value_length", GGUF_U32, 128, NULL},
    {"attention.key_length_mla", ABSENT, 0, NULL},
    {"attention.value_length_mla", ABSENT, 0, NULL},
    {"expert_feed_forward_length", GGUF_U32, 1536, NULL},
    {"expert_count", GGUF_U32, 160, NULL},
    {"expert_shared_count", GGUF_U32, 2, NULL},
    {"expert_weights_scale", GGUF_F32, 16, NULL},
    {"expert_weights_norm", ABSENT, 0, NULL},
    {"expert_gating_func", ABSENT, 0, NULL},
    {"rope.scaling.yarn_log_multiplier", GGUF_F32, 0.0707, NULL},
};

struct fixture {
    char directory[64], path[128];
    const char *tensor; /* the only one of the file */
    struct log_capture log;
};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    test_directory_make(f->directory);
    snprintf(f->path, sizeof f->path, "%s/m.gguf", f->directory);
    f->tensor = "output.weight";
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    test_directory_remove(f->directory);
    free(f);
    return 0;
}

static void put_pair(struct gguf_file *file, const char *architecture, const struct pair *pair) {
    char key[128];
    snprintf(key, sizeof key, "%s.%s", architecture, pair->key);
    const char *name = pair->key[0] == '.' ? pair->key + 1 : key;
    if (pair->type == GGUF_U32)
        gguf_key_u32(file, name, (uint32_t)pair->number);
    else if (pair->type == GGUF_F32)
        gguf_key_f32(file, name, (float)pair->number);
    else if (pair->type == GGUF_BOOL)
        gguf_key_bool(file, name, (uint8_t)pair->number);
    else if (pair->type == GGUF_STRING)
        gguf_key_text(file, name, pair->text);
}

static const struct pair *find_pair(const struct pair *pairs, size_t count, const char *key) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(pairs[i].key, key) == 0)
            return &pairs[i];
    return NULL;
}

/* Writes V3's metadata with two lists of changes. */
static void write_changed(struct fixture *f, const char *architecture, const struct pair *changes,
                          size_t change_count, const struct pair *more, size_t more_count) {
    static const float value = 1;
    struct gguf_file file;
    gguf_begin(&file);
    gguf_key_text(&file, "general.architecture", architecture);
    for (size_t i = 0; i < sizeof V3 / sizeof *V3; i++) {
        const struct pair *pair = find_pair(more, more_count, V3[i].key);
        if (!pair)
            pair = find_pair(changes, change_count, V3[i].key);
        put_pair(&file, architecture, pair ? pair : &V3[i]);
    }
    for (size_t i = 0; i < more_count; i++)
        if (!find_pair(V3, sizeof V3 / sizeof *V3, more[i].key))
            put_pair(&file, architecture, &more[i]);
    gguf_tensor(&file, f->tensor, 1, &(uint64_t){1}, 0, &value, sizeof value);
    gguf_write(&file, f->directory, "m.gguf");
}

/* The shape; `says` is what must be logged at information level, NULL: nothing. */
static struct model_shape accept(struct fixture *f, const char *says) {
    struct model_shape shape;
    log_capture_begin(&f->log);
    enum status status = model_shape_read(f->path, &shape);
    fclose(f->log.stream);
    log_init("test", LOG_ERROR, NULL);
    if (status != STATUS_OK || (says ? !strstr(f->log.text, says) : f->log.bytes > 0))
        fail_msg("%s: \"%s\"", status_name(status), f->log.text);
    free(f->log.text);
    return shape;
}

static void v3_is_read(void **state) {
    struct fixture *f = *state;
    write_changed(f, "deepseek2", NULL, 0, NULL, 0);
    struct model_shape s = accept(f, NULL);
    assert_int_equal(s.family, FAMILY_DEEPSEEK_V3);
    assert_int_equal(s.layers, 61);
    assert_int_equal(s.draft_layers, 0);
    assert_int_equal(s.hidden, 7168);
    assert_int_equal(s.vocabulary, 129280);
    assert_int_equal(s.context, 163840);
    assert_float_equal(s.norm_epsilon, 1e-6, 1e-12);
    assert_false(s.tied_head);
    assert_int_equal(s.heads, 128);
    assert_int_equal(s.q_rank, 1536);
    assert_int_equal(s.kv_rank, 512);
    assert_int_equal(s.nope_dim, 128);
    assert_int_equal(s.rope_dim, 64);
    assert_int_equal(s.v_dim, 128);
    assert_true(s.rope_consecutive);
    assert_true(s.rope.yarn);
    assert_true(s.rope.factor == 40);
    assert_int_equal(s.rope.original_positions, 4096);
    assert_true(s.rope.beta_fast == 32 && s.rope.beta_slow == 1);
    assert_float_equal(s.rope.mscale_all_dim, 1, 1e-6);
    assert_true(s.rope.mscale == s.rope.mscale_all_dim);
    assert_int_equal(s.dense_inner, 18432);
    assert_int_equal(s.expert_inner, 2048);
    assert_int_equal(s.experts, 256);
    assert_int_equal(s.shared_experts, 1);
    assert_int_equal(s.experts_per_token, 8);
    assert_false(s.is_expert_layer[2]);
    assert_true(s.is_expert_layer[3]);
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

static void v2_is_read(void **state) {
    struct fixture *f = *state;
    write_changed(f, "deepseek2", V2, sizeof V2 / sizeof *V2, NULL, 0);
    struct model_shape s = accept(f, NULL);
    assert_int_equal(s.family, FAMILY_DEEPSEEK_V2);
    assert_int_equal(s.nope_dim, 128);
    assert_int_equal(s.v_dim, 128);
    assert_int_equal(s.score, SCORE_SOFTMAX);
    assert_false(s.score_bias);
    assert_int_equal(s.group_rule, GROUP_BEST);
    assert_int_equal(s.groups, 8);
    assert_int_equal(s.groups_per_token, 3);
    assert_false(s.normalise_weights);
    assert_float_equal(s.weight_scale, 16, 0);
    assert_float_equal(s.rope.mscale_all_dim, 0.707, 1e-6);
}

static const struct pair NO_GROUPS[] = {{"expert_group_count", ABSENT, 0, NULL},
                                        {"expert_group_used_count", ABSENT, 0, NULL},
                                        {"expert_count", GGUF_U32, 384, NULL}};

static void missing_groups_are_known(void **state) {
    struct fixture *f = *state;
    write_changed(f, "deepseek2", NULL, 0, NO_GROUPS, 2);
    struct model_shape s = accept(f, "DeepSeek-V3, which has 8 groups and uses 4");
    assert_int_equal(s.groups, 8);
    assert_int_equal(s.groups_per_token, 4);
    assert_int_equal(s.group_rule, GROUP_TWO_BEST);
    write_changed(f, "deepseek2", V2, sizeof V2 / sizeof *V2, NO_GROUPS, 2);
    s = accept(f, "DeepSeek-V2, which has 8 groups and uses 3");
    assert_int_equal(s.groups, 8);
    assert_int_equal(s.groups_per_token, 3);
    assert_int_equal(s.group_rule, GROUP_BEST);
    /* A model of other numbers has none. */
    write_changed(f, "deepseek2", NULL, 0, NO_GROUPS, 3);
    s = accept(f, NULL);
    assert_int_equal(s.groups, 1);
    assert_int_equal(s.group_rule, GROUP_NONE);
    assert_true(s.score_bias);
}

static void a_draft_module_is_no_layer(void **state) {
    struct fixture *f = *state;
    static const struct pair DRAFT[] = {{"block_count", GGUF_U32, 62, NULL},
                                        {"nextn_predict_layers", GGUF_U32, 1, NULL},
                                        {"expert_group_count", ABSENT, 0, NULL},
                                        {"expert_group_used_count", ABSENT, 0, NULL}};
    write_changed(f, "deepseek2", NULL, 0, DRAFT, 4);
    struct model_shape s = accept(f, "DeepSeek-V3");
    assert_int_equal(s.layers, 61);
    assert_int_equal(s.draft_layers, 1);
    assert_true(s.is_expert_layer[61]);
}

static void a_model_without_a_head_takes_the_embedding(void **state) {
    struct fixture *f = *state;
    f->tensor = "token_embd.weight";
    write_changed(f, "deepseek2", NULL, 0, NULL, 0);
    assert_true(accept(f, NULL).tied_head);
}

static void v1_is_read(void **state) {
    struct fixture *f = *state;
    static const struct pair V1[] = {{"embedding_length", GGUF_U32, 2048, NULL},
                                     {"attention.head_count", GGUF_U32, 32, NULL},
                                     {"attention.head_count_kv", GGUF_U32, 16, NULL},
                                     {"rope.scaling.type", GGUF_STRING, 0, "none"},
                                     {"expert_group_count", ABSENT, 0, NULL},
                                     {"expert_group_used_count", ABSENT, 0, NULL},
                                     {"expert_weights_norm", GGUF_BOOL, 0, NULL},
                                     {"expert_weights_scale", GGUF_F32, 0, NULL},
                                     {"expert_gating_func", GGUF_U32, 1, NULL}};
    write_changed(f, "deepseek", NULL, 0, V1, sizeof V1 / sizeof *V1);
    struct model_shape s = accept(f, NULL);
    assert_int_equal(s.family, FAMILY_DEEPSEEK_V1);
    assert_int_equal(s.attention, ATTENTION_MULTI_HEAD);
    assert_int_equal(s.kv_heads, 16);
    assert_int_equal(s.head_dim, 64);
    assert_true(s.rope_consecutive);
    assert_false(s.rope.yarn);
    assert_int_equal(s.group_rule, GROUP_NONE);
    assert_float_equal(s.weight_scale, 1, 0);
}

static void expect_refusal(struct fixture *f, enum status want, const char *key) {
    struct model_shape shape;
    log_capture_begin(&f->log);
    enum status status = model_shape_read(f->path, &shape);
    if (status != want)
        fail_msg("%s: %s", key, status_name(status));
    log_capture_expect(&f->log, f->path, key, NULL);
}

static void missing_keys_are_named(void **state) {
    struct fixture *f = *state;
    static const char *const NEEDED[] = {
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "rope.freq_base",
        "attention.layer_norm_rms_epsilon",
        "expert_used_count",
        "vocab_size",
        "attention.kv_lora_rank",
        "attention.value_length_mla",
        "expert_feed_forward_length",
        "expert_count",
        "rope.dimension_count",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
    };
    for (size_t i = 0; i < sizeof NEEDED / sizeof *NEEDED; i++) {
        struct pair absent = {NEEDED[i], ABSENT, 0, NULL};
        char key[96];
        snprintf(key, sizeof key, "deepseek2.%s is missing", NEEDED[i]);
        write_changed(f, "deepseek2", NULL, 0, &absent, 1);
        expect_refusal(f, STATUS_NOT_FOUND, key);
    }
}

static void wrong_values_are_named(void **state) {
    struct fixture *f = *state;
    static const struct {
        struct pair pair;
        enum status status;
        const char *says;
    } CASES[] = {
        {{"block_count", GGUF_STRING, 0, "x"}, STATUS_FORMAT, "deepseek2.block_count must be"},
        {{"block_count", GGUF_F32, 61, NULL}, STATUS_FORMAT, "deepseek2.block_count must be"},
        {{"expert_count", GGUF_BOOL, 1, NULL}, STATUS_FORMAT, "deepseek2.expert_count must be"},
        {{"expert_weights_norm", GGUF_U32, 1, NULL}, STATUS_FORMAT, "expert_weights_norm"},
        {{"expert_gating_func", GGUF_U32, 3, NULL}, STATUS_UNSUPPORTED, "expert_gating_func"},
        {{"attention.key_length_mla", GGUF_U32, 64, NULL}, STATUS_FORMAT, "key_length_mla"},
        {{"rope.scaling.type", GGUF_STRING, 0, "linear"}, STATUS_UNSUPPORTED, "linear"},
        {{"rope.scaling.type", GGUF_U32, 2, NULL}, STATUS_FORMAT, "rope_scaling.type"},
        {{"embedding_length", GGUF_U32, 4e9, NULL}, STATUS_FORMAT, "hidden_size"},
        {{"expert_used_count", GGUF_U32, 65, NULL}, STATUS_FORMAT, "num_experts_per_tok"},
        {{"nextn_predict_layers", GGUF_U32, 70, NULL}, STATUS_FORMAT, "num_hidden_layers"},
        {{".tokenizer.ggml.eos_token_id", GGUF_U32, 129280, NULL}, STATUS_FORMAT, "eos_token_id"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        write_changed(f, "deepseek2", NULL, 0, &CASES[i].pair, 1);
        expect_refusal(f, CASES[i].status, CASES[i].says);
    }
    write_changed(f, "llama", NULL, 0, NULL, 0);
    expect_refusal(f, STATUS_UNSUPPORTED, "\"llama\"");
    struct pair rope = {"rope.dimension_count", GGUF_U32, 32, NULL};
    write_changed(f, "deepseek", NULL, 0, &rope, 1);
    expect_refusal(f, STATUS_UNSUPPORTED, "deepseek.rope.dimension_count");
}

/* ---- Random damage to the metadata of a golden model, as far as shape and tokenizer go. */

static void copy_golden(const char *path, uint8_t *head, size_t head_bytes) {
    FILE *from = fopen(TEST_DATA_DIR "/golden-gguf/deepseek-v3-tiny-q8_0/model.gguf", "rb");
    FILE *to = fopen(path, "wb");
    assert_non_null(from);
    assert_non_null(to);
    uint8_t piece[4096];
    for (size_t got; (got = fread(piece, 1, sizeof piece, from)) > 0;)
        assert_int_equal(fwrite(piece, 1, got, to), got);
    rewind(from);
    assert_int_equal(fread(head, 1, head_bytes, from), head_bytes);
    fclose(from);
    fclose(to);
}

static void random_damage_never_crashes(void **state) {
    struct fixture *f = *state;
    static uint8_t head[10860], damaged[sizeof head];
    copy_golden(f->path, head, sizeof head);
    struct random random = {31};
    FILE *nowhere = fopen("/dev/null", "w"), *file = fopen(f->path, "r+b");
    log_init("test", LOG_DEBUG, nowhere);
    size_t good = 0, bad = 0;
    for (int turn = 0; turn < 1500; turn++) {
        memcpy(damaged, head, sizeof head);
        /* Half of them in the model's own keys, which stand first. */
        uint32_t end = turn % 2 ? 1600 : sizeof head;
        for (uint32_t flips = 1 + random_below(&random, 2); flips; flips--)
            damaged[random_below(&random, end)] ^= (uint8_t)(1u << random_below(&random, 8));
        rewind(file);
        assert_int_equal(fwrite(damaged, 1, sizeof damaged, file), sizeof damaged);
        fflush(file);
        struct model_shape shape;
        bool read = model_shape_read(f->path, &shape) == STATUS_OK;
        good += read;
        bad += !read;
        struct weights *weights;
        json_t *tokenizer, *config;
        if (weights_open(f->path, &weights) != STATUS_OK)
            continue;
        if (gguf_tokenizer_read(weights, &tokenizer, &config) == STATUS_OK) {
            json_decref(tokenizer);
            json_decref(config);
        }
        weights_close(weights);
    }
    log_init("test", LOG_ERROR, NULL);
    fclose(file);
    fclose(nowhere);
    assert_true(good > 100);
    assert_true(bad > 100);
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(v3_is_read),
        TEST(v2_is_read),
        TEST(missing_groups_are_known),
        TEST(a_draft_module_is_no_layer),
        TEST(a_model_without_a_head_takes_the_embedding),
        TEST(v1_is_read),
        TEST(missing_keys_are_named),
        TEST(wrong_values_are_named),
        TEST(random_damage_never_crashes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
