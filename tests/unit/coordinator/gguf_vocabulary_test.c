/* Tokenizers written to GGUF and read again give the same ids; what cannot be written. */
#include "coordinator/gguf_vocabulary.h"

#include "coordinator/gguf_tokenizer.h"
#include "coordinator/tokenizer.h"
#include "tests/unit/common/weights/writer_fixture.h"

static const struct model_shape SHAPE = {.vocabulary = 1024, .bos_id = 5, .eos_id = 6};

/* Ends the file and opens it. */
static struct weights *read_back(struct writer_fixture *f) {
    static const float value = 1;
    gguf_writer_add_tensor(f->writer, "output.weight", 1, (uint64_t[]){1}, 0, 4);
    assert_int_equal(gguf_writer_open(f->writer, f->path), STATUS_OK);
    assert_int_equal(gguf_writer_write(f->writer, &value, 4), STATUS_OK);
    assert_int_equal(gguf_writer_finish(f->writer), STATUS_OK);
    struct weights *weights;
    assert_int_equal(weights_open(f->path, &weights), STATUS_OK);
    return weights;
}

static void expect_same_ids(const struct tokenizer *a, const struct tokenizer *b,
                            const char *text) {
    struct token_list left = {0}, right = {0};
    assert_int_equal(tokenizer_encode(a, text, strlen(text), true, &left), STATUS_OK);
    assert_int_equal(tokenizer_encode(b, text, strlen(text), true, &right), STATUS_OK);
    assert_int_equal(left.count, right.count);
    assert_memory_equal(left.ids, right.ids, left.count * sizeof *left.ids);
    free(left.ids);
    free(right.ids);
}

static void the_demo_tokenizer(void **state) {
    struct writer_fixture *f = *state;
    assert_int_equal(gguf_vocabulary_write(DEMO_MODEL_DIR, &SHAPE, f->writer), STATUS_OK);
    struct weights *weights = read_back(f);
    json_t *tokenizer, *config;
    assert_int_equal(gguf_tokenizer_read(weights, &tokenizer, &config), STATUS_OK);
    struct tokenizer_source source = {tokenizer, f->path, config, f->path};
    struct tokenizer *before, *after;
    assert_int_equal(tokenizer_load(DEMO_MODEL_DIR, 1024, &before), STATUS_OK);
    assert_int_equal(tokenizer_parse(&source, 1024, &after), STATUS_OK);
    static const char *const TEXTS[] = {
        "What is 37 plus 58?", "a\n\n  b\tc 12345 d\xc3\xbcrfen \xe6\x97\xa5\xe6\x9c\xac",
        "<\xef\xbd\x9cUser\xef\xbd\x9c>hello<\xef\xbd\x9c\x41ssistant\xef\xbd\x9c>"};
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++)
        expect_same_ids(before, after, TEXTS[i]);
    assert_string_equal(tokenizer_chat_template(before), tokenizer_chat_template(after));
    for (uint32_t id = 0; id < 1024; id++) {
        size_t a_bytes, b_bytes;
        bool a_special, b_special;
        const char *a = tokenizer_token_bytes(before, id, &a_bytes, &a_special);
        const char *b = tokenizer_token_bytes(after, id, &b_bytes, &b_special);
        assert_int_equal(a_bytes, b_bytes);
        assert_memory_equal(a, b, a_bytes);
        assert_int_equal(a_special, b_special);
    }
    const json_t *metadata = weights_metadata(weights);
    assert_int_equal(json_integer_value(json_object_get(metadata, "tokenizer.ggml.bos_token_id")),
                     0);
    assert_int_equal(
        json_integer_value(json_object_get(metadata, "tokenizer.ggml.padding_token_id")), 2);
    assert_true(json_is_true(json_object_get(metadata, "tokenizer.ggml.add_bos_token")));
    assert_true(json_is_false(json_object_get(metadata, "tokenizer.ggml.add_eos_token")));
    tokenizer_destroy(before);
    tokenizer_destroy(after);
    json_decref(tokenizer);
    json_decref(config);
    weights_close(weights);
}

/* Copies the demo's tokenizer.json with another "pre_tokenizer" (released), merges in pairs. */
static void write_tokenizer(struct writer_fixture *f, json_t *pretokenizer) {
    json_t *root = json_load_file(DEMO_MODEL_DIR "/tokenizer.json", 0, NULL);
    assert_non_null(root);
    if (pretokenizer)
        json_object_set_new(root, "pre_tokenizer", pretokenizer);
    json_t *merges = json_object_get(json_object_get(root, "model"), "merges"),
           *pairs = json_array();
    size_t index;
    json_t *merge;
    json_array_foreach(merges, index, merge) {
        const char *text = json_string_value(merge);
        if (!text) { /* they are pairs already */
            json_array_append(pairs, merge);
            continue;
        }
        size_t first = strcspn(text, " ");
        json_array_append_new(pairs, json_pack("[s%, s]", text, first, text + first + 1));
    }
    json_object_set_new(json_object_get(root, "model"), "merges", pairs);
    char path[128];
    snprintf(path, sizeof path, "%s/tokenizer.json", f->directory);
    assert_int_equal(json_dump_file(root, path, 0), 0);
    json_decref(root);
}

/* Merges as pairs, no tokenizer_config.json: the ids of config.json. */
static void merges_in_pairs(void **state) {
    struct writer_fixture *f = *state;
    write_tokenizer(f, NULL);
    assert_int_equal(gguf_vocabulary_write(f->directory, &SHAPE, f->writer), STATUS_OK);
    struct weights *weights = read_back(f);
    const json_t *metadata = weights_metadata(weights);
    const json_t *merges = json_object_get(metadata, "tokenizer.ggml.merges");
    assert_true(json_array_size(merges) > 500);
    assert_non_null(strchr(json_string_value(json_array_get(merges, 0)), ' '));
    assert_int_equal(json_integer_value(json_object_get(metadata, "tokenizer.ggml.bos_token_id")),
                     5);
    assert_null(json_object_get(metadata, "tokenizer.chat_template"));
    weights_close(weights);
}

static void an_unknown_pretokenizer(void **state) {
    struct writer_fixture *f = *state;
    write_tokenizer(f, json_pack("{s:s, s:[{s:s, s:b, s:b}]}", "type", "Sequence", "pretokenizers",
                                 "type", "ByteLevel", "add_prefix_space", 0, "use_regex", 0));
    log_capture_begin(&f->log);
    assert_int_equal(gguf_vocabulary_write(f->directory, &SHAPE, f->writer), STATUS_UNSUPPORTED);
    log_capture_expect(&f->log, f->directory, "pre_tokenizer", NULL);
}

static void no_tokenizer(void **state) {
    struct writer_fixture *f = *state;
    log_init("test", LOG_ERROR, NULL);
    assert_int_equal(gguf_vocabulary_write(f->directory, &SHAPE, f->writer), STATUS_OK);
    struct weights *weights = read_back(f);
    json_t *tokenizer, *config;
    assert_int_equal(gguf_tokenizer_read(weights, &tokenizer, &config), STATUS_NOT_FOUND);
    assert_int_equal(json_integer_value(
                         json_object_get(weights_metadata(weights), "tokenizer.ggml.eos_token_id")),
                     6);
    weights_close(weights);
}

/* The published descriptions have names, also where they leave out what is the default. */
static void pretokenizers_have_names(void **state) {
    (void)state;
    json_t *root = json_load_file(DEMO_MODEL_DIR "/tokenizer.json", 0, NULL);
    json_t *pretokenizer = json_object_get(root, "pre_tokenizer");
    json_t *steps = json_object_get(pretokenizer, "pretokenizers");
    assert_string_equal(gguf_pretokenizer_name(pretokenizer), "deepseek-v3");
    json_object_del(json_array_get(steps, 0), "invert");
    assert_string_equal(gguf_pretokenizer_name(pretokenizer), "deepseek-v3");
    json_object_del(json_array_get(steps, 3), "use_regex"); /* true when it is missing */
    assert_null(gguf_pretokenizer_name(pretokenizer));
    json_object_set_new(json_array_get(steps, 3), "use_regex", json_false());
    json_object_set_new(json_array_get(steps, 1), "behavior", json_string("Removed"));
    assert_null(gguf_pretokenizer_name(pretokenizer));
    assert_null(gguf_pretokenizer_name(NULL));
    json_decref(root);
    root = json_load_file(TEST_DATA_DIR "/tokenizer/v2-style/tokenizer.json", 0, NULL);
    assert_string_equal(gguf_pretokenizer_name(json_object_get(root, "pre_tokenizer")),
                        "deepseek-llm");
    json_decref(root);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, writer_setup, writer_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(the_demo_tokenizer),
        TEST(merges_in_pairs),
        TEST(an_unknown_pretokenizer),
        TEST(no_tokenizer),
        cmocka_unit_test(pretokenizers_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
