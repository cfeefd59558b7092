/* Tensor by tensor in the order of the file, each in chunks of whole rows: one thread reads a
 * chunk, all expand and round its rows, one writes them. Rounding takes nearly all the time. */
#include "coordinator/export.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/arena.h"
#include "common/kernel/block_quantise.h"
#include "common/kernel/matmul.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/weights/gguf_writer.h"
#include "coordinator/export_plan.h"
#include "coordinator/gguf_metadata.h"
#include "coordinator/interrupt.h"
#include "coordinator/progress.h"

/* Values of one task, so that threads share work evenly: about a millisecond. */
#define TASK_VALUES 16384u
/* Bytes that are copied at a time. */
#define COPY_BYTES ((size_t)4 << 20)

struct exporter {
    const struct export_options *options;
    struct weights *weights;
    struct model_shape shape;
    struct export_plan plan;
    struct gguf_writer *writer;
    struct progress *progress;
    /* Grown to the largest chunk; (…_bytes) long. */
    void *input, *output;
    void *scratch; /* f32 (threads, scratch_floats) */
    size_t input_bytes, output_bytes, scratch_floats;
};

/* Some rows of a source, and what is made of them. */
struct chunk {
    struct exporter *exporter;
    const struct export_tensor *tensor;
    struct matrix source;
    uint32_t task_rows; /* of EXPORT_KEYS and EXPORT_VALUES: those of one head */
    size_t row_bytes;   /* of a row that is written */
    atomic_bool not_finite;
};

static enum status report_no_memory(const struct exporter *exporter) {
    log_error("no memory to convert %s; free some and try again", exporter->options->in);
    return STATUS_NO_MEMORY;
}

static enum status report_not_finite(const struct exporter *exporter, const struct tensor *source) {
    log_error("%s: tensor %s has values that are infinite or no numbers: the model is damaged, "
              "download it again",
              weights_path(exporter->weights), source->name);
    return STATUS_FORMAT;
}

/* ---- Rows. */

static bool all_finite(const float *x, size_t count) {
    uint32_t found = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        found |= (bits & 0x7f800000) == 0x7f800000;
    }
    return !found;
}

/* Rounds one expanded row to `out`. What is in the wanted format already stays as it is stored. */
static void round_row(struct chunk *chunk, const float *row, const uint8_t *stored, size_t count,
                      uint8_t *out) {
    if (!all_finite(row, count))
        atomic_store(&chunk->not_finite, true);
    else if (stored && chunk->source.format == chunk->tensor->format)
        memcpy(out, stored, chunk->row_bytes);
    else
        block_quantise(chunk->tensor->format, row, count, out);
}

/* Row 2 i + j of a head is row j (head_dim / 2) + i of the source: a pair that RoPE turns stands
 * together. */
static uint32_t turned_row(uint32_t row, uint32_t head_dim) {
    uint32_t within = row % head_dim, half = head_dim / 2;
    return row - within + within % half * 2 + within / half;
}

static void convert_rows(struct chunk *chunk, uint32_t row, uint32_t rows, float *scratch) {
    const struct export_tensor *tensor = chunk->tensor;
    const struct matrix *source = &chunk->source;
    uint8_t *output = chunk->exporter->output;
    for (uint32_t i = row; i < row + rows; i++) {
        uint32_t place = i;
        if (tensor->kind == EXPORT_TURNED)
            place = turned_row(i, chunk->exporter->shape.head_dim);
        uint8_t *out = output + place * chunk->row_bytes;
        matmul_expand(source, i, 1, 0, source->columns, scratch, source->columns);
        const uint8_t *stored =
            source->data + i * weight_row_bytes(source->format, source->columns);
        round_row(chunk, scratch, stored, source->columns, out);
    }
}

/* One head's rows for keys become (kv_rank, nope). */
static void convert_keys(struct chunk *chunk, uint32_t head, float *scratch) {
    const struct matrix *source = &chunk->source;
    uint32_t nope = chunk->exporter->shape.nope_dim, rank = source->columns;
    float *row = scratch + (size_t)nope * rank;
    uint8_t *out = (uint8_t *)chunk->exporter->output + (size_t)head * rank * chunk->row_bytes;
    matmul_expand(source, head * chunk->task_rows, nope, 0, rank, scratch, rank);
    for (uint32_t i = 0; i < rank; i++) {
        for (uint32_t k = 0; k < nope; k++)
            row[k] = scratch[(size_t)k * rank + i];
        round_row(chunk, row, NULL, nope, out + i * chunk->row_bytes);
    }
}

static void convert_values(struct chunk *chunk, uint32_t head, float *scratch) {
    const struct matrix *source = &chunk->source;
    const struct model_shape *shape = &chunk->exporter->shape;
    uint8_t *out =
        (uint8_t *)chunk->exporter->output + (size_t)head * shape->v_dim * chunk->row_bytes;
    uint32_t row = head * chunk->task_rows + shape->nope_dim;
    for (uint32_t i = 0; i < shape->v_dim; i++) {
        matmul_expand(source, row + i, 1, 0, source->columns, scratch, source->columns);
        round_row(chunk, scratch, NULL, source->columns, out + i * chunk->row_bytes);
    }
}

static void convert_task(void *context, size_t task, unsigned thread) {
    struct chunk *chunk = context;
    struct exporter *exporter = chunk->exporter;
    float *scratch = (float *)exporter->scratch + thread * exporter->scratch_floats;
    uint32_t row = (uint32_t)task * chunk->task_rows, left = chunk->source.rows - row;
    switch (chunk->tensor->kind) {
    case EXPORT_KEYS:
        convert_keys(chunk, (uint32_t)task, scratch);
        break;
    case EXPORT_VALUES:
        convert_values(chunk, (uint32_t)task, scratch);
        break;
    default:
        convert_rows(chunk, row, left < chunk->task_rows ? left : chunk->task_rows, scratch);
    }
}

/* ---- Matrices. */

static uint32_t common_multiple(uint32_t a, uint32_t b) {
    uint32_t x = a, y = b;
    while (y) {
        uint32_t rest = x % y;
        x = y;
        y = rest;
    }
    return a / x * b;
}

/* Rows of a source that must stay together. */
static uint32_t unit_rows(const struct exporter *exporter, const struct export_tensor *tensor) {
    const struct model_shape *shape = &exporter->shape;
    uint32_t block = weight_block_rows(exporter->plan.sources[tensor->source]->format);
    switch (tensor->kind) {
    case EXPORT_TURNED:
        return common_multiple(shape->head_dim, block);
    case EXPORT_KEYS:
    case EXPORT_VALUES:
        return common_multiple(shape->nope_dim + shape->v_dim, block);
    default:
        return block;
    }
}

/* Makes `*memory` at least `bytes` long. */
static bool grow(void **memory, size_t *have, size_t bytes) {
    if (bytes <= *have)
        return true;
    free(*memory);
    *have = 0;
    *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (*memory)
        *have = bytes;
    return *memory != NULL;
}

static bool make_room(struct exporter *exporter, const struct export_tensor *tensor,
                      enum weight_format format, uint32_t rows, size_t row_bytes) {
    const struct model_shape *shape = &exporter->shape;
    size_t written = (size_t)rows * row_bytes, floats = tensor->columns;
    if (tensor->kind == EXPORT_KEYS) {
        written = rows / (shape->nope_dim + shape->v_dim) * tensor->columns * row_bytes;
        floats = (size_t)shape->nope_dim * (tensor->columns + 1);
    }
    size_t have = exporter->scratch_floats * threads_count(exporter->options->threads);
    size_t wanted = floats * threads_count(exporter->options->threads);
    have *= sizeof(float);
    if (!grow(&exporter->input, &exporter->input_bytes,
              matrix_bytes(format, rows, tensor->columns)) ||
        !grow(&exporter->output, &exporter->output_bytes, written) ||
        !grow(&exporter->scratch, &have, wanted * sizeof(float)))
        return false;
    if (floats > exporter->scratch_floats)
        exporter->scratch_floats = floats;
    return true;
}

/* Converts rows [row, row + rows) of a source and writes what they become. */
static enum status convert_chunk(struct exporter *exporter, const struct export_tensor *tensor,
                                 const struct tensor *source, uint32_t row, uint32_t rows) {
    const struct model_shape *shape = &exporter->shape;
    uint32_t columns = (uint32_t)tensor->shape[tensor->dimensions - 1];
    struct chunk chunk = {.exporter = exporter,
                          .tensor = tensor,
                          .task_rows = TASK_VALUES / tensor->columns + 1,
                          .row_bytes = weight_row_bytes(tensor->format, columns)};
    if (!make_room(exporter, tensor, source->format, rows, chunk.row_bytes))
        return report_no_memory(exporter);
    struct region region = {row, rows, 0, tensor->columns};
    enum status status =
        weights_read_region(exporter->weights, source->name, &region, exporter->input);
    if (status != STATUS_OK)
        return status;
    chunk.source = matrix_view(source->format, rows, tensor->columns, exporter->input);
    size_t bytes = rows * chunk.row_bytes;
    if (tensor->kind == EXPORT_KEYS || tensor->kind == EXPORT_VALUES) {
        uint32_t per_head = tensor->kind == EXPORT_KEYS ? tensor->columns : shape->v_dim;
        chunk.task_rows = shape->nope_dim + shape->v_dim;
        bytes = (size_t)(rows / chunk.task_rows) * per_head * chunk.row_bytes;
    }
    threads_run(exporter->options->threads, (rows + chunk.task_rows - 1) / chunk.task_rows,
                convert_task, &chunk);
    if (chunk.not_finite)
        return report_not_finite(exporter, source);
    return gguf_writer_write(exporter->writer, exporter->output, bytes);
}

static enum status check_interrupt(void) {
    return interrupt_is_requested() ? STATUS_CANCELLED : STATUS_OK;
}

static void count_progress(struct exporter *exporter, uint64_t bytes) {
    atomic_uint_least64_t *counter = progress_counter(exporter->progress);
    if (counter)
        atomic_fetch_add(counter, bytes);
}

static enum status convert_source(struct exporter *exporter, const struct export_tensor *tensor,
                                  const struct tensor *source) {
    uint32_t unit = unit_rows(exporter, tensor);
    uint32_t step = EXPORT_CHUNK_VALUES / tensor->columns / unit * unit;
    if (step == 0)
        step = unit;
    for (uint32_t row = 0; row < tensor->rows;) {
        uint32_t left = tensor->rows - row, rows = left < step ? left : step;
        enum status status = check_interrupt();
        if (status == STATUS_OK)
            status = convert_chunk(exporter, tensor, source, row, rows);
        if (status != STATUS_OK)
            return status;
        row += rows;
        count_progress(exporter, source->bytes / tensor->rows * rows);
    }
    return STATUS_OK;
}

/* ---- The others. */

static enum status convert_vector(struct exporter *exporter, const struct export_tensor *tensor,
                                  const struct tensor *source) {
    struct arena *arena = arena_create(0);
    size_t count = (size_t)tensor->shape[0];
    float *values;
    if (!arena)
        return report_no_memory(exporter);
    enum status status =
        weights_load_vector(exporter->weights, source->name, count, arena, &values);
    if (status == STATUS_OK && !all_finite(values, count))
        status = report_not_finite(exporter, source);
    if (status == STATUS_OK)
        status = gguf_writer_write(exporter->writer, values, count * sizeof *values);
    arena_destroy(arena);
    return status;
}

static enum status copy_bytes(struct exporter *exporter, const struct tensor *source) {
    if (!grow(&exporter->input, &exporter->input_bytes, COPY_BYTES))
        return report_no_memory(exporter);
    for (uint64_t at = 0; at < source->bytes;) {
        uint64_t left = source->bytes - at;
        size_t piece = left < COPY_BYTES ? (size_t)left : COPY_BYTES;
        enum status status = check_interrupt();
        if (status == STATUS_OK)
            status =
                weights_read_bytes(exporter->weights, source->name, at, exporter->input, piece);
        if (status == STATUS_OK)
            status = gguf_writer_write(exporter->writer, exporter->input, piece);
        if (status != STATUS_OK)
            return status;
        at += piece;
        count_progress(exporter, piece);
    }
    return STATUS_OK;
}

static enum status convert_tensor(struct exporter *exporter, const struct export_tensor *tensor) {
    enum status status = STATUS_OK;
    for (size_t i = 0; i < tensor->sources && status == STATUS_OK; i++) {
        const struct tensor *source = exporter->plan.sources[tensor->source + i];
        if (tensor->kind == EXPORT_COPY)
            status = copy_bytes(exporter, source);
        else if (tensor->kind == EXPORT_VECTOR)
            status = convert_vector(exporter, tensor, source);
        else
            status = convert_source(exporter, tensor, source);
    }
    return status;
}

/* ---- The file. */

/* Refuses to write over what is read, and over a directory. */
static enum status check_output(const struct exporter *exporter) {
    struct stat facts;
    const struct export_options *options = exporter->options;
    if (stat(options->out, &facts) != 0)
        return STATUS_OK;
    if (S_ISDIR(facts.st_mode)) {
        log_error("%s is a directory; choose another name for what is written", options->out);
        return STATUS_USAGE;
    }
    if (!weights_has_file(exporter->weights, facts.st_dev, facts.st_ino))
        return STATUS_OK;
    log_error("%s is the model that is read from; choose another name for what is written",
              options->out);
    return STATUS_USAGE;
}

/* What the user would not expect, a line for each. */
static void log_plan(const struct exporter *exporter) {
    const struct export_plan *plan = &exporter->plan;
    const char *in = exporter->options->in, *name = exporter->options->recipe->name;
    char list[256] = "";
    for (size_t f = 0, used = 0; f < WEIGHT_FORMAT_COUNT; f++)
        if (plan->fallbacks[f])
            used +=
                (size_t)snprintf(list + used, sizeof list - used, "%s%zu in %s", used ? ", " : "",
                                 plan->fallbacks[f], weight_format_name((enum weight_format)f));
    if (*list)
        log_warning("%s: tensors whose rows are no whole blocks of what %s wants get another "
                    "format: %s",
                    exporter->options->out, name, list);
    if (plan->requantised)
        log_warning("%s: %zu tensors come in another quantised format; rounding them once more "
                    "loses more than rounding the original model",
                    in, plan->requantised);
    if (plan->skipped)
        log_warning("%s: left out %zu tensors that have no place in a GGUF file, as %s", in,
                    plan->skipped, plan->skipped_name);
}

static enum status write_file(struct exporter *exporter) {
    const struct export_options *options = exporter->options;
    const struct export_plan *plan = &exporter->plan;
    enum status status = gguf_metadata_write(exporter->weights, &exporter->shape,
                                             options->recipe->file_type, exporter->writer);
    if (status != STATUS_OK)
        return status;
    for (size_t i = 0; i < plan->count; i++) {
        const struct export_tensor *tensor = &plan->tensors[i];
        gguf_writer_add_tensor(exporter->writer, tensor->name, tensor->dimensions, tensor->shape,
                               tensor->type, tensor->bytes);
    }
    log_plan(exporter);
    status = gguf_writer_open(exporter->writer, options->out);
    if (status != STATUS_OK)
        return status;
    exporter->progress = progress_start("quantising", plan->source_bytes, options->show_progress);
    for (size_t i = 0; i < plan->count && status == STATUS_OK; i++)
        status = convert_tensor(exporter, &plan->tensors[i]);
    progress_stop(exporter->progress);
    return status == STATUS_OK ? gguf_writer_finish(exporter->writer) : status;
}

static enum status run(struct exporter *exporter, struct export_figures *out) {
    const struct export_options *options = exporter->options;
    enum status status;
    if ((status = model_shape_read(options->in, &exporter->shape)) ||
        (status = weights_open(options->in, &exporter->weights)) ||
        (status = check_output(exporter)) ||
        (status = export_plan_make(exporter->weights, &exporter->shape, options->recipe,
                                   &exporter->plan)) ||
        (status = gguf_writer_create(&exporter->writer)) || (status = write_file(exporter)))
        return status;
    *out = (struct export_figures){exporter->plan.source_bytes,
                                   gguf_writer_file_bytes(exporter->writer), exporter->plan.values};
    return STATUS_OK;
}

enum status export_model(const struct export_options *options, struct export_figures *out) {
    struct exporter exporter = {.options = options};
    enum status status = run(&exporter, out);
    gguf_writer_destroy(exporter.writer);
    export_plan_cleanup(&exporter.plan);
    weights_close(exporter.weights);
    free(exporter.input);
    free(exporter.output);
    free(exporter.scratch);
    return status;
}
