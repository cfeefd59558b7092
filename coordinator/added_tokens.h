/* Finds the added tokens in a text: whole strings that become one id before anything else looks at
 * the text. Read-only after reading, any thread may search. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "coordinator/vocabulary.h"

struct added_tokens;

/* Tokens that are matched in one pass over the text; the passes go in this order. */
enum added_pass {
    ADDED_PASS_RAW,        /* "normalized": false */
    ADDED_PASS_NORMALIZED, /* "normalized": true; sees what the first pass left over */
    ADDED_PASS_COUNT
};

struct added_match {
    size_t start, end; /* bytes of the text */
    uint32_t id;
};

/* Reads the list "added_tokens" of tokenizer.json (NULL: there is none) and enters the tokens in
 * `vocabulary`, which must outlive *out. `path` is for error lines. Errors: STATUS_FORMAT,
 * STATUS_UNSUPPORTED (single_word, lstrip or rstrip), STATUS_NO_MEMORY. */
enum status added_tokens_read(const json_t *list, const char *path, struct vocabulary *vocabulary,
                              struct added_tokens **out);
void added_tokens_destroy(struct added_tokens *added);

/* The first token of `pass` in `text`, of those that start there the longest; false if there is
 * none. Without `control`, tokens that steer the model are passed over: the special ones, and those
 * that look like <...>, because some models leave their turn markers unmarked. */
bool added_tokens_find(const struct added_tokens *added, enum added_pass pass, bool control,
                       const char *text, size_t bytes, struct added_match *out);

/* The added token whose text is exactly this, TOKEN_NONE if there is none. */
uint32_t added_tokens_id(const struct added_tokens *added, const char *text, size_t bytes);
