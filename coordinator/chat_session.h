/* The chat loop: question, answer, and so on, with a few commands of its own (/clear, /help,
 * /exit). Used by `run` when standard input is a terminal; on the main thread. */
#pragma once

#include <stdbool.h>

#include "common/status.h"
#include "coordinator/answer.h"
#include "coordinator/chat.h"

struct chat_session_options {
    struct scheduler *scheduler;
    const struct answer_options *answer; /* its stream is where answers go; it has a tokenizer */
    enum chat_format format;
    bool thinking;
    const char *system;            /* NULL: none */
    const char *history_directory; /* NULL: none */
    bool quiet;                    /* no greeting */
    /* Called after each answer, to print figures; may be NULL. */
    void (*on_answer)(void *context, const struct request_result *result);
    void (*on_wake)(void *context); /* as in struct chat_terminal_options, with `wake_fd` */
    void *context;
    int wake_fd;
};

/* Chats until the user leaves. Errors: those of chat_terminal_open, and whatever makes further
 * answers impossible; a question that does not fit the context is only said. */
enum status chat_session_run(const struct chat_session_options *options);
