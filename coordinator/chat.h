/* Chat formats: messages -> the token ids that each DeepSeek generation was trained on.
 *
 * The exact texts are in docs/architecture.md's appendix; they are formats, not Jinja: the template
 * in tokenizer_config.json only serves to recognise which of them a model wants. */
#pragma once

#include "common/status.h"
#include "coordinator/shape.h"
#include "coordinator/tokenizer.h"

enum chat_format {
    CHAT_V2,   /* V1, V2: BOS system "\n\n" "User: " question "\n\n" "Assistant:" " " answer EOS */
    CHAT_V3,   /* BOS system <|User|>question<|Assistant|>answer EOS (with full-width bars) */
    CHAT_R1,   /* as V3, the answer opens with <think>\n */
    CHAT_V3_1, /* as V3, the prompt ends with </think> (or <think> when thinking is asked for) */
    CHAT_FORMAT_COUNT
};

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT };

struct chat_message {
    enum chat_role role;
    const char *text; /* not owned */
};

/* "v2", "v3", "r1", "v3.1" as --chat-format takes them. */
const char *chat_format_name(enum chat_format format);
bool chat_format_parse(const char *name, enum chat_format *out);

/* Which format the model wants, from its chat template and family. */
enum chat_format chat_format_detect(const struct tokenizer *tokenizer,
                                    const struct model_shape *shape);

/* Appends the ids of the whole conversation, ready for the assistant's next words. Message texts
 * are encoded without special tokens, so a user cannot forge a turn. `thinking` matters for
 * CHAT_V3_1 only. In R1 and V3.1, earlier answers lose what stands before </think>, as in training.
 * Errors: STATUS_UNSUPPORTED when the tokenizer lacks a token the format needs (named in the line).
 */
enum status chat_encode(const struct tokenizer *tokenizer, enum chat_format format, bool thinking,
                        const struct chat_message *messages, size_t count, struct token_list *out);
