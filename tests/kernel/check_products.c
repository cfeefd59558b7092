/* Products of panels with batches, and what they take for it. The expected sums are of the weights
 * as the reference expands them and of the activations in the form that the product takes: exact,
 * in 8 bits, or rounded to bf16. */
#include "tests/kernel/harness.h"

#include <math.h>

#include "common/kernel/float_panel.h"
#include "common/kernel/half.h"

#define PANELS_MAX  5u
#define COLUMNS_MAX 1280u
#define BATCH_MAX   65u
#define Y_STRIDE    (PANELS_MAX * PANEL_ROWS + 3)
#define UNTOUCHED   12345

enum operation { PANEL_DOT, FLOAT_PANEL_DOT, TILE_DOT };

struct product {
    const struct kernel *kernel;
    enum operation operation;
    enum weight_format format;
    size_t panels, batch;
    uint32_t columns;
};

/* Operands and results of one product; and both operands as they count. */
struct operands {
    uint8_t rows[PANELS_MAX * PANEL_ROWS * COLUMNS_MAX * 4];
    uint8_t panels[PANELS_MAX * PANEL_ROWS * COLUMNS_MAX * 4 + 2];
    float scales[COLUMNS_MAX / FP8_BLOCK];
    float x[BATCH_MAX * (COLUMNS_MAX + 1)];
    struct q8_block q8[BATCH_MAX * (COLUMNS_MAX / Q8_BLOCK_VALUES + 1)];
    _Alignas(64) struct bf16_block bf16[BATCH_MAX * (COLUMNS_MAX / ACTIVATION_BLOCK_VALUES + 1)];
    _Alignas(64) uint8_t scratch[TILE_SCRATCH_BYTES(PANELS_MAX)];
    float y[BATCH_MAX * Y_STRIDE];
    float weights[COLUMNS_MAX];
    float inputs[BATCH_MAX * (COLUMNS_MAX + 1)];
};

/* As far off as may be: nothing else may be taken to be aligned. */
static uint8_t *panels_of(const struct product *p, struct operands *o) {
    return o->panels + (weight_is_blocked(p->format) ? _Alignof(uint16_t) : 1);
}

static void make_panels(struct random *random, const struct product *p, struct operands *o) {
    size_t row_bytes = weight_row_bytes(p->format, p->columns);
    uint8_t *panels = panels_of(p, o);
    for (size_t i = 0; i < p->panels * PANEL_ROWS; i++)
        weights_fill(random, p->format, p->columns, o->rows + i * row_bytes);
    for (size_t i = 0; i < p->panels; i++) {
        const uint8_t *rows = o->rows + i * PANEL_ROWS * row_bytes;
        uint8_t *panel = panels + i * panel_bytes(p->format, p->columns);
        if (weight_is_blocked(p->format))
            panel_pack(p->format, rows, p->columns, panel);
        else
            float_panel_pack(p->format, rows, p->columns, panel);
    }
    random_fill(random, 1, sizeof o->scales / sizeof *o->scales, o->scales);
}

/* Fills x, the form of it that the product takes, and `inputs` with what that form stands for. */
static void make_inputs(struct random *random, const struct product *p, struct operands *o) {
    size_t stride = p->columns + 1, blocks = p->columns / ACTIVATION_BLOCK_VALUES + 1;
    random_fill(random, 3, p->batch * stride, o->x);
    for (size_t r = 0; r < p->batch; r++) {
        const float *x = o->x + r * stride;
        if (p->operation == TILE_DOT)
            p->kernel->split(x, p->columns, o->bf16 + r * blocks);
        if (p->operation == PANEL_DOT)
            p->kernel->quantise(x, p->columns, o->q8 + r * blocks);
        for (uint32_t c = 0; c < p->columns; c++) {
            const struct q8_block *q8 = &o->q8[r * blocks + c / Q8_BLOCK_VALUES];
            float *input = &o->inputs[r * stride + c];
            if (p->operation == PANEL_DOT)
                *input = q8->scale * (float)q8->values[c % Q8_BLOCK_VALUES];
            else
                *input = p->operation == TILE_DOT && weight_is_blocked(p->format)
                             ? rounded_bf16(x[c])
                             : x[c];
        }
    }
}

static void run_product(const struct product *p, struct operands *o) {
    size_t blocks = p->columns / ACTIVATION_BLOCK_VALUES + 1;
    const float *scales = p->format == WEIGHT_FP8_E4M3 ? o->scales : NULL;
    const uint8_t *panels = panels_of(p, o);
    for (size_t i = 0; i < BATCH_MAX * Y_STRIDE; i++)
        o->y[i] = UNTOUCHED;
    memset(o->scratch, 0xff, sizeof o->scratch); /* not a number, whatever the type */
    if (p->operation == PANEL_DOT)
        for (size_t i = 0; i < p->panels; i++)
            p->kernel->panel_dot[p->format](panels + i * panel_bytes(p->format, p->columns),
                                            p->columns, o->q8, blocks, p->batch,
                                            o->y + i * PANEL_ROWS, Y_STRIDE);
    else if (p->operation == FLOAT_PANEL_DOT)
        p->kernel->float_panel_dot[p->format](panels, p->panels, p->columns, scales, o->x,
                                              p->columns + 1, p->batch, o->y, Y_STRIDE);
    else
        p->kernel->tile_dot[p->format](&(struct tile_product){panels, p->panels, p->columns, scales,
                                                              o->bf16, blocks, p->batch, o->y,
                                                              Y_STRIDE, o->scratch});
}

/* Row i of the panels, as it counts. */
static void read_weights(const struct product *p, struct operands *o, size_t i) {
    kernel_get()->expand[p->format](o->rows + i * weight_row_bytes(p->format, p->columns),
                                    p->columns, 1, o->weights);
    for (uint32_t c = 0; c < p->columns; c++) {
        if (p->operation == TILE_DOT && weight_is_blocked(p->format))
            o->weights[c] = rounded_bf16(o->weights[c]);
        if (p->format == WEIGHT_FP8_E4M3)
            o->weights[c] *= o->scales[c / FP8_BLOCK];
    }
}

static void check_product(struct random *random, const struct product *p) {
    static struct operands o;
    static const char *const names[] = {"panel_dot", "float_panel_dot", "tile_dot"};
    make_panels(random, p, &o);
    make_inputs(random, p, &o);
    run_product(p, &o);
    for (size_t i = 0; i < Y_STRIDE; i++) {
        if (i < p->panels * PANEL_ROWS)
            read_weights(p, &o, i);
        for (size_t r = 0; r < BATCH_MAX; r++) {
            double sum = 0, magnitude = 0, got = (double)o.y[r * Y_STRIDE + i];
            if (i >= p->panels * PANEL_ROWS || r >= p->batch)
                sum = UNTOUCHED;
            else
                for (uint32_t c = 0; c < p->columns; c++) {
                    double term = (double)o.weights[c] * (double)o.inputs[r * (p->columns + 1) + c];
                    sum += term;
                    magnitude += fabs(term);
                }
            if (!(fabs(sum - got) <= TOLERANCE * magnitude))
                fail_msg("%s %s %s, %zu panels of %u, batch %zu: y[%zu][%zu] = %g, expected %g "
                         "(off by %g of the magnitudes)",
                         p->kernel->name, names[p->operation], weight_format_name(p->format),
                         p->panels, p->columns, p->batch, r, i, got, sum,
                         fabs(sum - got) / magnitude);
        }
    }
}

static bool has_operation(const struct kernel *kernel, enum operation operation, int format) {
    return operation == PANEL_DOT         ? kernel->panel_dot[format] != NULL
           : operation == FLOAT_PANEL_DOT ? kernel->float_panel_dot[format] != NULL
                                          : kernel->tile_dot[format] != NULL;
}

/* Sizes around what is worked on at a time; of formats with blocks, the next whole block. */
static void check_operation(enum operation operation, const uint32_t *columns, size_t columns_count,
                            const size_t *batches, size_t batch_count) {
    const struct kernel *list[VARIANTS_MAX];
    size_t variants = kernel_list(list, VARIANTS_MAX);
    struct random random = {33};
    for (size_t v = 0; v < variants; v++)
        for (int format = 0; format < WEIGHT_FORMAT_COUNT; format++)
            for (size_t c = 0; c < columns_count && has_operation(list[v], operation, format); c++)
                for (size_t b = 0; b < batch_count; b++) {
                    uint32_t block = weight_block((enum weight_format)format);
                    uint32_t whole = (columns[c] + block - 1) / block * block;
                    bool is_blocked = weight_is_blocked((enum weight_format)format);
                    check_product(&random,
                                  &(struct product){list[v], operation, (enum weight_format)format,
                                                    1 + (b + c) % PANELS_MAX, batches[b],
                                                    is_blocked ? whole : columns[c]});
                }
}

#define LENGTH(array) (sizeof(array) / sizeof *(array))

void check_panel_dot(void **state) {
    (void)state;
    static const uint32_t columns[] = {32, 96, 256, 512, 1024};
    static const size_t batches[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17};
    check_operation(PANEL_DOT, columns, LENGTH(columns), batches, LENGTH(batches));
}

void check_float_panel_dot(void **state) {
    (void)state;
    static const uint32_t columns[] = {4, 8, 124, 128, 132, 256, 644};
    static const size_t batches[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,
                                     12, 13, 14, 15, 16, 17, 18, 19, 20, 21};
    check_operation(FLOAT_PANEL_DOT, columns, LENGTH(columns), batches, LENGTH(batches));
}

void check_tile_dot(void **state) {
    (void)state;
    static const uint32_t columns[] = {4, 60, 132, 516, 1088};
    static const size_t batches[] = {1, 15, 16, 17, 32, 33, 65};
    check_operation(TILE_DOT, columns, LENGTH(columns), batches, LENGTH(batches));
}

/* All bits of all stored values alike, times the largest activations: the sums that could overflow
 * where integers of 16 bits gather them. */
static void check_extreme(const struct kernel *kernel, enum weight_format format, uint8_t byte,
                          float input) {
    enum { COLUMNS = 256 };
    static uint8_t rows[PANEL_ROWS * 2 * COLUMNS], panel[sizeof rows];
    float x[COLUMNS], weights[COLUMNS], y[PANEL_ROWS];
    struct q8_block q8[COLUMNS / Q8_BLOCK_VALUES];
    double sum = 0, magnitude = 0;
    size_t row_bytes = weight_row_bytes(format, COLUMNS);
    size_t block_bytes = weight_row_bytes(format, weight_block(format));
    memset(rows, byte, PANEL_ROWS * row_bytes);
    for (size_t at = 0; at < PANEL_ROWS * row_bytes; at += block_bytes)
        for (size_t i = 0; i < BLOCK_HALVES[format].count; i++)
            memcpy(rows + at + BLOCK_HALVES[format].offset + 2 * i, &(uint16_t){0x3c00}, 2);
    for (size_t i = 0; i < COLUMNS; i++)
        x[i] = input;
    kernel->quantise(x, COLUMNS, q8);
    panel_pack(format, rows, COLUMNS, panel);
    kernel->panel_dot[format](panel, COLUMNS, q8, COLUMNS / Q8_BLOCK_VALUES, 1, y, PANEL_ROWS);
    kernel_get()->expand[format](rows, COLUMNS, 1, weights);
    for (size_t i = 0; i < COLUMNS; i++) {
        sum += (double)weights[i] * (double)x[i];
        magnitude += fabs((double)weights[i] * (double)x[i]);
    }
    for (size_t r = 0; r < PANEL_ROWS; r++)
        if (!(fabs((double)y[r] - sum) <= TOLERANCE * magnitude))
            fail_msg("%s panel_dot %s of bytes %#x times %g: %g, expected %g", kernel->name,
                     weight_format_name(format), byte, (double)input, (double)y[r], sum);
}

void check_panel_extremes(void **state) {
    (void)state;
    static const uint8_t bytes[] = {0, 0x7f, 0x80, 0xff};
    const struct kernel *list[VARIANTS_MAX];
    size_t variants = kernel_list(list, VARIANTS_MAX);
    for (size_t v = 0; v < variants; v++)
        for (int format = 0; format < WEIGHT_FORMAT_COUNT; format++)
            for (size_t b = 0; list[v]->panel_dot[format] && b < LENGTH(bytes); b++)
                for (int sign = -1; sign <= 1; sign += 2)
                    check_extreme(list[v], (enum weight_format)format, bytes[b],
                                  (float)(127 * sign));
}

/* To the bit, and within half a step of what was quantised. */
void check_quantise(void **state) {
    (void)state;
    const struct kernel *list[VARIANTS_MAX];
    size_t variants = kernel_list(list, VARIANTS_MAX);
    struct random random = {8};
    float x[96];
    struct q8_block want[3], got[3];
    for (int round = 0; round < 200; round++) {
        random_fill(&random, round % 3 ? 10 : 1e-20f, 96, x);
        if (round % 5 == 0)
            memset(x + 32, 0, 32 * sizeof *x);
        list[0]->quantise(x, 96, want);
        for (uint32_t i = 0; i < 96; i++) {
            const struct q8_block *block = &want[i / 32];
            float value = block->scale * (float)block->values[i % 32];
            assert_true(fabsf(value - x[i]) <= block->scale * 0.501f);
        }
        for (size_t b = 0; b < 3; b++) {
            int sums[2] = {0, 0};
            for (int i = 0; i < 32; i++)
                sums[i / 16] += want[b].values[i];
            assert_true(want[b].total == want[b].scale * (float)(sums[0] + sums[1]));
            assert_true(want[b].totals[0] == want[b].scale * (float)sums[0]);
            assert_true(want[b].totals[1] == want[b].scale * (float)sums[1]);
        }
        for (size_t v = 1; v < variants; v++) {
            list[v]->quantise(x, 96, got);
            assert_memory_equal(want, got, sizeof want);
        }
    }
}

/* Each part is what the earlier ones miss, rounded; rows are filled up with zeros. */
void check_split(void **state) {
    (void)state;
    const struct kernel *list[VARIANTS_MAX];
    size_t variants = kernel_list(list, VARIANTS_MAX);
    struct random random = {9};
    float x[100];
    struct bf16_block got[4];
    for (size_t v = 0; v < variants; v++)
        for (size_t count = 1; list[v]->split && count <= 100; count++) {
            random_fill(&random, count % 3 ? 10 : 1e-20f, count, x);
            memset(got, 0xff, sizeof got);
            list[v]->split(x, count, got);
            size_t blocks = (count + 31) / 32;
            for (size_t i = 0; i < blocks * 32; i++) {
                float left = i < count ? x[i] : 0;
                for (int part = 0; part < BF16_PARTS; part++) {
                    float value = f32_from_bf16(got[i / 32].parts[part][i % 32]);
                    assert_true(value == rounded_bf16(left));
                    left -= value;
                }
                assert_true(left == 0);
            }
            if (blocks < 4)
                assert_int_equal(got[blocks].parts[0][0], 0xffff);
        }
}
