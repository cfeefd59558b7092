/* The folder is read once, when the cache is opened: what is written later is for the next time.
 *
 * Files are made by cache_dir: in one step, but without waiting for the disk, so that after a power
 * cut one may have the right size and the wrong bytes. The hash tells. */
#include "worker/shard_cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/cache_dir.h"
#include "common/config.h"
#include "common/log.h"

#define NAME_BYTES_MAX 96

/* One file of the folder. */
struct entry {
    struct shard shard;
    uint64_t hash; /* XXH3 of its bytes */
};

struct shard_cache {
    char *root;            /* of all caches */
    char *folder;          /* of this one */
    struct entry *entries; /* (count) sorted by shard */
    size_t count, capacity;
    uint64_t bytes, bytes_max; /* of all caches, as far as the writer knows */
    bool is_full;              /* nothing more is written */
};

static int compare_shards(const struct shard *a, const struct shard *b) {
    const uint32_t left[] = {a->layer, a->expert, a->begin, a->end},
                   right[] = {b->layer, b->expert, b->begin, b->end};
    for (int i = 0; i < 4; i++)
        if (left[i] != right[i])
            return left[i] < right[i] ? -1 : 1;
    return 0;
}

static int compare_entries(const void *a, const void *b) {
    return compare_shards(&((const struct entry *)a)->shard, &((const struct entry *)b)->shard);
}

static void name_file(const struct entry *entry, char out[NAME_BYTES_MAX]) {
    const struct shard *shard = &entry->shard;
    snprintf(out, NAME_BYTES_MAX,
             "%" PRIu32 "-%" PRIu32 "-%" PRIu32 "-%" PRIu32 "-%016" PRIx64 ".shard", shard->layer,
             shard->expert, shard->begin, shard->end, entry->hash);
}

static bool parse_name(const char *name, struct entry *out) {
    char again[NAME_BYTES_MAX];
    *out = (struct entry){0};
    if (sscanf(name, "%" SCNu32 "-%" SCNu32 "-%" SCNu32 "-%" SCNu32 "-%" SCNx64 ".shard",
               &out->shard.layer, &out->shard.expert, &out->shard.begin, &out->shard.end,
               &out->hash) != 5)
        return false;
    name_file(out, again);
    return strcmp(name, again) == 0;
}

/* folder/name from malloc; NULL when memory is out. */
static char *join(const char *folder, const char *name) {
    char *path;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

static void append(struct shard_cache *cache, const struct entry *entry) {
    if (cache->count == cache->capacity) {
        size_t capacity = cache->capacity ? 2 * cache->capacity : 256;
        struct entry *entries = realloc(cache->entries, capacity * sizeof *entries);
        if (!entries)
            return; /* what is not listed is as if it were not there */
        cache->entries = entries;
        cache->capacity = capacity;
    }
    cache->entries[cache->count++] = *entry;
}

/* Calls `take` with the path of each entry of the folder but "." and "..". */
static void each_file(const char *folder,
                      void (*take)(void *context, const char *name, const char *path,
                                   const struct stat *stat),
                      void *context) {
    DIR *directory = opendir(folder);
    struct dirent *file;
    struct stat stat;
    while (directory && (file = readdir(directory))) {
        char *path = strcmp(file->d_name, ".") == 0 || strcmp(file->d_name, "..") == 0
                         ? NULL
                         : join(folder, file->d_name);
        if (path && lstat(path, &stat) == 0)
            take(context, file->d_name, path, &stat);
        free(path);
    }
    if (directory)
        closedir(directory);
}

static void add_bytes(void *sum, const char *name, const char *path, const struct stat *stat) {
    (void)name;
    (void)path;
    if (S_ISREG(stat->st_mode))
        *(uint64_t *)sum += (uint64_t)stat->st_size;
}

static void add_folder_bytes(void *sum, const char *name, const char *path,
                             const struct stat *stat) {
    (void)name;
    if (S_ISDIR(stat->st_mode))
        each_file(path, add_bytes, sum);
}

static void list_file(void *context, const char *name, const char *path, const struct stat *stat) {
    struct shard_cache *cache = context;
    struct entry entry;
    (void)path;
    if (S_ISREG(stat->st_mode) && parse_name(name, &entry))
        append(cache, &entry);
}

/* All but a tenth of the disk: what caches have of it now, and what is free beyond that. */
static uint64_t share_of_disk(const char *root, uint64_t cached_bytes) {
    struct statvfs disk;
    if (statvfs(root, &disk))
        return cached_bytes;
    uint64_t unit = disk.f_frsize, free_bytes = disk.f_bavail * unit,
             kept_bytes = disk.f_blocks * unit / 10;
    return cached_bytes + (free_bytes > kept_bytes ? free_bytes - kept_bytes : 0);
}

enum status shard_cache_open(const char *directory, uint64_t fingerprint, bool exact,
                             uint64_t bytes_max, struct shard_cache **out) {
    struct shard_cache *cache = calloc(1, sizeof *cache);
    if (!cache)
        return STATUS_NO_MEMORY;
    cache->root = join(directory, "shards");
    if (!cache->root || asprintf(&cache->folder, "%s/%016" PRIx64 "-%d%s", cache->root, fingerprint,
                                 SHARD_PACKING_VERSION, exact ? "-exact" : "") < 0) {
        cache->folder = NULL;
        shard_cache_close(cache);
        return STATUS_NO_MEMORY;
    }
    each_file(cache->folder, list_file, cache);
    if (cache->count > 0)
        qsort(cache->entries, cache->count, sizeof *cache->entries, compare_entries);
    each_file(cache->root, add_folder_bytes, &cache->bytes);
    cache_dir_make(cache->folder);               /* the disk is asked for its size there, too */
    utimensat(AT_FDCWD, cache->folder, NULL, 0); /* opened last */
    cache->bytes_max =
        bytes_max == SHARD_CACHE_AUTO ? share_of_disk(cache->root, cache->bytes) : bytes_max;
    *out = cache;
    return STATUS_OK;
}

void shard_cache_close(struct shard_cache *cache) {
    if (!cache)
        return;
    free(cache->entries);
    free(cache->folder);
    free(cache->root);
    free(cache);
}

static const struct entry *find(const struct shard_cache *cache, const struct shard *shard) {
    const struct entry wanted = {.shard = *shard};
    return cache->count == 0
               ? NULL
               : bsearch(&wanted, cache->entries, cache->count, sizeof wanted, compare_entries);
}

bool shard_cache_has(const struct shard_cache *cache, const struct shard *shard) {
    return find(cache, shard) != NULL;
}

bool shard_cache_end_read(const struct shard_cache *cache, const struct shard *shard,
                          const struct shard_file *file) {
    char path[PATH_MAX];
    if (!file->result)
        return true;
    if (shard_cache_path(cache, shard, file->hash, path)) {
        unlink(path);
        log_warning("cannot read %s: %s; it is removed and fetched again", path,
                    shard_file_reason(file->result));
    }
    return false;
}

bool shard_cache_begin_read(const struct shard_cache *cache, const struct shard *shard,
                            struct shard_file *file) {
    const struct entry *entry = find(cache, shard);
    char path[PATH_MAX];
    if (!entry || !shard_cache_path(cache, shard, entry->hash, path))
        return false;
    file->hash = entry->hash;
    shard_file_open(file, path);
    return shard_cache_end_read(cache, shard, file);
}

/* The folder that was opened or written to least recently, beside the own one. */
struct oldest {
    const char *own;
    char *path; /* from malloc; NULL: there is none */
    struct timespec time;
};

static void compare_age(void *context, const char *name, const char *path,
                        const struct stat *stat) {
    struct oldest *oldest = context;
    (void)name;
    bool is_older = !oldest->path || stat->st_mtim.tv_sec < oldest->time.tv_sec ||
                    (stat->st_mtim.tv_sec == oldest->time.tv_sec &&
                     stat->st_mtim.tv_nsec < oldest->time.tv_nsec);
    if (!S_ISDIR(stat->st_mode) || strcmp(path, oldest->own) == 0 || !is_older)
        return;
    free(oldest->path);
    oldest->path = strdup(path);
    oldest->time = stat->st_mtim;
}

static void remove_file(void *context, const char *name, const char *path,
                        const struct stat *stat) {
    (void)name;
    if (unlink(path) == 0)
        *(uint64_t *)context += (uint64_t)stat->st_size;
}

/* Makes room by removing one other cache; false: there is none that can be removed. */
static bool evict(struct shard_cache *cache) {
    struct oldest oldest = {.own = cache->folder};
    uint64_t removed_bytes = 0;
    each_file(cache->root, compare_age, &oldest);
    if (!oldest.path)
        return false;
    each_file(oldest.path, remove_file, &removed_bytes);
    bool removed = rmdir(oldest.path) == 0;
    if (removed)
        log_info("removed %s, shards of another checkpoint, to make room", oldest.path);
    free(oldest.path);
    cache->bytes -= removed_bytes < cache->bytes ? removed_bytes : cache->bytes;
    return removed;
}

bool shard_cache_write(struct shard_cache *cache, const struct shard *shard, const void *storage,
                       size_t bytes) {
    if (cache->is_full || shard_cache_has(cache, shard))
        return false;
    while (bytes > cache->bytes_max - cache->bytes || cache->bytes > cache->bytes_max)
        if (!evict(cache)) {
            char size[CONFIG_SIZE_TEXT];
            log_info("%s is full: shards may take %s; raise --cache-size", cache->root,
                     config_format_size(cache->bytes_max, size));
            cache->is_full = true;
            return false;
        }
    const struct entry entry = {.shard = *shard, .hash = XXH3_64bits(storage, bytes)};
    char name[NAME_BYTES_MAX];
    name_file(&entry, name);
    if (cache_dir_write(cache->folder, name, storage, bytes)) {
        cache->is_full = true; /* which was said */
        return false;
    }
    cache->bytes += bytes;
    return true;
}

uint64_t shard_cache_disk_bytes(const char *directory) {
    uint64_t bytes = 0;
    char *root = join(directory, "shards");
    if (!root)
        return 0;
    each_file(root, add_folder_bytes, &bytes);
    cache_dir_make(root);
    bytes = share_of_disk(root, bytes);
    free(root);
    return bytes;
}

bool shard_cache_path(const struct shard_cache *cache, const struct shard *shard, uint64_t hash,
                      char out[PATH_MAX]) {
    const struct entry entry = {*shard, hash};
    char name[NAME_BYTES_MAX];
    name_file(&entry, name);
    return snprintf(out, PATH_MAX, "%s/%s", cache->folder, name) < PATH_MAX;
}

bool shard_cache_find(const struct shard_cache *cache, const struct shard *shard, size_t bytes,
                      uint64_t *hash) {
    const struct entry *entry = find(cache, shard);
    char path[PATH_MAX];
    struct stat stat;
    if (!entry || !shard_cache_path(cache, shard, entry->hash, path) || lstat(path, &stat) ||
        !S_ISREG(stat.st_mode) || (size_t)stat.st_size != bytes)
        return false;
    *hash = entry->hash;
    return true;
}

enum status shard_cache_spill(struct shard_cache *cache, const struct shard *shard,
                              const void *storage, size_t bytes, uint64_t *hash) {
    const struct entry entry = {*shard, XXH3_64bits(storage, bytes)};
    char name[NAME_BYTES_MAX];
    name_file(&entry, name);
    while (bytes > share_of_disk(cache->root, 0) && evict(cache))
        ;
    enum status status = cache_dir_write(cache->folder, name, storage, bytes);
    if (status)
        return status;
    cache->bytes += bytes;
    *hash = entry.hash;
    return STATUS_OK;
}
