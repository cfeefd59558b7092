/* The rewriting of Oniguruma's syntax: what is accepted is in pretokenizer_test.c, here is what
 * must be refused, and the form of "\s+$" that ends in linear time. */
#include "coordinator/pattern.h"

#include <time.h>

#include "tests/unit/test.h"

static void compile_and_expect(const char *source, enum status status, const char *part) {
    pcre2_code *code = NULL;
    struct log_capture log;
    log_capture_begin(&log);
    enum status got = pattern_compile("t.json: split", source, strlen(source), false, &code);
    if (got != status)
        fail_msg("%s: status %d", source, got);
    log_capture_expect(&log, "t.json: split", part, NULL);
    assert_null(code);
}

static void differing_constructs_are_refused(void **state) {
    (void)state;
    static const char *const SOURCES[] = {
        "\\w+",   "\\W",     "a\\b",     "\\B",    "\\h",    "\\v",     "\\R",
        "\\X",    "\\G",     "\\Z",      "(a)\\1", "\\k<x>", "[a[bc]]", "[[:alpha:]]",
        "[a&&b]", "(?<x>a)", "(?m:a.b)", "(?i)a",  "(?#c)a", "(*UCP)a", "(*LIMIT_MATCH=1)a",
        "a{,3}",  "a{2}+",   "a{",       "a{}",    "\\pL",   "\\x41",   "\\u0041",
    };
    for (size_t i = 0; i < sizeof SOURCES / sizeof *SOURCES; i++)
        compile_and_expect(SOURCES[i], STATUS_UNSUPPORTED, "not supported");
}

static void malformed_patterns_are_refused(void **state) {
    (void)state;
    static const char *const SOURCES[] = {"(a",    "a)",     "[a",           "*a",
                                          "[z-a]", "a{3,2}", "\\p{Nonsense}"};
    for (size_t i = 0; i < sizeof SOURCES / sizeof *SOURCES; i++)
        compile_and_expect(SOURCES[i], STATUS_FORMAT, "not a valid pattern");
    compile_and_expect("a\\", STATUS_FORMAT, "backslash");
    compile_and_expect("", STATUS_FORMAT, "empty");
}

/* The matches of `source` as "start-end " for each. */
static void list_matches(const char *source, const char *text, char out[128]) {
    pcre2_code *code;
    assert_int_equal(pattern_compile("p", source, strlen(source), false, &code), STATUS_OK);
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    out[0] = '\0';
    for (size_t from = 0;
         pcre2_match(code, (PCRE2_SPTR)text, strlen(text), from, 0, match, NULL) >= 0;) {
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(match);
        snprintf(out + strlen(out), 128 - strlen(out), "%zu-%zu ", span[0], span[1]);
        from = span[1];
    }
    pcre2_match_data_free(match);
    pcre2_code_free(code);
}

static void linear_form_matches_the_same(void **state) {
    (void)state;
    /* (?:) keeps the second spelling from being recognised. */
    static const char *const TEXTS[] = {"",
                                        " ",
                                        "a ",
                                        " a",
                                        "a  b  ",
                                        "  \n  1",
                                        "a \n \n b \n",
                                        "\n\n",
                                        " \n\n x",
                                        "x\u3000\n\u00a0",
                                        "\r\n a"};
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        char linear[128], plain[128];
        list_matches("\\s+$", TEXTS[i], linear);
        list_matches("(?:)\\s+$", TEXTS[i], plain);
        assert_string_equal(linear, plain);
    }
}

/* Generated code notices by itself that a run of blanks was tried before, the interpreter does not:
 * a quarter of a million blanks would take it 3 x 10^10 steps. */
static void linear_form_ends_without_generated_code(void **state) {
    (void)state;
    enum { BLANKS = 250000 };
    char *text = malloc(BLANKS + 1);
    memset(text, ' ', BLANKS);
    text[BLANKS] = '1';
    pcre2_code *code;
    assert_int_equal(pattern_compile("p", "\\s+$", 4, false, &code), STATUS_OK);
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    clock_t start = clock();
    assert_int_equal(pcre2_match(code, (PCRE2_SPTR)text, BLANKS + 1, 0, PCRE2_NO_JIT, match, NULL),
                     PCRE2_ERROR_NOMATCH);
    assert_true(clock() - start < 5 * CLOCKS_PER_SEC);
    pcre2_match_data_free(match);
    pcre2_code_free(code);
    free(text);
}

static void literals_are_taken_as_they_are(void **state) {
    (void)state;
    pcre2_code *code;
    assert_int_equal(pattern_compile("p", "\\w[", 3, true, &code), STATUS_OK);
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    assert_true(pcre2_match(code, (PCRE2_SPTR) "a\\w[b", 5, 0, 0, match, NULL) >= 0);
    assert_int_equal(pcre2_get_ovector_pointer(match)[0], 1);
    assert_int_equal(pcre2_get_ovector_pointer(match)[1], 4);
    pcre2_match_data_free(match);
    pcre2_code_free(code);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(differing_constructs_are_refused),
        cmocka_unit_test(malformed_patterns_are_refused),
        cmocka_unit_test(linear_form_matches_the_same),
        cmocka_unit_test(linear_form_ends_without_generated_code),
        cmocka_unit_test(literals_are_taken_as_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
