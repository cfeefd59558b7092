/* A line is formatted into a local buffer and written at once, so that lines of several threads and
 * of several local worker processes do not mix. The three settings below are the process's only
 * mutable file-scope state besides the kernel table: passing a logger through every signature would
 * cost more clarity than it buys. */
#include "common/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include "common/limits.h"
#include "common/utf8.h"

static struct {
    const char *program;
    enum log_level level;
    FILE *stream;
} settings = {"skein", LOG_WARNING, NULL};

static const char *const LEVEL_NAMES[] = {"error", "warning", "info", "debug"};

void log_init(const char *program, enum log_level level, FILE *stream) {
    settings.program = program;
    settings.level = level;
    settings.stream = stream;
}

/* Control characters and bytes that are not UTF-8 become '?'. */
static void replace_unprintable(char *line, size_t bytes) {
    for (size_t at = 0, length; at < bytes; at += length) {
        bool valid = utf8_next(line + at, bytes - at, &length) == UTF8_VALID;
        if (!valid || (unsigned char)line[at] < 0x20 || line[at] == 0x7f)
            memset(line + at, '?', length);
    }
}

void log_write(enum log_level level, const char *format, ...) {
    if (level > settings.level)
        return;
    char line[LOG_LINE_BYTES_MAX];
    int used = snprintf(line, sizeof line, "%s: %s: ", settings.program, LEVEL_NAMES[level]);
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(line + used, sizeof line - (size_t)used - 1, format, arguments);
    va_end(arguments);
    size_t length = (size_t)used + (wanted > 0 ? (size_t)wanted : 0);
    if (length > sizeof line - 2)
        length = sizeof line - 2;
    replace_unprintable(line, length);
    line[length++] = '\n';
    FILE *stream = settings.stream ? settings.stream : stderr;
    fwrite(line, 1, length, stream);
    fflush(stream);
}
