/* From what the user gives to the ids that the engine takes: reading files and standard input, and
 * encoding a question or a raw text. Used by `run`, on the main thread. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "common/status.h"
#include "coordinator/chat.h"
#include "coordinator/tokenizer.h"

/* Text with its length; zero-initialise, free(text.bytes). */
struct prompt_text {
    char *bytes; /* NUL-terminated, without zero bytes within */
    size_t count;
};

/* Reads all of `stream`; `name` is for messages. Errors: STATUS_IO, STATUS_FORMAT (a zero byte: not
 * a text), STATUS_UNSUPPORTED (over PROMPT_BYTES_MAX), STATUS_NO_MEMORY. */
enum status prompt_read_stream(FILE *stream, const char *name, struct prompt_text *out);

/* As prompt_read_stream, of the file `path`. Also STATUS_NOT_FOUND. */
enum status prompt_read_file(const char *path, struct prompt_text *out);

/* Removes line ends at the end, which editors and echo add. */
void prompt_trim(struct prompt_text *text);

/* Appends the ids of a text to be continued: BOS where the tokenizer has one and the text does not
 * open with it, then the text, in which special tokens count as such. */
enum status prompt_encode_raw(const struct tokenizer *tokenizer, const struct prompt_text *text,
                              struct token_list *out);
