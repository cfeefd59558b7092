/* The inner loops that depend on the instruction set: one table, filled once at start-up.
 *
 * Each variant lives in a file of its own (reference.c, avx2.c, neon.c, ...), compiled with
 * that file's flags; tests compare each with the reference. Vectors are plain f32, unaligned, any
 * length; inputs and outputs do not overlap unless a comment says so. All functions are pure and
 * thread-safe. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/kernel/activations.h"
#include "common/kernel/panel.h"
#include "common/kernel/peak.h"
#include "common/status.h"
#include "common/weights/matrix.h"

/* What kernel_select takes, as a list for options. */
#if defined(__x86_64__)
#define KERNEL_CHOICES "auto|reference|avx2|avx512|amx"
#elif defined(__aarch64__)
#define KERNEL_CHOICES "auto|reference|neon"
#else
#define KERNEL_CHOICES "auto|reference"
#endif

/* Packed panels of a matrix times a batch of activations, for a unit that multiplies tiles. */
struct tile_product {
    const uint8_t *panels; /* (count) one behind another, as panel.h or float_panel.h has them */
    size_t count;
    uint32_t columns;
    const float *scales;        /* as for float_panel_dot */
    const struct bf16_block *x; /* (batch), x_stride blocks apart */
    size_t x_stride, batch;
    float *y; /* y[r * y_stride + i] = row i of the panels . x[r] */
    size_t y_stride;
    uint8_t *scratch; /* TILE_SCRATCH_BYTES(count), best 64-byte aligned */
};

/* Columns of weights that are made ready at a time, in two bf16 each; and sums. */
#define TILE_BLOCK_COLUMNS        512u
#define TILE_SCRATCH_BYTES(count) ((count) * (4 * PANEL_ROWS * TILE_BLOCK_COLUMNS) + 4096)

/* Some rows of f32, of which a first or second level cache holds all: (count, width), `stride`
 * floats from one to the next. */
struct row_tile {
    const float *values;
    size_t stride, count, width;
};

struct kernel {
    const char *name; /* as --isa takes it */

    /* out[i] = values[i] * scale, from each weight format to f32; `scale` is 1 but for FP8.
     * FP8 is E4M3 without infinities; its two NaN codes, which no checkpoint uses, read as 480.
     * Of formats with blocks (weight_is_blocked), `values` starts with a block and `count` is a
     * multiple of weight_block(). */
    void (*expand[WEIGHT_FORMAT_COUNT])(const void *values, size_t count, float scale, float *out);

    /* y[i] += values[i] * scale, in f32: a row's part of a product with the transposed matrix.
     * `values` and `count` as above; any `scale`. */
    void (*add[WEIGHT_FORMAT_COUNT])(const void *values, size_t count, float scale, float *y);

    /* sum of values[i] * x[i], in f32; `values` and `count` as above. */
    float (*dot[WEIGHT_FORMAT_COUNT])(const void *values, const float *x, size_t count);

    /* Activations in 8 bits, 32 with one scale: `count` is a multiple of 32. */
    void (*quantise)(const float *x, size_t count, struct q8_block *out);

    /* y[r * y_stride + i] = row i of the panel . x[r] for its sixteen rows and r in [0, batch), for
     * the quantised formats that can be packed; x[r] is columns / 32 blocks at x + r * x_stride. */
    void (*panel_dot[WEIGHT_FORMAT_COUNT])(const uint8_t *panel, uint32_t columns,
                                           const struct q8_block *x, size_t x_stride, size_t batch,
                                           float *y, size_t y_stride);

    /* The same with activations in f32 and `count` panels one behind another, for the formats
     * without blocks (float_panel.h): y[r * y_stride + i] = row i of the panels . x[r], x[r] at
     * x + r * x_stride. `scales` are FP8's, one for each 128 columns, of the one block of rows that
     * all panels lie in; else NULL. */
    void (*float_panel_dot[WEIGHT_FORMAT_COUNT])(const uint8_t *panels, size_t count,
                                                 uint32_t columns, const float *scales,
                                                 const float *x, size_t x_stride, size_t batch,
                                                 float *y, size_t y_stride);

    /* Of tables with a unit that multiplies tiles of bf16, else NULL: activations for it, any
     * `count`; and products with panels of each format that it takes. Quantised weights are rounded
     * to bf16, and only the first part of their activations counts. The formats without blocks lose
     * no digits; F32, which would take too many products for that, is not among them. */
    void (*split)(const float *x, size_t count, struct bf16_block *out);
    void (*tile_dot[WEIGHT_FORMAT_COUNT])(const struct tile_product *product);

    /* From so many rows of activations on, tile_dot is faster than the products above. */
    size_t tile_batch_min;

    /* y[i] += a * x[i] */
    void (*add_scaled)(float a, const float *x, size_t count, float *y);

    /* gate[i] = silu(gate[i]) * up[i] * weight, silu(v) = v / (1 + exp(-v)) */
    void (*swiglu)(float *gate, const float *up, size_t count, float weight);

    /* out = x / sqrt(mean(x^2) + epsilon) * weight; out may be x. */
    void (*rms_norm)(const float *x, const float *weight, size_t count, float epsilon, float *out);

    /* Replaces x by exp(x - max(x)) / sum; count >= 1. */
    void (*softmax)(float *x, size_t count);

    /* A part of a softmax: raises *best to the largest of *best and scale * x, replaces x by
     * exp(scale * x - *best) and returns the sum of that; count >= 1, scale > 0. */
    float (*softmax_part)(float *x, size_t count, float scale, float *best);

    /* y[r * y_stride + i] = row i . x[r] for r in [0, batch), x[r] at x + r * x_stride */
    void (*row_dots)(const struct row_tile *rows, const float *x, size_t x_stride, size_t batch,
                     float *y, size_t y_stride);

    /* y[r] += the sum over i of a[r * a_stride + i] * row i, y[r] at y + r * y_stride: the product
     * with the transposed rows. */
    void (*row_sums)(const struct row_tile *rows, const float *a, size_t a_stride, size_t batch,
                     float *y, size_t y_stride);

    /* What the instruction set can do at most, for measuring. */
    const struct peak *peak;
};

/* Chooses the table for the process: "auto" takes the widest that this processor has. Call once,
 * before any thread computes. Errors: STATUS_UNSUPPORTED for a name that is unknown or that the
 * processor lacks (the line lists what there is), and on an OpenBLAS that cannot be called from
 * several threads. */
enum status kernel_select(const char *name);

/* The chosen table; the reference before kernel_select. */
const struct kernel *kernel_get(void);

/* All tables this processor can run, the reference first; returns how many (at most `max`). */
size_t kernel_list(const struct kernel **out, size_t max);
