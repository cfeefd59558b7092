/* The one logger: one line per event on standard error, "skein: error: what, where; remedy".
 *
 * Callable from every thread; a line is written with one write. The level, the program's name and
 * the stream are process-wide and set once at start-up (tests point the stream at a file). */
#pragma once

#include <stdbool.h>
#include <stdio.h>

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

/* Sets the name that opens each line, the most verbose level that is written, and the stream
 * (not owned; NULL means standard error). Before the first call: "skein", LOG_WARNING, stderr. */
void log_init(const char *program, enum log_level level, FILE *stream);

/* Whether each line opens with its level as the system's journal reads it from a stream, "<3>" for
 * an error (sd-daemon(3)), in place of the program's name, which the journal knows. Off at first.
 */
void log_set_journal(bool journal);

/* Writes one line. `format` needs no trailing newline; control characters and
 * bytes that are not UTF-8 are replaced by '?', so that text from a file or a peer cannot forge
 * lines. */
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...)   log_write(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_info(...)    log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...)   log_write(LOG_DEBUG, __VA_ARGS__)
