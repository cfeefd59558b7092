/* The tokenizer of a Hugging Face directory as GGUF files have it: the inverse of gguf_tokenizer.h.
 */
#pragma once

#include <stdint.h>

#include "common/status.h"
#include "common/weights/gguf_writer.h"
#include "coordinator/shape.h"

/* Adds tokens, types, merges, the pre-tokenizer's name, the ids of special tokens and the chat
 * template to the writer. A directory without tokenizer.json: a warning, and the file says that it
 * has none. Errors: as tokenizer_load; STATUS_UNSUPPORTED for a pre-tokenizer that has no name in
 * GGUF. */
enum status gguf_vocabulary_write(const char *directory, const struct model_shape *shape,
                                  struct gguf_writer *writer);
