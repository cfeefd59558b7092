/* Where a chat's questions are typed: line editing and history with libedit. Knows nothing of
 * models. Used by the chat loop, on the main thread; SIGINT must be noted by interrupt_arm while it
 * reads. */
#pragma once

#include <stdio.h>

#include "common/status.h"

struct chat_terminal;

struct chat_terminal_options {
    FILE *input;           /* a terminal */
    FILE *output;          /* where prompt and line are drawn */
    const char *directory; /* keeps the file "history"; made if missing. NULL: no file */
    /* Called in the middle of a wait for keys whenever `wake_fd` can be read, which it must see to
     * that it no longer can. NULL: nothing else is waited for. */
    void (*on_wake)(void *context);
    void *context;
    int wake_fd;
};

enum chat_input {
    CHAT_INPUT_MESSAGE,     /* a line, or several that were pasted at once */
    CHAT_INPUT_INTERRUPTED, /* Ctrl-C: what was typed is dropped */
    CHAT_INPUT_END          /* Ctrl-D on an empty line, or the terminal has gone */
};

/* Errors: STATUS_IO (libedit cannot work with the terminal). A history that cannot be kept is a
 * warning. */
enum status chat_terminal_open(const struct chat_terminal_options *options,
                               struct chat_terminal **out);
void chat_terminal_close(struct chat_terminal *terminal);

/* Waits for the next message. *text: on CHAT_INPUT_MESSAGE, UTF-8 without the final line end, valid
 * until the next call. */
enum chat_input chat_terminal_read(struct chat_terminal *terminal, const char **text);
