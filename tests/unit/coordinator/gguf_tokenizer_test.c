/* Tokenizers of GGUF files: those of two tokenizer.json files, put into GGUF as converters do it,
 * give the same ids for the same texts; and every refusal by name. */
#include "coordinator/gguf_tokenizer.h"

#include "coordinator/tokenizer.h"
#include "tests/unit/common/weights/gguf_file.h"

enum {
    TYPE_NORMAL = 1,
    TYPE_CONTROL = 3,
    TYPE_USER_DEFINED = 4,
    TYPE_UNUSED = 5,
    TOKENS_MAX = 2000
};

struct fixture {
    char directory[64], path[128];
    struct log_capture log;
    /* What the next file says; changed by tests. */
    const char *model, *pre, *template;
    size_t token_count, type_count;
    const char *tokens[TOKENS_MAX];
    uint32_t types[TOKENS_MAX];
    json_t *source, *merges; /* source owns the texts */
    uint32_t bos;
};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    test_directory_make(f->directory);
    snprintf(f->path, sizeof f->path, "%s/m.gguf", f->directory);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    test_directory_remove(f->directory);
    json_decref(f->source);
    free(f);
    return 0;
}

/* Takes the tokens of directory/tokenizer.json. */
static void take_source(struct fixture *f, const char *directory, uint32_t vocabulary,
                        const char *pre) {
    char path[512];
    snprintf(path, sizeof path, "%s/tokenizer.json", directory);
    f->source = json_load_file(path, 0, NULL);
    assert_non_null(f->source);
    f->model = "gpt2";
    f->pre = pre;
    f->template = "{{ bos_token }}";
    f->token_count = f->type_count = vocabulary;
    f->merges = json_object_get(json_object_get(f->source, "model"), "merges");
    for (size_t i = 0; i < vocabulary; i++) {
        f->tokens[i] = "[PAD]";
        f->types[i] = TYPE_UNUSED;
    }
    const char *text;
    json_t *value;
    json_object_foreach(json_object_get(json_object_get(f->source, "model"), "vocab"), text,
                        value) {
        f->tokens[json_integer_value(value)] = text;
        f->types[json_integer_value(value)] = TYPE_NORMAL;
    }
    size_t index;
    json_array_foreach(json_object_get(f->source, "added_tokens"), index, value) {
        size_t id = (size_t)json_integer_value(json_object_get(value, "id"));
        f->tokens[id] = json_string_value(json_object_get(value, "content"));
        f->types[id] =
            json_is_true(json_object_get(value, "special")) ? TYPE_CONTROL : TYPE_USER_DEFINED;
        if (index == 0)
            f->bos = (uint32_t)id;
    }
}

static void write_file(struct fixture *f) {
    static const float value = 1;
    struct gguf_file file;
    gguf_begin(&file);
    if (f->model)
        gguf_key_text(&file, "tokenizer.ggml.model", f->model);
    if (f->pre)
        gguf_key_text(&file, "tokenizer.ggml.pre", f->pre);
    if (f->token_count)
        gguf_key_array(&file, "tokenizer.ggml.tokens", GGUF_STRING, f->token_count);
    for (size_t i = 0; i < f->token_count; i++)
        gguf_put_text(file.key_stream, f->tokens[i], strlen(f->tokens[i]));
    gguf_key_array(&file, "tokenizer.ggml.token_type", GGUF_I32, f->type_count);
    for (size_t i = 0; i < f->type_count; i++)
        gguf_put_u32(file.key_stream, f->types[i]);
    gguf_key_array(&file, "tokenizer.ggml.merges", GGUF_STRING, json_array_size(f->merges));
    size_t index;
    json_t *merge;
    json_array_foreach(f->merges, index, merge) {
        char text[256];
        if (json_is_string(merge))
            snprintf(text, sizeof text, "%s", json_string_value(merge));
        else
            snprintf(text, sizeof text, "%s %s", json_string_value(json_array_get(merge, 0)),
                     json_string_value(json_array_get(merge, 1)));
        gguf_put_text(file.key_stream, text, strlen(text));
    }
    gguf_key_u32(&file, "tokenizer.ggml.bos_token_id", f->bos);
    if (f->template)
        gguf_key_text(&file, "tokenizer.chat_template", f->template);
    gguf_tensor(&file, "output.weight", 1, &(uint64_t){1}, 0, &value, sizeof value);
    gguf_write(&file, f->directory, "m.gguf");
}

/* Reads the tokenizer of the file as it stands. */
static enum status read_file(struct fixture *f, struct tokenizer **out) {
    struct weights *weights;
    json_t *tokenizer, *config;
    write_file(f);
    assert_int_equal(weights_open(f->path, &weights), STATUS_OK);
    enum status status = gguf_tokenizer_read(weights, &tokenizer, &config);
    weights_close(weights);
    if (status != STATUS_OK)
        return status;
    struct tokenizer_source source = {tokenizer, f->path, config, f->path};
    status = tokenizer_parse(&source, TOKENS_MAX, out);
    json_decref(tokenizer);
    json_decref(config);
    return status;
}

static void compare(const struct tokenizer *a, const struct tokenizer *b, const char *text,
                    bool special) {
    struct token_list left = {0}, right = {0};
    assert_int_equal(tokenizer_encode(a, text, strlen(text), special, &left), STATUS_OK);
    assert_int_equal(tokenizer_encode(b, text, strlen(text), special, &right), STATUS_OK);
    assert_int_equal(left.count, right.count);
    if (left.count && memcmp(left.ids, right.ids, left.count * sizeof *left.ids))
        fail_msg("other ids for \"%s\"", text);
    free(left.ids);
    free(right.ids);
}

static void expect_same(struct fixture *f, const char *directory, const char *cases_path) {
    struct tokenizer *want, *got;
    assert_int_equal(tokenizer_load(directory, TOKENS_MAX, &want), STATUS_OK);
    assert_int_equal(read_file(f, &got), STATUS_OK);
    json_t *cases = json_load_file(cases_path, JSON_ALLOW_NUL, NULL), *item;
    size_t index;
    assert_true(json_array_size(cases) >= 600);
    json_array_foreach(cases, index, item) {
        const char *text = json_string_value(json_object_get(item, "text"));
        assert_non_null(text);
        compare(want, got, text, false);
        compare(want, got, text, true);
    }
    json_decref(cases);
    for (uint32_t id = 0; id < TOKENS_MAX; id++) {
        size_t bytes[2];
        bool special[2];
        const char *a = tokenizer_token_bytes(want, id, &bytes[0], &special[0]);
        const char *b = tokenizer_token_bytes(got, id, &bytes[1], &special[1]);
        assert_int_equal(bytes[0], bytes[1]);
        assert_memory_equal(a, b, bytes[0]);
        assert_int_equal(special[0], special[1]);
    }
    uint32_t bos, eos;
    assert_true(tokenizer_bos(got, &bos));
    assert_int_equal(bos, f->bos);
    assert_false(tokenizer_eos(got, &eos));
    assert_string_equal(tokenizer_chat_template(got), "{{ bos_token }}");
    tokenizer_destroy(want);
    tokenizer_destroy(got);
}

static void v3_tokenizers_agree(void **state) {
    take_source(*state, DEMO_MODEL_DIR, 1024, "deepseek-v3");
    expect_same(*state, DEMO_MODEL_DIR, TEST_DATA_DIR "/tokenizer/cases.json");
}

static void llm_tokenizers_agree(void **state) {
    take_source(*state, TEST_DATA_DIR "/tokenizer/v2-style", 562, "deepseek-llm");
    expect_same(*state, TEST_DATA_DIR "/tokenizer/v2-style",
                TEST_DATA_DIR "/tokenizer/v2-style/cases.json");
}

/* The coder's pre-tokenizer cuts at marks and at each digit, and keeps a blank with what follows.
 */
static void coder_tokenizers_cut_at_digits_and_marks(void **state) {
    struct fixture *f = *state;
    take_source(f, DEMO_MODEL_DIR, 1024, "deepseek-coder");
    struct tokenizer *tokenizer;
    assert_int_equal(read_file(f, &tokenizer), STATUS_OK);
    struct token_list whole = {0}, parts = {0};
    static const char *const PARTS[] = {"the", " answer", " (", "1", "2", ")"};
    assert_int_equal(tokenizer_encode(tokenizer, "the answer (12)", 15, false, &whole), STATUS_OK);
    for (size_t i = 0; i < sizeof PARTS / sizeof *PARTS; i++)
        assert_int_equal(tokenizer_encode(tokenizer, PARTS[i], strlen(PARTS[i]), false, &parts),
                         STATUS_OK);
    assert_int_equal(whole.count, parts.count);
    assert_memory_equal(whole.ids, parts.ids, whole.count * sizeof *whole.ids);
    free(whole.ids);
    free(parts.ids);
    tokenizer_destroy(tokenizer);
}

static void expect_refusal(struct fixture *f, enum status want, const char *says) {
    struct tokenizer *tokenizer;
    log_capture_begin(&f->log);
    assert_int_equal(read_file(f, &tokenizer), want);
    log_capture_expect(&f->log, f->path, says, NULL);
}

static void other_tokenizers_are_named(void **state) {
    struct fixture *f = *state;
    take_source(f, DEMO_MODEL_DIR, 1024, "qwen2");
    expect_refusal(f, STATUS_UNSUPPORTED, "tokenizer.ggml.pre is \"qwen2\"");
    f->pre = NULL;
    expect_refusal(f, STATUS_UNSUPPORTED, "tokenizer.ggml.pre is \"\"");
    f->pre = "deepseek-v3";
    f->model = "llama";
    expect_refusal(f, STATUS_UNSUPPORTED, "tokenizer.ggml.model is \"llama\"");
    f->model = "gpt2";
    f->type_count--;
    expect_refusal(f, STATUS_FORMAT, "tokenizer.ggml.token_type");
    f->type_count++;
    f->tokens[77] = "\xff";
    expect_refusal(f, STATUS_FORMAT, "tokenizer.ggml.tokens[77]");
    f->tokens[77] = "a token of no merge";
    expect_refusal(f, STATUS_FORMAT, "model.");
    f->bos = 1024;
    expect_refusal(f, STATUS_FORMAT, "tokenizer.ggml.bos_token_id");
}

static void expect_none(struct fixture *f, const char *says) {
    struct tokenizer *tokenizer;
    log_capture_begin(&f->log);
    assert_int_equal(read_file(f, &tokenizer), STATUS_NOT_FOUND);
    fclose(f->log.stream);
    log_init("test", LOG_ERROR, NULL);
    assert_non_null(strstr(f->log.text, "warning: "));
    assert_non_null(strstr(f->log.text, f->path));
    assert_non_null(strstr(f->log.text, says));
    free(f->log.text);
}

static void models_without_a_tokenizer_do_with_ids(void **state) {
    struct fixture *f = *state;
    take_source(f, DEMO_MODEL_DIR, 1024, "deepseek-v3");
    f->merges = NULL;
    expect_none(f, "1024 tokens and 0 merges");
    f->token_count = 0;
    expect_none(f, "no tokenizer");
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(v3_tokenizers_agree),
        TEST(llm_tokenizers_agree),
        TEST(coder_tokenizers_cut_at_digits_and_marks),
        TEST(other_tokenizers_are_named),
        TEST(models_without_a_tokenizer_do_with_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
