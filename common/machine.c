/* Passes go on for several windows, and the median of the windows' rates counts. A window is longer
 * than the turns in which a system or a hypervisor takes processors away, so what is measured is
 * what goes on for minutes; a single interruption that is longer spoils one window of several. Work
 * goes through the pool in many small tasks, so that a thread that is held up leaves its share to
 * the others, as in the model's own loops.
 *
 * Products are the model's own (matmul) with a matrix that passes through the memory: no pass finds
 * its weights in a cache. What the weights are does not matter for the time, as long as they are
 * ordinary numbers; every byte is FILL_BYTE, which makes such in every format. */
#include "common/machine.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "common/arena.h"
#include "common/clock.h"
#include "common/kernel/kernel.h"
#include "common/kernel/matmul.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/spread.h"

#define WINDOWS  3
#define WINDOW_S 0.04

/* Two huge pages: long enough for the prefetchers to get going. */
#define MEMORY_TASK_BYTES (4u << 20)

/* How far ahead of a load memory is asked for what it reads, see measure_read. */
#define READ_AHEAD_BYTES 12288u

/* Tasks of a multiplying pass for each thread, and how long one takes at least. */
#define MULTIPLY_TASKS  4u
#define MULTIPLY_TASK_S 2e-4

/* So long is a pass of one product at least, that what its beginning and end cost does not show. */
#define PRODUCT_PASS_S 5e-3

/* Columns of the matrices: whole blocks of every format. Their rows come in multiples that are
 * whole blocks, panels and tiles. */
#define PRODUCT_COLUMNS   2048u
#define PRODUCT_ROWS_STEP 128u

/* Results of one pass, 8 MiB of them. */
#define PRODUCT_RESULTS_MAX (2u << 20)

/* 0x3c3c is 1.06 as F16 and 0.0115 as BF16, 0x3c is 1.5 as FP8. */
#define FILL_BYTE 0x3c

/* Something that is measured: each call does the next pass. */
typedef void (*measured_pass)(const void *context, size_t number);

/* Passes in a second. */
static double measure_passes(measured_pass pass, const void *context) {
    double rates[WINDOWS];
    size_t number = 0;
    for (int w = 0; w < WINDOWS; w++) {
        uint64_t began_ns = clock_now_ns();
        size_t first = number;
        double elapsed_s;
        do {
            pass(context, number++);
            elapsed_s = clock_elapsed_s(began_ns);
        } while (elapsed_s < WINDOW_S);
        rates[w] = (double)(number - first) / elapsed_s;
    }
    return spread_of(rates, WINDOWS).median;
}

/* ---- Memory. */

/* Memory that was never written would be one page of zeros, read from the cache over and over. The
 * thread that fills a part also reads it, so it lies near. */
static void fill_task(void *context, size_t task, unsigned thread) {
    (void)thread;
    memset((char *)context + task * MEMORY_TASK_BYTES, FILL_BYTE, MEMORY_TASK_BYTES);
}

static void report_no_memory(size_t bytes) {
    log_error("no memory to measure this machine with, %zu MiB; end other programs, or give "
              "experts less (--memory)",
              bytes >> 20);
}

static enum status take_memory(struct threads *threads, size_t bytes, uint8_t **out) {
    assert(bytes % MEMORY_TASK_BYTES == 0);
    uint8_t *memory = memory_map(bytes);
    if (!memory) {
        report_no_memory(bytes);
        return STATUS_NO_MEMORY;
    }
    threads_run(threads, bytes / MEMORY_TASK_BYTES, fill_task, memory);
    *out = memory;
    return STATUS_OK;
}

struct read_call {
    struct threads *threads;
    uint8_t *memory;
    size_t bytes, ahead_bytes;
};

static void read_task(void *context, size_t task, unsigned thread) {
    (void)thread;
    const struct read_call *call = context;
    const float *values = (const void *)(call->memory + task * MEMORY_TASK_BYTES);
    kernel_get()->peak->read(values, MEMORY_TASK_BYTES / sizeof *values, call->ahead_bytes);
}

static void read_pass(const void *context, size_t number) {
    (void)number;
    const struct read_call *call = context;
    threads_run(call->threads, call->bytes / MEMORY_TASK_BYTES, read_task, (void *)call);
}

/* Asking ahead brings a tenth or two more where others keep the memory busy, and less where they do
 * not: the faster way counts. */
static double measure_read(struct threads *threads, uint8_t *memory, size_t bytes) {
    double best = 0;
    for (int ahead = 0; ahead < 2; ahead++) {
        const struct read_call call = {threads, memory, bytes, ahead ? READ_AHEAD_BYTES : 0};
        best = fmax(best, measure_passes(read_pass, &call));
    }
    return (double)bytes * best;
}

/* ---- Multipliers. */

struct multiply_call {
    struct threads *threads;
    const struct peak_multiplier *multiplier;
    size_t tasks, rounds;
};

static void multiply_task(void *context, size_t task, unsigned thread) {
    (void)task, (void)thread;
    const struct multiply_call *call = context;
    call->multiplier->run(call->rounds);
}

static size_t find_rounds(const struct peak_multiplier *multiplier) {
    for (size_t rounds = 1024;; rounds *= 2) {
        uint64_t started_ns = clock_now_ns();
        multiplier->run(rounds);
        if (clock_elapsed_s(started_ns) >= MULTIPLY_TASK_S)
            return rounds;
    }
}

static void multiply_pass(const void *context, size_t number) {
    (void)number;
    const struct multiply_call *call = context;
    threads_run(call->threads, call->tasks, multiply_task, (void *)call);
}

static double measure_multiplier(struct threads *threads,
                                 const struct peak_multiplier *multiplier) {
    const struct multiply_call call = {threads, multiplier, MULTIPLY_TASKS * threads_count(threads),
                                       find_rounds(multiplier)};
    double operations = (double)call.tasks * (double)call.rounds * multiplier->operations;
    return operations * measure_passes(multiply_pass, &call);
}

enum status machine_measure_peak(struct threads *threads, size_t bytes, struct machine_peak *peak) {
    uint8_t *memory;
    enum status status = take_memory(threads, bytes, &memory);
    if (status)
        return status;
    *peak = (struct machine_peak){.read_bytes_per_s = measure_read(threads, memory, bytes)};
    memory_unmap(memory, bytes);
    const struct peak *units = kernel_get()->peak;
    for (size_t i = 0; i < units->multiplier_count; i++) {
        const struct peak_multiplier *multiplier = &units->multipliers[i];
        if (!multiplier->is_present || multiplier->is_present())
            peak->operations_per_s[multiplier->unit] = fmax(
                peak->operations_per_s[multiplier->unit], measure_multiplier(threads, multiplier));
    }
    return STATUS_OK;
}

/* ---- Products. */

/* What all products have in common. */
struct testbed {
    const uint8_t *weights; /* (bytes) */
    size_t bytes;
    struct arena *arena;
    struct matmul_workspace workspace;
    float *x; /* (MACHINE_BATCH_ROWS, PRODUCT_COLUMNS) */
    float *y; /* (PRODUCT_RESULTS_MAX) */
};

struct product {
    const struct testbed *bed;
    enum weight_format format;
    bool exact;
    size_t batch;
    uint32_t rows; /* of weights, in a pass */
};

static size_t rows_bytes(enum weight_format format, uint32_t rows) {
    return matrix_bytes(format, rows, PRODUCT_COLUMNS);
}

/* Multiplies product->rows rows of weights, the `number`-th in the memory that passes by. */
static void product_pass(const void *context, size_t number) {
    const struct product *product = context;
    const struct testbed *bed = product->bed;
    size_t bytes = rows_bytes(product->format, product->rows), count = bed->bytes / bytes;
    struct matrix w = matrix_view(product->format, product->rows, PRODUCT_COLUMNS,
                                  bed->weights + number % count * bytes);
    w.packed = panel_can_pack(&w, product->exact);
    matmul(&bed->workspace, &w, bed->x, product->batch, bed->y);
}

/* Lets a pass take PRODUCT_PASS_S, as far as there is memory for its rows. */
static void find_rows(struct product *product) {
    size_t fit =
        product->bed->bytes / rows_bytes(product->format, PRODUCT_ROWS_STEP) * PRODUCT_ROWS_STEP;
    size_t rows_max = PRODUCT_RESULTS_MAX / product->batch;
    rows_max = rows_max < fit ? rows_max : fit;
    assert(fit > 0);
    product->rows = PRODUCT_ROWS_STEP * threads_count(product->bed->workspace.threads);
    for (size_t number = 0; product->rows < rows_max; number++) {
        uint64_t started_ns = clock_now_ns();
        product_pass(product, number);
        if (clock_elapsed_s(started_ns) >= PRODUCT_PASS_S)
            return;
        product->rows *= 2;
    }
    product->rows = (uint32_t)rows_max;
}

/* Rows of weights in a second. */
static double measure_product(struct product product) {
    find_rows(&product);
    return product.rows * measure_passes(product_pass, &product);
}

static void measure_format(const struct testbed *bed, enum weight_format format, bool exact,
                           struct format_figures *out) {
    struct product product = {bed, format, exact, 1, 0};
    double row_bytes = (double)rows_bytes(format, PRODUCT_ROWS_STEP) / PRODUCT_ROWS_STEP;
    out->decode_bytes_per_s = measure_product(product) * row_bytes;
    product.batch = MACHINE_BATCH_ROWS;
    out->batch_macs_per_s = measure_product(product) * PRODUCT_COLUMNS * MACHINE_BATCH_ROWS;
}

static enum status prepare_testbed(struct threads *threads, const uint8_t *weights, size_t bytes,
                                   struct testbed *out) {
    struct arena *arena = arena_create(0);
    if (!arena)
        return STATUS_NO_MEMORY;
    *out = (struct testbed){.weights = weights, .bytes = bytes, .arena = arena};
    out->x = arena_take(arena, (size_t)MACHINE_BATCH_ROWS * PRODUCT_COLUMNS, sizeof(float));
    out->y = arena_take(arena, PRODUCT_RESULTS_MAX, sizeof(float));
    out->workspace = (struct matmul_workspace){
        .threads = threads,
        .scratch_stride = matmul_scratch_floats(),
        .scratch =
            arena_take(arena, threads_count(threads) * matmul_scratch_floats(), sizeof(float)),
        .prepared = arena_take(arena, MACHINE_BATCH_ROWS, matmul_row_bytes(PRODUCT_COLUMNS)),
    };
    if (!out->x || !out->y || !out->workspace.scratch || !out->workspace.prepared) {
        arena_destroy(arena);
        return STATUS_NO_MEMORY;
    }
    for (size_t i = 0; i < (size_t)MACHINE_BATCH_ROWS * PRODUCT_COLUMNS; i++)
        out->x[i] = 1.0f;
    return STATUS_OK;
}

static bool lacks(const struct machine_figures *figures, const struct machine_work *work,
                  enum weight_format format) {
    const struct format_figures *found = &figures->formats[format];
    return work->formats >> format & 1 &&
           !(found->decode_bytes_per_s > 0 && found->batch_macs_per_s > 0);
}

bool machine_has_figures(const struct machine_figures *figures, const struct machine_work *work) {
    bool has = figures->read_bytes_per_s > 0;
    for (int format = 0; format < WEIGHT_FORMAT_COUNT; format++)
        has &= !lacks(figures, work, (enum weight_format)format);
    return has;
}

enum status machine_measure_figures(struct threads *threads, const struct machine_work *work,
                                    size_t bytes, struct machine_figures *figures) {
    if (machine_has_figures(figures, work))
        return STATUS_OK;
    uint8_t *memory;
    struct testbed bed;
    enum status status = take_memory(threads, bytes, &memory);
    if (status)
        return status;
    if ((status = prepare_testbed(threads, memory, bytes, &bed))) {
        report_no_memory(bytes);
        goto err_unmap;
    }
    if (!(figures->read_bytes_per_s > 0))
        figures->read_bytes_per_s = measure_read(threads, memory, bytes);
    for (int format = 0; format < WEIGHT_FORMAT_COUNT; format++)
        if (lacks(figures, work, (enum weight_format)format))
            measure_format(&bed, (enum weight_format)format, work->exact,
                           &figures->formats[format]);
    arena_destroy(bed.arena);
err_unmap:
    memory_unmap(memory, bytes);
    return status;
}

bool machine_rate_is_plausible(double per_s) {
    return per_s >= 1 && per_s < MACHINE_RATE_MAX;
}
