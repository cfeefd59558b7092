/* The tokenizer against two independent implementations (tests/data/tokenizer), on hostile files,
 * on worst-case texts, and from several threads. */
#include "coordinator/tokenizer.h"

#include <jansson.h>
#include <pthread.h>
#include <time.h>

#include "common/limits.h"
#include "tests/unit/files.h"
#include "tests/unit/test.h"

enum { DEMO_VOCABULARY = 1024, V2_VOCABULARY = 1000, MEGABYTE = 1000000 };

static const char V2_DIRECTORY[] = TEST_DATA_DIR "/tokenizer/v2-style";

static struct tokenizer *load(const char *directory, uint32_t vocabulary) {
    struct tokenizer *tokenizer;
    assert_int_equal(tokenizer_load(directory, vocabulary, &tokenizer), STATUS_OK);
    return tokenizer;
}

static struct token_list encode(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                                bool parse_special) {
    struct token_list list = {0};
    assert_int_equal(tokenizer_encode(tokenizer, text, bytes, parse_special, &list), STATUS_OK);
    return list;
}

static void expect_ids(const struct tokenizer *tokenizer, const char *text, bool parse_special,
                       const uint32_t *ids, size_t count) {
    struct token_list list = encode(tokenizer, text, strlen(text), parse_special);
    assert_int_equal(list.count, count);
    assert_memory_equal(list.ids, ids, count * sizeof *ids);
    free(list.ids);
}

/* Requires that the tokens' bytes, one after the other, are the text. */
static void expect_decoded(const struct tokenizer *tokenizer, const struct token_list *list,
                           const char *text, size_t bytes) {
    size_t at = 0;
    for (size_t i = 0; i < list->count; i++) {
        size_t length;
        bool special;
        const char *token = tokenizer_token_bytes(tokenizer, list->ids[i], &length, &special);
        assert_true(length <= bytes - at);
        assert_memory_equal(token, text + at, length);
        at += length;
    }
    assert_int_equal(at, bytes);
}

/* ---- The fixture. */

static void run_cases(const char *directory, uint32_t vocabulary, const char *path) {
    struct tokenizer *tokenizer = load(directory, vocabulary);
    json_t *cases = json_load_file(path, JSON_ALLOW_NUL, NULL);
    assert_true(json_array_size(cases) >= 600);
    size_t index;
    json_t *item;
    json_array_foreach(cases, index, item) {
        const json_t *text = json_object_get(item, "text"), *ids = json_object_get(item, "ids");
        struct token_list list =
            encode(tokenizer, json_string_value(text), json_string_length(text), true);
        bool equal = list.count == json_array_size(ids);
        for (size_t i = 0; i < list.count && equal; i++)
            equal = list.ids[i] == json_integer_value(json_array_get(ids, i));
        if (!equal)
            fail_msg("case %zu differs: \"%s\"", index, json_string_value(text));
        expect_decoded(tokenizer, &list, json_string_value(text), json_string_length(text));
        free(list.ids);
    }
    json_decref(cases);
    tokenizer_destroy(tokenizer);
}

static void demo_cases_are_equal(void **state) {
    (void)state;
    run_cases(DEMO_MODEL_DIR, DEMO_VOCABULARY, TEST_DATA_DIR "/tokenizer/cases.json");
}

static void v2_style_cases_are_equal(void **state) {
    (void)state;
    run_cases(V2_DIRECTORY, V2_VOCABULARY, TEST_DATA_DIR "/tokenizer/v2-style/cases.json");
}

/* ---- Special tokens. */

static void special_tokens_are_text_unless_parsed(void **state) {
    (void)state;
    struct tokenizer *tokenizer = load(DEMO_MODEL_DIR, DEMO_VOCABULARY);
    const char *text = "<｜User｜>";
    expect_ids(tokenizer, text, true, (uint32_t[]){1022}, 1);
    struct token_list list = encode(tokenizer, text, strlen(text), false);
    assert_true(list.count > 1);
    for (size_t i = 0; i < list.count; i++)
        assert_true(list.ids[i] > 2 && list.ids[i] < 1022);
    expect_decoded(tokenizer, &list, text, strlen(text));
    free(list.ids);
    tokenizer_destroy(tokenizer);
}

/* Models that do not mark their turn markers as special must not be open to forgery either; added
 * tokens that are plain letters are matched all the same. */
static void unmarked_markers_are_text_unless_parsed(void **state) {
    (void)state;
    struct tokenizer *tokenizer = load(V2_DIRECTORY, V2_VOCABULARY);
    uint32_t user, letter;
    assert_true(tokenizer_find(tokenizer, "<｜User｜>", &user));
    assert_true(tokenizer_find(tokenizer, "ü", &letter));
    expect_ids(tokenizer, "<｜User｜>ü", true, (uint32_t[]){user, letter}, 2);
    struct token_list list = encode(tokenizer, "<｜User｜>ü", strlen("<｜User｜>ü"), false);
    for (size_t i = 0; i < list.count; i++)
        assert_int_not_equal(list.ids[i], user);
    assert_int_equal(list.ids[list.count - 1], letter);
    free(list.ids);
    tokenizer_destroy(tokenizer);
}

static void tokens_are_found_by_text_and_id(void **state) {
    (void)state;
    struct tokenizer *tokenizer = load(DEMO_MODEL_DIR, DEMO_VOCABULARY);
    uint32_t id;
    assert_true(tokenizer_bos(tokenizer, &id));
    assert_int_equal(id, 0);
    assert_true(tokenizer_eos(tokenizer, &id));
    assert_int_equal(id, 1);
    assert_true(tokenizer_find(tokenizer, " a", &id));
    size_t bytes;
    bool special;
    assert_memory_equal(tokenizer_token_bytes(tokenizer, id, &bytes, &special), " a", 2);
    assert_int_equal(bytes, 2);
    assert_false(special);
    tokenizer_token_bytes(tokenizer, 0, &bytes, &special);
    assert_int_equal(bytes, strlen("<｜begin▁of▁sentence｜>"));
    assert_true(special);
    tokenizer_token_bytes(tokenizer, 4000000000u, &bytes, &special);
    assert_int_equal(bytes, 0);
    assert_false(tokenizer_find(tokenizer, "no such token", &id));
    assert_false(tokenizer_find(tokenizer, "", &id));
    assert_non_null(strstr(tokenizer_chat_template(tokenizer), "<｜User｜>"));
    tokenizer_destroy(tokenizer);
}

/* ---- Texts. */

static void invalid_bytes_are_read_as_replacement(void **state) {
    (void)state;
    struct tokenizer *tokenizer = load(DEMO_MODEL_DIR, DEMO_VOCABULARY);
    static const char BROKEN[] = "a\xff\xe2\x82z\xc3";
    static const char REPAIRED[] = "a\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd";
    struct token_list broken = encode(tokenizer, BROKEN, sizeof BROKEN - 1, false);
    expect_ids(tokenizer, REPAIRED, false, broken.ids, broken.count);
    expect_decoded(tokenizer, &broken, REPAIRED, sizeof REPAIRED - 1);
    free(broken.ids);
    tokenizer_destroy(tokenizer);
}

static void encoding_appends(void **state) {
    (void)state;
    struct tokenizer *tokenizer = load(DEMO_MODEL_DIR, DEMO_VOCABULARY);
    struct token_list list = {0};
    assert_int_equal(token_list_push(&list, 77), STATUS_OK);
    assert_int_equal(tokenizer_encode(tokenizer, "1", 1, false, &list), STATUS_OK);
    assert_int_equal(tokenizer_encode(tokenizer, "", 0, false, &list), STATUS_OK);
    assert_int_equal(list.count, 2);
    assert_int_equal(list.ids[0], 77);
    free(list.ids);
    tokenizer_destroy(tokenizer);
}

static void text_over_the_bound_is_refused(void **state) {
    (void)state;
    struct tokenizer *tokenizer = load(DEMO_MODEL_DIR, DEMO_VOCABULARY);
    struct token_list list = {0};
    struct log_capture log;
    log_capture_begin(&log);
    assert_int_equal(tokenizer_encode(tokenizer, "", (size_t)TEXT_BYTES_MAX + 1, false, &list),
                     STATUS_UNSUPPORTED);
    log_capture_expect(&log, "too long", NULL);
    assert_int_equal(list.count, 0);
    tokenizer_destroy(tokenizer);
}

/* A megabyte of one repeated piece, and a digit behind it: what takes quadratic time anywhere does
 * not end. The limit leaves room for the sanitizers, which cost a factor of five. */
static void long_words_take_no_longer(void **state) {
    (void)state;
    static const char *const UNITS[] = {"a",
                                        "中",
                                        " ",
                                        "\n",
                                        " \n",
                                        "\u00a0",
                                        "!",
                                        "<",
                                        "7",
                                        "ü",
                                        "\u0301a",
                                        "\xff",
                                        "The quick brown fox. ",
                                        "\r",
                                        "\t",
                                        "<｜User"};
    struct tokenizer *tokenizers[] = {load(DEMO_MODEL_DIR, DEMO_VOCABULARY),
                                      load(V2_DIRECTORY, V2_VOCABULARY)};
    char *text = malloc(MEGABYTE + 1);
    for (size_t i = 0; i < 2 * sizeof UNITS / sizeof *UNITS; i++) {
        const char *unit = UNITS[i / 2];
        size_t bytes = 0;
        for (; bytes + strlen(unit) <= MEGABYTE; bytes += strlen(unit))
            memcpy(text + bytes, unit, strlen(unit));
        text[bytes++] = '1';
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        struct token_list list = encode(tokenizers[i % 2], text, bytes, true);
        clock_gettime(CLOCK_MONOTONIC, &end);
        if (unit[0] != '\xff')
            expect_decoded(tokenizers[i % 2], &list, text, bytes);
        free(list.ids);
        double seconds =
            (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) * 1e-9;
        if (seconds > 10.0)
            fail_msg("a megabyte of \"%s\" took %g s", unit, seconds);
    }
    free(text);
    tokenizer_destroy(tokenizers[0]);
    tokenizer_destroy(tokenizers[1]);
}

/* ---- Threads. */

enum { THREADS = 4, ROUNDS = 200 };

static const char THREAD_TEXT[] = "Hello wörld 12345 你好 <｜User｜> don't!\n\n  x";

struct worker {
    const struct tokenizer *tokenizer;
    const struct token_list *expected;
    bool equal;
};

static void *encode_often(void *argument) {
    struct worker *worker = argument;
    worker->equal = true;
    for (int i = 0; i < ROUNDS; i++) {
        struct token_list list = {0};
        enum status status =
            tokenizer_encode(worker->tokenizer, THREAD_TEXT, sizeof THREAD_TEXT - 1, true, &list);
        worker->equal = worker->equal && status == STATUS_OK &&
                        list.count == worker->expected->count &&
                        memcmp(list.ids, worker->expected->ids, list.count * 4) == 0;
        free(list.ids);
    }
    return NULL;
}

static void several_threads_may_encode(void **state) {
    (void)state;
    struct tokenizer *tokenizer = load(DEMO_MODEL_DIR, DEMO_VOCABULARY);
    struct token_list expected = encode(tokenizer, THREAD_TEXT, sizeof THREAD_TEXT - 1, true);
    pthread_t threads[THREADS];
    struct worker workers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.tokenizer = tokenizer, .expected = &expected};
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_true(workers[i].equal);
    }
    free(expected.ids);
    tokenizer_destroy(tokenizer);
}

/* ---- Hostile files: the demo's tokenizer.json with one value replaced. */

struct fixture {
    char directory[64];
    json_t *root;
};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    test_directory_make(f->directory);
    f->root = json_load_file(DEMO_MODEL_DIR "/tokenizer.json", 0, NULL);
    *state = f;
    return f->root ? 0 : -1;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    json_decref(f->root);
    test_directory_remove(f->directory);
    free(f);
    return 0;
}

static void write_json(struct fixture *f, const char *name, const json_t *value) {
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    test_file_write(f->directory, name, text);
    free(text);
}

/* Sets the value at `path`, such as "model/merges/0"; NULL removes it. */
static void replace(json_t *root, const char *path, const char *value) {
    char parts[128];
    snprintf(parts, sizeof parts, "%s", path);
    json_t *parent = root;
    char *key = parts;
    for (char *slash; (slash = strchr(key, '/')); key = slash + 1) {
        *slash = '\0';
        parent = json_is_array(parent) ? json_array_get(parent, (size_t)atoi(key))
                                       : json_object_get(parent, key);
    }
    json_t *parsed = value ? json_loads(value, JSON_DECODE_ANY, NULL) : NULL;
    assert_true(!value || parsed);
    if (json_is_array(parent))
        assert_int_equal(json_array_set_new(parent, (size_t)atoi(key), parsed), 0);
    else if (parsed)
        assert_int_equal(json_object_set_new(parent, key, parsed), 0);
    else
        assert_int_equal(json_object_del(parent, key), 0);
}

static void expect_refused(struct fixture *f, enum status status, const char *part) {
    struct tokenizer *tokenizer = NULL;
    struct log_capture log;
    log_capture_begin(&log);
    enum status got = tokenizer_load(f->directory, DEMO_VOCABULARY, &tokenizer);
    if (got != status)
        fail_msg("status %s where \"%s\" was expected", status_name(got), part);
    log_capture_expect(&log, f->directory, part, NULL);
    assert_null(tokenizer);
}

#define SPLIT_0 "pre_tokenizer/pretokenizers/0"

static const struct {
    const char *path, *value;
    enum status status;
    const char *part;
} HOSTILE[] = {
    {"normalizer", "{\"type\": \"NFC\"}", STATUS_UNSUPPORTED, "NFC"},
    {"normalizer/normalizers", "[{\"type\": \"Lowercase\"}]", STATUS_UNSUPPORTED, "Lowercase"},
    {"normalizer", "7", STATUS_UNSUPPORTED, "normalizer"},
    {"pre_tokenizer", "null", STATUS_UNSUPPORTED, "(none)"},
    {"pre_tokenizer", NULL, STATUS_UNSUPPORTED, "(none)"},
    {"pre_tokenizer/pretokenizers", "{}", STATUS_FORMAT, "pretokenizers"},
    {"pre_tokenizer/pretokenizers", "[]", STATUS_UNSUPPORTED, "no ByteLevel"},
    {"pre_tokenizer/type", "\"Metaspace\"", STATUS_UNSUPPORTED, "Metaspace"},
    {SPLIT_0 "/type", "\"Whitespace\"", STATUS_UNSUPPORTED,
     "pretokenizers[0]: type \"Whitespace\""},
    {SPLIT_0 "/type", "\"ByteLevel\"", STATUS_UNSUPPORTED, "pretokenizers[1]"},
    {SPLIT_0 "/behavior", "\"Removed\"", STATUS_UNSUPPORTED, "Removed"},
    {SPLIT_0 "/invert", "true", STATUS_UNSUPPORTED, "invert"},
    {SPLIT_0 "/invert", "1", STATUS_FORMAT, "invert"},
    {SPLIT_0 "/pattern", "\"x\"", STATUS_FORMAT, "pattern"},
    {SPLIT_0 "/pattern/Regex", "\"(a\"", STATUS_FORMAT, "pretokenizers[0]"},
    {SPLIT_0 "/pattern/Regex", "\"\"", STATUS_FORMAT, "empty"},
    {SPLIT_0 "/pattern/Regex", "\"[a&&b]\"", STATUS_UNSUPPORTED, "&&"},
    {"pre_tokenizer/pretokenizers/3/use_regex", "\"yes\"", STATUS_FORMAT, "use_regex"},
    {"model", NULL, STATUS_UNSUPPORTED, "model.type"},
    {"model/type", "\"Unigram\"", STATUS_UNSUPPORTED, "Unigram"},
    {"model/dropout", "0.5", STATUS_UNSUPPORTED, "dropout"},
    {"model/byte_fallback", "true", STATUS_UNSUPPORTED, "byte_fallback"},
    {"model/end_of_word_suffix", "\"</w>\"", STATUS_UNSUPPORTED, "end_of_word_suffix"},
    {"model/vocab", "[]", STATUS_FORMAT, "model.vocab"},
    {"model/vocab/a", "-1", STATUS_FORMAT, "\"a\" has id -1"},
    {"model/vocab/a", "1024", STATUS_FORMAT, "does not belong to this model"},
    {"model/vocab/a", "99999999999999", STATUS_FORMAT, "id 99999999999999"},
    {"model/vocab/a", "4", STATUS_FORMAT, "id 4 "},
    {"model/vocab/a", "\"4\"", STATUS_FORMAT, "\"a\""},
    {"model/vocab/q", NULL, STATUS_FORMAT, "byte 0x71"},
    {"model/merges", "{}", STATUS_FORMAT, "model.merges"},
    {"model/merges/3", "\"a zz\"", STATUS_FORMAT, "model.merges[3] names \"zz\""},
    {"model/merges/3", "\"a ｜\"", STATUS_FORMAT, "model.merges[3] names"},
    {"model/merges/3", "\"q q\"", STATUS_FORMAT, "model.merges[3] makes"},
    {"model/merges/3", "\"qq\"", STATUS_FORMAT, "model.merges[3]"},
    {"model/merges/3", "\"a b c\"", STATUS_FORMAT, "model.merges[3]"},
    {"model/merges/3", "[\"a\"]", STATUS_FORMAT, "model.merges[3]"},
    {"model/merges/3", "[\"a\", 5]", STATUS_FORMAT, "model.merges[3]"},
    {"model/merges/3", "null", STATUS_FORMAT, "model.merges[3]"},
    {"added_tokens", "5", STATUS_FORMAT, "added_tokens"},
    {"added_tokens/1", "5", STATUS_FORMAT, "added_tokens[1]"},
    {"added_tokens/1/content", "\"\"", STATUS_FORMAT, "added_tokens[1]"},
    {"added_tokens/1/content", "3", STATUS_FORMAT, "added_tokens[1]"},
    {"added_tokens/1/content", "\"<｜User｜>\"", STATUS_FORMAT, "ids 1 and 1022"},
    {"added_tokens/1/id", "0.5", STATUS_FORMAT, "added_tokens[1]"},
    {"added_tokens/1/id", "-7", STATUS_FORMAT, "has id -7"},
    {"added_tokens/1/id", "0", STATUS_FORMAT, "id 0 "},
    {"added_tokens/1/id", "50", STATUS_FORMAT, "id 50 "},
    {"added_tokens/4/id", "5000", STATUS_FORMAT, "has id 5000"},
    {"added_tokens/1/lstrip", "true", STATUS_UNSUPPORTED, "added_tokens[1].lstrip"},
    {"added_tokens/1/rstrip", "true", STATUS_UNSUPPORTED, "added_tokens[1].rstrip"},
    {"added_tokens/1/single_word", "true", STATUS_UNSUPPORTED, "added_tokens[1].single_word"},
    {"added_tokens/1/special", "\"no\"", STATUS_FORMAT, "added_tokens[1].special"},
};

static void hostile_files_are_refused(void **state) {
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof HOSTILE / sizeof *HOSTILE; i++) {
        json_t *root = json_deep_copy(f->root);
        replace(root, HOSTILE[i].path, HOSTILE[i].value);
        write_json(f, "tokenizer.json", root);
        json_decref(root);
        expect_refused(f, HOSTILE[i].status, HOSTILE[i].part);
    }
}

static void too_many_steps_are_refused(void **state) {
    struct fixture *f = *state;
    json_t *list = json_object_get(json_object_get(f->root, "pre_tokenizer"), "pretokenizers");
    while (json_array_size(list) <= PRETOKENIZER_STEPS_MAX + 1)
        json_array_insert(list, 0, json_array_get(list, 0));
    write_json(f, "tokenizer.json", f->root);
    expect_refused(f, STATUS_UNSUPPORTED, "steps");
}

static void missing_file_is_silent(void **state) {
    struct fixture *f = *state;
    struct tokenizer *tokenizer = NULL;
    FILE *log = tmpfile();
    log_init("test", LOG_DEBUG, log);
    assert_int_equal(tokenizer_load(f->directory, DEMO_VOCABULARY, &tokenizer), STATUS_NOT_FOUND);
    assert_int_equal(ftell(log), 0);
    log_init("test", LOG_ERROR, NULL);
    fclose(log);
    assert_null(tokenizer);
}

static void hostile_configurations_are_refused(void **state) {
    struct fixture *f = *state;
    static const char *const CONFIGS[][2] = {
        {"[]", "list"},
        {"{\"bos_token\": 5}", "bos_token"},
        {"{\"eos_token\": {\"content\": []}}", "eos_token"},
        {"{\"eos_token\": \"<nothing>\"}", "eos_token \"<nothing>\""},
        {"{\"chat_template\": 5}", "chat_template"},
        {"{\"chat_template\": [5]}", "chat_template"},
        {"{\"bos_token\": ", "line 1"},
    };
    write_json(f, "tokenizer.json", f->root);
    for (size_t i = 0; i < sizeof CONFIGS / sizeof *CONFIGS; i++) {
        test_file_write(f->directory, "tokenizer_config.json", CONFIGS[i][0]);
        expect_refused(f, STATUS_FORMAT, CONFIGS[i][1]);
    }
}

static void configuration_may_be_absent_or_varied(void **state) {
    struct fixture *f = *state;
    uint32_t id = 7;
    write_json(f, "tokenizer.json", f->root);
    struct tokenizer *tokenizer = load(f->directory, DEMO_VOCABULARY);
    assert_false(tokenizer_bos(tokenizer, &id));
    assert_false(tokenizer_eos(tokenizer, &id));
    assert_int_equal(id, 7);
    assert_string_equal(tokenizer_chat_template(tokenizer), "");
    tokenizer_destroy(tokenizer);

    test_file_write(f->directory, "tokenizer_config.json",
                    "{\"bos_token\": {\"content\": \"<｜User｜>\"}, \"eos_token\": null, "
                    "\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"x\"}, "
                    "{\"name\": \"default\", \"template\": \"y\"}]}");
    tokenizer = load(f->directory, DEMO_VOCABULARY);
    assert_true(tokenizer_bos(tokenizer, &id));
    assert_int_equal(id, 1022);
    assert_false(tokenizer_eos(tokenizer, &id));
    assert_string_equal(tokenizer_chat_template(tokenizer), "y");
    tokenizer_destroy(tokenizer);
}

/* A token that no merge makes, in the place of the last one that a merge makes. */
static void whole_words_win_with_ignore_merges(void **state) {
    struct fixture *f = *state;
    replace(f->root, "model/vocab/qqqq", "1021");
    json_t *vocab = json_object_get(json_object_get(f->root, "model"), "vocab");
    const char *key;
    json_t *value;
    json_object_foreach(vocab, key, value) {
        if (json_integer_value(value) == 1021 && strcmp(key, "qqqq") != 0)
            break;
    }
    json_t *merges = json_object_get(json_object_get(f->root, "model"), "merges");
    json_array_remove(merges, json_array_size(merges) - 1);
    json_object_del(vocab, key);
    for (int ignore = 0; ignore < 2; ignore++) {
        replace(f->root, "model/ignore_merges", ignore ? "true" : "false");
        write_json(f, "tokenizer.json", f->root);
        struct tokenizer *tokenizer = load(f->directory, DEMO_VOCABULARY);
        struct token_list list = encode(tokenizer, "qqqq", 4, false);
        assert_int_equal(list.count, ignore ? 1 : 4);
        free(list.ids);
        tokenizer_destroy(tokenizer);
    }
}

/* A pattern that needs more than PCRE2's limits is an error, and leaves the list as it was. */
static void exhausted_limits_are_an_error(void **state) {
    struct fixture *f = *state;
    replace(f->root, SPLIT_0 "/pattern/Regex", "\"(a|aa)+$\"");
    write_json(f, "tokenizer.json", f->root);
    struct tokenizer *tokenizer = load(f->directory, DEMO_VOCABULARY);
    char text[201];
    memset(text, 'a', 200);
    text[200] = 'b';
    struct token_list list = {0};
    assert_int_equal(token_list_push(&list, 5), STATUS_OK);
    struct log_capture log;
    log_capture_begin(&log);
    assert_int_equal(tokenizer_encode(tokenizer, text, sizeof text, false, &list),
                     STATUS_UNSUPPORTED);
    log_capture_expect(&log, "pattern 0", "limit", NULL);
    assert_int_equal(list.count, 1);
    free(list.ids);
    tokenizer_destroy(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(demo_cases_are_equal),
        cmocka_unit_test(v2_style_cases_are_equal),
        cmocka_unit_test(special_tokens_are_text_unless_parsed),
        cmocka_unit_test(unmarked_markers_are_text_unless_parsed),
        cmocka_unit_test(tokens_are_found_by_text_and_id),
        cmocka_unit_test(invalid_bytes_are_read_as_replacement),
        cmocka_unit_test(encoding_appends),
        cmocka_unit_test(text_over_the_bound_is_refused),
        cmocka_unit_test(long_words_take_no_longer),
        cmocka_unit_test(several_threads_may_encode),
        cmocka_unit_test_setup_teardown(hostile_files_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(too_many_steps_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(missing_file_is_silent, setup, teardown),
        cmocka_unit_test_setup_teardown(hostile_configurations_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(configuration_may_be_absent_or_varied, setup, teardown),
        cmocka_unit_test_setup_teardown(whole_words_win_with_ignore_merges, setup, teardown),
        cmocka_unit_test_setup_teardown(exhausted_limits_are_an_error, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
