/* The merges against the textbook algorithm, which looks for the best pair again and again. Errors
 * while reading are in tokenizer_test.c. */
#include "coordinator/bpe.h"

#include "tests/unit/random.h"
#include "tests/unit/test.h"

enum { VOCABULARY = 1024, WORD_MAX = 40, ROUNDS = 3000 };

/* Few letters and merges that compete for them. */
static const char *const MERGES[][2] = {{"a", "a"},   {"b", "a"},   {"aa", "a"},  {"a", "b"},
                                        {"aa", "aa"}, {"ab", "ba"}, {"ba", "ba"}, {"aaa", "b"},
                                        {"c", "ab"},  {"b", "b"},   {"bb", "c"},  {"aa", "ba"}};
enum { MERGE_COUNT = sizeof MERGES / sizeof *MERGES };

struct fixture {
    struct vocabulary vocabulary;
    struct bpe *bpe;
};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    json_t *demo = json_load_file(DEMO_MODEL_DIR "/tokenizer.json", 0, NULL);
    json_t *vocab = json_object(), *merges = json_array();
    const char *text;
    json_t *id;
    json_object_foreach(json_object_get(json_object_get(demo, "model"), "vocab"), text, id) {
        if (json_integer_value(id) < 3 + 256)
            json_object_set(vocab, text, id);
    }
    for (size_t i = 0; i < MERGE_COUNT; i++) {
        char whole[16];
        snprintf(whole, sizeof whole, "%s%s", MERGES[i][0], MERGES[i][1]);
        if (!json_object_get(vocab, whole))
            json_object_set_new(vocab, whole, json_integer(300 + (json_int_t)i));
        json_array_append_new(merges, json_pack("[ss]", MERGES[i][0], MERGES[i][1]));
    }
    json_t *model = json_pack("{sssoso}", "type", "BPE", "vocab", vocab, "merges", merges);
    assert_int_equal(vocabulary_init(&f->vocabulary, VOCABULARY), STATUS_OK);
    assert_int_equal(bpe_read(model, "t.json", &f->vocabulary, &f->bpe), STATUS_OK);
    json_decref(model);
    json_decref(demo);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    bpe_destroy(f->bpe);
    vocabulary_cleanup(&f->vocabulary);
    free(f);
    return 0;
}

/* Merges parts[0..count) as the textbook does; returns how many are left. */
static size_t merge_plainly(char parts[][WORD_MAX + 1], size_t count) {
    for (;;) {
        size_t best_rank = MERGE_COUNT, best = 0;
        for (size_t i = 0; i + 1 < count; i++)
            for (size_t rank = 0; rank < best_rank; rank++)
                if (!strcmp(parts[i], MERGES[rank][0]) && !strcmp(parts[i + 1], MERGES[rank][1])) {
                    best_rank = rank;
                    best = i;
                }
        if (best_rank == MERGE_COUNT)
            return count;
        size_t length = strlen(parts[best]);
        memmove(parts[best] + length, parts[best + 1], WORD_MAX - length);
        memmove(parts[best + 1], parts[best + 2], (count - best - 2) * sizeof *parts);
        count--;
    }
}

static void random_words_match_the_textbook(void **state) {
    struct fixture *f = *state;
    struct random random = {5};
    struct bpe_scratch scratch = {0};
    for (int round = 0; round < ROUNDS; round++) {
        char word[WORD_MAX + 1] = {0}, parts[WORD_MAX + 1][WORD_MAX + 1];
        size_t bytes = 1 + random_below(&random, WORD_MAX);
        memset(parts, 0, sizeof parts);
        for (size_t i = 0; i < bytes; i++)
            word[i] = parts[i][0] = (char)('a' + random_below(&random, 3));
        size_t count = merge_plainly(parts, bytes);
        struct token_list list = {0};
        assert_int_equal(bpe_encode_word(f->bpe, &scratch, word, bytes, &list), STATUS_OK);
        if (list.count != count)
            fail_msg("\"%s\": %zu tokens instead of %zu", word, list.count, count);
        for (size_t i = 0; i < count; i++)
            assert_int_equal(list.ids[i],
                             vocabulary_find(&f->vocabulary, parts[i], strlen(parts[i])));
        free(list.ids);
    }
    bpe_scratch_cleanup(&scratch);
}

static void empty_word_has_no_tokens(void **state) {
    struct fixture *f = *state;
    struct bpe_scratch scratch = {0};
    struct token_list list = {0};
    assert_int_equal(bpe_encode_word(f->bpe, &scratch, "", 0, &list), STATUS_OK);
    assert_int_equal(list.count, 0);
    bpe_scratch_cleanup(&scratch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(random_words_match_the_textbook, setup, teardown),
        cmocka_unit_test_setup_teardown(empty_word_has_no_tokens, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
