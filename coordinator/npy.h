/* NumPy's array file (format 1.0), as far as skein writes it. */
#pragma once

#include <stddef.h>

#include "common/status.h"

/* Writes `values` (rows, columns) in row-major order as little-endian float32, replacing what stood
 * in `path`. Errors: STATUS_IO, with one line that names the file. */
enum status npy_write_float32(const char *path, const float *values, size_t rows, size_t columns);
