/* A directory for what can be made again: figures of machines, shards. Nothing in it is needed and
 * nothing in it is trusted; where it cannot be used the program goes on without, and says so once
 * in a warning.
 *
 * Used by both binaries, from one thread at a time. A directory of NULL is empty and keeps nothing.
 */
#pragma once

#include <jansson.h>
#include <stddef.h>

#include "common/status.h"

/* Reads the file `name` of `directory`, at most `capacity` bytes, into `out`. Errors:
 * STATUS_NOT_FOUND, without a line; STATUS_IO and STATUS_FORMAT (longer, or no file) with a
 * warning. */
enum status cache_dir_read(const char *directory, const char *name, void *out, size_t capacity,
                           size_t *bytes);

/* Makes the directory and what leads to it, where it is missing. A failure shows when a file is
 * written there. */
void cache_dir_make(const char *directory);

/* Writes the file `name`, replacing one that is there, in one step: whoever reads it, or starts
 * after this process was ended in the middle, finds the old bytes or the new. Makes the directory
 * where it is missing. Errors: STATUS_IO, with a warning. */
enum status cache_dir_write(const char *directory, const char *name, const void *data,
                            size_t bytes);

/* The JSON object in the file `name`, of at most `capacity` bytes; an empty one where there is
 * none, or nothing that can be used, which is a warning. The caller json_decref()s it; NULL when
 * memory is out. */
json_t *cache_dir_read_object(const char *directory, const char *name, size_t capacity);

/* Writes it, as cache_dir_write. Numbers come back as they are. */
void cache_dir_write_object(const char *directory, const char *name, const json_t *object);
