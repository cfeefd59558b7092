/* What every unit test includes: cmocka with the headers it wants, and a capture of log lines. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/log.h"

/* ThreadSanitizer makes every step many times slower, and looks for races, not for what random
 * bytes do: a few rounds of them are enough then. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TEST_ROUNDS(rounds) ((rounds) / 10)
#endif
#endif
#ifndef TEST_ROUNDS
#define TEST_ROUNDS(rounds) (rounds)
#endif

/* Log lines since log_capture_begin. */
struct log_capture {
    FILE *stream;
    char *text;
    size_t bytes;
};

static inline void log_capture_begin(struct log_capture *capture) {
    capture->text = NULL;
    capture->stream = open_memstream(&capture->text, &capture->bytes);
    log_init("test", LOG_DEBUG, capture->stream);
}

/* Requires that all of the strings up to NULL stand in what was logged, in exactly one error line.
 */
static inline __attribute__((sentinel)) void log_capture_expect(struct log_capture *capture, ...) {
    fclose(capture->stream);
    log_init("test", LOG_ERROR, NULL);
    const char *first = strstr(capture->text, "error: ");
    if (!first)
        fail_msg("no error line in \"%s\"", capture->text);
    if (strstr(first + 1, "error: "))
        fail_msg("more than one error line in \"%s\"", capture->text);
    va_list wanted;
    va_start(wanted, capture);
    for (const char *part; (part = va_arg(wanted, const char *));)
        if (!strstr(capture->text, part))
            fail_msg("\"%s\" is not in \"%s\"", part, capture->text);
    va_end(wanted);
    free(capture->text);
}
