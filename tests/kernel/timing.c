/* How fast each entry is, on one thread, next to what the processor and memory can do: the best of
 * short passes that go on for a while, because other work on the machine only makes passes slower.
 * With one row of activations each pass reads other weights, of more than any cache holds; all else
 * stays in the caches. */
#include "tests/kernel/harness.h"

#include <math.h>

#include "common/clock.h"
#include "common/memory.h"

#define MEASURE_S     0.1
#define COLUMNS       2048u
#define PANELS        4u /* of one call, as matmul makes them */
#define WEIGHTS_BYTES (128u << 20)
#define PASS_BYTES    (2u << 20) /* of weights that one pass reads */
#define BATCH_CALLS   2u         /* of a pass with more rows of activations */
#define BATCH_MAX     64u
#define PEAK_ROUNDS   4000u
#define VECTOR_VALUES 4096u

/* What all measurements share. Weights are zeros: no format or instruction is slower with others.
 */
struct timing {
    const struct kernel *kernel;
    uint8_t *weights; /* WEIGHTS_BYTES */
    float scales[COLUMNS / FP8_BLOCK];
    float x[BATCH_MAX * COLUMNS], y[BATCH_MAX * PANELS * PANEL_ROWS];
    struct q8_block q8[BATCH_MAX * COLUMNS / Q8_BLOCK_VALUES];
    _Alignas(64) struct bf16_block bf16[BATCH_MAX * COLUMNS / ACTIVATION_BLOCK_VALUES];
    _Alignas(64) uint8_t scratch[TILE_SCRATCH_BYTES(PANELS)];
    double read_gb_per_s, gmacs[PEAK_UNIT_COUNT];
};

/* One pass of what is measured. */
struct pass {
    struct timing *t;
    void (*run)(const struct pass *pass);
    enum weight_format format;
    const uint8_t *weights;
    size_t step_bytes; /* of a panel, or of a row */
    size_t calls, batch;
};

static double best_seconds(struct pass pass) {
    double best = INFINITY;
    size_t number = 0;
    uint64_t began_ns = clock_now_ns();
    do {
        pass.weights = pass.t->weights + number++ % (WEIGHTS_BYTES / PASS_BYTES) * PASS_BYTES;
        uint64_t started_ns = clock_now_ns();
        pass.run(&pass);
        best = fmin(best, clock_elapsed_s(started_ns));
    } while (clock_elapsed_s(began_ns) < MEASURE_S);
    return best;
}

static void run_read(const struct pass *pass) {
    size_t count = PASS_BYTES / sizeof(float);
    pass->t->kernel->peak->read((const float *)(const void *)pass->weights, count, 0);
}

static void measure_machine(struct timing *t) {
    const struct peak *peak = t->kernel->peak;
    t->read_gb_per_s = PASS_BYTES / best_seconds((struct pass){.t = t, .run = run_read}) / 1e9;
    for (size_t i = 0; i < peak->multiplier_count; i++) {
        const struct peak_multiplier *multiplier = &peak->multipliers[i];
        if (multiplier->is_present && !multiplier->is_present())
            continue;
        double best = INFINITY;
        for (uint64_t began_ns = clock_now_ns(); clock_elapsed_s(began_ns) < MEASURE_S;) {
            uint64_t started_ns = clock_now_ns();
            multiplier->run(PEAK_ROUNDS);
            best = fmin(best, clock_elapsed_s(started_ns));
        }
        double gmacs = (double)PEAK_ROUNDS * multiplier->operations / 2 / best / 1e9;
        t->gmacs[multiplier->unit] = fmax(t->gmacs[multiplier->unit], gmacs);
    }
    printf("%s: reads %.1f GB/s; multiplies f32 %.0f, bf16 %.0f, int8 %.0f GMAC/s\n",
           t->kernel->name, t->read_gb_per_s, t->gmacs[PEAK_F32], t->gmacs[PEAK_BF16],
           t->gmacs[PEAK_INT8]);
}

static void run_panel_dot(const struct pass *pass) {
    struct timing *t = pass->t;
    for (size_t i = 0; i < pass->calls * PANELS; i++)
        t->kernel->panel_dot[pass->format](pass->weights + i * pass->step_bytes, COLUMNS, t->q8,
                                           COLUMNS / Q8_BLOCK_VALUES, pass->batch, t->y,
                                           PANELS * PANEL_ROWS);
}

static void run_float_panel_dot(const struct pass *pass) {
    struct timing *t = pass->t;
    for (size_t i = 0; i < pass->calls; i++)
        t->kernel->float_panel_dot[pass->format](
            pass->weights + i * PANELS * pass->step_bytes, PANELS, COLUMNS,
            pass->format == WEIGHT_FP8_E4M3 ? t->scales : NULL, t->x, COLUMNS, pass->batch, t->y,
            PANELS * PANEL_ROWS);
}

static void run_tile_dot(const struct pass *pass) {
    struct timing *t = pass->t;
    for (size_t i = 0; i < pass->calls; i++)
        t->kernel->tile_dot[pass->format](&(struct tile_product){
            pass->weights + i * PANELS * pass->step_bytes, PANELS, COLUMNS,
            pass->format == WEIGHT_FP8_E4M3 ? t->scales : NULL, t->bf16,
            COLUMNS / ACTIVATION_BLOCK_VALUES, pass->batch, t->y, PANELS * PANEL_ROWS, t->scratch});
}

static void run_dot(const struct pass *pass) {
    struct timing *t = pass->t;
    for (size_t i = 0; i < pass->calls; i++)
        t->y[i % PANEL_ROWS] =
            t->kernel->dot[pass->format](pass->weights + i * pass->step_bytes, t->x, COLUMNS);
}

static void run_expand(const struct pass *pass) {
    struct timing *t = pass->t;
    for (size_t i = 0; i < pass->calls; i++)
        t->kernel->expand[pass->format](pass->weights + i * pass->step_bytes, COLUMNS, 1, t->x);
}

static void run_add(const struct pass *pass) {
    struct timing *t = pass->t;
    for (size_t i = 0; i < pass->calls; i++)
        t->kernel->add[pass->format](pass->weights + i * pass->step_bytes, COLUMNS, 1, t->x);
}

/* One line: the rate over weights with one row of activations, the multiplications of more. */
static void print_product(struct timing *t, const char *name, void (*run)(const struct pass *),
                          enum weight_format format, enum peak_unit unit) {
    struct pass pass = {.t = t,
                        .run = run,
                        .format = format,
                        .step_bytes = panel_bytes(format, COLUMNS),
                        .batch = 1};
    pass.calls = PASS_BYTES / PANELS / pass.step_bytes;
    double gb = (double)(pass.calls * PANELS * pass.step_bytes) / best_seconds(pass) / 1e9;
    printf("  %-15s %-7s %7.2f GB/s %3.0f %%", name, weight_format_name(format), gb,
           100 * gb / t->read_gb_per_s);
    pass.calls = BATCH_CALLS;
    for (pass.batch = 16; pass.batch <= BATCH_MAX; pass.batch *= 4) {
        double macs = (double)(pass.calls * PANELS * PANEL_ROWS * pass.batch) * COLUMNS;
        double gmacs = macs / best_seconds(pass) / 1e9;
        printf("  batch %zu: %6.1f GMAC/s %3.0f %%", pass.batch, gmacs,
               100 * gmacs / t->gmacs[unit]);
    }
    printf("\n");
}

static void print_row(struct timing *t, const char *name, void (*run)(const struct pass *),
                      enum weight_format format) {
    struct pass pass = {
        .t = t, .run = run, .format = format, .step_bytes = weight_row_bytes(format, COLUMNS)};
    pass.calls = PASS_BYTES / pass.step_bytes;
    double gb = (double)(pass.calls * pass.step_bytes) / best_seconds(pass) / 1e9;
    printf("  %-15s %-7s %7.2f GB/s %3.0f %%\n", name, weight_format_name(format), gb,
           100 * gb / t->read_gb_per_s);
}

static void print_products(struct timing *t) {
    const struct kernel *kernel = t->kernel;
    enum peak_unit int8 = t->gmacs[PEAK_INT8] > 0 ? PEAK_INT8 : PEAK_F32;
    for (int f = 0; f < WEIGHT_FORMAT_COUNT; f++) {
        enum weight_format format = (enum weight_format)f;
        print_row(t, "expand", run_expand, format);
        print_row(t, "add", run_add, format);
        print_row(t, "dot", run_dot, format);
        if (kernel->panel_dot[f])
            print_product(t, "panel_dot", run_panel_dot, format, int8);
        if (kernel->float_panel_dot[f])
            print_product(t, "float_panel_dot", run_float_panel_dot, format, PEAK_F32);
        if (kernel->tile_dot[f])
            print_product(t, "tile_dot", run_tile_dot, format, PEAK_BF16);
    }
}

static void run_quantise(const struct pass *pass) {
    pass->t->kernel->quantise(pass->t->x, VECTOR_VALUES, pass->t->q8);
}

static void run_split(const struct pass *pass) {
    pass->t->kernel->split(pass->t->x, VECTOR_VALUES, pass->t->bf16);
}

static void run_add_scaled(const struct pass *pass) {
    pass->t->kernel->add_scaled(0.5f, pass->t->x, VECTOR_VALUES, pass->t->x + VECTOR_VALUES);
}

/* With a copy, because in place again and again all values become subnormal. */
static void run_swiglu(const struct pass *pass) {
    float *x = pass->t->x, *gate = x + 2 * VECTOR_VALUES;
    memcpy(gate, x, VECTOR_VALUES * sizeof *x);
    pass->t->kernel->swiglu(gate, x + VECTOR_VALUES, VECTOR_VALUES, 1);
}

static void run_rms_norm(const struct pass *pass) {
    float *x = pass->t->x;
    pass->t->kernel->rms_norm(x, x + VECTOR_VALUES, VECTOR_VALUES, 1e-6f, x + 2 * VECTOR_VALUES);
}

static void run_softmax(const struct pass *pass) {
    pass->t->kernel->softmax(pass->t->x, VECTOR_VALUES);
}

static void print_vectors(struct timing *t) {
    static const struct {
        const char *name;
        void (*run)(const struct pass *);
    } entries[] = {{"quantise", run_quantise},     {"split", run_split},
                   {"add_scaled", run_add_scaled}, {"swiglu", run_swiglu},
                   {"rms_norm", run_rms_norm},     {"softmax", run_softmax}};
    struct random random = {3};
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        if (entries[i].run == run_split && !t->kernel->split)
            continue;
        random_fill(&random, 1, 3 * VECTOR_VALUES, t->x);
        double seconds = best_seconds((struct pass){.t = t, .run = entries[i].run});
        printf("  %-15s %u values in cache: %.2f values/ns\n", entries[i].name, VECTOR_VALUES,
               VECTOR_VALUES / seconds / 1e9);
    }
}

bool timing_print(const char *name) {
    static struct timing timing;
    const struct kernel *list[VARIANTS_MAX];
    size_t count = kernel_list(list, VARIANTS_MAX), printed = 0;
    timing.weights = memory_map(WEIGHTS_BYTES);
    if (!timing.weights) {
        fprintf(stderr, "no memory for %u MiB of weights\n", WEIGHTS_BYTES >> 20);
        return false;
    }
    memset(timing.weights, 0, WEIGHTS_BYTES);
    for (size_t i = 0; i < count; i++) {
        if (name ? strcmp(list[i]->name, name) != 0 : variants_note(list[i])[0] != '\0')
            continue;
        timing.kernel = list[i];
        memset(timing.gmacs, 0, sizeof timing.gmacs);
        measure_machine(&timing);
        print_products(&timing);
        print_vectors(&timing);
        printed++;
    }
    memory_unmap(timing.weights, WEIGHTS_BYTES);
    if (!printed)
        fprintf(stderr, "no variant \"%s\" here\n", name);
    return printed > 0;
}
