/* The tensors of a GGUF file that is to be written from a checkpoint: their names, shapes and
 * formats, and what each is made of.
 *
 * Made and owned by the exporter; read-only once made. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/limits.h"
#include "common/status.h"
#include "common/weights/gguf_writer.h"
#include "common/weights/weights.h"
#include "coordinator/recipe.h"
#include "coordinator/shape.h"

enum export_kind {
    EXPORT_COPY,     /* the source's bytes as they are */
    EXPORT_VECTOR,   /* F32 */
    EXPORT_MATRICES, /* the sources' rows behind one another */
    EXPORT_TURNED,   /* the same with each head's halves of rows interleaved (V1's queries, keys) */
    EXPORT_KEYS,     /* of kv_b each head's part for keys, transposed: (heads, kv_rank, nope) */
    EXPORT_VALUES,   /* of kv_b each head's part for values: (heads, v, kv_rank) */
};

struct export_tensor {
    char name[TENSOR_NAME_BYTES_MAX + 1];
    enum export_kind kind;
    enum weight_format format; /* of EXPORT_COPY: the source's */
    uint32_t type;             /* GGUF's number of it */
    uint32_t dimensions;
    uint64_t shape[4]; /* outermost first */
    uint64_t bytes;
    size_t source, sources; /* in the plan's list: a stack's matrices, else one */
    uint32_t rows, columns; /* of each source; 0 for copies and vectors */
};

struct export_plan {
    struct export_tensor *tensors; /* (count), in the order of the file */
    size_t count;
    const struct tensor **sources; /* point into the checkpoint's directory */
    size_t source_count;
    uint64_t source_bytes; /* of all of them */
    uint64_t values;       /* in all tensors */
    /* For the log. */
    size_t requantised;                    /* tensors that come in another quantised format */
    size_t fallbacks[WEIGHT_FORMAT_COUNT]; /* tensors in this format since rows are no whole blocks
                                              of the one wanted */
    size_t skipped;                        /* tensors that have no place in a GGUF file */
    const char *skipped_name;              /* one of them */
};

/* Plans the file for `weights`, which must outlive it. The caller cleans it up. Errors:
 * STATUS_FORMAT (experts missing, shapes that contradict each other or the configuration),
 * STATUS_UNSUPPORTED (a type that skein cannot read), STATUS_NO_MEMORY: one line that names the
 * tensor. */
enum status export_plan_make(const struct weights *weights, const struct model_shape *shape,
                             const struct recipe *recipe, struct export_plan *out);
void export_plan_cleanup(struct export_plan *plan);
