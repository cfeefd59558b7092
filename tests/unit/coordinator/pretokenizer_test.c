/* The cuts of every kind of pre-tokenizer. The expected words are those of Hugging Face's Rust
 * library; errors while reading are in tokenizer_test.c. */
#include "coordinator/pretokenizer.h"

#include "tests/unit/test.h"

#define SPLIT(pattern)                                                                             \
    "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"" pattern                                    \
    "\"}, \"behavior\": \"Isolated\", \"invert\": false}"
#define LITERAL(text)                                                                              \
    "{\"type\": \"Split\", \"pattern\": {\"String\": \"" text                                      \
    "\"}, \"behavior\": \"Isolated\", \"invert\": false}"
#define DIGITS(individual) "{\"type\": \"Digits\", \"individual_digits\": " individual "}"
#define BYTE_LEVEL(prefix, regex)                                                                  \
    "{\"type\": \"ByteLevel\", \"add_prefix_space\": " prefix ", \"use_regex\": " regex "}"
#define BYTES   BYTE_LEVEL("false", "false")
#define LIST(x) "{\"type\": \"Sequence\", \"pretokenizers\": [" x "]}"
#define AND     ", "

enum { WORDS_BYTES = 256 };

struct words {
    char text[WORDS_BYTES]; /* each word is followed by a | */
};

static enum status collect(void *context, const char *word, size_t bytes) {
    struct words *words = context;
    size_t used = strlen(words->text);
    assert_true(bytes > 0 && used + bytes + 1 < WORDS_BYTES);
    memcpy(words->text + used, word, bytes);
    words->text[used + bytes] = '|';
    return STATUS_OK;
}

static struct pretokenizer *read(const char *json) {
    json_t *value = json_loads(json, 0, NULL);
    assert_non_null(value);
    struct pretokenizer *pretokenizer;
    assert_int_equal(pretokenizer_read(value, "t.json", &pretokenizer), STATUS_OK);
    json_decref(value);
    return pretokenizer;
}

static const struct {
    const char *json, *text, *words;
} CASES[] = {
    {BYTE_LEVEL("false", "true"), "I'll don't 123abc  x  \n y  ",
     "I|'ll| don|'t| 123|abc| | x|  \n| y|  |"},
    {BYTE_LEVEL("true", "true"), "Hello world  x", " Hello| world| | x|"},
    {BYTE_LEVEL("true", "true"), " Hello", " Hello|"},
    {BYTE_LEVEL("true", "false"), "", ""},
    {LIST(LITERAL("-") AND BYTE_LEVEL("true", "false")), "a-b- c", " a| -| b| -| c|"},
    {LIST(LITERAL("a.c") AND BYTES), "xabca.cy", "xabc|a.c|y|"},
    {LIST(SPLIT("x*") AND BYTES), "axxbéxc", "a|xx|b|é|x|c|"},
    {LIST(SPLIT("x?") AND BYTES), "xx", "x|x|"},
    {LIST(SPLIT("(?=b)") AND BYTES), "abcb", "a|bc|b|"},
    {LIST(SPLIT("(?<=a)b") AND BYTES), "abab", "a|b|a|b|"},
    {LIST(DIGITS("true") AND BYTES), "a12²½b٣٤", "a|1|2|²|½|b|٣|٤|"},
    {LIST(DIGITS("false") AND BYTES), "a12²½b٣٤c5", "a|12²½|b|٣٤|c|5|"},
    {LIST(SPLIT("[0-9]") AND SPLIT("\\\\s+$") AND BYTES), "ab  1  \ncd  \n\n5 ",
     "ab|  |1|  |\ncd|  \n\n|5| |"},
    {LIST(SPLIT("\\\\s") AND BYTES),
     "a\u180eb\xc2\x85"
     "c\ufeffd\u3000e",
     "a\u180eb|\xc2\x85|c\ufeffd|\u3000|e|"},
    {LIST(SPLIT("^b") AND BYTES), "b\nbb\nb", "b|\n|b|b\n|b|"},
    {LIST(SPLIT(".+") AND BYTES), "ab\ncd\re", "ab|\n|cd\re|"},
    {LIST(SPLIT("(?i:AB)") AND BYTES), "xaBy", "x|aB|y|"},
    {LIST(SPLIT("\\\\p{Han}+") AND BYTES), "a中々、ｱ", "a|中々|、ｱ|"},
    {LIST(SPLIT("\\\\p{^Han}+") AND BYTES), "a中々、ｱ", "a|中々|、ｱ|"},
    {LIST(SPLIT("\\\\p{^L}+") AND BYTES), "a1中", "a|1|中|"},
    {LIST(SPLIT("[\\\\x{4e00}-\\\\x{4e2d}]") AND BYTES), "a中a", "a|中|a|"},
    {LIST(SPLIT("b++") AND SPLIT("a{2,3}") AND BYTES), "aaaabbb", "aaa|a|bbb|"},
};

static void words_are_those_of_the_reference(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct pretokenizer *pretokenizer = read(CASES[i].json);
        struct words words = {0};
        assert_int_equal(
            pretokenizer_cut(pretokenizer, CASES[i].text, strlen(CASES[i].text), collect, &words),
            STATUS_OK);
        if (strcmp(words.text, CASES[i].words) != 0)
            fail_msg("%s: \"%s\" instead of \"%s\"", CASES[i].json, words.text, CASES[i].words);
        pretokenizer_destroy(pretokenizer);
    }
}

static enum status refuse_word(void *context, const char *word, size_t bytes) {
    (void)word, (void)bytes;
    ++*(int *)context;
    return STATUS_NO_MEMORY;
}

static void sink_ends_the_cutting(void **state) {
    (void)state;
    struct pretokenizer *pretokenizer = read(LIST(SPLIT(" ") AND BYTES));
    int calls = 0;
    assert_int_equal(pretokenizer_cut(pretokenizer, "a b c", 5, refuse_word, &calls),
                     STATUS_NO_MEMORY);
    assert_int_equal(calls, 1);
    pretokenizer_destroy(pretokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_those_of_the_reference),
        cmocka_unit_test(sink_ends_the_cutting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
