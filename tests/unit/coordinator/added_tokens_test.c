/* Leftmost, longest, in two passes, with and without control tokens. Errors while reading are in
 * tokenizer_test.c. */
#include "coordinator/added_tokens.h"

#include "tests/unit/test.h"

enum { VOCABULARY = 32 };

static const char TOKENS[] =
    "[{\"id\": 0, \"content\": \"<s>\", \"special\": true, \"normalized\": false},"
    " {\"id\": 1, \"content\": \"<se>\", \"special\": true, \"normalized\": false},"
    " {\"id\": 2, \"content\": \"<mark>\", \"special\": false, \"normalized\": false},"
    " {\"id\": 3, \"content\": \"ab\", \"special\": false, \"normalized\": false},"
    " {\"id\": 4, \"content\": \"abcd\", \"special\": false, \"normalized\": false},"
    " {\"id\": 5, \"content\": \"bcde\", \"special\": false, \"normalized\": false},"
    " {\"id\": 6, \"content\": \"é\", \"special\": false, \"normalized\": true},"
    " {\"id\": 7, \"content\": \"ab\u00e9\", \"special\": false},"
    " {\"id\": 8, \"content\": \"pq\", \"special\": true, \"normalized\": false}]";

struct fixture {
    struct vocabulary vocabulary;
    struct added_tokens *added;
};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    json_t *list = json_loads(TOKENS, 0, NULL);
    assert_int_equal(vocabulary_init(&f->vocabulary, VOCABULARY), STATUS_OK);
    assert_int_equal(added_tokens_read(list, "t.json", &f->vocabulary, &f->added), STATUS_OK);
    json_decref(list);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    added_tokens_destroy(f->added);
    vocabulary_cleanup(&f->vocabulary);
    free(f);
    return 0;
}

static void expect_match(const struct fixture *f, enum added_pass pass, bool control,
                         const char *text, uint32_t id, size_t start, size_t end) {
    struct added_match match;
    if (!added_tokens_find(f->added, pass, control, text, strlen(text), &match))
        fail_msg("nothing found in \"%s\"", text);
    assert_int_equal(match.id, id);
    assert_int_equal(match.start, start);
    assert_int_equal(match.end, end);
}

static void expect_none(const struct fixture *f, enum added_pass pass, bool control,
                        const char *text) {
    struct added_match match;
    assert_false(added_tokens_find(f->added, pass, control, text, strlen(text), &match));
}

static void first_and_longest_wins(void **state) {
    struct fixture *f = *state;
    expect_match(f, ADDED_PASS_RAW, true, "xab", 3, 1, 3);
    expect_match(f, ADDED_PASS_RAW, true, "abc", 3, 0, 2);
    expect_match(f, ADDED_PASS_RAW, true, "abcde", 4, 0, 4);
    expect_match(f, ADDED_PASS_RAW, true, "bbcde", 5, 1, 5);
    expect_match(f, ADDED_PASS_RAW, true, "<<s<se>", 1, 3, 7);
    expect_none(f, ADDED_PASS_RAW, true, "<s");
    expect_none(f, ADDED_PASS_RAW, true, "");
    expect_none(f, ADDED_PASS_RAW, true, "a b");
}

static void passes_see_their_own_tokens(void **state) {
    struct fixture *f = *state;
    expect_match(f, ADDED_PASS_RAW, true, "abé", 3, 0, 2);
    expect_match(f, ADDED_PASS_NORMALIZED, true, "abé", 7, 0, 4);
    expect_match(f, ADDED_PASS_NORMALIZED, true, "ab é", 6, 3, 5);
    expect_none(f, ADDED_PASS_NORMALIZED, true, "abcd<s>");
    expect_none(f, ADDED_PASS_RAW, true, "é");
}

static void control_tokens_can_be_passed_over(void **state) {
    struct fixture *f = *state;
    expect_none(f, ADDED_PASS_RAW, false, "<s> <se> <mark> pq");
    expect_match(f, ADDED_PASS_RAW, true, "<mark>", 2, 0, 6);
    expect_match(f, ADDED_PASS_RAW, true, "pq", 8, 0, 2);
    expect_match(f, ADDED_PASS_RAW, false, "<s>ab", 3, 3, 5);
}

static void tokens_are_found_by_text(void **state) {
    struct fixture *f = *state;
    assert_int_equal(added_tokens_id(f->added, "ab", 2), 3);
    assert_int_equal(added_tokens_id(f->added, "abé", 4), 7);
    assert_int_equal(added_tokens_id(f->added, "abc", 3), TOKEN_NONE);
    assert_int_equal(added_tokens_id(f->added, "", 0), TOKEN_NONE);
}

static void none_are_allowed(void **state) {
    (void)state;
    struct vocabulary vocabulary;
    struct added_tokens *added;
    struct added_match match;
    assert_int_equal(vocabulary_init(&vocabulary, VOCABULARY), STATUS_OK);
    assert_int_equal(added_tokens_read(NULL, "t.json", &vocabulary, &added), STATUS_OK);
    assert_false(added_tokens_find(added, ADDED_PASS_RAW, true, "abc", 3, &match));
    assert_int_equal(added_tokens_id(added, "a", 1), TOKEN_NONE);
    added_tokens_destroy(added);
    vocabulary_cleanup(&vocabulary);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(first_and_longest_wins, setup, teardown),
        cmocka_unit_test_setup_teardown(passes_see_their_own_tokens, setup, teardown),
        cmocka_unit_test_setup_teardown(control_tokens_can_be_passed_over, setup, teardown),
        cmocka_unit_test_setup_teardown(tokens_are_found_by_text, setup, teardown),
        cmocka_unit_test(none_are_allowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
