/* Text <-> token ids: byte-level BPE as tokenizer.json of the DeepSeek kind describes it.
 *
 * Read-only after loading, so any thread may use it. Ids without a tokenizer (tiny test models) are
 * main's business: there is then no tokenizer object. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

struct tokenizer;

/* A growing list of ids; zero-initialise, free(list.ids). */
struct token_list {
    uint32_t *ids;
    size_t count, capacity;
};

/* Appends one id. Errors: STATUS_NO_MEMORY. */
enum status token_list_push(struct token_list *list, uint32_t id);

/* Reads `directory`/tokenizer.json and, where present, tokenizer_config.json. `vocabulary` is the
 * model's: every id must be below it. Supported: BPE models (byte-level); added tokens;
 * pre-tokenizers Sequence, Split (Regex or String, Isolated), Digits, ByteLevel; anything else is
 * STATUS_UNSUPPORTED by name. Errors: STATUS_NOT_FOUND (no tokenizer.json: nothing is logged, a
 * model may do without), STATUS_FORMAT, STATUS_UNSUPPORTED, STATUS_NO_MEMORY. */
enum status tokenizer_load(const char *directory, uint32_t vocabulary, struct tokenizer **out);

/* What the two files hold, and how they are named in errors. */
struct tokenizer_source {
    const json_t *tokenizer;
    const char *tokenizer_place;
    const json_t *config; /* NULL: there is no tokenizer_config.json */
    const char *config_place;
};

/* As tokenizer_load, from what the files hold (not owned). */
enum status tokenizer_parse(const struct tokenizer_source *source, uint32_t vocabulary,
                            struct tokenizer **out);
void tokenizer_destroy(struct tokenizer *tokenizer);

/* Appends the ids of `text` (UTF-8; invalid bytes are read as U+FFFD). Special tokens that appear
 * in the text become their ids when `parse_special`, else they are text like any other; so are
 * added tokens of the form <...>, since V3 does not mark its turn tokens special. Errors:
 * STATUS_UNSUPPORTED (over TEXT_BYTES_MAX, or beyond a pattern's limits), STATUS_NO_MEMORY; *out is
 * then as before. */
enum status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                             bool parse_special, struct token_list *out);

/* The bytes of one token, which may be a part of a UTF-8 character: pointer into the tokenizer and
 * length. Special tokens give their text; `*special` says so. Unknown ids give no bytes. */
const char *tokenizer_token_bytes(const struct tokenizer *tokenizer, uint32_t id, size_t *bytes,
                                  bool *special);

/* The id whose text is exactly `text`, an added token or one of the vocabulary; false if there is
 * none. */
bool tokenizer_find(const struct tokenizer *tokenizer, const char *text, uint32_t *out);

/* From tokenizer_config.json: the chat template's source, "" if none; bos and eos ids if named. */
const char *tokenizer_chat_template(const struct tokenizer *tokenizer);
bool tokenizer_bos(const struct tokenizer *tokenizer, uint32_t *out);
bool tokenizer_eos(const struct tokenizer *tokenizer, uint32_t *out);
