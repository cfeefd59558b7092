/* The numbers of the GGUF format, for its reader (gguf.h) and its writer (gguf_writer.h). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/weights/matrix.h"

#define GGUF_MAGIC             0x46554747u /* "GGUF" */
#define GGUF_VERSION           3u
#define GGUF_ALIGNMENT_DEFAULT 32u

/* Types of metadata values. */
enum gguf_value_type {
    GGUF_VALUE_U8,
    GGUF_VALUE_I8,
    GGUF_VALUE_U16,
    GGUF_VALUE_I16,
    GGUF_VALUE_U32,
    GGUF_VALUE_I32,
    GGUF_VALUE_F32,
    GGUF_VALUE_BOOL,
    GGUF_VALUE_STRING,
    GGUF_VALUE_ARRAY,
    GGUF_VALUE_U64,
    GGUF_VALUE_I64,
    GGUF_VALUE_F64
};

/* Bytes of one value of the type; 0 for those that have a length, and for numbers that are no type.
 */
uint32_t gguf_value_bytes(uint32_t type);

/* A type of tensors. */
struct gguf_type {
    const char *name;
    enum weight_format format; /* WEIGHT_FORMAT_COUNT: skein does not read it */
    uint32_t block;            /* values */
    uint32_t block_bytes;
};

/* NULL for a number that is no type. */
const struct gguf_type *gguf_find_type(uint32_t number);

/* The number of the type with this format, or with this name; false if there is none. */
bool gguf_type_number(enum weight_format format, uint32_t *out);
bool gguf_type_number_by_name(const char *name, uint32_t *out);
