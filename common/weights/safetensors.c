/* The header is read whole, parsed by jansson (which refuses duplicate names) and turned into
 * directory entries one by one. */
#include "common/weights/safetensors.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "common/log.h"

#define LENGTH_BYTES 8u

/* The types of the format with whole bytes per value. Those that skein does not read are here so
 * that their lengths can be checked as well. */
static const struct type {
    const char *name;
    enum weight_format format;
    uint32_t value_bytes;
} TYPES[] = {
    {"F32", WEIGHT_F32, 4},
    {"F16", WEIGHT_F16, 2},
    {"BF16", WEIGHT_BF16, 2},
    {"F8_E4M3", WEIGHT_FP8_E4M3, 1},
    {"F64", WEIGHT_FORMAT_COUNT, 8},
    {"F8_E5M2", WEIGHT_FORMAT_COUNT, 1},
    {"F8_E8M0", WEIGHT_FORMAT_COUNT, 1},
    {"I64", WEIGHT_FORMAT_COUNT, 8},
    {"I32", WEIGHT_FORMAT_COUNT, 4},
    {"I16", WEIGHT_FORMAT_COUNT, 2},
    {"I8", WEIGHT_FORMAT_COUNT, 1},
    {"U64", WEIGHT_FORMAT_COUNT, 8},
    {"U32", WEIGHT_FORMAT_COUNT, 4},
    {"U16", WEIGHT_FORMAT_COUNT, 2},
    {"U8", WEIGHT_FORMAT_COUNT, 1},
    {"BOOL", WEIGHT_FORMAT_COUNT, 1},
};

/* The type of a name that is not in the table: its length cannot be checked. */
static const struct type UNKNOWN_TYPE = {NULL, WEIGHT_FORMAT_COUNT, 0};

/* One header while it is taken apart. */
struct header {
    const struct file *file;
    uint64_t data_begin; /* where the data starts in the file */
    uint64_t data_bytes; /* from there to the end of the file */
};

static enum status report_tensor(const struct header *header, const char *name,
                                 const char *problem) {
    log_error("%s: tensor %s: %s; the file is damaged, download it again", header->file->path, name,
              problem);
    return STATUS_FORMAT;
}

static enum status report_truncated(const struct file *file, uint64_t bytes_wanted) {
    log_error("%s: the file is truncated (%" PRIu64 " of %" PRIu64 " bytes): download it again",
              file->path, file->bytes, bytes_wanted);
    return STATUS_FORMAT;
}

static enum status read_length(const struct file *file, uint64_t *out) {
    if (file->bytes < LENGTH_BYTES) {
        log_error("%s: the file is truncated (%" PRIu64
                  " bytes, not even a header): download it again",
                  file->path, file->bytes);
        return STATUS_FORMAT;
    }
    uint8_t raw[LENGTH_BYTES];
    enum status status = file_read(file, 0, raw, sizeof raw);
    if (status != STATUS_OK)
        return status;
    uint64_t length = 0;
    for (unsigned i = LENGTH_BYTES; i-- > 0;)
        length = length << 8 | raw[i];
    if (length > SAFETENSORS_HEADER_BYTES_MAX) {
        log_error("%s: the header claims %" PRIu64 " bytes, the format allows %u: this is not a "
                  "safetensors file, check the path or download it again",
                  file->path, length, SAFETENSORS_HEADER_BYTES_MAX);
        return STATUS_FORMAT;
    }
    if (length > file->bytes - LENGTH_BYTES)
        return report_truncated(file, length + LENGTH_BYTES);
    *out = length;
    return STATUS_OK;
}

static enum status parse_header(const struct file *file, const char *text, size_t length,
                                json_t **out) {
    json_error_t error;
    json_t *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
    if (!root && json_error_code(&error) == json_error_out_of_memory) {
        log_error("no memory to read the header of %s; free some and try again", file->path);
        return STATUS_NO_MEMORY;
    }
    if (!root) {
        log_error(
            "%s: the header is not valid JSON at byte %d: %s; the file is damaged, download it "
            "again",
            file->path, error.position, error.text);
        return STATUS_FORMAT;
    }
    if (!json_is_object(root)) {
        log_error(
            "%s: the header is not a JSON object: this is not a safetensors file, download it "
            "again",
            file->path);
        json_decref(root);
        return STATUS_FORMAT;
    }
    *out = root;
    return STATUS_OK;
}

static enum status load_header(const struct file *file, uint64_t length, json_t **out) {
    char *text = malloc(length ? length : 1);
    if (!text) {
        log_error("no memory for the header of %s (%" PRIu64 " bytes); free some and try again",
                  file->path, length);
        return STATUS_NO_MEMORY;
    }
    enum status status = file_read(file, LENGTH_BYTES, text, length);
    if (status == STATUS_OK)
        status = parse_header(file, text, length, out);
    free(text);
    return status;
}

static const struct type *find_type(const char *name) {
    for (size_t i = 0; i < sizeof TYPES / sizeof TYPES[0]; i++)
        if (strcmp(TYPES[i].name, name) == 0)
            return &TYPES[i];
    return &UNKNOWN_TYPE;
}

static enum status read_type(const struct header *header, const json_t *value,
                             struct tensor *tensor, uint32_t *value_bytes) {
    const char *name = json_string_value(json_object_get(value, "dtype"));
    if (!name || strlen(name) > TENSOR_NAME_BYTES_MAX)
        return report_tensor(header, tensor->name, "\"dtype\" is not the name of a type");
    const struct type *type = find_type(name);
    tensor->type = name;
    tensor->format = type->format;
    *value_bytes = type->value_bytes;
    return STATUS_OK;
}

/* Counts the tensor's values, which must fit 64 bits as the bytes they take must. */
static enum status read_shape(const struct header *header, const json_t *value,
                              struct tensor *tensor, uint64_t *count) {
    const json_t *shape = json_object_get(value, "shape");
    size_t dimensions = json_array_size(shape);
    if (!json_is_array(shape) || dimensions > TENSOR_DIMENSIONS_MAX)
        return report_tensor(header, tensor->name, "\"shape\" is not a list of a few sizes");
    tensor->dimensions = (uint32_t)dimensions;
    uint64_t product = 1;
    bool overflow = false;
    for (size_t i = 0; i < 4; i++)
        tensor->shape[i] = 1;
    for (size_t i = 0; i < dimensions; i++) {
        const json_t *item = json_array_get(shape, i);
        if (!json_is_integer(item) || json_integer_value(item) < 0)
            return report_tensor(header, tensor->name,
                                 "\"shape\" holds something other than sizes");
        uint64_t size = (uint64_t)json_integer_value(item);
        overflow |= __builtin_mul_overflow(product, size, &product);
        if (i < 4)
            tensor->shape[i] = size;
    }
    if (overflow)
        return report_tensor(header, tensor->name,
                             "\"shape\" has more values than any file can hold");
    *count = product;
    return STATUS_OK;
}

static enum status read_offsets(const struct header *header, const json_t *value,
                                struct directory_entry *entry) {
    const char *name = entry->tensor.name;
    const json_t *offsets = json_object_get(value, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last) ||
        json_integer_value(first) < 0 || json_integer_value(last) < 0)
        return report_tensor(header, name, "\"data_offsets\" is not a list of two offsets");
    uint64_t begin = (uint64_t)json_integer_value(first), end = (uint64_t)json_integer_value(last);
    if (begin > end)
        return report_tensor(header, name, "\"data_offsets\" ends before it begins");
    if (end > header->data_bytes) {
        log_error("%s: tensor %s ends at byte %" PRIu64
                  " of the data, outside the file, which has %" PRIu64 " bytes of data (%" PRIu64
                  " in all): the file is truncated, download it again",
                  header->file->path, name, end, header->data_bytes, header->file->bytes);
        return STATUS_FORMAT;
    }
    entry->offset = header->data_begin + begin;
    entry->tensor.bytes = end - begin;
    return STATUS_OK;
}

/* Fills the entry from one member of the header; its texts point into `value`. */
static enum status read_tensor(const struct header *header, const json_t *value,
                               struct directory_entry *entry) {
    struct tensor *tensor = &entry->tensor;
    uint32_t value_bytes = 0;
    uint64_t count = 0, bytes;
    if (!json_is_object(value))
        return report_tensor(header, tensor->name, "its entry is not a JSON object");
    enum status status = read_type(header, value, tensor, &value_bytes);
    if (status == STATUS_OK)
        status = read_shape(header, value, tensor, &count);
    if (status == STATUS_OK)
        status = read_offsets(header, value, entry);
    if (status != STATUS_OK || value_bytes == 0)
        return status;
    if (__builtin_mul_overflow(count, value_bytes, &bytes) || bytes != tensor->bytes) {
        log_error("%s: tensor %s: %" PRIu64 " values of type %s do not fit its %" PRIu64
                  " bytes; the file is damaged, download it again",
                  header->file->path, tensor->name, count, tensor->type, tensor->bytes);
        return STATUS_FORMAT;
    }
    return STATUS_OK;
}

static enum status append_tensors(const struct header *header, json_t *root, uint32_t file_index,
                                  struct directory *directory) {
    const char *name;
    json_t *value;
    json_object_foreach(root, name, value) {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        if (strlen(name) > TENSOR_NAME_BYTES_MAX) {
            log_error("%s: the tensor name %.60s... is longer than %u bytes; the file is damaged, "
                      "download it again",
                      header->file->path, name, TENSOR_NAME_BYTES_MAX);
            return STATUS_FORMAT;
        }
        struct directory_entry entry = {.tensor.name = name, .file = file_index};
        enum status status = read_tensor(header, value, &entry);
        if (status == STATUS_OK)
            status = directory_append(directory, &entry, header->file->path);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

enum status safetensors_read_header(const struct file *file, uint32_t file_index,
                                    struct directory *directory) {
    uint64_t length;
    enum status status = read_length(file, &length);
    if (status != STATUS_OK)
        return status;
    struct header header = {.file = file, .data_begin = LENGTH_BYTES + length};
    header.data_bytes = file->bytes - header.data_begin;
    json_t *root;
    status = load_header(file, length, &root);
    if (status != STATUS_OK)
        return status;
    size_t first = directory->count;
    status = append_tensors(&header, root, file_index, directory);
    json_decref(root);
    return status == STATUS_OK ? directory_check_overlaps(directory, first, file->path) : status;
}
