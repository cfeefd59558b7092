/* The header is a Python dictionary, padded with spaces so that the values start at a multiple of
 * 64 bytes. All machines that skein runs on are little-endian, as is the file. */
#include "coordinator/npy.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are written as they are");

#define NPY_HEADER_BYTES 128

/* Magic, version 1.0, length of the dictionary (16 bits), dictionary, newline. */
static void make_header(size_t rows, size_t columns, char header[NPY_HEADER_BYTES]) {
    const int fixed = 10;
    memset(header, ' ', NPY_HEADER_BYTES);
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    header[8] = NPY_HEADER_BYTES - fixed;
    header[9] = 0;
    int length =
        snprintf(header + fixed, NPY_HEADER_BYTES - fixed,
                 "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %zu), }", rows, columns);
    header[fixed + length] = ' ';
    header[NPY_HEADER_BYTES - 1] = '\n';
}

enum status npy_write_float32(const char *path, const float *values, size_t rows, size_t columns) {
    char header[NPY_HEADER_BYTES];
    FILE *file = fopen(path, "we");
    if (!file) {
        log_error("cannot create %s: %s; give a file in a folder you can write to", path,
                  strerror(errno));
        return STATUS_IO;
    }
    make_header(rows, columns, header);
    size_t count = rows * columns;
    bool written = fwrite(header, sizeof header, 1, file) == 1 &&
                   fwrite(values, sizeof *values, count, file) == count;
    /* The last bytes may fail only now, when the buffer is written out. */
    if (fclose(file) || !written) {
        log_error("cannot write %s: %s", path, strerror(errno));
        return STATUS_IO;
    }
    return STATUS_OK;
}
