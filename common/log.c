/* A line is formatted into a local buffer and written at once, so that lines of several threads and
 * of several local worker processes do not mix. The four settings below are the process's only
 * mutable file-scope state besides the kernel table: passing a logger through every signature would
 * cost more clarity than it buys. */
#include "common/log.h"

#include <stdarg.h>
#include <stdbool.h>

#include "common/limits.h"
#include "common/utf8.h"

static struct {
    const char *program;
    enum log_level level;
    FILE *stream;
    bool journal;
} settings = {"skein", LOG_WARNING, NULL, false};

static const char *const LEVEL_NAMES[] = {"error", "warning", "info", "debug"};
/* syslog's numbers, as sd-daemon(3) has them. */
static const char *const JOURNAL_LEVELS[] = {"<3>", "<4>", "<6>", "<7>"};

void log_init(const char *program, enum log_level level, FILE *stream) {
    settings.program = program;
    settings.level = level;
    settings.stream = stream;
}

void log_set_journal(bool journal) {
    settings.journal = journal;
}

void log_write(enum log_level level, const char *format, ...) {
    if (level > settings.level)
        return;
    char line[LOG_LINE_BYTES_MAX];
    int used = snprintf(line, sizeof line,
                        "%s%s%s: ", settings.journal ? JOURNAL_LEVELS[level] : settings.program,
                        settings.journal ? "" : ": ", LEVEL_NAMES[level]);
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(line + used, sizeof line - (size_t)used - 1, format, arguments);
    va_end(arguments);
    size_t length = (size_t)used + (wanted > 0 ? (size_t)wanted : 0);
    if (length > sizeof line - 2)
        length = sizeof line - 2;
    utf8_replace_unprintable(line, length);
    line[length++] = '\n';
    FILE *stream = settings.stream ? settings.stream : stderr;
    fwrite(line, 1, length, stream);
    fflush(stream);
}
