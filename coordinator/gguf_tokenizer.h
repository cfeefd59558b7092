/* The tokenizer of a GGUF file, as tokenizer.json and tokenizer_config.json would describe it, so
 * that one loader reads both. */
#pragma once

#include <jansson.h>

#include "common/status.h"
#include "common/weights/weights.h"

/* Translates the metadata's tokenizer; the caller json_decref()s both objects. Errors:
 * STATUS_NOT_FOUND (the file has no tokenizer, or just placeholders for its tokens: a warning says
 * so, a model may do without), STATUS_FORMAT, STATUS_UNSUPPORTED (another kind of tokenizer or
 * pre-tokenizer, by name), STATUS_NO_MEMORY. */
enum status gguf_tokenizer_read(const struct weights *weights, json_t **tokenizer, json_t **config);

/* The inverse for the pre-tokenizer: what GGUF files call the one that tokenizer.json describes so
 * under "pre_tokenizer"; NULL for one that is not known. */
const char *gguf_pretokenizer_name(const json_t *pretokenizer);
