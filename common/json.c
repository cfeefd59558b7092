/* The file is handed to the parser in pieces that are counted on the way, so that neither a huge
 * file nor an endless pipe can take more than the bound, and no second copy of it is made. Of two
 * equal keys the last counts, as in Python, with which model files are written. */
#include "common/json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "common/log.h"

/* What the parser reads from. */
struct source {
    FILE *file;
    size_t bytes_left;
    bool failed;   /* the operating system could not read */
    bool too_long; /* more than JSON_FILE_BYTES_MAX bytes */
};

static size_t source_read(void *buffer, size_t capacity, void *context) {
    struct source *source = context;
    size_t got = fread(buffer, 1, capacity, source->file);
    source->failed = ferror(source->file) != 0;
    source->too_long = got > source->bytes_left;
    if (source->failed || source->too_long)
        return (size_t)-1;
    source->bytes_left -= got;
    return got;
}

static enum status open_source(const char *path, bool optional, struct source *out) {
    FILE *file = fopen(path, "rbe");
    if (!file) {
        bool missing = errno == ENOENT || errno == ENOTDIR;
        if (!(missing && optional))
            log_error("cannot open %s: %s; check the path and its permissions", path,
                      strerror(errno));
        return missing ? STATUS_NOT_FOUND : STATUS_IO;
    }
    *out = (struct source){.file = file, .bytes_left = JSON_FILE_BYTES_MAX};
    return STATUS_OK;
}

static enum status report_failure(const char *path, const struct source *source,
                                  const json_error_t *error) {
    if (source->failed) {
        log_error("cannot read %s: %s; it must be a readable file", path, strerror(errno));
        return STATUS_IO;
    }
    if (source->too_long) {
        log_error("%s is longer than %u bytes; no such file of a model is, check the path", path,
                  JSON_FILE_BYTES_MAX);
        return STATUS_FORMAT;
    }
    if (json_error_code(error) == json_error_out_of_memory) {
        log_error("no memory to read %s; free some and try again", path);
        return STATUS_NO_MEMORY;
    }
    log_error("%s, line %d, column %d: not valid JSON: %s; the file may be cut off, fetch it again",
              path, error->line, error->column, error->text);
    return STATUS_FORMAT;
}

/* Reads any JSON object or list. */
static enum status read_value(const char *path, bool optional, json_t **out) {
    struct source source;
    enum status status = open_source(path, optional, &source);
    if (status != STATUS_OK)
        return status;
    json_error_t error;
    json_t *value = json_load_callback(source_read, &source, 0, &error);
    if (!value)
        status = report_failure(path, &source, &error);
    fclose(source.file);
    if (value)
        *out = value;
    return status;
}

enum status json_read_file(const char *path, bool optional, json_t **out) {
    json_t *value;
    enum status status = read_value(path, optional, &value);
    if (status != STATUS_OK)
        return status;
    if (!json_is_object(value)) {
        log_error("%s, line 1, column 1: a JSON object ({...}) is needed, this is a list", path);
        json_decref(value);
        return STATUS_FORMAT;
    }
    *out = value;
    return STATUS_OK;
}

static enum status collect_ids(const char *path, const json_t *list, uint32_t vocabulary,
                               uint32_t *ids) {
    size_t index;
    json_t *item;
    json_array_foreach(list, index, item) {
        json_int_t id = json_integer_value(item);
        if (!json_is_integer(item) || id < 0 || id >= (json_int_t)vocabulary) {
            log_error("%s: entry %zu is not a token id; ids of this model are whole numbers from 0 "
                      "to %lld",
                      path, index, (long long)vocabulary - 1);
            return STATUS_FORMAT;
        }
        ids[index] = (uint32_t)id;
    }
    return STATUS_OK;
}

enum status json_read_ids(const char *path, uint32_t vocabulary, uint32_t **out, size_t *count) {
    json_t *list;
    enum status status = read_value(path, false, &list);
    if (status != STATUS_OK)
        return status;
    if (!json_is_array(list)) {
        log_error("%s: a JSON list of token ids is needed, such as [0, 17, 4]", path);
        status = STATUS_FORMAT;
        goto err_unref_list;
    }
    size_t items = json_array_size(list);
    uint32_t *ids = calloc(items ? items : 1, sizeof *ids);
    if (!ids) {
        log_error("no memory for the %zu ids of %s; free some and try again", items, path);
        status = STATUS_NO_MEMORY;
        goto err_unref_list;
    }
    status = collect_ids(path, list, vocabulary, ids);
    if (status != STATUS_OK)
        goto err_free_ids;
    json_decref(list);
    *out = ids;
    *count = items;
    return STATUS_OK;

err_free_ids:
    free(ids);
err_unref_list:
    json_decref(list);
    return status;
}
