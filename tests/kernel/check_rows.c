/* Operations of attention over a tile of rows, and parts of a softmax. */
#include "tests/kernel/harness.h"

#include <math.h>

#define COUNT_MAX 1300

static const size_t SIZES[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 129, 1030};

/* Parts of a softmax, with what came before below and above them. */
void check_softmax_part(void **state) {
    (void)state;
    const struct kernel *list[VARIANTS_MAX];
    size_t count = kernel_list(list, VARIANTS_MAX);
    struct random random = {78};
    static float x[COUNT_MAX], got[COUNT_MAX], want[COUNT_MAX];
    for (size_t s = 0; s < sizeof SIZES / sizeof *SIZES; s++)
        for (size_t v = 0; v < count; v++)
            for (int before = 0; before < 3; before++) {
                size_t n = SIZES[s];
                float best = before == 0 ? -INFINITY : before == 1 ? -40 : 40, largest = best;
                double sum = 0;
                for (size_t i = 0; i < n; i++) {
                    got[i] = x[i] = random_float(&random, 100);
                    largest = x[i] * 0.3f > largest ? x[i] * 0.3f : largest;
                }
                for (size_t i = 0; i < n; i++) {
                    want[i] = (float)exp((double)(x[i] * 0.3f) - (double)largest);
                    sum += (double)want[i];
                }
                double got_sum = (double)list[v]->softmax_part(got, n, 0.3f, &best);
                assert_true(best == largest);
                for (size_t i = 0; i < n; i++)
                    assert_true(fabsf(want[i] - got[i]) <= (float)TOLERANCE * (want[i] + 1e-3f));
                assert_true(fabs(got_sum - sum) <= TOLERANCE * (sum + 1e-3));
            }
}

/* Products with rows, for every remainder of rows, columns and batch; y has gaps that stay. */
static void check_rows(struct random *random, const struct kernel *kernel, size_t rows,
                       size_t width, size_t batch) {
    enum { STRIDE = 41, ROWS = 12, BATCH = 19 };
    static float values[ROWS * STRIDE + 1], x[BATCH * STRIDE], y[BATCH * STRIDE];
    const struct row_tile tile = {values + 1, STRIDE, rows, width};
    for (size_t i = 0; i < ROWS * STRIDE; i++)
        values[i + 1] = random_float(random, 1);
    for (size_t i = 0; i < BATCH * STRIDE; i++)
        x[i] = random_float(random, 1);
    for (int transposed = 0; transposed < 2; transposed++) {
        size_t outputs = transposed ? width : rows, inputs = transposed ? rows : width;
        for (size_t i = 0; i < BATCH * STRIDE; i++)
            y[i] = 0.5f;
        if (transposed)
            kernel->row_sums(&tile, x, STRIDE, batch, y, STRIDE);
        else
            kernel->row_dots(&tile, x, STRIDE, batch, y, STRIDE);
        for (size_t r = 0; r < BATCH; r++)
            for (size_t o = 0; o < STRIDE; o++) {
                bool is_output = r < batch && o < outputs;
                double want = is_output && !transposed ? 0 : 0.5, magnitude = fabs(want);
                for (size_t i = 0; is_output && i < inputs; i++) {
                    float value = tile.values[transposed ? i * STRIDE + o : o * STRIDE + i];
                    want += (double)value * x[r * STRIDE + i];
                    magnitude += fabs((double)value * x[r * STRIDE + i]);
                }
                if (!(fabs((double)y[r * STRIDE + o] - want) <= TOLERANCE * magnitude))
                    fail_msg("%s, %zu rows of %zu, batch %zu, transposed %d: y[%zu][%zu] is %g, "
                             "expected %g",
                             kernel->name, rows, width, batch, transposed, r, o,
                             (double)y[r * STRIDE + o], want);
            }
    }
}

void check_row_products(void **state) {
    (void)state;
    const struct kernel *list[VARIANTS_MAX];
    size_t count = kernel_list(list, VARIANTS_MAX);
    struct random random = {79};
    const size_t widths[] = {1, 7, 8, 16, 31, 40}, batches[] = {1, 2, 4, 5, 8, 11, 19};
    for (size_t v = 0; v < count; v++)
        for (size_t rows = 1; rows <= 12; rows++)
            for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
                for (size_t b = 0; b < sizeof batches / sizeof *batches; b++)
                    check_rows(&random, list[v], rows, widths[w], batches[b]);
}
