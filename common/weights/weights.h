/* An open checkpoint: the directory of its tensors, and bounded reads from them.
 *
 * Hides the file format (safetensors, one file or many with an index; GGUF, whole or in parts,
 * whose tensors appear under the names of Hugging Face checkpoints). Owned by main of either
 * binary; reads are thread-safe (pread), so loaders may run on all threads. Nothing is mapped: a
 * file that is cut short while we run is a read error, never a SIGBUS, and memory holds only what
 * is used. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/arena.h"
#include "common/status.h"
#include "common/weights/matrix.h"

struct weights;

/* One tensor as the file declares it; checked against the file's size when it was opened. */
struct tensor {
    const char *name;
    const char *type;          /* what the file calls its type, e.g. "BF16" */
    enum weight_format format; /* WEIGHT_FORMAT_COUNT: a type that skein cannot read */
    uint32_t dimensions; /* 1 or 2 for what skein reads; others are kept with their true count */
    uint64_t shape[4];   /* outermost first; missing ones are 1 */
    uint64_t bytes;
};

/* Opens a Hugging Face directory (model.safetensors, or model.safetensors.index.json with its
 * files), a single .safetensors file or a .gguf file (any one of several parts), and checks every
 * header: length, JSON, types, shapes, offsets in bounds, no overlap, no duplicate names, every
 * tensor of the index present in the file it names. The caller closes it. Errors: STATUS_NOT_FOUND,
 * STATUS_IO, STATUS_FORMAT, STATUS_UNSUPPORTED (a file of another kind), STATUS_NO_MEMORY; each
 * with one logged line that names the file and, where there is one, the tensor. A tensor of a type
 * that skein cannot read is accepted here and refused (STATUS_UNSUPPORTED) when it is asked for. */
enum status weights_open(const char *path, struct weights **out);
void weights_close(struct weights *weights);

/* The path it was opened with. */
const char *weights_path(const struct weights *weights);

/* What a GGUF file says besides its tensors: an object, key -> number, true, false, string or array
 * of those. Owned by `weights`; NULL for other formats. */
const json_t *weights_metadata(const struct weights *weights);

/* The bytes that a GGUF file has for key number `index` of weights_metadata() and its value; the
 * caller frees *out. Errors: STATUS_IO, STATUS_NO_MEMORY. */
enum status weights_read_pair(const struct weights *weights, size_t index, void **out,
                              size_t *bytes);

/* Whether one of the checkpoint's open files is this one. */
bool weights_has_file(const struct weights *weights, dev_t device, ino_t inode);

/* All tensors, sorted by name. */
size_t weights_count(const struct weights *weights);
const struct tensor *weights_at(const struct weights *weights, size_t index);

/* NULL, and nothing logged, when there is no tensor of that name. */
const struct tensor *weights_find(const struct weights *weights, const char *name);

/* Finds the matrix `name`, which must be (rows, columns) and of a type that skein can read. Errors,
 * which are logged: STATUS_NOT_FOUND, STATUS_FORMAT (another shape), STATUS_UNSUPPORTED (type). */
enum status weights_find_matrix(const struct weights *weights, const char *name, uint32_t rows,
                                uint32_t columns, const struct tensor **out);

/* A hash of all names, types, shapes and of a sample of the contents: two machines whose copies
 * have the same fingerprint hold the same checkpoint. The same for one file and for many. Errors:
 * STATUS_IO. */
enum status weights_fingerprint(const struct weights *weights, uint64_t *out);

/* A rectangle of a matrix. */
struct region {
    uint32_t row, rows;
    uint32_t column, columns;
};

/* Reads a region of the 2-dimensional tensor `name` into `storage` (matrix_bytes(format,
 * region.rows, region.columns) bytes, 64-byte aligned), laid out for matrix_view(). For FP8 the
 * scales come from "<name>_scale_inv", and the region must start at multiples of FP8_BLOCK and end
 * at such a multiple or at the matrix's edge (STATUS_UNSUPPORTED otherwise). Errors:
 * STATUS_NOT_FOUND (no such tensor, or no scales), STATUS_FORMAT (not 2-dimensional, region
 * outside, scales of another shape), STATUS_UNSUPPORTED (type), STATUS_IO. */
enum status weights_read_region(const struct weights *weights, const char *name,
                                const struct region *region, void *storage);

/* Reads bytes of the tensor `name`, which there must be, as they are stored: `count` from `offset`
 * on, which must be within it. For any type. Errors: STATUS_IO. */
enum status weights_read_bytes(const struct weights *weights, const char *name, uint64_t offset,
                               void *out, size_t count);

/* Reads the whole matrix `name`, which must be (rows, columns), into memory from `arena`. Errors:
 * as weights_find_matrix and weights_read_region; STATUS_NO_MEMORY. */
enum status weights_load_matrix(const struct weights *weights, const char *name, uint32_t rows,
                                uint32_t columns, struct arena *arena, struct matrix *out);

/* Reads the tensor `name` with `count` values (any shape) of F32, F16 or BF16 as f32 into memory
 * from `arena`. For norms, biases and the router. Errors: as weights_find_matrix;
 * STATUS_NO_MEMORY, STATUS_IO. */
enum status weights_load_vector(const struct weights *weights, const char *name, size_t count,
                                struct arena *arena, float **out);
