/* The GGUF file format, version 3: a header, metadata (keys with typed values), the list of
 * tensors, then their data. The only place that knows it; gguf_names.h knows how its tensors are
 * named.
 *
 * Called by weights.c while a checkpoint is opened. */
#pragma once

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "common/weights/directory.h"
#include "common/weights/file.h"

/* Whether the path ends in ".gguf". */
bool gguf_is_path(const char *path);

/* How many files a model has of which `path` names one: NN where it ends in
 * "-XXXXX-of-NNNNN.gguf", else 1. */
uint32_t gguf_count_parts(const char *path);

/* The path of part `part` (from 0) of such a model, of which `path` names any part. Errors:
 * STATUS_USAGE (the path is too long). */
enum status gguf_part_path(const char *path, uint32_t part, char out[PATH_MAX]);

/* What stands before the tensors. */
struct gguf_header {
    json_t *metadata;       /* an object: key -> number, true, false, string, or array of those */
    uint64_t *pair_offsets; /* (keys + 1): where in the file each key begins, and the last value
                               ends; in the order of the object */
    uint64_t tensor_count;  /* in this file */
};

/* Reads and checks all but the data of `file` and appends its tensors, as those of the file with
 * index `file_index`, to the directory under the names of Hugging Face checkpoints. The caller
 * cleans up the header; text that is not UTF-8 and numbers that are none are null in its metadata,
 * and an f32 is the shortest decimal number that rounds to it. Errors: STATUS_IO, STATUS_FORMAT
 * (anything that contradicts the format or the file's size), STATUS_UNSUPPORTED (another version,
 * nested arrays), STATUS_NO_MEMORY. */
enum status gguf_read_header(const struct file *file, uint32_t file_index,
                             struct directory *directory, struct gguf_header *out);
void gguf_header_cleanup(struct gguf_header *header);

/* Checks that `metadata`, read from `path`, is of part `part` of `parts`. Errors: STATUS_FORMAT. */
enum status gguf_check_part(const json_t *metadata, const char *path, uint32_t part,
                            uint32_t parts);
