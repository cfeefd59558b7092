/* GGUF files that a test makes for itself, part by part, sound or broken. */
#pragma once

#include <stdint.h>

#include "tests/unit/files.h"

struct gguf_file {
    uint32_t magic, version;
    uint64_t keys, tensors; /* the counts that the header claims */
    uint32_t alignment;
    FILE *key_stream, *tensor_stream, *data_stream;
    char *key_text, *tensor_text, *data_text;
    size_t key_bytes, tensor_bytes, data_bytes;
};

enum gguf_value {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
};

static inline void gguf_begin(struct gguf_file *file) {
    *file = (struct gguf_file){.magic = 0x46554747, .version = 3, .alignment = 32};
    file->key_stream = open_memstream(&file->key_text, &file->key_bytes);
    file->tensor_stream = open_memstream(&file->tensor_text, &file->tensor_bytes);
    file->data_stream = open_memstream(&file->data_text, &file->data_bytes);
}

static inline void gguf_put(FILE *stream, const void *value, size_t bytes) {
    assert_int_equal(fwrite(value, 1, bytes, stream), bytes);
}

static inline void gguf_put_u32(FILE *stream, uint32_t value) {
    gguf_put(stream, &value, sizeof value);
}

static inline void gguf_put_u64(FILE *stream, uint64_t value) {
    gguf_put(stream, &value, sizeof value);
}

static inline void gguf_put_text(FILE *stream, const char *text, size_t bytes) {
    gguf_put_u64(stream, bytes);
    gguf_put(stream, text, bytes);
}

/* The key and the type; the value is put behind them by hand. */
static inline void gguf_key(struct gguf_file *file, const char *key, uint32_t type) {
    gguf_put_text(file->key_stream, key, strlen(key));
    gguf_put_u32(file->key_stream, type);
    file->keys++;
}

static inline void gguf_key_value(struct gguf_file *file, const char *key, uint32_t type,
                                  const void *value, size_t bytes) {
    gguf_key(file, key, type);
    gguf_put(file->key_stream, value, bytes);
}

static inline void gguf_key_u32(struct gguf_file *file, const char *key, uint32_t value) {
    gguf_key_value(file, key, GGUF_U32, &value, sizeof value);
}

static inline void gguf_key_f32(struct gguf_file *file, const char *key, float value) {
    gguf_key_value(file, key, GGUF_F32, &value, sizeof value);
}

static inline void gguf_key_bool(struct gguf_file *file, const char *key, uint8_t value) {
    gguf_key_value(file, key, GGUF_BOOL, &value, sizeof value);
}

static inline void gguf_key_text(struct gguf_file *file, const char *key, const char *text) {
    gguf_key(file, key, GGUF_STRING);
    gguf_put_text(file->key_stream, text, strlen(text));
}

/* An array's head; its `count` values are put behind it by hand. */
static inline void gguf_key_array(struct gguf_file *file, const char *key, uint32_t type,
                                  uint64_t count) {
    gguf_key(file, key, GGUF_ARRAY);
    gguf_put_u32(file->key_stream, type);
    gguf_put_u64(file->key_stream, count);
}

/* An entry of the list of tensors, `shape` innermost first. */
static inline void gguf_list(struct gguf_file *file, const char *name, uint32_t dimensions,
                             const uint64_t *shape, uint32_t type, uint64_t offset) {
    gguf_put_text(file->tensor_stream, name, strlen(name));
    gguf_put_u32(file->tensor_stream, dimensions);
    for (uint32_t i = 0; i < dimensions; i++)
        gguf_put_u64(file->tensor_stream, shape[i]);
    gguf_put_u32(file->tensor_stream, type);
    gguf_put_u64(file->tensor_stream, offset);
    file->tensors++;
}

/* A tensor with its data, behind what is there already. */
static inline void gguf_tensor(struct gguf_file *file, const char *name, uint32_t dimensions,
                               const uint64_t *shape, uint32_t type, const void *data,
                               size_t bytes) {
    fflush(file->data_stream);
    while (file->data_bytes % file->alignment) {
        fputc(0, file->data_stream);
        fflush(file->data_stream);
    }
    gguf_list(file, name, dimensions, shape, type, file->data_bytes);
    gguf_put(file->data_stream, data, bytes);
}

/* Writes directory/name and frees what was gathered. */
static inline void gguf_write(struct gguf_file *file, const char *directory, const char *name) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    fclose(file->key_stream);
    fclose(file->tensor_stream);
    fclose(file->data_stream);
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    gguf_put_u32(stream, file->magic);
    gguf_put_u32(stream, file->version);
    gguf_put_u64(stream, file->tensors);
    gguf_put_u64(stream, file->keys);
    gguf_put(stream, file->key_text, file->key_bytes);
    gguf_put(stream, file->tensor_text, file->tensor_bytes);
    while (file->data_bytes && ftell(stream) % file->alignment)
        fputc(0, stream);
    gguf_put(stream, file->data_text, file->data_bytes);
    assert_int_equal(fclose(stream), 0);
    free(file->key_text);
    free(file->tensor_text);
    free(file->data_text);
}
