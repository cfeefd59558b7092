/* One read asks for all of a file: the kernel cuts it into what the disk takes and has these on
 * their way together. A read that comes back with less is followed by one for the rest. */
#include "worker/shard_file.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/cluster_limits.h"
#include "common/disk.h"
#include "common/log.h"

/* The result of a read is an int. */
#define READ_BYTES_MAX ((size_t)1 << 30)

struct shard_ring {
    struct io_uring ring;
    unsigned reads_max, reading;
};

/* ---- One file. */

/* What reads ask for in all. */
static size_t read_bytes(const struct shard_file *file) {
    return file->is_direct ? (size_t)SPILL_BUFFER_BYTES(file->bytes) : file->bytes;
}

/* Asked before opening, which would wait for the other end of a pipe. */
static int check_kind(const struct shard_file *file, const char *path) {
    struct stat found;
    if (stat(path, &found))
        return errno;
    if (!S_ISREG(found.st_mode) || (uint64_t)found.st_size > file->bytes)
        return SHARD_FILE_DAMAGED;
    return (uint64_t)found.st_size < file->bytes ? SHARD_FILE_CUT_SHORT : SHARD_FILE_GOOD;
}

int shard_file_open(struct shard_file *file, const char *path) {
    file->done = 0;
    file->is_direct = (uintptr_t)file->data % DISK_BLOCK_BYTES == 0 &&
                      SPILL_BUFFER_BYTES(file->bytes) <= file->room_bytes;
    file->result = check_kind(file, path);
    if (!file->result) {
        file->fd = file->is_direct ? disk_open(path) : open(path, O_RDONLY | O_CLOEXEC);
        file->result = file->fd < 0 ? errno : SHARD_FILE_GOOD;
    }
    return file->result;
}

/* What is left to read at once. */
static size_t rest_bytes(const struct shard_file *file) {
    size_t rest = read_bytes(file) - file->done;
    return rest < READ_BYTES_MAX ? rest : READ_BYTES_MAX;
}

static bool is_right(const struct shard_file *file) {
    return XXH3_64bits(file->data, file->bytes) == file->hash;
}

/* A read came back with `got` bytes, -errno where it failed: whether there is more to read. If not,
 * the file is closed and has its result. */
static bool take_bytes(struct shard_file *file, ssize_t got) {
    if (got == -EINTR || got == -EAGAIN)
        return true;
    file->done += got > 0 ? (size_t)got : 0;
    bool is_at_end = got == 0 || (file->is_direct && file->done % DISK_BLOCK_BYTES);
    if (got < 0)
        file->result = (int)-got;
    else if (file->done >= file->bytes)
        file->result = is_right(file) ? SHARD_FILE_GOOD : SHARD_FILE_DAMAGED;
    else if (is_at_end)
        file->result = SHARD_FILE_CUT_SHORT;
    else
        return true;
    close(file->fd);
    return false;
}

void shard_file_read(struct shard_file *file) {
    ssize_t got;
    do {
        got = pread(file->fd, file->data + file->done, rest_bytes(file), (off_t)file->done);
        got = got < 0 ? -errno : got;
    } while (take_bytes(file, got));
}

const char *shard_file_reason(int result) {
    return result == SHARD_FILE_CUT_SHORT ? "it was cut short"
           : result == SHARD_FILE_DAMAGED ? "it is damaged"
                                          : strerror(result);
}

/* ---- Many files. */

struct shard_ring *shard_ring_open(unsigned reads_max) {
    struct shard_ring *ring = calloc(1, sizeof *ring);
    int error = ring ? io_uring_queue_init(reads_max, &ring->ring, 0) : -ENOMEM;
    if (error) {
        log_debug("shards are read without io_uring (%s)", strerror(-error));
        free(ring);
        return NULL;
    }
    ring->reads_max = reads_max;
    return ring;
}

void shard_ring_close(struct shard_ring *ring) {
    if (!ring)
        return;
    io_uring_queue_exit(&ring->ring);
    free(ring);
}

bool shard_ring_is_full(const struct shard_ring *ring) {
    return ring->reading >= ring->reads_max;
}

static void queue_read(struct shard_ring *ring, struct shard_file *file) {
    struct io_uring_sqe *entry;
    while (!(entry = io_uring_get_sqe(&ring->ring)))
        io_uring_submit(&ring->ring);
    io_uring_prep_read(entry, file->fd, file->data + file->done, (unsigned)rest_bytes(file),
                       file->done);
    io_uring_sqe_set_data(entry, file);
}

void shard_ring_queue(struct shard_ring *ring, struct shard_file *file) {
    ring->reading++;
    queue_read(ring, file);
}

void shard_ring_submit(struct shard_ring *ring) {
    io_uring_submit(&ring->ring);
}

/* The next completion. False: there is none yet, or the wait was interrupted. */
static bool next_completion(struct shard_ring *ring, bool waits, struct shard_file **file,
                            ssize_t *got) {
    struct io_uring_cqe *completion;
    if (waits && io_uring_sq_ready(&ring->ring))
        io_uring_submit(&ring->ring); /* what the kernel did not take at first */
    if (waits ? io_uring_wait_cqe(&ring->ring, &completion)
              : io_uring_peek_cqe(&ring->ring, &completion))
        return false;
    *file = io_uring_cqe_get_data(completion);
    *got = completion->res;
    io_uring_cqe_seen(&ring->ring, completion);
    return true;
}

struct shard_file *shard_ring_take(struct shard_ring *ring, bool waits) {
    struct shard_file *file;
    ssize_t got;
    while (ring->reading > 0) {
        if (!next_completion(ring, waits, &file, &got)) {
            if (!waits)
                return NULL;
            continue;
        }
        if (!take_bytes(file, got)) {
            ring->reading--;
            return file;
        }
        queue_read(ring, file);
        io_uring_submit(&ring->ring);
    }
    return NULL;
}
