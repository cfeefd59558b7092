/* The safetensors file format: 8 bytes of little-endian header length, a JSON header
 * {name: {dtype, shape, data_offsets}}, then the data. The only place that knows it.
 *
 * Called by weights.c while a checkpoint is opened. */
#pragma once

#include <stdint.h>

#include "common/status.h"
#include "common/weights/directory.h"
#include "common/weights/file.h"

/* Reads and checks the header of `file` and appends its tensors, as those of the file with index
 * `file_index`, to the directory. Errors: STATUS_IO, STATUS_FORMAT (anything that contradicts the
 * format or the file's size), STATUS_NO_MEMORY. */
enum status safetensors_read_header(const struct file *file, uint32_t file_index,
                                    struct directory *directory);
