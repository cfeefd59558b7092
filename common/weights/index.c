/* File names are collected in a second JSON object, whose hash finds those already seen: V3's index
 * has 91,991 tensors in 163 files. The names come from a download, so they may not lead out of the
 * model's directory. */
#include "common/weights/index.h"

#include <string.h>

#include "common/json.h"
#include "common/limits.h"
#include "common/log.h"

static enum status check_file_name(const char *path, const char *tensor, const json_t *value) {
    const char *name = json_string_value(value);
    if (!name || name[0] == '\0') {
        log_error("%s: tensor %.255s: its file is not named by a string; download the index again",
                  path, tensor);
        return STATUS_FORMAT;
    }
    if (strchr(name, '/') || strstr(name, "..") || strlen(name) > FILE_NAME_BYTES_MAX) {
        log_error(
            "%s: tensor %.255s: the file name \"%.255s\" may lead out of the model's directory: "
            "it must be a plain name",
            path, tensor, name);
        return STATUS_FORMAT;
    }
    return STATUS_OK;
}

static enum status collect_files(const struct index *index) {
    const char *tensor;
    json_t *value;
    json_object_foreach((json_t *)index->map, tensor, value) {
        enum status status = check_file_name(index->path, tensor, value);
        if (status != STATUS_OK)
            return status;
        const char *name = json_string_value(value);
        if (json_object_get(index->files, name))
            continue;
        size_t count = json_object_size(index->files);
        if (count == WEIGHT_FILES_MAX) {
            log_error("%s names more than %d files; no published model has, check the file",
                      index->path, WEIGHT_FILES_MAX);
            return STATUS_FORMAT;
        }
        if (json_object_set_new(index->files, name, json_integer((json_int_t)count))) {
            log_error("no memory to read %s; free some and try again", index->path);
            return STATUS_NO_MEMORY;
        }
    }
    return STATUS_OK;
}

static enum status check_map(struct index *index) {
    index->map = json_object_get(index->root, "weight_map");
    if (!json_is_object(index->map) || json_object_size(index->map) == 0) {
        log_error(
            "%s: \"weight_map\" must be an object that names each tensor's file; download the "
            "index again",
            index->path);
        return STATUS_FORMAT;
    }
    return collect_files(index);
}

enum status index_read(const char *path, struct index *out) {
    struct index index = {.path = path};
    enum status status = json_read_file(path, true, &index.root);
    if (status != STATUS_OK)
        return status;
    index.files = json_object();
    if (!index.files) {
        log_error("no memory to read %s; free some and try again", path);
        status = STATUS_NO_MEMORY;
        goto err_cleanup_index;
    }
    status = check_map(&index);
    if (status != STATUS_OK)
        goto err_cleanup_index;
    *out = index;
    return STATUS_OK;

err_cleanup_index:
    index_cleanup(&index);
    return status;
}

void index_cleanup(struct index *index) {
    json_decref(index->root);
    json_decref(index->files);
}

enum status index_check(const struct index *index, const struct directory *directory) {
    const char *tensor;
    json_t *value;
    json_object_foreach((json_t *)index->map, tensor, value) {
        const char *name = json_string_value(value);
        json_int_t file = json_integer_value(json_object_get(index->files, name));
        const struct directory_entry *entry = directory_find(directory, tensor);
        if (!entry || entry->file != (uint32_t)file) {
            log_error("%s: tensor %.255s is not in %s, where the index has it; download both again",
                      index->path, tensor, name);
            return STATUS_FORMAT;
        }
    }
    return STATUS_OK;
}
