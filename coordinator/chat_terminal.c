/* libedit draws the line and keeps the history. Two things are ours. Characters are read by a
 * function of this file, because libedit's own repeats a read that a signal ended, and Ctrl-C could
 * not end a line. And pasted text is bracketed by the terminal (mode 2004), so that its line ends
 * become part of the message instead of sending one message for each line. */
#include "coordinator/chat_terminal.h"

#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

#include "common/limits.h"
#include "common/log.h"
#include "coordinator/interrupt.h"

#define PASTE_BEGIN "\033[?2004h"
#define PASTE_END   "\033[?2004l"

struct chat_terminal {
    FILE *input, *output;
    void (*on_wake)(void *context);
    void *wake_context;
    int wake_fd; /* -1: none */
    EditLine *editor;
    History *history;
    char *history_path; /* NULL: not kept */
    char *line;         /* the message handed out last */
    bool brackets_paste;
};

static char *prompt(EditLine *editor) {
    (void)editor;
    return (char *)"> "; /* libedit's type lacks a const; it only reads */
}

/* Waits for a key, and does meanwhile what else is to be done; false: Ctrl-C or an error. */
static bool wait_key(const struct chat_terminal *terminal) {
    struct pollfd wanted[] = {{.fd = fileno(terminal->input), .events = POLLIN},
                              {.fd = terminal->wake_fd, .events = POLLIN}};
    do {
        if (!interrupt_wait_ready(wanted, 2))
            return false;
        if (wanted[1].revents)
            terminal->on_wake(terminal->wake_context);
    } while (!wanted[0].revents);
    return true;
}

/* One character for libedit: 1, 0 at the end of the input, -1 when Ctrl-C or an error ended the
 * wait. */
static int read_character(EditLine *editor, wchar_t *out) {
    struct chat_terminal *terminal;
    mbstate_t partial = {0};
    el_get(editor, EL_CLIENTDATA, &terminal);
    for (;;) {
        char byte;
        if (!wait_key(terminal))
            return -1;
        ssize_t got = read(fileno(terminal->input), &byte, 1);
        if (got <= 0)
            return (int)got;
        size_t used = mbrtowc(out, &byte, 1, &partial);
        if (used == (size_t)-2) /* more bytes of this character are to come */
            continue;
        if (used == (size_t)-1)
            *out = L'\uFFFD';
        return 1;
    }
}

/* The terminal announced pasted text: takes it up to the closing bracket as a part of the line. */
static unsigned char insert_paste(EditLine *editor, int key) {
    static const wchar_t CLOSING[] = L"\033[201~";
    const size_t closing = sizeof CLOSING / sizeof *CLOSING - 1;
    wchar_t *text = NULL;
    size_t count = 0, capacity = 0;
    unsigned char answer = CC_ERROR;
    (void)key;
    for (wchar_t c; el_wgetc(editor, &c) == 1;) {
        if (count + 1 >= capacity) {
            capacity = capacity ? 2 * capacity : 256;
            wchar_t *larger = realloc(text, capacity * sizeof *text);
            if (!larger || capacity > PROMPT_BYTES_MAX)
                break;
            text = larger;
        }
        text[count++] = c == L'\r' ? L'\n' : c;
        if (count >= closing && wmemcmp(text + count - closing, CLOSING, closing) == 0) {
            text[count - closing] = L'\0';
            if (count == closing || el_winsertstr(editor, text) == 0)
                answer = CC_REFRESH;
            break;
        }
    }
    free(text);
    return answer;
}

/* mkdir -p; what fails shows when the history is written. */
static void make_directories(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
}

static enum status open_history(struct chat_terminal *terminal, const char *directory) {
    HistEvent event;
    terminal->history = history_init();
    if (!terminal->history)
        return STATUS_NO_MEMORY;
    history(terminal->history, &event, H_SETSIZE, HISTORY_LINES_MAX);
    history(terminal->history, &event, H_SETUNIQUE, 1);
    if (!directory)
        return STATUS_OK;
    if (asprintf(&terminal->history_path, "%s/history", directory) < 0) {
        terminal->history_path = NULL;
        return STATUS_NO_MEMORY;
    }
    make_directories(terminal->history_path);
    history(terminal->history, &event, H_LOAD, terminal->history_path);
    return STATUS_OK;
}

static void remember(struct chat_terminal *terminal, const char *line) {
    HistEvent event;
    history(terminal->history, &event, H_ENTER, line);
    if (!terminal->history_path)
        return;
    if (history(terminal->history, &event, H_SAVE, terminal->history_path) < 0) {
        log_warning("cannot keep the chat's history in %s: %s", terminal->history_path,
                    strerror(errno));
        free(terminal->history_path);
        terminal->history_path = NULL;
    }
}

static enum status open_editor(struct chat_terminal *terminal) {
    terminal->editor = el_init("skein", terminal->input, terminal->output, terminal->output);
    if (!terminal->editor) {
        log_error("cannot edit lines on this terminal; give the question with --prompt or on "
                  "standard input");
        return STATUS_IO;
    }
    const char *type = NULL;
    el_set(terminal->editor, EL_CLIENTDATA, terminal);
    el_set(terminal->editor, EL_PROMPT, prompt);
    el_set(terminal->editor, EL_EDITOR, "emacs");
    el_set(terminal->editor, EL_HIST, history, terminal->history);
    el_set(terminal->editor, EL_GETCFN, read_character);
    el_wset(terminal->editor, EL_ADDFN, L"skein-insert-paste", L"Insert pasted text", insert_paste);
    el_wset(terminal->editor, EL_BIND, L"\\e[200~", L"skein-insert-paste", NULL);
    el_source(terminal->editor, NULL); /* the user's ~/.editrc, which may bind other keys */
    el_get(terminal->editor, EL_TERMINAL, &type);
    terminal->brackets_paste = type && strcmp(type, "dumb") != 0;
    return STATUS_OK;
}

enum status chat_terminal_open(const struct chat_terminal_options *options,
                               struct chat_terminal **out) {
    struct chat_terminal *terminal = calloc(1, sizeof *terminal);
    if (!terminal)
        return STATUS_NO_MEMORY;
    terminal->input = options->input;
    terminal->output = options->output;
    terminal->on_wake = options->on_wake;
    terminal->wake_context = options->context;
    terminal->wake_fd = options->on_wake ? options->wake_fd : -1; /* which poll leaves out */
    /* libedit counts characters by the locale; texts are UTF-8 whatever the user's locale is. */
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8");
    enum status status = open_history(terminal, options->directory);
    if (status == STATUS_OK)
        status = open_editor(terminal);
    if (status != STATUS_OK) {
        chat_terminal_close(terminal);
        return status;
    }
    *out = terminal;
    return STATUS_OK;
}

void chat_terminal_close(struct chat_terminal *terminal) {
    if (!terminal)
        return;
    if (terminal->editor)
        el_end(terminal->editor);
    if (terminal->history)
        history_end(terminal->history);
    free(terminal->history_path);
    free(terminal->line);
    free(terminal);
}

static void bracket_paste(const struct chat_terminal *terminal, const char *sequence) {
    if (!terminal->brackets_paste)
        return;
    fputs(sequence, terminal->output);
    fflush(terminal->output);
}

enum chat_input chat_terminal_read(struct chat_terminal *terminal, const char **text) {
    int count = 0;
    el_resize(terminal->editor);
    /* libedit would leave the terminal's line mode only after showing the prompt, and mangle keys
     * that are typed in between. */
    el_set(terminal->editor, EL_PREP_TERM, 1);
    bracket_paste(terminal, PASTE_BEGIN);
    const char *line = el_gets(terminal->editor, &count);
    bracket_paste(terminal, PASTE_END);
    if (interrupt_is_requested())
        return CHAT_INPUT_INTERRUPTED;
    if (!line || count <= 0)
        return CHAT_INPUT_END;
    free(terminal->line);
    terminal->line = strdup(line);
    if (!terminal->line)
        return CHAT_INPUT_END;
    size_t length = strlen(terminal->line);
    while (length && strchr("\r\n", terminal->line[length - 1]))
        terminal->line[--length] = '\0';
    if (length)
        remember(terminal, terminal->line);
    *text = terminal->line;
    return CHAT_INPUT_MESSAGE;
}
