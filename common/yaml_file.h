/* A YAML file as libyaml's tree of nodes, read with a bound on its size. Used by whoever reads
 * configuration, from any thread. */
#pragma once

#include <yaml.h>

#include "common/status.h"

/* Reads the first document in `path` (at most CONFIG_FILE_BYTES_MAX bytes); the caller
 * yaml_document_delete()s it. `what` names the kind of file in errors, "cluster file". Errors:
 * STATUS_NOT_FOUND, STATUS_IO, STATUS_FORMAT (too long, not YAML; names the line),
 * STATUS_NO_MEMORY. */
enum status yaml_file_read(const char *path, const char *what, yaml_document_t *out);
