/* The messages of a chat, in order, with their texts. Used by the chat loop. */
#pragma once

#include <stddef.h>

#include "common/status.h"
#include "coordinator/chat.h"

struct conversation;

/* Creates a conversation that opens with the system message `system`, or none if that is NULL.
 * Errors: STATUS_NO_MEMORY. */
enum status conversation_create(const char *system, struct conversation **out);
void conversation_destroy(struct conversation *conversation);

/* Appends a copy of `text`. Errors: STATUS_NO_MEMORY. */
enum status conversation_add(struct conversation *conversation, enum chat_role role,
                             const char *text);

/* Takes the last message back; there is one. */
void conversation_drop_last(struct conversation *conversation);

/* Forgets all but the system message. */
void conversation_clear(struct conversation *conversation);

/* All messages, valid until the next change; *count of them. */
const struct chat_message *conversation_messages(const struct conversation *conversation,
                                                 size_t *count);
