/* Keys and tensors go to two memory streams, since their counts stand before them. A stream that
 * runs out of memory keeps that to itself until it is closed, so adding needs no checks. */
#include "common/weights/gguf_writer.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "common/weights/gguf_types.h"

#define SUFFIX       ".part"
#define HEADER_BYTES 24u /* magic, version, counts */

struct section {
    FILE *stream;
    char *text;
    size_t bytes;
    uint64_t entries;
};

struct gguf_writer {
    struct section keys, tensors;
    uint32_t alignment;
    uint64_t *tensor_bytes; /* (tensors.entries) */
    size_t tensor_capacity;
    uint64_t data_bytes; /* of all tensors, each with what follows it */
    bool no_memory;
    char *path, *temporary; /* once open */
    int descriptor;         /* -1: not open */
    uint64_t file_offset;
    uint64_t tensor;       /* the current one */
    uint64_t tensor_taken; /* bytes of it */
};

static uint64_t round_up(uint64_t bytes, uint32_t alignment) {
    return (bytes + alignment - 1) / alignment * alignment;
}

enum status gguf_writer_create(struct gguf_writer **out) {
    struct gguf_writer *writer = calloc(1, sizeof *writer);
    if (writer) {
        writer->descriptor = -1;
        writer->alignment = GGUF_ALIGNMENT_DEFAULT;
        writer->keys.stream = open_memstream(&writer->keys.text, &writer->keys.bytes);
        writer->tensors.stream = open_memstream(&writer->tensors.text, &writer->tensors.bytes);
    }
    if (!writer || !writer->keys.stream || !writer->tensors.stream) {
        log_error("no memory to write a GGUF file; free some and try again");
        gguf_writer_destroy(writer);
        return STATUS_NO_MEMORY;
    }
    *out = writer;
    return STATUS_OK;
}

static void cleanup_section(struct section *section) {
    if (section->stream)
        fclose(section->stream);
    free(section->text);
}

void gguf_writer_destroy(struct gguf_writer *writer) {
    if (!writer)
        return;
    if (writer->descriptor >= 0) {
        unlink(writer->temporary);
        close(writer->descriptor);
    }
    cleanup_section(&writer->keys);
    cleanup_section(&writer->tensors);
    free(writer->tensor_bytes);
    free(writer->path);
    free(writer->temporary);
    free(writer);
}

/* ---- Gathering. */

static void put_number(struct section *section, uint64_t number, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        putc((int)(number >> 8 * i & 0xff), section->stream);
}

static void put_text(struct section *section, const char *text, size_t bytes) {
    put_number(section, bytes, 8);
    fwrite(text, 1, bytes, section->stream);
}

static struct section *begin_pair(struct gguf_writer *writer, const char *key,
                                  enum gguf_value_type type) {
    put_text(&writer->keys, key, strlen(key));
    put_number(&writer->keys, type, 4);
    writer->keys.entries++;
    return &writer->keys;
}

void gguf_writer_add_u32(struct gguf_writer *writer, const char *key, uint32_t value) {
    put_number(begin_pair(writer, key, GGUF_VALUE_U32), value, 4);
}

void gguf_writer_add_f32(struct gguf_writer *writer, const char *key, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_number(begin_pair(writer, key, GGUF_VALUE_F32), bits, 4);
}

void gguf_writer_add_bool(struct gguf_writer *writer, const char *key, bool value) {
    put_number(begin_pair(writer, key, GGUF_VALUE_BOOL), value, 1);
}

void gguf_writer_add_string(struct gguf_writer *writer, const char *key, const char *value) {
    put_text(begin_pair(writer, key, GGUF_VALUE_STRING), value, strlen(value));
}

static struct section *begin_array(struct gguf_writer *writer, const char *key,
                                   enum gguf_value_type type, size_t count) {
    struct section *section = begin_pair(writer, key, GGUF_VALUE_ARRAY);
    put_number(section, type, 4);
    put_number(section, count, 8);
    return section;
}

void gguf_writer_add_i32s(struct gguf_writer *writer, const char *key, const int32_t *values,
                          size_t count) {
    struct section *section = begin_array(writer, key, GGUF_VALUE_I32, count);
    for (size_t i = 0; i < count; i++)
        put_number(section, (uint32_t)values[i], 4);
}

void gguf_writer_add_strings(struct gguf_writer *writer, const char *key, const json_t *values) {
    struct section *section = begin_array(writer, key, GGUF_VALUE_STRING, json_array_size(values));
    for (size_t i = 0; i < json_array_size(values); i++) {
        const json_t *value = json_array_get(values, i);
        put_text(section, json_string_value(value), json_string_length(value));
    }
}

void gguf_writer_add_pair(struct gguf_writer *writer, const void *pair, size_t bytes) {
    fwrite(pair, 1, bytes, writer->keys.stream);
    writer->keys.entries++;
}

void gguf_writer_set_alignment(struct gguf_writer *writer, uint32_t alignment) {
    assert(writer->tensors.entries == 0 && alignment && (alignment & (alignment - 1)) == 0);
    writer->alignment = alignment;
}

void gguf_writer_add_tensor(struct gguf_writer *writer, const char *name, uint32_t dimensions,
                            const uint64_t *shape, uint32_t type, uint64_t bytes) {
    struct section *section = &writer->tensors;
    if (section->entries == writer->tensor_capacity) {
        size_t capacity = writer->tensor_capacity ? 2 * writer->tensor_capacity : 256;
        uint64_t *grown = realloc(writer->tensor_bytes, capacity * sizeof *grown);
        if (!grown) {
            writer->no_memory = true;
            return;
        }
        writer->tensor_bytes = grown;
        writer->tensor_capacity = capacity;
    }
    put_text(section, name, strlen(name));
    put_number(section, dimensions, 4);
    for (uint32_t i = dimensions; i-- > 0;) /* the file lists the innermost first */
        put_number(section, shape[i], 8);
    put_number(section, type, 4);
    put_number(section, writer->data_bytes, 8);
    writer->tensor_bytes[section->entries++] = bytes;
    writer->data_bytes += round_up(bytes, writer->alignment);
}

/* ---- Writing. */

static enum status report_failure(const struct gguf_writer *writer, const char *what, int error) {
    log_error("cannot %s %s: %s; %s", what, writer->temporary, strerror(error),
              error == ENOSPC || error == EDQUOT || error == EFBIG
                  ? "free space there or write to another disk"
                  : "check the path and its permissions");
    return STATUS_IO;
}

static enum status write_bytes(struct gguf_writer *writer, const void *data, size_t bytes) {
    const char *at = data;
    while (bytes > 0) {
        ssize_t written = write(writer->descriptor, at, bytes);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return report_failure(writer, "write", written < 0 ? errno : ENOSPC);
        at += written;
        bytes -= (size_t)written;
        writer->file_offset += (uint64_t)written;
    }
    return STATUS_OK;
}

/* Fills up to the next multiple of the alignment. */
static enum status write_padding(struct gguf_writer *writer) {
    static const char ZEROS[4096];
    uint64_t left = round_up(writer->file_offset, writer->alignment) - writer->file_offset;
    while (left > 0) {
        size_t piece = left < sizeof ZEROS ? (size_t)left : sizeof ZEROS;
        enum status status = write_bytes(writer, ZEROS, piece);
        if (status != STATUS_OK)
            return status;
        left -= piece;
    }
    return STATUS_OK;
}

static enum status flush_sections(struct gguf_writer *writer) {
    bool failed = fflush(writer->keys.stream) || ferror(writer->keys.stream) ||
                  fflush(writer->tensors.stream) || ferror(writer->tensors.stream);
    if (!failed && !writer->no_memory)
        return STATUS_OK;
    log_error("no memory for the metadata of a GGUF file; free some and try again");
    return STATUS_NO_MEMORY;
}

uint64_t gguf_writer_file_bytes(struct gguf_writer *writer) {
    fflush(writer->keys.stream);
    fflush(writer->tensors.stream);
    uint64_t header = HEADER_BYTES + writer->keys.bytes + writer->tensors.bytes;
    return round_up(header, writer->alignment) + writer->data_bytes;
}

static enum status write_header(struct gguf_writer *writer) {
    uint8_t header[HEADER_BYTES];
    const uint64_t numbers[] = {GGUF_MAGIC | (uint64_t)GGUF_VERSION << 32, writer->tensors.entries,
                                writer->keys.entries};
    for (size_t i = 0; i < HEADER_BYTES; i++)
        header[i] = (uint8_t)(numbers[i / 8] >> 8 * (i % 8));
    enum status status;
    if ((status = write_bytes(writer, header, sizeof header)) ||
        (status = write_bytes(writer, writer->keys.text, writer->keys.bytes)) ||
        (status = write_bytes(writer, writer->tensors.text, writer->tensors.bytes)))
        return status;
    return write_padding(writer);
}

/* Locks the temporary file before it is emptied, since another process may be at it. A disk that is
 * too small is better known now than after an hour. */
static enum status prepare_file(struct gguf_writer *writer) {
    if (flock(writer->descriptor, LOCK_EX | LOCK_NB) < 0) {
        log_error("%s is being written by another process; wait for it or choose another name",
                  writer->temporary);
        return STATUS_IO;
    }
    uint64_t bytes = gguf_writer_file_bytes(writer);
    if (ftruncate(writer->descriptor, 0) < 0)
        return report_failure(writer, "empty", errno);
    if (fallocate(writer->descriptor, 0, 0, (off_t)bytes) == 0 ||
        (errno != ENOSPC && errno != EDQUOT && errno != EFBIG))
        return STATUS_OK;
    log_error("%s needs %" PRIu64 " bytes of disk space: %s; free some there or write to another "
              "disk",
              writer->path, bytes, strerror(errno));
    unlink(writer->temporary);
    return STATUS_IO;
}

enum status gguf_writer_open(struct gguf_writer *writer, const char *path) {
    enum status status = flush_sections(writer);
    if (status != STATUS_OK)
        return status;
    writer->path = strdup(path);
    if (!writer->path || asprintf(&writer->temporary, "%s" SUFFIX, path) < 0) {
        writer->temporary = NULL;
        log_error("no memory to write %s; free some and try again", path);
        return STATUS_NO_MEMORY;
    }
    int descriptor = open(writer->temporary, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor < 0)
        return report_failure(writer, "create", errno);
    writer->descriptor = descriptor;
    status = prepare_file(writer);
    if (status != STATUS_OK) {
        /* Not ours to remove: it may be another process's. */
        close(descriptor);
        writer->descriptor = -1;
        return status;
    }
    return write_header(writer);
}

/* Steps over tensors that are written; what follows each is put in. */
static enum status end_tensors(struct gguf_writer *writer) {
    while (writer->tensor < writer->tensors.entries &&
           writer->tensor_taken == writer->tensor_bytes[writer->tensor]) {
        enum status status = write_padding(writer);
        if (status != STATUS_OK)
            return status;
        writer->tensor++;
        writer->tensor_taken = 0;
    }
    return STATUS_OK;
}

enum status gguf_writer_write(struct gguf_writer *writer, const void *data, size_t bytes) {
    const char *at = data;
    while (bytes > 0) {
        assert(writer->tensor < writer->tensors.entries);
        uint64_t left = writer->tensor_bytes[writer->tensor] - writer->tensor_taken;
        size_t piece = left < bytes ? (size_t)left : bytes;
        enum status status = write_bytes(writer, at, piece);
        if (status != STATUS_OK)
            return status;
        writer->tensor_taken += piece;
        at += piece;
        bytes -= piece;
        status = end_tensors(writer);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

enum status gguf_writer_finish(struct gguf_writer *writer) {
    assert(writer->tensor == writer->tensors.entries);
    if (fsync(writer->descriptor) < 0)
        return report_failure(writer, "write", errno);
    if (rename(writer->temporary, writer->path) < 0) {
        log_error("cannot give %s its name %s: %s; check that it is no directory",
                  writer->temporary, writer->path, strerror(errno));
        return STATUS_IO;
    }
    close(writer->descriptor);
    writer->descriptor = -1;
    return STATUS_OK;
}
