/* Lines: their form, the level, what is done to control characters and to long text, and that lines
 * of several threads do not mix. */
#include "common/log.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/limits.h"

#define WRITERS          4
#define LINES_PER_WRITER 200

struct sink {
    FILE *stream;
    char *text;
    size_t bytes;
};

static int setup(void **state) {
    struct sink *sink = calloc(1, sizeof *sink);
    sink->stream = open_memstream(&sink->text, &sink->bytes);
    *state = sink;
    return 0;
}

static int teardown(void **state) {
    struct sink *sink = *state;
    log_init("test", LOG_WARNING, NULL);
    fclose(sink->stream);
    free(sink->text);
    free(sink);
    return 0;
}

static void test_form(void **state) {
    struct sink *sink = *state;
    log_init("prog", LOG_DEBUG, sink->stream);
    log_error("file %s, line %d", "a.json", 3);
    log_warning("w");
    log_info("i");
    log_debug("d");
    assert_string_equal(sink->text, "prog: error: file a.json, line 3\nprog: warning: w\n"
                                    "prog: info: i\nprog: debug: d\n");
}

static void test_level(void **state) {
    struct sink *sink = *state;
    log_init("prog", LOG_WARNING, sink->stream);
    log_debug("hidden");
    log_info("hidden");
    fflush(sink->stream);
    assert_int_equal(sink->bytes, 0);
    log_warning("shown");
    assert_string_equal(sink->text, "prog: warning: shown\n");
}

static void test_control_characters(void **state) {
    struct sink *sink = *state;
    log_init("prog", LOG_ERROR, sink->stream);
    log_error("a\nprog: error: forged\x1b[2J\x7f%s", " é");
    assert_string_equal(sink->text, "prog: error: a?prog: error: forged?[2J? é\n");
}

static void test_bytes_that_are_not_utf8(void **state) {
    struct sink *sink = *state;
    log_init("prog", LOG_ERROR, sink->stream);
    log_error("a\xff\x80z \xc3\xa9 \xe4\xb8");
    assert_string_equal(sink->text, "prog: error: a??z \xc3\xa9 ??\n");
}

static void test_long_lines_are_cut(void **state) {
    struct sink *sink = *state;
    char text[2 * LOG_LINE_BYTES_MAX];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    log_init("prog", LOG_ERROR, sink->stream);
    for (size_t length = LOG_LINE_BYTES_MAX - 20; length < LOG_LINE_BYTES_MAX; length++)
        log_error("%.*s", (int)length, text);
    log_error("%s", text);
    size_t lines = 0;
    for (const char *line = sink->text; *line; lines++) {
        size_t length = strcspn(line, "\n");
        assert_true(length < LOG_LINE_BYTES_MAX && length > LOG_LINE_BYTES_MAX - 20);
        assert_int_equal(strspn(line + strlen("prog: error: "), "x"),
                         length - strlen("prog: error: "));
        line += length + 1;
    }
    assert_int_equal(lines, 21);
}

static void test_journal_reads_the_level(void **state) {
    struct sink *sink = *state;
    log_init("prog", LOG_DEBUG, sink->stream);
    log_set_journal(true);
    log_error("e\n<0>forged");
    log_warning("w");
    log_info("i");
    log_debug("d");
    log_set_journal(false);
    log_info("plain");
    assert_string_equal(sink->text, "<3>error: e?<0>forged\n<4>warning: w\n<6>info: i\n"
                                    "<7>debug: d\nprog: info: plain\n");
}

static void *write_lines(void *argument) {
    char letter = *(const char *)argument, text[101];
    memset(text, letter, 100);
    text[100] = '\0';
    for (int i = 0; i < LINES_PER_WRITER; i++)
        log_error("%s", text);
    return NULL;
}

static void test_threads_do_not_mix_lines(void **state) {
    struct sink *sink = *state;
    log_init("prog", LOG_ERROR, sink->stream);
    pthread_t writers[WRITERS];
    static const char letters[WRITERS] = "abcd";
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&writers[i], NULL, write_lines, (void *)&letters[i]), 0);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(writers[i], NULL);
    size_t prefix = strlen("prog: error: "), line_bytes = prefix + 101;
    assert_int_equal(sink->bytes, line_bytes * WRITERS * LINES_PER_WRITER);
    for (const char *line = sink->text; *line; line += line_bytes) {
        const char one_letter[] = {line[prefix], '\0'};
        assert_int_equal(strspn(line + prefix, one_letter), 100);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_form, setup, teardown),
        cmocka_unit_test_setup_teardown(test_level, setup, teardown),
        cmocka_unit_test_setup_teardown(test_control_characters, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bytes_that_are_not_utf8, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_lines_are_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_journal_reads_the_level, setup, teardown),
        cmocka_unit_test_setup_teardown(test_threads_do_not_mix_lines, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
