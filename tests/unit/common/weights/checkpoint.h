/* Checkpoints that a test makes for itself: sound ones from a list of tensors, broken ones from any
 * header text. */
#pragma once

#include <stdint.h>

#include "tests/unit/files.h"
#include "tests/unit/random.h"

struct checkpoint_tensor {
    const char *name, *type;
    uint32_t dimensions;
    uint32_t shape[4];
    const void *data;
    size_t bytes;
};

/* Writes directory/name: the length, the header, the data. */
static inline void checkpoint_write_raw(const char *directory, const char *name, uint64_t length,
                                        const char *header, const void *data, size_t bytes) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    for (unsigned i = 0; i < 8; i++)
        fputc((int)(length >> 8 * i & 0xff), file);
    fputs(header, file);
    if (bytes > 0)
        assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

/* As checkpoint_write_raw, with the header's true length. */
static inline void checkpoint_write_header(const char *directory, const char *name,
                                           const char *header, size_t data_bytes) {
    void *data = calloc(1, data_bytes ? data_bytes : 1);
    checkpoint_write_raw(directory, name, strlen(header), header, data, data_bytes);
    free(data);
}

/* Writes a sound safetensors file. */
static inline void checkpoint_write(const char *directory, const char *name,
                                    const struct checkpoint_tensor *tensors, size_t count) {
    char *header, *data;
    size_t header_bytes, data_bytes, offset = 0;
    FILE *header_stream = open_memstream(&header, &header_bytes);
    FILE *data_stream = open_memstream(&data, &data_bytes);
    fputs("{\"__metadata__\":{\"format\":\"pt\"}", header_stream);
    for (size_t i = 0; i < count; i++) {
        const struct checkpoint_tensor *t = &tensors[i];
        fprintf(header_stream, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name, t->type);
        for (uint32_t d = 0; d < t->dimensions; d++)
            fprintf(header_stream, "%s%u", d ? "," : "", t->shape[d]);
        fprintf(header_stream, "],\"data_offsets\":[%zu,%zu]}", offset, offset + t->bytes);
        fwrite(t->data, 1, t->bytes, data_stream);
        offset += t->bytes;
    }
    fputs("}  ", header_stream);
    fclose(header_stream);
    fclose(data_stream);
    checkpoint_write_raw(directory, name, header_bytes, header, data, data_bytes);
    free(header);
    free(data);
}

/* Random bytes, owned by the caller. */
static inline uint8_t *checkpoint_bytes(struct random *random, size_t count) {
    uint8_t *bytes = malloc(count);
    for (size_t i = 0; i < count; i++)
        bytes[i] = (uint8_t)random_bits(random);
    return bytes;
}
