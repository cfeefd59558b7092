/* Writing a GGUF file, version 3: the metadata and the list of tensors are gathered in memory, then
 * the data goes to the file in order. The inverse of gguf.h.
 *
 * Owned by the exporter; one thread at a time. The file has a temporary name (`path` with ".part")
 * until gguf_writer_finish(), so that a run that ends early leaves nothing that looks like a model.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

struct gguf_writer;

/* Starts a file with no keys and no tensors; nothing is opened yet. The caller destroys it. Errors:
 * STATUS_NO_MEMORY. */
enum status gguf_writer_create(struct gguf_writer **out);

/* Removes the temporary file where there is one. NULL is allowed. */
void gguf_writer_destroy(struct gguf_writer *writer);

/* ---- Before gguf_writer_open. Lack of memory is reported by that. */

void gguf_writer_add_u32(struct gguf_writer *writer, const char *key, uint32_t value);
void gguf_writer_add_f32(struct gguf_writer *writer, const char *key, float value);
void gguf_writer_add_bool(struct gguf_writer *writer, const char *key, bool value);
void gguf_writer_add_string(struct gguf_writer *writer, const char *key, const char *value);
void gguf_writer_add_i32s(struct gguf_writer *writer, const char *key, const int32_t *values,
                          size_t count);

/* Adds an array of the strings in `values`, a JSON array of strings. */
void gguf_writer_add_strings(struct gguf_writer *writer, const char *key, const json_t *values);

/* Adds a key with its value as another file has it (weights_read_pair). */
void gguf_writer_add_pair(struct gguf_writer *writer, const void *pair, size_t bytes);

/* Tensors start at multiples of this; a power of two, GGUF_ALIGNMENT_DEFAULT without it. To be told
 * before the first tensor; "general.alignment" is the caller's to add. */
void gguf_writer_set_alignment(struct gguf_writer *writer, uint32_t alignment);

/* Adds a tensor of 1 to 4 dimensions (outermost first) to the list. `type` is GGUF's number. */
void gguf_writer_add_tensor(struct gguf_writer *writer, const char *name, uint32_t dimensions,
                            const uint64_t *shape, uint32_t type, uint64_t bytes);

/* ---- The file. */

/* Bytes of the whole file, once all is added. */
uint64_t gguf_writer_file_bytes(struct gguf_writer *writer);

/* Creates the temporary file, takes the space on the disk where the file system can, and writes all
 * that was added. Errors: STATUS_IO (named, also when the disk is too small or another process
 * writes the same file), STATUS_NO_MEMORY. */
enum status gguf_writer_open(struct gguf_writer *writer, const char *path);

/* Writes the next bytes of the data: the tensors one behind the other in the order in which they
 * were added, each in pieces of any size. What lies between them is put in. Errors: STATUS_IO. */
enum status gguf_writer_write(struct gguf_writer *writer, const void *data, size_t bytes);

/* Checks that all data is written, makes sure of it on the disk, and gives the file its name,
 * replacing another one. Errors: STATUS_IO. */
enum status gguf_writer_finish(struct gguf_writer *writer);
