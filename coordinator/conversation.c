/* A growing array in the form that chat_encode takes; it owns the texts. */
#include "coordinator/conversation.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct conversation {
    struct chat_message *messages; /* (capacity), `count` used; texts are ours */
    size_t count, capacity;
    size_t kept; /* messages that conversation_clear leaves: the system's */
};

enum status conversation_create(const char *system, struct conversation **out) {
    struct conversation *conversation = calloc(1, sizeof *conversation);
    if (!conversation)
        return STATUS_NO_MEMORY;
    if (system) {
        enum status status = conversation_add(conversation, CHAT_SYSTEM, system);
        if (status != STATUS_OK) {
            conversation_destroy(conversation);
            return status;
        }
        conversation->kept = 1;
    }
    *out = conversation;
    return STATUS_OK;
}

void conversation_destroy(struct conversation *conversation) {
    if (!conversation)
        return;
    while (conversation->count)
        conversation_drop_last(conversation);
    free(conversation->messages);
    free(conversation);
}

enum status conversation_add(struct conversation *conversation, enum chat_role role,
                             const char *text) {
    if (conversation->count == conversation->capacity) {
        size_t capacity = conversation->capacity ? 2 * conversation->capacity : 16;
        struct chat_message *larger =
            realloc(conversation->messages, capacity * sizeof *conversation->messages);
        if (!larger)
            return STATUS_NO_MEMORY;
        conversation->messages = larger;
        conversation->capacity = capacity;
    }
    char *copy = strdup(text);
    if (!copy)
        return STATUS_NO_MEMORY;
    conversation->messages[conversation->count++] = (struct chat_message){role, copy};
    return STATUS_OK;
}

void conversation_drop_last(struct conversation *conversation) {
    assert(conversation->count);
    free((char *)conversation->messages[--conversation->count].text);
}

void conversation_clear(struct conversation *conversation) {
    while (conversation->count > conversation->kept)
        conversation_drop_last(conversation);
}

const struct chat_message *conversation_messages(const struct conversation *conversation,
                                                 size_t *count) {
    *count = conversation->count;
    return conversation->messages;
}
