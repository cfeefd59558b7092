/* Reading prompts of all sizes, refusing what is no text, and encoding raw text. */
#include "coordinator/prompt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/log.h"

static enum status read_bytes(const char *bytes, size_t count, struct prompt_text *out) {
    FILE *stream = tmpfile();
    assert_int_equal(fwrite(bytes, 1, count, stream), count);
    rewind(stream);
    enum status status = prompt_read_stream(stream, "the test", out);
    fclose(stream);
    return status;
}

static void test_sizes(void **state) {
    (void)state;
    static const size_t SIZES[] = {0, 1, 4094, 4095, 4096, 4097, 8191, 8192, 100000};
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++) {
        char *bytes = malloc(SIZES[i] + 1);
        for (size_t j = 0; j < SIZES[i]; j++)
            bytes[j] = (char)('a' + j % 23);
        struct prompt_text text = {.bytes = NULL};
        assert_int_equal(read_bytes(bytes, SIZES[i], &text), STATUS_OK);
        assert_int_equal(text.count, SIZES[i]);
        assert_memory_equal(text.bytes, bytes, SIZES[i]);
        assert_int_equal(text.bytes[text.count], '\0');
        free(text.bytes);
        free(bytes);
    }
}

static void test_trim(void **state) {
    (void)state;
    char bytes[] = "a\n b\r\n\n";
    struct prompt_text text = {bytes, strlen(bytes)};
    prompt_trim(&text);
    assert_string_equal(text.bytes, "a\n b");
    assert_int_equal(text.count, 4);
    char only_lines[] = "\n\r\n";
    text = (struct prompt_text){only_lines, 3};
    prompt_trim(&text);
    assert_int_equal(text.count, 0);
}

static void check_error(enum status status, enum status expected_status, char **log_text, FILE *log,
                        const char *expected) {
    log_init("test", LOG_WARNING, NULL);
    fclose(log);
    assert_int_equal(status, expected_status);
    if (!strstr(*log_text, expected))
        fail_msg("the log lacks \"%s\": %s", expected, *log_text);
    free(*log_text);
}

static void test_errors(void **state) {
    (void)state;
    struct prompt_text text = {.bytes = NULL};
    char *log_text;
    size_t log_bytes;
    FILE *log = open_memstream(&log_text, &log_bytes);
    log_init("test", LOG_DEBUG, log);
    check_error(read_bytes("ab\0c", 4, &text), STATUS_FORMAT, &log_text, log,
                "the prompt in the test has a zero byte at offset 2");

    log = open_memstream(&log_text, &log_bytes);
    log_init("test", LOG_DEBUG, log);
    check_error(prompt_read_file("/nowhere/q.txt", &text), STATUS_NOT_FOUND, &log_text, log,
                "cannot open the prompt's file /nowhere/q.txt");

    log = open_memstream(&log_text, &log_bytes);
    log_init("test", LOG_DEBUG, log);
    check_error(prompt_read_file("/tmp", &text), STATUS_IO, &log_text, log,
                "cannot read the prompt from /tmp");

    log = open_memstream(&log_text, &log_bytes);
    log_init("test", LOG_DEBUG, log);
    check_error(prompt_read_file("/dev/zero", &text), STATUS_UNSUPPORTED, &log_text, log,
                "the prompt in /dev/zero is over 64 MiB");
    assert_null(text.bytes);
}

static void encode(const struct tokenizer *tokenizer, const char *bytes, struct token_list *out) {
    struct prompt_text text = {(char *)bytes, strlen(bytes)};
    *out = (struct token_list){.ids = NULL};
    assert_int_equal(prompt_encode_raw(tokenizer, &text, out), STATUS_OK);
}

static void test_raw_text_opens_with_one_bos(void **state) {
    (void)state;
    struct tokenizer *tokenizer;
    struct token_list plain, twice;
    uint32_t bos;
    assert_int_equal(tokenizer_load(DEMO_MODEL_DIR, 1024, &tokenizer), STATUS_OK);
    assert_true(tokenizer_bos(tokenizer, &bos));
    encode(tokenizer, "What is", &plain);
    assert_true(plain.count > 1);
    assert_int_equal(plain.ids[0], bos);
    assert_int_not_equal(plain.ids[1], bos);
    size_t bytes;
    bool special;
    char text[64];
    const char *bos_text = tokenizer_token_bytes(tokenizer, bos, &bytes, &special);
    snprintf(text, sizeof text, "%.*sWhat is", (int)bytes, bos_text);
    encode(tokenizer, text, &twice);
    assert_int_equal(twice.count, plain.count);
    assert_memory_equal(twice.ids, plain.ids, plain.count * sizeof *plain.ids);
    free(plain.ids);
    free(twice.ids);
    tokenizer_destroy(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_trim),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_raw_text_opens_with_one_bos),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
