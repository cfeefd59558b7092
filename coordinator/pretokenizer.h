/* Cuts text into the words that byte-pair merges may not cross, as "pre_tokenizer" in
 * tokenizer.json says. Read-only after reading; several threads may cut at the same time. */
#pragma once

#include <jansson.h>
#include <stddef.h>

#include "common/status.h"

struct pretokenizer;

/* What the words are handed to, in the text's order. Anything but STATUS_OK ends the cutting. */
typedef enum status (*pretokenizer_sink)(void *context, const char *word, size_t bytes);

/* Reads the object "pre_tokenizer": a ByteLevel, or a Sequence of Split (Regex or String, Isolated)
 * and Digits that ends with a ByteLevel. `path` is for error lines. Errors: STATUS_FORMAT,
 * STATUS_UNSUPPORTED (any other kind or option, by name), STATUS_NO_MEMORY. */
enum status pretokenizer_read(const json_t *value, const char *path, struct pretokenizer **out);
void pretokenizer_destroy(struct pretokenizer *pretokenizer);

/* Hands the words of `text` (valid UTF-8) to `sink`; together they are the text, but for blanks
 * that ByteLevel's add_prefix_space puts in front. Errors: the sink's, STATUS_UNSUPPORTED (the text
 * takes a pattern beyond PCRE2's limits), STATUS_NO_MEMORY. */
enum status pretokenizer_cut(const struct pretokenizer *pretokenizer, const char *text,
                             size_t bytes, pretokenizer_sink sink, void *context);
