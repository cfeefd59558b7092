/* How GGUF files name and stack tensors, translated to the names of Hugging Face checkpoints, which
 * the rest of the program uses. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/limits.h"
#include "common/status.h"
#include "common/weights/directory.h"

/* Appends what the tensor `stored` of a GGUF file is in a Hugging Face checkpoint: the same tensor
 * under another name; one matrix for each expert where it is a stack of experts; one matrix where
 * it is a stack of heads. A name that is not known is kept. `path` is the file, for messages.
 * Errors: as directory_append; STATUS_FORMAT for a stack of other than 3 dimensions or of too many
 * experts. */
enum status gguf_append_tensor(struct directory *directory, const struct directory_entry *stored,
                               const char *path);

/* What becomes of a tensor in a GGUF file. */
enum gguf_kind {
    GGUF_WHOLE,   /* the same tensor */
    GGUF_EXPERTS, /* (experts, rows, columns): a matrix of each expert */
    GGUF_HEADS,   /* (heads, rows, columns): one matrix, the heads' rows behind one another */
};

#define GGUF_NO_LAYER UINT32_MAX

/* Where a tensor belongs. */
struct gguf_place {
    char name[TENSOR_NAME_BYTES_MAX + 1]; /* of the tensor in the file, "blk.3.attn_norm.weight" */
    const char *part;                     /* of it, what stands behind "blk.3." */
    enum gguf_kind kind;
    uint32_t layer;  /* GGUF_NO_LAYER: of the whole model */
    uint32_t order;  /* among the tensors of the layer or the model */
    uint32_t expert; /* GGUF_EXPERTS */
};

/* The inverse: where the tensor that a Hugging Face checkpoint has under `name` is in a GGUF file.
 * False for a name that is not known, and for layers and experts beyond any real model's. */
bool gguf_find_place(const char *name, struct gguf_place *out);
