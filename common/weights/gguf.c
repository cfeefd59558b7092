/* The header is read through a cursor with a small buffer that keeps the first error: after it,
 * every further read gives zeros, so that the loops stay plain. The list of tensors is gone through
 * twice, since where the data begins is known only at its end: first to check, then to append. */
#include "common/weights/gguf.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "common/log.h"
#include "common/utf8.h"
#include "common/weights/gguf_names.h"
#include "common/weights/gguf_types.h"

#define BUFFER_BYTES ((size_t)64 << 10)

/* ---- The cursor. */

struct cursor {
    const struct file *file;
    uint64_t offset; /* of the buffer's first byte in the file */
    size_t at, have; /* in the buffer */
    uint8_t *buffer; /* (BUFFER_BYTES) */
    enum status status;
};

static void refuse(struct cursor *cursor, enum status status, const char *what,
                   const char *problem) {
    if (cursor->status != STATUS_OK)
        return;
    log_error("%s: %s %s; the file is damaged or of another kind, download it again",
              cursor->file->path, what, problem);
    cursor->status = status;
}

static uint64_t position(const struct cursor *cursor) {
    return cursor->offset + cursor->at;
}

static uint64_t bytes_left(const struct cursor *cursor) {
    return cursor->file->bytes - position(cursor);
}

static void seek(struct cursor *cursor, uint64_t offset) {
    cursor->offset = offset;
    cursor->at = cursor->have = 0;
}

static void refill(struct cursor *cursor) {
    seek(cursor, position(cursor));
    uint64_t left = bytes_left(cursor);
    size_t wanted = left < BUFFER_BYTES ? (size_t)left : BUFFER_BYTES;
    cursor->status = file_read(cursor->file, cursor->offset, cursor->buffer, wanted);
    if (cursor->status == STATUS_OK)
        cursor->have = wanted;
}

/* Copies the next bytes to `out`; `what` is named where the file ends before. False after an error,
 * `out` is then untouched or garbage. */
static bool take(struct cursor *cursor, size_t count, const char *what, void *out) {
    if (cursor->status == STATUS_OK && count > bytes_left(cursor)) {
        log_error("%s: the file ends in %s, after %" PRIu64 " bytes: it is truncated, download it "
                  "again",
                  cursor->file->path, what, cursor->file->bytes);
        cursor->status = STATUS_FORMAT;
    }
    uint8_t *to = out;
    while (cursor->status == STATUS_OK && count > 0) {
        if (cursor->at == cursor->have)
            refill(cursor);
        size_t piece = cursor->have - cursor->at < count ? cursor->have - cursor->at : count;
        memcpy(to, cursor->buffer + cursor->at, piece);
        cursor->at += piece;
        to += piece;
        count -= piece;
    }
    return cursor->status == STATUS_OK;
}

/* A little-endian number of up to eight bytes; 0 after an error. */
static uint64_t take_number(struct cursor *cursor, size_t bytes, const char *what) {
    uint8_t raw[8];
    uint64_t number = 0;
    if (take(cursor, bytes, what, raw))
        for (size_t i = bytes; i-- > 0;)
            number = number << 8 | raw[i];
    return number;
}

/* A string of at most `bytes_max` bytes without zeros: names of keys and tensors. */
static bool take_name(struct cursor *cursor, uint32_t bytes_max, const char *what, char *out) {
    uint64_t bytes = take_number(cursor, 8, what);
    if (bytes > bytes_max)
        refuse(cursor, STATUS_FORMAT, what, "is longer than any real one");
    if (cursor->status != STATUS_OK || !take(cursor, (size_t)bytes, what, out))
        return false;
    out[bytes] = '\0';
    if (bytes == 0 || strlen(out) != bytes)
        refuse(cursor, STATUS_FORMAT, what, "is empty or has a zero byte");
    return cursor->status == STATUS_OK;
}

/* ---- Metadata. */

static bool is_utf8(const char *text, size_t bytes) {
    size_t length;
    for (size_t at = 0; at < bytes; at += length)
        if (utf8_next(text + at, bytes - at, &length) != UTF8_VALID)
            return false;
    return true;
}

static json_t *take_string(struct cursor *cursor, const char *key) {
    uint64_t bytes = take_number(cursor, 8, key);
    if (bytes > bytes_left(cursor))
        refuse(cursor, STATUS_FORMAT, key, "has a string that is longer than the file");
    if (position(cursor) + bytes > GGUF_METADATA_BYTES_MAX)
        refuse(cursor, STATUS_FORMAT, key, "lies behind more metadata than any real file has");
    if (cursor->status != STATUS_OK)
        return NULL;
    char *text = malloc((size_t)bytes + 1);
    if (!text)
        return NULL;
    json_t *value = NULL;
    if (take(cursor, (size_t)bytes, key, text))
        value =
            is_utf8(text, (size_t)bytes) ? json_stringn_nocheck(text, (size_t)bytes) : json_null();
    free(text);
    return value;
}

static json_t *real_value(double number) {
    return isfinite(number) ? json_real(number) : json_null();
}

/* The shortest decimal number that rounds to this f32: what was meant is 0.0707, not the
 * 0.0706999972 that it became. */
static json_t *short_real_value(float number) {
    char text[32];
    double value = (double)number;
    for (int digits = 6; isfinite(number) && digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)number);
        value = strtod(text, NULL);
        if ((float)value == number)
            break;
    }
    return real_value(value);
}

/* The value of `bits`, as many low ones as the type has. */
static json_t *number_value(struct cursor *cursor, enum gguf_value_type type, uint64_t bits,
                            const char *key) {
    float f32;
    double f64;
    uint32_t low = (uint32_t)bits;
    switch (type) {
    case GGUF_VALUE_I8:
        return json_integer((int8_t)bits);
    case GGUF_VALUE_I16:
        return json_integer((int16_t)bits);
    case GGUF_VALUE_I32:
        return json_integer((int32_t)bits);
    case GGUF_VALUE_F32:
        memcpy(&f32, &low, sizeof f32);
        return short_real_value(f32);
    case GGUF_VALUE_F64:
        memcpy(&f64, &bits, sizeof f64);
        return real_value(f64);
    case GGUF_VALUE_BOOL:
        if (bits > 1)
            refuse(cursor, STATUS_FORMAT, key, "is neither true nor false");
        return json_boolean(bits);
    case GGUF_VALUE_U64:
        if (bits > INT64_MAX)
            refuse(cursor, STATUS_FORMAT, key, "is larger than any number in use");
        return json_integer((json_int_t)bits);
    default:
        return json_integer((json_int_t)bits);
    }
}

/* A value that is no array. NULL after an error. */
static json_t *take_scalar(struct cursor *cursor, uint32_t type, const char *key) {
    json_t *value = NULL;
    if (type == GGUF_VALUE_STRING)
        value = take_string(cursor, key);
    else if (gguf_value_bytes(type)) {
        uint64_t bits = take_number(cursor, gguf_value_bytes(type), key);
        value = number_value(cursor, (enum gguf_value_type)type, bits, key);
    } else
        refuse(cursor, STATUS_FORMAT, key, "has a value of no known type");
    if (!value && cursor->status == STATUS_OK) {
        log_error("%s: no memory for %s; free some and try again", cursor->file->path, key);
        cursor->status = STATUS_NO_MEMORY;
    }
    if (cursor->status == STATUS_OK)
        return value;
    json_decref(value);
    return NULL;
}

/* `values_left` counts down over all arrays of the file. */
static json_t *take_array(struct cursor *cursor, const char *key, uint64_t *values_left) {
    uint32_t type = (uint32_t)take_number(cursor, 4, key);
    uint64_t count = take_number(cursor, 8, key);
    if (type == GGUF_VALUE_ARRAY)
        refuse(cursor, STATUS_UNSUPPORTED, key, "is an array of arrays");
    if (count > *values_left || count > bytes_left(cursor))
        refuse(cursor, STATUS_FORMAT, key, "has more values than any real file");
    json_t *array = json_array();
    for (uint64_t i = 0; i < count && cursor->status == STATUS_OK; i++)
        json_array_append_new(array, take_scalar(cursor, type, key));
    if (cursor->status == STATUS_OK && json_array_size(array) != count) {
        log_error("%s: no memory for %s; free some and try again", cursor->file->path, key);
        cursor->status = STATUS_NO_MEMORY;
    }
    *values_left -= count;
    if (cursor->status == STATUS_OK)
        return array;
    json_decref(array);
    return NULL;
}

static void take_pair(struct cursor *cursor, json_t *metadata, uint64_t *values_left) {
    char key[GGUF_KEY_BYTES_MAX + 1];
    if (!take_name(cursor, GGUF_KEY_BYTES_MAX, "a key of the metadata", key))
        return;
    if (!is_utf8(key, strlen(key)) || json_object_get(metadata, key))
        refuse(cursor, STATUS_FORMAT, key, "is no UTF-8, or stands there twice");
    uint32_t type = (uint32_t)take_number(cursor, 4, key);
    if (cursor->status != STATUS_OK)
        return;
    json_t *value = type == GGUF_VALUE_ARRAY ? take_array(cursor, key, values_left)
                                             : take_scalar(cursor, type, key);
    if (value && json_object_set_new_nocheck(metadata, key, value) != 0) {
        log_error("%s: no memory for %s; free some and try again", cursor->file->path, key);
        cursor->status = STATUS_NO_MEMORY;
    }
}

/* NULL after an error. `offsets` (count + 1) receives where each key begins and the last value
 * ends.
 */
static json_t *take_metadata(struct cursor *cursor, uint64_t count, uint64_t *offsets) {
    json_t *metadata = json_object();
    uint64_t values_left = GGUF_ARRAY_VALUES_MAX;
    for (uint64_t i = 0; i < count && cursor->status == STATUS_OK; i++) {
        offsets[i] = position(cursor);
        take_pair(cursor, metadata, &values_left);
    }
    offsets[count] = position(cursor);
    if (!metadata && cursor->status == STATUS_OK) {
        log_error("%s: no memory for the metadata; free some and try again", cursor->file->path);
        cursor->status = STATUS_NO_MEMORY;
    }
    if (cursor->status == STATUS_OK)
        return metadata;
    json_decref(metadata);
    return NULL;
}

static uint32_t find_alignment(struct cursor *cursor, const json_t *metadata) {
    static const char KEY[] = "general.alignment";
    const json_t *value = json_object_get(metadata, KEY);
    if (!value)
        return GGUF_ALIGNMENT_DEFAULT;
    json_int_t number = json_integer_value(value);
    if (number < 1 || number > GGUF_ALIGNMENT_MAX || (number & (number - 1)) != 0) {
        refuse(cursor, STATUS_FORMAT, KEY, "is no power of two of reasonable size");
        return GGUF_ALIGNMENT_DEFAULT;
    }
    return (uint32_t)number;
}

/* ---- Tensors. */

/* Where the data lies. */
struct data_area {
    uint64_t begin, bytes; /* in the file */
    uint32_t alignment;
};

/* One tensor as the file lists it. */
struct listed_tensor {
    char name[TENSOR_NAME_BYTES_MAX + 1];
    char unknown_type[32]; /* text for a type that has no name */
    struct directory_entry entry;
    uint64_t relative_offset;
};

static void take_dimensions(struct cursor *cursor, struct listed_tensor *out) {
    struct tensor *tensor = &out->entry.tensor;
    tensor->dimensions = (uint32_t)take_number(cursor, 4, out->name);
    if (tensor->dimensions == 0 || tensor->dimensions > GGUF_DIMENSIONS_MAX)
        refuse(cursor, STATUS_FORMAT, out->name, "must have one to four dimensions");
    for (size_t i = 0; i < GGUF_DIMENSIONS_MAX; i++)
        tensor->shape[i] = 1;
    /* The file lists the innermost first. */
    for (uint32_t i = tensor->dimensions; i-- > 0 && cursor->status == STATUS_OK;)
        tensor->shape[i] = take_number(cursor, 8, out->name);
}

/* Sets the format and the bytes, which stay 0 for a type that is not known. */
static void resolve_type(struct cursor *cursor, uint32_t number, struct listed_tensor *out) {
    struct tensor *tensor = &out->entry.tensor;
    const struct gguf_type *known = gguf_find_type(number);
    snprintf(out->unknown_type, sizeof out->unknown_type, "number %" PRIu32, number);
    tensor->type = known ? known->name : out->unknown_type;
    tensor->format = known ? known->format : WEIGHT_FORMAT_COUNT;
    uint64_t values = 1;
    bool overflow = false;
    for (size_t i = 0; i < GGUF_DIMENSIONS_MAX; i++)
        overflow |= __builtin_mul_overflow(values, tensor->shape[i], &values);
    if (overflow || values == 0)
        refuse(cursor, STATUS_FORMAT, out->name, "has no values, or more than any file can hold");
    if (!known || cursor->status != STATUS_OK)
        return;
    if (tensor->shape[tensor->dimensions - 1] % known->block != 0) {
        log_error("%s: tensor %s has rows of %" PRIu64 " values, which are no whole blocks of its "
                  "type %s: the file is damaged, download it again",
                  cursor->file->path, out->name, tensor->shape[tensor->dimensions - 1],
                  tensor->type);
        cursor->status = STATUS_FORMAT;
    }
    if (__builtin_mul_overflow(values / known->block, known->block_bytes, &tensor->bytes))
        refuse(cursor, STATUS_FORMAT, out->name, "has more values than any file can hold");
}

/* Reads one entry of the list; false after an error. */
static bool take_tensor(struct cursor *cursor, struct listed_tensor *out) {
    *out = (struct listed_tensor){.relative_offset = 0};
    if (!take_name(cursor, TENSOR_NAME_BYTES_MAX, "the name of a tensor", out->name))
        return false;
    if (!is_utf8(out->name, strlen(out->name)))
        refuse(cursor, STATUS_FORMAT, "the name of a tensor", "is no UTF-8");
    out->entry.tensor.name = out->name;
    take_dimensions(cursor, out);
    uint32_t type = (uint32_t)take_number(cursor, 4, out->name);
    out->relative_offset = take_number(cursor, 8, out->name);
    if (cursor->status == STATUS_OK)
        resolve_type(cursor, type, out);
    return cursor->status == STATUS_OK;
}

static bool locate_tensor(struct cursor *cursor, const struct data_area *area,
                          struct listed_tensor *tensor) {
    uint64_t offset = tensor->relative_offset, bytes = tensor->entry.tensor.bytes;
    if (offset % area->alignment != 0)
        refuse(cursor, STATUS_FORMAT, tensor->name,
               "does not start at a multiple of the alignment");
    if (cursor->status == STATUS_OK && (offset > area->bytes || bytes > area->bytes - offset)) {
        log_error("%s: tensor %s with %" PRIu64 " bytes from byte %" PRIu64
                  " of the data on reaches outside of the file, which has %" PRIu64
                  " bytes of data (%" PRIu64 " in all): it is truncated, download it again",
                  cursor->file->path, tensor->name, bytes, offset, area->bytes,
                  cursor->file->bytes);
        cursor->status = STATUS_FORMAT;
    }
    tensor->entry.offset = area->begin + offset;
    return cursor->status == STATUS_OK;
}

/* Goes through the list that starts at the cursor, twice. */
static void take_tensors(struct cursor *cursor, uint64_t count, uint32_t alignment,
                         uint32_t file_index, struct directory *directory) {
    struct listed_tensor tensor;
    uint64_t list = position(cursor), first = directory->count;
    if (count > TENSORS_MAX || count > bytes_left(cursor))
        refuse(cursor, STATUS_FORMAT, "the list of tensors", "is longer than the file");
    for (uint64_t i = 0; i < count && cursor->status == STATUS_OK; i++)
        take_tensor(cursor, &tensor);
    if (cursor->status != STATUS_OK)
        return;
    struct data_area area = {.alignment = alignment};
    area.begin = (position(cursor) + alignment - 1) / alignment * alignment;
    if (area.begin < cursor->file->bytes)
        area.bytes = cursor->file->bytes - area.begin;
    seek(cursor, list);
    for (uint64_t i = 0; i < count && cursor->status == STATUS_OK; i++) {
        if (!take_tensor(cursor, &tensor) || !locate_tensor(cursor, &area, &tensor))
            return;
        tensor.entry.file = file_index;
        cursor->status = gguf_append_tensor(directory, &tensor.entry, cursor->file->path);
    }
    if (cursor->status == STATUS_OK)
        cursor->status = directory_check_overlaps(directory, first, cursor->file->path);
}

/* ---- The whole. */

static void check_version(struct cursor *cursor) {
    uint32_t magic = (uint32_t)take_number(cursor, 4, "the header");
    uint32_t version = (uint32_t)take_number(cursor, 4, "the header");
    if (cursor->status != STATUS_OK)
        return;
    if (magic != GGUF_MAGIC) {
        log_error("%s does not begin with \"GGUF\": it is no GGUF file, check the path or download "
                  "it again",
                  cursor->file->path);
        cursor->status = STATUS_FORMAT;
    } else if (version != GGUF_VERSION) {
        log_error("%s is of GGUF version %" PRIu32
                  "%s; only version %u is read, take a newer conversion",
                  cursor->file->path, version, version >> 24 ? " (big-endian)" : "", GGUF_VERSION);
        cursor->status = STATUS_UNSUPPORTED;
    }
}

/* Memory for where `count` pairs lie; NULL after an error. */
static uint64_t *reserve_offsets(struct cursor *cursor, uint64_t count) {
    if (count > GGUF_KEYS_MAX)
        refuse(cursor, STATUS_FORMAT, "the metadata", "has more keys than any real file");
    if (cursor->status != STATUS_OK)
        return NULL;
    uint64_t *offsets = calloc(count + 1, sizeof *offsets);
    if (!offsets) {
        log_error("no memory to read %s; free some and try again", cursor->file->path);
        cursor->status = STATUS_NO_MEMORY;
    }
    return offsets;
}

enum status gguf_read_header(const struct file *file, uint32_t file_index,
                             struct directory *directory, struct gguf_header *out) {
    struct cursor cursor = {.file = file, .buffer = malloc(BUFFER_BYTES)};
    if (!cursor.buffer) {
        log_error("no memory to read %s; free some and try again", file->path);
        return STATUS_NO_MEMORY;
    }
    check_version(&cursor);
    uint64_t tensor_count = take_number(&cursor, 8, "the header");
    uint64_t key_count = take_number(&cursor, 8, "the header");
    uint64_t *offsets = reserve_offsets(&cursor, key_count);
    json_t *metadata =
        cursor.status == STATUS_OK ? take_metadata(&cursor, key_count, offsets) : NULL;
    if (cursor.status == STATUS_OK) {
        uint32_t alignment = find_alignment(&cursor, metadata);
        take_tensors(&cursor, tensor_count, alignment, file_index, directory);
    }
    free(cursor.buffer);
    *out = (struct gguf_header){metadata, offsets, tensor_count};
    if (cursor.status != STATUS_OK)
        gguf_header_cleanup(out);
    return cursor.status;
}

void gguf_header_cleanup(struct gguf_header *header) {
    json_decref(header->metadata);
    free(header->pair_offsets);
    *header = (struct gguf_header){.metadata = NULL};
}

/* ---- Models of several files. */

static const char SUFFIX[] = ".gguf";

bool gguf_is_path(const char *path) {
    size_t length = strlen(path), suffix_length = sizeof SUFFIX - 1;
    return length > suffix_length && strcmp(path + length - suffix_length, SUFFIX) == 0;
}

/* Bytes of "-00001-of-00003.gguf". */
#define PART_SUFFIX_BYTES 20u

/* A number of five digits; UINT32_MAX if it is none. */
static uint32_t parse_five_digits(const char *text) {
    uint32_t number = 0;
    for (size_t i = 0; i < 5; i++) {
        if (text[i] < '0' || text[i] > '9')
            return UINT32_MAX;
        number = 10 * number + (uint32_t)(text[i] - '0');
    }
    return number;
}

/* Finds where that suffix begins and how many parts it tells of. */
static bool parse_part(const char *path, size_t *prefix, uint32_t *parts) {
    size_t length = strlen(path);
    if (length <= PART_SUFFIX_BYTES)
        return false;
    const char *suffix = path + length - PART_SUFFIX_BYTES;
    uint32_t part = parse_five_digits(suffix + 1);
    *prefix = length - PART_SUFFIX_BYTES;
    *parts = parse_five_digits(suffix + 10);
    return *suffix == '-' && strncmp(suffix + 6, "-of-", 4) == 0 && gguf_is_path(suffix) &&
           part >= 1 && part <= *parts && *parts <= WEIGHT_FILES_MAX;
}

uint32_t gguf_count_parts(const char *path) {
    size_t prefix;
    uint32_t parts;
    return parse_part(path, &prefix, &parts) ? parts : 1;
}

enum status gguf_part_path(const char *path, uint32_t part, char out[PATH_MAX]) {
    size_t prefix = 0;
    uint32_t parts = 1;
    bool several = parse_part(path, &prefix, &parts);
    int length = several ? snprintf(out, PATH_MAX, "%.*s-%05u-of-%05u%s", (int)prefix, path,
                                    part + 1, parts, SUFFIX)
                         : snprintf(out, PATH_MAX, "%s", path);
    if (length < PATH_MAX)
        return STATUS_OK;
    log_error("the path %.64s... is too long; move the model to a shorter one", path);
    return STATUS_USAGE;
}

enum status gguf_check_part(const json_t *metadata, const char *path, uint32_t part,
                            uint32_t parts) {
    const json_t *number = json_object_get(metadata, "split.no");
    const json_t *count = json_object_get(metadata, "split.count");
    json_int_t true_part = number ? json_integer_value(number) : 0;
    json_int_t true_parts = json_integer_value(count) > 1 ? json_integer_value(count) : 1;
    if (true_parts == parts && true_part == part)
        return STATUS_OK;
    log_error("%s is part %" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT
              " of a model, which its name does not say; give it the name that it was published "
              "under, as in -%05" JSON_INTEGER_FORMAT "-of-%05" JSON_INTEGER_FORMAT ".gguf",
              path, true_part + 1, true_parts, true_part + 1, true_parts);
    return STATUS_FORMAT;
}
