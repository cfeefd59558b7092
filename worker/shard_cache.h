/* Shards on this machine's disk, so that what a coordinator shipped once need not travel again:
 * after a restart, or in the next try after a cut. They are kept as kernels read them, packed.
 *
 * One folder for each checkpoint, one file for each shard: its name says what it is and has the
 * hash of its bytes, which is checked when it is read. What does not fit, or has been damaged, is
 * as if it were not there; a disk that fails costs a warning. Opened and closed by the session;
 * reading is safe from several threads, writing from one beside them. */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "common/weights/shard.h"
#include "worker/shard_file.h"

struct shard_cache;

/* Changes whenever packing does, or what a file's name means: older folders then only age, and
 * workers with different ones give each other nothing. */
#define SHARD_PACKING_VERSION 1

/* A value of `bytes_max`: all but a tenth of the disk. */
#define SHARD_CACHE_AUTO UINT64_MAX

/* The shards of the checkpoint `fingerprint`, as packed with `exact` (panel_can_pack), below
 * `directory`, whose caches take `bytes_max` bytes in all. Errors: STATUS_NO_MEMORY. The caller
 * closes it. */
enum status shard_cache_open(const char *directory, uint64_t fingerprint, bool exact,
                             uint64_t bytes_max, struct shard_cache **out);
void shard_cache_close(struct shard_cache *cache);

/* Whether there was a file for the shard when the cache was opened. */
bool shard_cache_has(const struct shard_cache *cache, const struct shard *shard);

/* Opens the shard's file, whose data, room_bytes and bytes are set, for being read. False: it is
 * not there, or not as long and now removed (a warning). */
bool shard_cache_begin_read(const struct shard_cache *cache, const struct shard *shard,
                            struct shard_file *file);

/* After reading. False: it was damaged and is now removed (a warning). */
bool shard_cache_end_read(const struct shard_cache *cache, const struct shard *shard,
                          const struct shard_file *file);

/* Keeps the shard's bytes; caches of other checkpoints give way, the least recently opened first.
 * False: it is there already, or there is no room or no way to write (a line, once); the cache then
 * takes nothing more. */
bool shard_cache_write(struct shard_cache *cache, const struct shard *shard, const void *storage,
                       size_t bytes);

/* ---- Shards that lie here instead of in memory, see worker/spill. */

/* What shards may take of the disk below `directory`, which is made: all but a tenth. */
uint64_t shard_cache_disk_bytes(const char *directory);

/* Whether the shard has a file of just `bytes` bytes; *hash is that of its name. What is in it
 * shows when it is read. */
bool shard_cache_find(const struct shard_cache *cache, const struct shard *shard, size_t bytes,
                      uint64_t *hash);

/* Writes the shard whether or not the cache is full, and says under which hash; caches of other
 * checkpoints give way to leave a tenth of the disk. Errors: STATUS_IO, with a warning. */
enum status shard_cache_spill(struct shard_cache *cache, const struct shard *shard,
                              const void *storage, size_t bytes, uint64_t *hash);

/* Where the shard's file with this hash is. False: that is too long for a path. Allocates nothing.
 */
bool shard_cache_path(const struct shard_cache *cache, const struct shard *shard, uint64_t hash,
                      char out[PATH_MAX]);
