/* An array that is sorted once and then searched by halving: V3's 91,991 names cost 17 comparisons
 * each, less than reading any tensor, and the sorted order is what the fingerprint and listings
 * need anyway. Names are short, so they are packed into pieces instead of being allocated one by
 * one. */
#include "common/weights/directory.h"

#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "common/log.h"

#define TEXT_PIECE_BYTES ((size_t)64 << 10)

static enum status report_no_memory(size_t count) {
    log_error("no memory for the names of %zu tensors; free some and try again", count);
    return STATUS_NO_MEMORY;
}

enum status directory_init(struct directory *directory) {
    struct arena *strings = arena_create(0);
    if (!strings)
        return report_no_memory(0);
    *directory = (struct directory){.strings = strings};
    return STATUS_OK;
}

void directory_cleanup(struct directory *directory) {
    free(directory->entries);
    arena_destroy(directory->strings);
}

/* Returns NULL when memory is out. */
static const char *copy_text(struct directory *directory, const char *text) {
    size_t bytes = strlen(text) + 1;
    if (bytes > directory->free_bytes) {
        size_t piece_bytes = bytes > TEXT_PIECE_BYTES ? bytes : TEXT_PIECE_BYTES;
        char *piece = arena_take(directory->strings, piece_bytes, 1);
        if (!piece)
            return NULL;
        directory->free_text = piece;
        directory->free_bytes = piece_bytes;
    }
    char *copy = directory->free_text;
    memcpy(copy, text, bytes);
    directory->free_text += bytes;
    directory->free_bytes -= bytes;
    return copy;
}

static enum status reserve_entry(struct directory *directory) {
    if (directory->count < directory->capacity)
        return STATUS_OK;
    size_t capacity = directory->capacity ? 2 * directory->capacity : 1024;
    struct directory_entry *entries =
        realloc(directory->entries, capacity * sizeof *directory->entries);
    if (!entries)
        return report_no_memory(capacity);
    directory->entries = entries;
    directory->capacity = capacity;
    return STATUS_OK;
}

enum status directory_append(struct directory *directory, const struct directory_entry *entry,
                             const char *path) {
    if (directory->count == TENSORS_MAX) {
        log_error("%s: with this file the checkpoint has more than %d tensors; no published model "
                  "has, check the file",
                  path, TENSORS_MAX);
        return STATUS_FORMAT;
    }
    enum status status = reserve_entry(directory);
    if (status != STATUS_OK)
        return status;
    const char *name = copy_text(directory, entry->tensor.name);
    const char *type = copy_text(directory, entry->tensor.type);
    if (!name || !type)
        return report_no_memory(directory->count + 1);
    struct directory_entry *copy = &directory->entries[directory->count++];
    *copy = *entry;
    copy->tensor.name = name;
    copy->tensor.type = type;
    return STATUS_OK;
}

/* By where they begin; of those that begin together, empty ones first, as they overlap nothing. */
static int compare_ranges(const void *left, const void *right) {
    const struct directory_entry *a = left, *b = right;
    if (a->offset != b->offset)
        return a->offset < b->offset ? -1 : 1;
    return (a->tensor.bytes > b->tensor.bytes) - (a->tensor.bytes < b->tensor.bytes);
}

/* Holes between tensors harm nobody and are let pass. The order is lost later, when the directory
 * is sorted by name. */
enum status directory_check_overlaps(struct directory *directory, size_t first, const char *path) {
    if (directory->count == first)
        return STATUS_OK;
    struct directory_entry *entries = directory->entries + first;
    size_t count = directory->count - first;
    qsort(entries, count, sizeof *entries, compare_ranges);
    for (size_t i = 1; i < count; i++) {
        const struct directory_entry *previous = &entries[i - 1];
        if (previous->offset + previous->tensor.bytes > entries[i].offset) {
            log_error("%s: tensors %s and %s overlap; the file is damaged, download it again", path,
                      previous->tensor.name, entries[i].tensor.name);
            return STATUS_FORMAT;
        }
    }
    return STATUS_OK;
}

static int compare_names(const void *left, const void *right) {
    const struct directory_entry *a = left, *b = right;
    return strcmp(a->tensor.name, b->tensor.name);
}

enum status directory_seal(struct directory *directory, const char *const *paths) {
    if (directory->count == 0)
        return STATUS_OK;
    qsort(directory->entries, directory->count, sizeof *directory->entries, compare_names);
    for (size_t i = 1; i < directory->count; i++) {
        const struct directory_entry *previous = &directory->entries[i - 1];
        const struct directory_entry *entry = &directory->entries[i];
        if (compare_names(previous, entry) == 0) {
            log_error(
                "tensor %s is in %s and again in %s; remove the file that does not belong to the "
                "model",
                entry->tensor.name, paths[previous->file], paths[entry->file]);
            return STATUS_FORMAT;
        }
    }
    return STATUS_OK;
}

static int compare_with_name(const void *name, const void *entry) {
    return strcmp(name, ((const struct directory_entry *)entry)->tensor.name);
}

const struct directory_entry *directory_find(const struct directory *directory, const char *name) {
    if (directory->count == 0)
        return NULL;
    return bsearch(name, directory->entries, directory->count, sizeof *directory->entries,
                   compare_with_name);
}
