/* Every first and second byte against the ranges of Unicode, table 3-7, and pieces of characters.
 */
#include "common/utf8.h"

#include <stdbool.h>

#include "tests/unit/test.h"

static size_t encode(uint32_t code, char out[4]) {
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned OPENING[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = length - 1; i > 0; i--, code >>= 6)
        out[i] = (char)(0x80 | (code & 0x3f));
    out[0] = (char)(OPENING[length] | code);
    return length;
}

static void every_code_point_is_one_character(void **state) {
    (void)state;
    for (uint32_t code = 0; code < 0x110000; code++) {
        char text[4];
        size_t bytes = encode(code, text), length;
        bool is_surrogate = code >= 0xd800 && code < 0xe000;
        enum utf8_kind kind = utf8_next(text, bytes, &length);
        if (kind != (is_surrogate ? UTF8_INVALID : UTF8_VALID))
            fail_msg("U+%04X is kind %d", code, kind);
        assert_int_equal(length, is_surrogate ? 1 : bytes);
        for (size_t part = 1; part < bytes && !is_surrogate; part++) {
            assert_int_equal(utf8_next(text, part, &length), UTF8_INCOMPLETE);
            assert_int_equal(length, part);
        }
    }
}

static void invalid_pieces_are_as_long_as_they_were_well_formed(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t length;
    } CASES[] = {
        {"\x80"
         "a",
         1},
        {"\xc0\x80", 1},
        {"\xc1\xbf", 1},
        {"\xe0\x9f\xbf", 1},
        {"\xed\xa0\x80", 1},
        {"\xf0\x8f\xbf\xbf", 1},
        {"\xf4\x90\x80\x80", 1},
        {"\xf5\x80\x80\x80", 1},
        {"\xff", 1},
        {"\xe2\x82"
         "a",
         2},
        {"\xf0\x9f\x98"
         "a",
         3},
        {"\xc3"
         "a",
         1},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        size_t length;
        assert_int_equal(utf8_next(CASES[i].text, strlen(CASES[i].text), &length), UTF8_INVALID);
        assert_int_equal(length, CASES[i].length);
    }
}

static void what_no_line_may_contain_is_replaced(void **state) {
    (void)state;
    char text[] = "a\n\x1b\x7f \xc3\xa9\xff\xe4\xb8";
    utf8_replace_unprintable(text, strlen(text));
    assert_string_equal(text, "a??? \xc3\xa9???");
    utf8_replace_unprintable(text, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_point_is_one_character),
        cmocka_unit_test(invalid_pieces_are_as_long_as_they_were_well_formed),
        cmocka_unit_test(what_no_line_may_contain_is_replaced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
