/* A file with one shard's bytes on its way into memory: read past the page cache where memory has
 * room for whole blocks at a multiple of DISK_BLOCK_BYTES, by io_uring or by the calling thread,
 * and checked against the hash that the file is named by.
 *
 * Used by whoever reads shards back: worker/shard_cache, worker/store_loading, worker/spill. A file
 * and a ring belong to one thread at a time. Only opening a ring allocates. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How reading went, beside values of errno. */
enum { SHARD_FILE_GOOD = 0, SHARD_FILE_CUT_SHORT = -1, SHARD_FILE_DAMAGED = -2 };

/* The caller sets the first four. */
struct shard_file {
    uint8_t *data; /* (room_bytes) */
    size_t room_bytes;
    size_t bytes;
    uint64_t hash; /* XXH3 of the bytes */
    size_t done;   /* bytes that are there */
    int fd;
    int result;
    bool is_direct; /* in whole blocks, past the page cache */
};

/* Opens the file at `path`. What is returned is also in file->result; if it is SHARD_FILE_GOOD, the
 * file is read with one of the functions below, which close it. */
int shard_file_open(struct shard_file *file, const char *path);

/* Reads and checks all of an open file. */
void shard_file_read(struct shard_file *file);

/* What a result other than SHARD_FILE_GOOD means, for a log line. */
const char *shard_file_reason(int result);

/* ---- Many files at a time by io_uring. */

struct shard_ring;

/* For about `reads_max` files at a time; more of them only make calls. NULL, with a line for
 * debugging: the system refuses it. */
struct shard_ring *shard_ring_open(unsigned reads_max);

/* Nothing may be under way. NULL is allowed. */
void shard_ring_close(struct shard_ring *ring);

bool shard_ring_is_full(const struct shard_ring *ring);

/* Takes an open file, which stays where it is until shard_ring_take returns it; the kernel hears of
 * it with the next shard_ring_submit. */
void shard_ring_queue(struct shard_ring *ring, struct shard_file *file);
void shard_ring_submit(struct shard_ring *ring);

/* A file that was read and checked by now, or, if it `waits`, the next one that is. NULL: there is
 * none, or nothing under way. */
struct shard_file *shard_ring_take(struct shard_ring *ring, bool waits);
