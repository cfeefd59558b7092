/* Reading files past the page cache, so that memory is what a program says that it takes, and how
 * fast the disk below a directory is at that. From any thread. */
#pragma once

#include "common/status.h"

/* Offsets, lengths and addresses of such reads are multiples of this; the last read of a file then
 * goes beyond its end and comes back short. */
#define DISK_BLOCK_BYTES 4096u

/* Opens the file at `path` for reading past the page cache, or through it where the file system
 * knows no other way. -1: errno says why. Allocates nothing. */
int disk_open(const char *path);

/* Bytes for each second that files in `directory` are read with: the best of some reads of a file
 * that is written for this, and removed. Takes about a second, on a slow disk a few. Errors:
 * STATUS_IO, STATUS_NO_MEMORY, with a warning. */
enum status disk_measure_read(const char *directory, double *bytes_per_s);
