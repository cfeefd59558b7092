/* Tokens -> text as it comes: holds back incomplete UTF-8 and whatever may become a stop string.
 *
 * One stream per sequence; not shared between threads. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "coordinator/tokenizer.h"

struct stream;

struct stream_options {
    const struct tokenizer *tokenizer; /* must outlive the stream */
    const char *const *stops;          /* stop strings, copied */
    size_t stop_count;
    bool show_special; /* special tokens appear as text (else they are left out) */
};

/* Errors: STATUS_USAGE (a stop string is empty or not UTF-8), STATUS_NO_MEMORY. */
enum status stream_create(const struct stream_options *options, struct stream **out);
void stream_destroy(struct stream *stream);

/* Adds one token. `*text`/`*bytes`: what may be shown now, valid UTF-8 (a byte that can no longer
 * become part of a character shows as U+FFFD), never part of a stop string, valid until the next
 * call; often empty. `*stopped`: a stop string is complete (the first to be, of those that end
 * together the longest); it and what follows are dropped, and nothing more is to be added.
 * Errors: STATUS_NO_MEMORY. */
enum status stream_push(struct stream *stream, uint32_t id, const char **text, size_t *bytes,
                        bool *stopped);

/* At the end of the answer: hands out what was held back. */
enum status stream_flush(struct stream *stream, const char **text, size_t *bytes);

/* All text handed out so far, NUL-terminated; owned by the stream. */
const char *stream_text(const struct stream *stream);
