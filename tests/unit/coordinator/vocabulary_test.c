/* The byte-to-character map, and tokens by id and by bytes. Errors are in tokenizer_test.c. */
#include "coordinator/vocabulary.h"

#include "tests/unit/test.h"

static void byte_characters_are_decoded(void **state) {
    (void)state;
    static const struct {
        const char *text, *bytes;
    } CASES[] = {
        {"abc", "abc"}, {"Ġa", " a"},  {"Ċ", "\n"},   {"Ã©", "é"},
        {"Ń", "\xad"},  {"ÿ", "\xff"}, {"¡", "\xa1"}, {"ġ", "\x7f"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char out[16];
        size_t bytes;
        assert_true(
            vocabulary_decode_characters(CASES[i].text, strlen(CASES[i].text), out, &bytes));
        assert_int_equal(bytes, strlen(CASES[i].bytes));
        assert_memory_equal(out, CASES[i].bytes, bytes);
    }
    static const char *const NO_BYTES[] = {" ",  "\n", "\u00a0", "\u00ad", "ń" /* U+0144 */,
                                           "｜", "a中"};
    for (size_t i = 0; i < sizeof NO_BYTES / sizeof *NO_BYTES; i++) {
        char out[16];
        size_t bytes;
        assert_false(vocabulary_decode_characters(NO_BYTES[i], strlen(NO_BYTES[i]), out, &bytes));
    }
}

/* Every byte has one character: decoding all 256 of them gives all 256 bytes. */
static void all_bytes_have_a_character(void **state) {
    (void)state;
    uint8_t seen[256] = {0};
    unsigned found = 0;
    for (unsigned code = 0x21; code < 0x144; code++) {
        char text[3] = {(char)code, '\0', '\0'}, out[3];
        if (code >= 0x80) {
            text[0] = (char)(0xc0 | code >> 6);
            text[1] = (char)(0x80 | (code & 0x3f));
        }
        size_t bytes;
        if (vocabulary_decode_characters(text, strlen(text), out, &bytes)) {
            assert_int_equal(bytes, 1);
            found += !seen[(uint8_t)out[0]];
            seen[(uint8_t)out[0]] = 1;
        }
    }
    assert_int_equal(found, 256);
}

static void words_are_found_by_their_bytes(void **state) {
    (void)state;
    struct vocabulary vocabulary;
    assert_int_equal(vocabulary_init(&vocabulary, 1000), STATUS_OK);
    for (int i = 0; i < 1000; i++) {
        char text[16];
        snprintf(text, sizeof text, "Ġ%d", i);
        assert_int_equal(vocabulary_add_word(&vocabulary, "t", text, strlen(text), 999 - i),
                         STATUS_OK);
    }
    for (int i = 0; i < 1000; i++) {
        char text[16];
        snprintf(text, sizeof text, " %d", i);
        assert_int_equal(vocabulary_find(&vocabulary, text, strlen(text)), 999 - i);
    }
    assert_int_equal(vocabulary_find(&vocabulary, " 1000", 5), TOKEN_NONE);
    assert_int_equal(vocabulary_find(&vocabulary, "", 0), TOKEN_NONE);
    vocabulary_cleanup(&vocabulary);
}

/* V3 lists its special tokens in model.vocab too. */
static void added_token_may_repeat_a_word(void **state) {
    (void)state;
    struct vocabulary vocabulary;
    assert_int_equal(vocabulary_init(&vocabulary, 8), STATUS_OK);
    assert_int_equal(vocabulary_add_word(&vocabulary, "t", "<｜s｜>", 9, 0), STATUS_OK);
    assert_int_equal(vocabulary.tokens[0].kind, TOKEN_RAW);
    assert_int_equal(vocabulary_add_word(&vocabulary, "t", "Ã¼", 4, 1), STATUS_OK);
    assert_int_equal(vocabulary.tokens[1].kind, TOKEN_WORD);
    assert_int_equal(vocabulary.tokens[1].bytes, 2);
    assert_int_equal(vocabulary_add_added(&vocabulary, "t", "<｜s｜>", 9, 0, true), STATUS_OK);
    assert_int_equal(vocabulary.tokens[0].kind, TOKEN_SPECIAL);
    assert_int_equal(vocabulary_add_added(&vocabulary, "t", "Ã¼", 4, 1, false), STATUS_OK);
    assert_int_equal(vocabulary.tokens[1].kind, TOKEN_ADDED);
    assert_int_equal(vocabulary.tokens[1].bytes, 4);
    vocabulary_cleanup(&vocabulary);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_characters_are_decoded),
        cmocka_unit_test(all_bytes_have_a_character),
        cmocka_unit_test(words_are_found_by_their_bytes),
        cmocka_unit_test(added_token_may_repeat_a_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
