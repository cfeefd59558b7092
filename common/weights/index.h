/* model.safetensors.index.json: which of a checkpoint's files holds which tensor.
 *
 * Used by weights.c while a checkpoint is opened. */
#pragma once

#include <jansson.h>
#include <stdint.h>

#include "common/status.h"
#include "common/weights/directory.h"

struct index {
    const char *path;  /* not owned */
    json_t *root;      /* owned; what the file holds */
    const json_t *map; /* in root: tensor name -> file name */
    json_t *files;     /* owned; file name -> its index in order of appearance */
};

/* Reads the index `path`, which must outlive `out`. The caller cleans it up. Errors: as
 * json_read_file (STATUS_NOT_FOUND is not logged); STATUS_FORMAT when it is no such map, or names a
 * file outside of the model's directory. */
enum status index_read(const char *path, struct index *out);
void index_cleanup(struct index *index);

/* Checks that each tensor of the index is in the file the index names; entries' file indices are
 * those of `index->files`. Errors: STATUS_FORMAT. */
enum status index_check(const struct index *index, const struct directory *directory);
