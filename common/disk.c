/* The file that is measured has no runs of equal bytes, which a file system might not even write.
 * Where reads cannot pass the page cache, it is asked to forget the file before each round. */
#include "common/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"

/* Several times what one expert of a large model takes, in pieces of that size. */
#define FILE_BYTES  ((size_t)64 << 20)
#define PIECE_BYTES ((size_t)16 << 20)
/* Rounds go on for so long, and there are so many at least. */
#define MEASURE_S  0.25
#define ROUNDS_MIN 2

int disk_open(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    return fd < 0 && errno == EINVAL ? open(path, O_RDONLY | O_CLOEXEC) : fd;
}

static bool write_file(int fd, uint8_t *piece) {
    uint64_t state = 1;
    for (size_t written = 0; written < FILE_BYTES; written += PIECE_BYTES) {
        for (size_t i = 0; i < PIECE_BYTES; i += sizeof state) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            memcpy(piece + i, &state, sizeof state);
        }
        if (write(fd, piece, PIECE_BYTES) != (ssize_t)PIECE_BYTES)
            return false;
    }
    return fsync(fd) == 0;
}

static bool read_file(int fd, uint8_t *piece) {
    for (size_t at = 0; at < FILE_BYTES; at += PIECE_BYTES)
        if (pread(fd, piece, PIECE_BYTES, (off_t)at) != (ssize_t)PIECE_BYTES)
            return false;
    return true;
}

static bool time_reads(int fd, uint8_t *piece, double *bytes_per_s) {
    uint64_t started_ns = clock_now_ns();
    double best = 0;
    for (int round = 0; round < ROUNDS_MIN || clock_elapsed_s(started_ns) < MEASURE_S; round++) {
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        uint64_t round_ns = clock_now_ns();
        if (!read_file(fd, piece))
            return false;
        double rate = (double)FILE_BYTES / clock_elapsed_s(round_ns);
        best = rate > best ? rate : best;
    }
    *bytes_per_s = best;
    return true;
}

/* A write that stops short leaves errno alone. */
static const char *reason(void) {
    return errno ? strerror(errno) : "the disk is full";
}

enum status disk_measure_read(const char *directory, double *bytes_per_s) {
    char path[PATH_MAX];
    uint8_t *piece = aligned_alloc(DISK_BLOCK_BYTES, PIECE_BYTES);
    if (!piece || snprintf(path, sizeof path, "%s/.disk.XXXXXX", directory) >= PATH_MAX) {
        log_warning("cannot measure the disk of %.200s: no memory, or too long a path", directory);
        free(piece);
        return STATUS_NO_MEMORY;
    }
    errno = 0;
    int fd = mkostemp(path, O_CLOEXEC), reader = -1;
    if (fd >= 0) {
        reader = disk_open(path);
        unlink(path); /* whatever happens, nothing is left */
    }
    if (reader >= 0)
        errno = 0; /* of a way that was tried in vain */
    bool measured = reader >= 0 && write_file(fd, piece) && time_reads(reader, piece, bytes_per_s);
    if (!measured)
        log_warning("cannot measure the disk of %s: %s; --cache names another directory", directory,
                    reason());
    if (reader >= 0)
        close(reader);
    if (fd >= 0)
        close(fd);
    free(piece);
    return measured ? STATUS_OK : STATUS_IO;
}
