/* The list of a checkpoint's tensors, as the readers of file formats fill it.
 *
 * Owned by weights.c. Filled by one thread while the checkpoint is opened; after directory_seal()
 * it is only read, from any thread. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/arena.h"
#include "common/status.h"
#include "common/weights/weights.h"

struct directory_entry {
    struct tensor tensor;
    uint32_t file;   /* index of the file that holds the bytes */
    uint64_t offset; /* of the first byte, from the start of that file */
};

struct directory {
    struct directory_entry *entries; /* (count), sorted by name once sealed */
    size_t count, capacity;
    struct arena *strings; /* the text of names and types */
    char *free_text;       /* what is left of the newest piece of it */
    size_t free_bytes;
};

/* Prepares an empty directory. Errors: STATUS_NO_MEMORY. */
enum status directory_init(struct directory *directory);
void directory_cleanup(struct directory *directory);

/* Appends a copy of the entry, its name and type included. Errors: STATUS_NO_MEMORY; STATUS_FORMAT
 * for more than TENSORS_MAX tensors (`path` is the file that is being read, for the message). */
enum status directory_append(struct directory *directory, const struct directory_entry *entry,
                             const char *path);

/* Checks that no two of the entries from `first` on, which are those of the file `path`, share
 * bytes. Sorts them. Errors: STATUS_FORMAT. */
enum status directory_check_overlaps(struct directory *directory, size_t first, const char *path);

/* Sorts by name. Errors: STATUS_FORMAT when two entries have the same name; `paths` names the
 * files, by the entries' index. */
enum status directory_seal(struct directory *directory, const char *const *paths);

/* The entry of that name in a sealed directory; NULL if there is none. */
const struct directory_entry *directory_find(const struct directory *directory, const char *name);
