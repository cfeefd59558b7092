/* Products with rows of f32 written once over a vector type; part of simd.h. ROWS_BATCH x by
 * ROWS_SIDE rows or vectors of a row are eight sums in registers, so a value is loaded once for
 * several multiply-adds and no sum waits for the one before; a single x has eight sums beside each
 * other. For a batch as large as a prompt's, dot products are better left to a matrix product that
 * transposes its operand; sums are not. */
#define ROWS_BATCH  4
#define ROWS_SIDE   2
#define ROWS_SINGLE 8
/* Rows of x that stay in the first cache while all rows go by. */
#define ROWS_BLOCK 8

#define ROWS_INLINE static inline __attribute__((always_inline))

/* y[r][i] = row i . x[r] for i in [first, first + count), r in [0, batch) */
ROWS_INLINE void dot_rows_tile(const struct row_tile *rows, size_t first, size_t count,
                               const float *x, size_t x_stride, size_t batch, float *y,
                               size_t y_stride) {
    VEC sums[ROWS_BATCH][ROWS_SINGLE];
    const float *w = rows->values + first * rows->stride;
    size_t at = 0;
    for (size_t r = 0; r < batch; r++)
        for (size_t i = 0; i < count; i++)
            sums[r][i] = ZERO();
    for (; at + LANES <= rows->width; at += LANES) {
        VEC v[ROWS_SINGLE];
        for (size_t i = 0; i < count; i++)
            v[i] = LOAD(w + i * rows->stride + at);
        for (size_t r = 0; r < batch; r++) {
            VEC a = LOAD(x + r * x_stride + at);
            for (size_t i = 0; i < count; i++)
                sums[r][i] = FMA(a, v[i], sums[r][i]);
        }
    }
    for (size_t r = 0; r < batch; r++)
        for (size_t i = 0; i < count; i++) {
            float sum = SUM(sums[r][i]);
            for (size_t c = at; c < rows->width; c++)
                sum += w[i * rows->stride + c] * x[r * x_stride + c];
            y[r * y_stride + first + i] = sum;
        }
}

/* All rows for some x, `step` of them and `side` rows at a time. */
ROWS_INLINE void dot_rows_batch(const struct row_tile *rows, size_t side, const float *x,
                                size_t x_stride, size_t batch, size_t step, float *y,
                                size_t y_stride) {
    size_t i = 0;
    for (; i + side <= rows->count; i += side)
        for (size_t r = 0; r < batch; r += step)
            dot_rows_tile(rows, i, side, x + r * x_stride, x_stride, step, y + r * y_stride,
                          y_stride);
    for (; i < rows->count; i++)
        for (size_t r = 0; r < batch; r += step)
            dot_rows_tile(rows, i, 1, x + r * x_stride, x_stride, step, y + r * y_stride, y_stride);
}

static void row_dots(const struct row_tile *rows, const float *x, size_t x_stride, size_t batch,
                     float *y, size_t y_stride) {
    size_t r = 0, left;
    for (; (left = (batch - r) / ROWS_BATCH * ROWS_BATCH) > 0; r += left) {
        left = left < ROWS_BLOCK ? left : ROWS_BLOCK;
        dot_rows_batch(rows, ROWS_SIDE, x + r * x_stride, x_stride, left, ROWS_BATCH,
                       y + r * y_stride, y_stride);
    }
    if (r < batch)
        dot_rows_batch(rows, ROWS_SINGLE, x + r * x_stride, x_stride, batch - r, 1,
                       y + r * y_stride, y_stride);
}

/* y[r] += the sum over i of a[r][i] row i, for `vectors` vectors of values from `first` on. */
ROWS_INLINE void sum_rows_tile(const struct row_tile *rows, size_t first, size_t vectors,
                               const float *a, size_t a_stride, size_t batch, float *y,
                               size_t y_stride) {
    VEC sums[ROWS_BATCH][ROWS_SINGLE];
    const float *w = rows->values + first;
    for (size_t r = 0; r < batch; r++)
        for (size_t v = 0; v < vectors; v++)
            sums[r][v] = LOAD(y + r * y_stride + first + v * LANES);
    for (size_t i = 0; i < rows->count; i++, w += rows->stride) {
        VEC values[ROWS_SINGLE];
        for (size_t v = 0; v < vectors; v++)
            values[v] = LOAD(w + v * LANES);
        for (size_t r = 0; r < batch; r++) {
            VEC factor = SET(a[r * a_stride + i]);
            for (size_t v = 0; v < vectors; v++)
                sums[r][v] = FMA(factor, values[v], sums[r][v]);
        }
    }
    for (size_t r = 0; r < batch; r++)
        for (size_t v = 0; v < vectors; v++)
            STORE(y + r * y_stride + first + v * LANES, sums[r][v]);
}

/* All values for `batch` x, of which at most `side` vectors lie side by side. */
ROWS_INLINE void sum_rows_batch(const struct row_tile *rows, size_t side, const float *a,
                                size_t a_stride, size_t batch, float *y, size_t y_stride) {
    size_t at = 0;
    for (; at + side * LANES <= rows->width; at += side * LANES)
        sum_rows_tile(rows, at, side, a, a_stride, batch, y, y_stride);
    for (; at + LANES <= rows->width; at += LANES)
        sum_rows_tile(rows, at, 1, a, a_stride, batch, y, y_stride);
    for (size_t r = 0; r < batch; r++)
        for (size_t i = 0; i < rows->count; i++)
            for (size_t c = at; c < rows->width; c++)
                y[r * y_stride + c] += a[r * a_stride + i] * rows->values[i * rows->stride + c];
}

static void row_sums(const struct row_tile *rows, const float *a, size_t a_stride, size_t batch,
                     float *y, size_t y_stride) {
    size_t r = 0;
    for (; r + ROWS_BATCH <= batch; r += ROWS_BATCH)
        sum_rows_batch(rows, ROWS_SIDE, a + r * a_stride, a_stride, ROWS_BATCH, y + r * y_stride,
                       y_stride);
    for (; r < batch; r++)
        sum_rows_batch(rows, ROWS_SINGLE, a + r * a_stride, a_stride, 1, y + r * y_stride,
                       y_stride);
}
