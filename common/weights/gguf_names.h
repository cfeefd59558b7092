/* How GGUF files name and stack tensors, translated to the names of Hugging Face checkpoints, which
 * the rest of the program uses. */
#pragma once

#include "common/status.h"
#include "common/weights/directory.h"

/* Appends what the tensor `stored` of a GGUF file is in a Hugging Face checkpoint: the same tensor
 * under another name; one matrix for each expert where it is a stack of experts; one matrix where
 * it is a stack of heads. A name that is not known is kept. `path` is the file, for messages.
 * Errors: as directory_append; STATUS_FORMAT for a stack of other than 3 dimensions or of too many
 * experts. */
enum status gguf_append_tensor(struct directory *directory, const struct directory_entry *stored,
                               const char *path);
