/* Every turn encodes the whole conversation anew; the scheduler finds what it still has in its
 * cache, so only the new words are computed. Ctrl-C is armed before each wait and before each
 * answer: one press ends what is going on, never the chat. */
#include "coordinator/chat_session.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "coordinator/chat_terminal.h"
#include "coordinator/conversation.h"
#include "coordinator/interrupt.h"

static const char HELP[] = "/clear  start a new conversation\n"
                           "/exit   end the chat (or Ctrl-D)\n"
                           "/help   print this\n"
                           "Ctrl-C  end the answer, or drop the line\n"
                           "Arrow keys edit the line and recall earlier ones.\n";

/* Whether the message is a command: a slash and one word, so that "/etc/fstab is empty" is none. */
static bool is_command(const char *text) {
    size_t letters = strspn(text + (text[0] == '/'), "abcdefghijklmnopqrstuvwxyz");
    return text[0] == '/' && letters && !text[1 + letters];
}

/* Carries out a command; false ends the chat. */
static bool run_command(struct conversation *conversation, const char *text) {
    if (strcmp(text, "/exit") == 0)
        return false;
    if (strcmp(text, "/clear") == 0) {
        conversation_clear(conversation);
        fputs("A new conversation.\n", stderr);
    } else if (strcmp(text, "/help") == 0) {
        fputs(HELP, stderr);
    } else {
        fprintf(stderr, "There is no command %s; /help lists them.\n", text);
    }
    return true;
}

static enum status answer_conversation(const struct chat_session_options *options,
                                       const struct conversation *conversation,
                                       struct answer *out) {
    size_t count;
    const struct chat_message *messages = conversation_messages(conversation, &count);
    struct token_list prompt = {.ids = NULL};
    enum status status = chat_encode(options->answer->tokenizer, options->format, options->thinking,
                                     messages, count, &prompt);
    if (status == STATUS_OK) {
        interrupt_arm();
        status = answer_generate(options->scheduler, options->answer, &prompt, out);
    }
    free(prompt.ids);
    return status;
}

static enum status run_turn(const struct chat_session_options *options,
                            struct conversation *conversation, const char *question) {
    struct answer answer = {.text = NULL};
    enum status status = conversation_add(conversation, CHAT_USER, question);
    if (status != STATUS_OK)
        return status;
    status = answer_conversation(options, conversation, &answer);
    if (status != STATUS_OK) {
        conversation_drop_last(conversation);
        return status;
    }
    fputs(answer.interrupted ? " ...\n" : "\n", options->answer->stream);
    fflush(options->answer->stream);
    if (options->on_answer)
        options->on_answer(options->context, &answer.result);
    status = conversation_add(conversation, CHAT_ASSISTANT, answer.text);
    answer_cleanup(&answer);
    return status;
}

static enum status loop(const struct chat_session_options *options, struct chat_terminal *terminal,
                        struct conversation *conversation) {
    for (;;) {
        const char *text;
        interrupt_arm();
        enum chat_input input = chat_terminal_read(terminal, &text);
        if (input == CHAT_INPUT_END) {
            fputc('\n', stderr);
            return STATUS_OK;
        }
        if (input == CHAT_INPUT_INTERRUPTED) {
            fputs("\n(Ctrl-D or /exit ends the chat)\n", stderr);
            continue;
        }
        if (!text[strspn(text, " \t\n")])
            continue;
        if (is_command(text)) {
            if (!run_command(conversation, text))
                return STATUS_OK;
            continue;
        }
        enum status status = run_turn(options, conversation, text);
        /* A conversation that outgrew the context can be cleared; anything else would only recur.
         */
        if (status == STATUS_NO_MEMORY)
            fputs("/clear starts a new conversation.\n", stderr);
        else if (status != STATUS_OK)
            return status;
    }
}

enum status chat_session_run(const struct chat_session_options *options) {
    struct conversation *conversation;
    struct chat_terminal *terminal;
    enum status status = conversation_create(options->system, &conversation);
    if (status != STATUS_OK)
        return status;
    const struct chat_terminal_options terminal_options = {
        .input = stdin,
        /* libedit only edits on a terminal; standard output stays for answers if it can. */
        .output = isatty(STDERR_FILENO) ? stderr : stdout,
        .directory = options->history_directory,
        .on_wake = options->on_wake,
        .context = options->context,
        .wake_fd = options->wake_fd,
    };
    status = chat_terminal_open(&terminal_options, &terminal);
    if (status != STATUS_OK)
        goto err_conversation;
    if (!options->quiet)
        fputs("Ask away; /help lists what else there is, Ctrl-D ends.\n", stderr);
    status = loop(options, terminal, conversation);
    interrupt_disarm();
    chat_terminal_close(terminal);
err_conversation:
    conversation_destroy(conversation);
    return status;
}
