/* Byte-pair encoding: the "model" of tokenizer.json. Read-only after reading; several threads may
 * encode at the same time, each with its own scratch. */
#pragma once

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "coordinator/tokenizer.h"
#include "coordinator/vocabulary.h"

struct bpe;
struct bpe_symbol;

/* Memory for the word in hand; zero-initialise, grows as needed. */
struct bpe_scratch {
    struct bpe_symbol *symbols; /* (capacity) */
    uint64_t *queue;            /* (2 * capacity) */
    size_t capacity;
};

/* Reads the object "model": its vocab goes into `vocabulary` (which must outlive *out), its merges
 * into *out. `path` is for error lines. Errors: STATUS_FORMAT (also when a byte that occurs in
 * UTF-8 has no token), STATUS_UNSUPPORTED (another type or option, by name), STATUS_NO_MEMORY. */
enum status bpe_read(const json_t *model, const char *path, struct vocabulary *vocabulary,
                     struct bpe **out);
void bpe_destroy(struct bpe *bpe);

/* Appends the ids of one word (valid UTF-8, at most 2^31 bytes), in O(n log n).
 * Errors: STATUS_NO_MEMORY. */
enum status bpe_encode_word(const struct bpe *bpe, struct bpe_scratch *scratch, const char *word,
                            size_t bytes, struct token_list *out);
void bpe_scratch_cleanup(struct bpe_scratch *scratch);
