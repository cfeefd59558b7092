/* A file of a checkpoint, opened for reading at any offset.
 *
 * Owned by weights.c. Reads are thread-safe. The file is not mapped, so that one that is cut short
 * while we run is a read error and not a SIGBUS. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

struct file {
    int descriptor;
    char *path;     /* owned */
    uint64_t bytes; /* when it was opened */
};

/* Opens the regular file `path`. Errors: STATUS_NOT_FOUND (logged unless `optional`), STATUS_IO,
 * STATUS_NO_MEMORY. */
enum status file_open(const char *path, bool optional, struct file *out);
void file_close(struct file *file);

/* Reads exactly `count` bytes from `offset` on. Errors: STATUS_IO, also when the file ends before.
 */
enum status file_read(const struct file *file, uint64_t offset, void *out, size_t count);
