/* Text from tokens: characters cut at every place, invalid bytes, stop strings cut at every place.
 */
#include "coordinator/stream.h"

#include "tests/unit/random.h"
#include "tests/unit/test.h"

enum { DEMO_VOCABULARY = 1024 };

static int setup(void **state) {
    struct tokenizer *tokenizer;
    enum status status = tokenizer_load(DEMO_MODEL_DIR, DEMO_VOCABULARY, &tokenizer);
    *state = status == STATUS_OK ? tokenizer : NULL;
    return (int)status;
}

static int teardown(void **state) {
    tokenizer_destroy(*state);
    return 0;
}

static struct stream *create(const struct tokenizer *tokenizer, const char *const *stops,
                             size_t stop_count, bool show_special) {
    struct stream_options options = {.tokenizer = tokenizer,
                                     .stops = stops,
                                     .stop_count = stop_count,
                                     .show_special = show_special};
    struct stream *stream;
    assert_int_equal(stream_create(&options, &stream), STATUS_OK);
    return stream;
}

/* The token that is this one byte. */
static uint32_t byte_token(const struct tokenizer *tokenizer, char byte) {
    uint32_t id;
    assert_true(tokenizer_find(tokenizer, (char[]){byte, '\0'}, &id));
    return id;
}

/* Pushes a token and requires what it shows; returns whether it stopped. */
static bool push(struct stream *stream, uint32_t id, const char *expected) {
    const char *text;
    size_t bytes;
    bool stopped;
    assert_int_equal(stream_push(stream, id, &text, &bytes, &stopped), STATUS_OK);
    if (bytes != strlen(expected) || memcmp(text, expected, bytes) != 0)
        fail_msg("\"%.*s\" is shown instead of \"%s\"", (int)bytes, text, expected);
    return stopped;
}

static void flush(struct stream *stream, const char *expected) {
    const char *text;
    size_t bytes;
    assert_int_equal(stream_flush(stream, &text, &bytes), STATUS_OK);
    assert_int_equal(bytes, strlen(expected));
    assert_memory_equal(text, expected, bytes);
}

/* Pushes the text byte by byte and flushes it; what was shown must be `expected`. */
static void expect_bytewise(const struct tokenizer *tokenizer, const char *const *stops,
                            size_t stop_count, const char *input, const char *expected,
                            bool expected_stop) {
    struct stream *stream = create(tokenizer, stops, stop_count, false);
    const char *text;
    size_t bytes;
    bool stopped = false;
    for (size_t i = 0; input[i] && !stopped; i++)
        assert_int_equal(
            stream_push(stream, byte_token(tokenizer, input[i]), &text, &bytes, &stopped),
            STATUS_OK);
    assert_int_equal(stream_flush(stream, &text, &bytes), STATUS_OK);
    if (strcmp(stream_text(stream), expected) != 0 || stopped != expected_stop)
        fail_msg("\"%s\" gives \"%s\" instead of \"%s\"", input, stream_text(stream), expected);
    stream_destroy(stream);
}

static void characters_are_shown_whole(void **state) {
    struct stream *stream = create(*state, NULL, 0, false);
    static const char *const CHARACTERS[] = {"a", "é", "中", "😀"};
    for (size_t c = 0; c < 4; c++)
        for (size_t i = 0; CHARACTERS[c][i]; i++)
            push(stream, byte_token(*state, CHARACTERS[c][i]),
                 CHARACTERS[c][i + 1] ? "" : CHARACTERS[c]);
    flush(stream, "");
    assert_string_equal(stream_text(stream), "aé中😀");
    stream_destroy(stream);
}

static void hopeless_bytes_show_as_replacement(void **state) {
    struct stream *stream = create(*state, NULL, 0, false);
    push(stream, byte_token(*state, '\xff'), "\ufffd");
    push(stream, byte_token(*state, '\x80'), "\ufffd");
    push(stream, byte_token(*state, '\xe4'), "");
    push(stream, byte_token(*state, '\xbd'), "");
    push(stream, byte_token(*state, 'a'), "\ufffda");
    push(stream, byte_token(*state, '\xf0'), "");
    push(stream, byte_token(*state, '\xc3'), "\ufffd");
    push(stream, byte_token(*state, '\xa9'), "é");
    push(stream, byte_token(*state, '\xe4'), "");
    flush(stream, "\ufffd");
    assert_string_equal(stream_text(stream), "\ufffd\ufffd\ufffda\ufffdé\ufffd");
    stream_destroy(stream);
}

static void special_tokens_show_on_request(void **state) {
    struct stream *hidden = create(*state, NULL, 0, false);
    push(hidden, 1, "");
    push(hidden, byte_token(*state, 'x'), "x");
    push(hidden, 4000000000u, "");
    stream_destroy(hidden);
    struct stream *shown = create(*state, NULL, 0, true);
    push(shown, 1, "<｜end▁of▁sentence｜>");
    stream_destroy(shown);
}

static void start_of_a_stop_is_held_back(void **state) {
    struct stream *stream = create(*state, (const char *const[]){"\n\nUser:", "END"}, 2, false);
    push(stream, byte_token(*state, 'E'), "");
    push(stream, byte_token(*state, 'N'), "");
    push(stream, byte_token(*state, 'E'), "EN");
    push(stream, byte_token(*state, 'x'), "Ex");
    push(stream, byte_token(*state, '\n'), "");
    push(stream, byte_token(*state, '\n'), "");
    push(stream, byte_token(*state, '\n'), "\n");
    push(stream, byte_token(*state, 'U'), "");
    flush(stream, "\n\nU");
    assert_string_equal(stream_text(stream), "ENEx\n\n\nU");
    push(stream, byte_token(*state, 's'), "s");
    stream_destroy(stream);
}

static void nothing_follows_a_stop(void **state) {
    struct stream *stream = create(*state, (const char *const[]){"st"}, 1, false);
    push(stream, byte_token(*state, 'a'), "a");
    assert_false(push(stream, byte_token(*state, 's'), ""));
    assert_true(push(stream, byte_token(*state, 't'), ""));
    assert_true(push(stream, byte_token(*state, 'z'), ""));
    flush(stream, "");
    assert_string_equal(stream_text(stream), "a");
    stream_destroy(stream);
}

/* Tokens of the demo's vocabulary with several letters: text before the stop in the same token is
 * shown, text behind it is not. */
static void stop_may_lie_inside_a_token(void **state) {
    uint32_t id;
    assert_true(tokenizer_find(*state, "ell", &id));
    struct stream *stream = create(*state, (const char *const[]){"l"}, 1, false);
    assert_true(push(stream, id, "e"));
    stream_destroy(stream);
}

static const struct {
    const char *stops[3];
    const char *input, *expected;
    bool stopped;
} CASES[] = {
    {{"abc", "bcd"}, "xabcd", "x", true},
    {{"abcde", "bc"}, "xabcde", "xa", true},
    {{"bc", "abc"}, "xabc", "x", true},
    {{"aab"}, "aaaab", "aa", true},
    {{"abab", "abac"}, "ababac", "", true},
    {{"abac"}, "ababac", "ab", true},
    {{"abcabd"}, "abcabcabd", "abc", true},
    {{"abcabd"}, "abcabcab", "abcabcab", false},
    {{"中文"}, "a中文b", "a", true},
    {{"中文"}, "a中中文b", "a中", true},
    {{"文"}, "\xe4\xb8\xad\xe6\x96", "中\ufffd", false},
    {{"\ufffd"}, "a\xff", "a", true},
    {{"\n", "\n\n"}, "a\n\nb", "a", true},
    {{"xyz"}, "", "", false},
};

static void overlapping_stops(void **state) {
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        size_t count = 0;
        while (count < 3 && CASES[i].stops[count])
            count++;
        expect_bytewise(*state, CASES[i].stops, count, CASES[i].input, CASES[i].expected,
                        CASES[i].stopped);
    }
}

/* Random texts of few letters against a plain search for the stop that ends first. */
static void random_texts_match_a_plain_search(void **state) {
    struct random random = {99};
    for (int round = 0; round < 2000; round++) {
        char stops_text[2][6] = {{0}}, input[24] = {0}, expected[24];
        for (int s = 0; s < 2; s++)
            for (uint32_t i = 0, length = 1 + random_below(&random, 5); i < length; i++)
                stops_text[s][i] = (char)('a' + random_below(&random, 2));
        for (uint32_t i = 0; i < 20; i++)
            input[i] = (char)('a' + random_below(&random, 2));
        strcpy(expected, input);
        bool stopped = false;
        for (size_t end = 1; end <= 20 && !stopped; end++)
            for (int s = 0; s < 2; s++) {
                size_t length = strlen(stops_text[s]);
                if (length > end || memcmp(input + end - length, stops_text[s], length) != 0)
                    continue;
                if (!stopped || end - length < strlen(expected))
                    expected[end - length] = '\0';
                stopped = true;
            }
        expect_bytewise(*state, (const char *const[]){stops_text[0], stops_text[1]}, 2, input,
                        expected, stopped);
    }
}

/* However the text is cut into tokens, the same is shown. */
static void cuts_do_not_matter(void **state) {
    const char *text = "The number is 95, héllo 中文 and 😀 then the end";
    struct token_list list = {0};
    assert_int_equal(tokenizer_encode(*state, text, strlen(text), false, &list), STATUS_OK);
    struct stream *stream = create(*state, (const char *const[]){"then", " th"}, 2, false);
    const char *shown;
    size_t bytes;
    bool stopped = false;
    for (size_t i = 0; i < list.count && !stopped; i++)
        assert_int_equal(stream_push(stream, list.ids[i], &shown, &bytes, &stopped), STATUS_OK);
    assert_true(stopped);
    assert_string_equal(stream_text(stream), "The number is 95, héllo 中文 and 😀");
    stream_destroy(stream);
    free(list.ids);
}

static void useless_stops_are_refused(void **state) {
    static const char *const USELESS[][2] = {
        {"", "empty"}, {"a\xff", "UTF-8"}, {"\xe4\xb8", "UTF-8"}};
    for (size_t i = 0; i < 3; i++) {
        const char *stops[] = {"ok", USELESS[i][0]};
        struct stream_options options = {.tokenizer = *state, .stops = stops, .stop_count = 2};
        struct stream *stream = NULL;
        struct log_capture log;
        log_capture_begin(&log);
        assert_int_equal(stream_create(&options, &stream), STATUS_USAGE);
        log_capture_expect(&log, "stop string 2", USELESS[i][1], NULL);
        assert_null(stream);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(characters_are_shown_whole),
        cmocka_unit_test(hopeless_bytes_show_as_replacement),
        cmocka_unit_test(special_tokens_show_on_request),
        cmocka_unit_test(start_of_a_stop_is_held_back),
        cmocka_unit_test(nothing_follows_a_stop),
        cmocka_unit_test(stop_may_lie_inside_a_token),
        cmocka_unit_test(overlapping_stops),
        cmocka_unit_test(random_texts_match_a_plain_search),
        cmocka_unit_test(cuts_do_not_matter),
        cmocka_unit_test(useless_stops_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
