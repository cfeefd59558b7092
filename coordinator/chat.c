/* The text between two control tokens is gathered and encoded as one piece, as the model saw it in
 * training: encoding "User: " and the question apart would cut words differently. Control tokens
 * are put in by id and never by parsing, so no message can contain one. */
#include "coordinator/chat.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"

#define BOS_TEXT         "<｜begin▁of▁sentence｜>"
#define EOS_TEXT         "<｜end▁of▁sentence｜>"
#define USER_TEXT        "<｜User｜>"
#define ASSISTANT_TEXT   "<｜Assistant｜>"
#define THINK_START_TEXT "<think>"
#define THINK_END_TEXT   "</think>"

static const char *const FORMAT_NAMES[CHAT_FORMAT_COUNT] = {
    [CHAT_V2] = "v2",
    [CHAT_V3] = "v3",
    [CHAT_R1] = "r1",
    [CHAT_V3_1] = "v3.1",
};

const char *chat_format_name(enum chat_format format) {
    return (unsigned)format < CHAT_FORMAT_COUNT ? FORMAT_NAMES[format] : "unknown";
}

bool chat_format_parse(const char *name, enum chat_format *out) {
    for (unsigned i = 0; i < CHAT_FORMAT_COUNT; i++)
        if (strcmp(name, FORMAT_NAMES[i]) == 0) {
            *out = (enum chat_format)i;
            return true;
        }
    return false;
}

enum chat_format chat_format_detect(const struct tokenizer *tokenizer,
                                    const struct model_shape *shape) {
    const char *template = tokenizer_chat_template(tokenizer);
    if (!*template)
        return shape->family == FAMILY_DEEPSEEK_V3 ? CHAT_V3 : CHAT_V2;
    /* In the template the line feed is mostly written as an escape. */
    if (strstr(template, THINK_START_TEXT "\\n") || strstr(template, THINK_START_TEXT "\n"))
        return CHAT_R1;
    if (strstr(template, "thinking"))
        return CHAT_V3_1;
    return strstr(template, USER_TEXT) ? CHAT_V3 : CHAT_V2;
}

/* One call of chat_encode. */
struct writer {
    const struct tokenizer *tokenizer;
    enum chat_format format;
    uint32_t bos, eos, user, assistant, think_start, think_end;
    char *text; /* not yet encoded */
    size_t bytes, capacity;
    struct token_list *out;
};

static enum status add_bytes(struct writer *writer, const char *text, size_t bytes) {
    if (bytes > writer->capacity - writer->bytes) {
        size_t capacity = 2 * (writer->bytes + bytes);
        char *grown = realloc(writer->text, capacity);
        if (!grown) {
            log_error("no memory for a conversation of %zu bytes; free some and try again",
                      capacity);
            return STATUS_NO_MEMORY;
        }
        writer->text = grown;
        writer->capacity = capacity;
    }
    if (bytes)
        memcpy(writer->text + writer->bytes, text, bytes);
    writer->bytes += bytes;
    return STATUS_OK;
}

static enum status add_text(struct writer *writer, const char *text) {
    return add_bytes(writer, text, strlen(text));
}

/* Encodes what has been gathered. */
static enum status flush_text(struct writer *writer) {
    size_t bytes = writer->bytes;
    writer->bytes = 0;
    return bytes ? tokenizer_encode(writer->tokenizer, writer->text, bytes, false, writer->out)
                 : STATUS_OK;
}

static enum status add_token(struct writer *writer, uint32_t id) {
    enum status status = flush_text(writer);
    return status == STATUS_OK ? token_list_push(writer->out, id) : status;
}

static enum status find_token(const struct writer *writer, const char *text, uint32_t *out) {
    if (tokenizer_find(writer->tokenizer, text, out))
        return STATUS_OK;
    log_error("the tokenizer has no token \"%s\", which chat format %s needs; choose another with "
              "--chat-format, or use --raw",
              text, chat_format_name(writer->format));
    return STATUS_UNSUPPORTED;
}

static enum status find_tokens(struct writer *writer) {
    enum status status = STATUS_OK;
    if (!tokenizer_bos(writer->tokenizer, &writer->bos))
        status = find_token(writer, BOS_TEXT, &writer->bos);
    if (status == STATUS_OK && !tokenizer_eos(writer->tokenizer, &writer->eos))
        status = find_token(writer, EOS_TEXT, &writer->eos);
    if (writer->format != CHAT_V2) {
        if (status == STATUS_OK)
            status = find_token(writer, USER_TEXT, &writer->user);
        if (status == STATUS_OK)
            status = find_token(writer, ASSISTANT_TEXT, &writer->assistant);
    }
    bool thinks = writer->format == CHAT_R1 || writer->format == CHAT_V3_1;
    if (status == STATUS_OK && thinks)
        status = find_token(writer, THINK_START_TEXT, &writer->think_start);
    if (status == STATUS_OK && writer->format == CHAT_V3_1)
        status = find_token(writer, THINK_END_TEXT, &writer->think_end);
    return status;
}

/* What remains of an earlier answer: R1 was trained on what follows the last </think>, V3.1 on what
 * follows the first. */
static const char *drop_thoughts(enum chat_format format, const char *answer) {
    if (format != CHAT_R1 && format != CHAT_V3_1)
        return answer;
    for (const char *end; (end = strstr(answer, THINK_END_TEXT));) {
        answer = end + strlen(THINK_END_TEXT);
        if (format == CHAT_V3_1)
            break;
    }
    return answer;
}

static enum status write_v2_message(struct writer *writer, const struct chat_message *message) {
    static const char *const OPENINGS[] = {
        [CHAT_SYSTEM] = "", [CHAT_USER] = "User: ", [CHAT_ASSISTANT] = "Assistant:"};
    enum status status = add_text(writer, OPENINGS[message->role]);
    /* The model writes the blank before its answer itself, so one may be there already. */
    if (status == STATUS_OK && message->role == CHAT_ASSISTANT && message->text[0] != ' ')
        status = add_text(writer, " ");
    if (status == STATUS_OK)
        status = add_text(writer, message->text);
    if (status != STATUS_OK)
        return status;
    return message->role == CHAT_ASSISTANT ? add_token(writer, writer->eos)
                                           : add_text(writer, "\n\n");
}

static enum status write_v2(struct writer *writer, const struct chat_message *messages,
                            size_t count) {
    enum status status = STATUS_OK;
    for (size_t i = 0; i < count && status == STATUS_OK; i++)
        status = write_v2_message(writer, &messages[i]);
    return status == STATUS_OK ? add_text(writer, "Assistant:") : status;
}

/* All system messages stand in front, with an empty line between them. */
static enum status write_system(struct writer *writer, const struct chat_message *messages,
                                size_t count) {
    enum status status = STATUS_OK;
    bool is_first = true;
    for (size_t i = 0; i < count && status == STATUS_OK; i++) {
        if (messages[i].role != CHAT_SYSTEM)
            continue;
        if (!is_first)
            status = add_text(writer, "\n\n");
        if (status == STATUS_OK)
            status = add_text(writer, messages[i].text);
        is_first = false;
    }
    return status;
}

static enum status write_v3_message(struct writer *writer, const struct chat_message *message) {
    bool is_user = message->role == CHAT_USER;
    enum status status = add_token(writer, is_user ? writer->user : writer->assistant);
    if (is_user)
        return status == STATUS_OK ? add_text(writer, message->text) : status;
    if (status == STATUS_OK && writer->format == CHAT_V3_1)
        status = add_token(writer, writer->think_end);
    if (status == STATUS_OK)
        status = add_text(writer, drop_thoughts(writer->format, message->text));
    return status == STATUS_OK ? add_token(writer, writer->eos) : status;
}

static enum status write_v3(struct writer *writer, bool thinking,
                            const struct chat_message *messages, size_t count) {
    enum status status = write_system(writer, messages, count);
    for (size_t i = 0; i < count && status == STATUS_OK; i++)
        if (messages[i].role != CHAT_SYSTEM)
            status = write_v3_message(writer, &messages[i]);
    if (status == STATUS_OK)
        status = add_token(writer, writer->assistant);
    if (status != STATUS_OK || writer->format == CHAT_V3)
        return status;
    if (writer->format == CHAT_V3_1)
        return add_token(writer, thinking ? writer->think_start : writer->think_end);
    status = add_token(writer, writer->think_start);
    return status == STATUS_OK ? add_text(writer, "\n") : status;
}

enum status chat_encode(const struct tokenizer *tokenizer, enum chat_format format, bool thinking,
                        const struct chat_message *messages, size_t count, struct token_list *out) {
    struct writer writer = {.tokenizer = tokenizer, .format = format, .out = out};
    size_t count_before = out->count;
    enum status status = find_tokens(&writer);
    if (status == STATUS_OK)
        status = add_token(&writer, writer.bos);
    if (status == STATUS_OK)
        status = format == CHAT_V2 ? write_v2(&writer, messages, count)
                                   : write_v3(&writer, thinking, messages, count);
    if (status == STATUS_OK)
        status = flush_text(&writer);
    if (status != STATUS_OK)
        out->count = count_before;
    free(writer.text);
    return status;
}
