/* The tokens of one model: id -> bytes, bytes -> id, and the byte-to-character map in which
 * tokenizer.json writes them.
 *
 * Filled by bpe.c (model.vocab) and added_tokens.c while loading, read-only afterwards. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

#define TOKEN_NONE UINT32_MAX

/* Where a token comes from. */
enum token_kind {
    TOKEN_UNUSED,  /* the file names no token with this id */
    TOKEN_WORD,    /* model.vocab, in byte characters: text can become it */
    TOKEN_RAW,     /* model.vocab, with characters that stand for no byte: text never becomes it */
    TOKEN_ADDED,   /* added_tokens */
    TOKEN_SPECIAL, /* added_tokens, marked special */
};

struct token {
    uint32_t offset, bytes; /* in vocabulary.text */
    enum token_kind kind;
};

struct vocabulary {
    uint32_t size;        /* every id is below it */
    struct token *tokens; /* (size) */
    char *text;           /* all tokens' bytes, one after the other */
    size_t text_bytes, text_capacity;
    uint32_t *slots; /* hash table of the TOKEN_WORD ids by their bytes; a power of two */
    uint32_t slot_count;
    uint32_t byte_ids[256]; /* the token that is this single byte, TOKEN_NONE if there is none */
};

/* Makes an empty vocabulary for ids below `size` (1 to VOCABULARY_MAX). Errors: STATUS_NO_MEMORY.
 */
enum status vocabulary_init(struct vocabulary *vocabulary, uint32_t size);
void vocabulary_cleanup(struct vocabulary *vocabulary);

/* Adds a token as model.vocab writes it: decoded to bytes where every character stands for one.
 * `path` is for the error line. Errors: STATUS_FORMAT (the id is in use or not below size),
 * STATUS_NO_MEMORY. */
enum status vocabulary_add_word(struct vocabulary *vocabulary, const char *path, const char *text,
                                size_t bytes, long long id);

/* Adds an added token, whose text is taken as it is. It may repeat a token of model.vocab under the
 * same id; it then becomes an added token. Errors: as vocabulary_add_word. */
enum status vocabulary_add_added(struct vocabulary *vocabulary, const char *path, const char *text,
                                 size_t bytes, long long id, bool special);

/* The TOKEN_WORD token with exactly these bytes, TOKEN_NONE if there is none. */
uint32_t vocabulary_find(const struct vocabulary *vocabulary, const char *bytes, size_t count);

/* Rewrites byte characters as the bytes they stand for, which are at most `bytes` many; false if a
 * character stands for none. */
bool vocabulary_decode_characters(const char *text, size_t bytes, char *out, size_t *out_bytes);
