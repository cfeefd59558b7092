/* Thin over jansson: reads files and values with errors that name the place. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

/* Reads the JSON object in `path` (at most JSON_FILE_BYTES_MAX bytes). The caller json_decref()s
 * it. Errors: STATUS_NOT_FOUND (logged unless `optional`), STATUS_IO, STATUS_FORMAT (names line and
 * column). */
enum status json_read_file(const char *path, bool optional, json_t **out);

/* Reads a JSON list of token ids from `path`, each below `vocabulary`. The caller frees *out. */
enum status json_read_ids(const char *path, uint32_t vocabulary, uint32_t **out, size_t *count);
