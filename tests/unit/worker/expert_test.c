/* expert_forward against plain sums in double: scattered and contiguous rows, slices that add up to
 * the whole, waves larger than the scratch, and results that do not depend on the number of
 * threads. */
#include "tests/unit/test.h"

#include <math.h>

#include "common/kernel/kernel.h"
#include "common/kernel/matmul.h"
#include "tests/kernel/weights.h"
#include "tests/unit/random.h"
#include "worker/expert.h"

#define HIDDEN  72u
#define INNER   52u
#define EXPERTS 9u
#define ROWS    40u

/* F32 matrices, so that a slice is easy to cut. */
struct fixture {
    float gate[EXPERTS][INNER][HIDDEN], up[EXPERTS][INNER][HIDDEN], down[EXPERTS][HIDDEN][INNER];
    float x[ROWS][HIDDEN];
};

static struct fixture *make_fixture(void) {
    struct fixture *f = malloc(sizeof *f);
    struct random random = {99};
    random_fill(&random, 0.5f, sizeof *f / sizeof(float), (float *)f);
    return f;
}

static struct expert whole_expert(const struct fixture *f, uint32_t e) {
    return (struct expert){matrix_view(WEIGHT_F32, INNER, HIDDEN, f->gate[e]),
                           matrix_view(WEIGHT_F32, INNER, HIDDEN, f->up[e]),
                           matrix_view(WEIGHT_F32, HIDDEN, INNER, f->down[e])};
}

static void add_expected(const struct fixture *f, uint32_t e, uint32_t row, double weight,
                         double *out) {
    for (uint32_t i = 0; i < INNER; i++) {
        double gate = 0, up = 0;
        for (uint32_t h = 0; h < HIDDEN; h++) {
            gate += (double)f->gate[e][i][h] * f->x[row][h];
            up += (double)f->up[e][i][h] * f->x[row][h];
        }
        double inner = gate / (1 + exp(-gate)) * up * weight;
        for (uint32_t h = 0; h < HIDDEN; h++)
            out[h] += f->down[e][h][i] * inner;
    }
}

static void check_rows(const double *want, const float *got) {
    for (uint32_t i = 0; i < ROWS * HIDDEN; i++)
        if (!(fabs(want[i] - (double)got[i]) <= 1e-4))
            fail_msg("row %u value %u: %g, expected %g", i / HIDDEN, i % HIDDEN, (double)got[i],
                     want[i]);
}

/* Every expert takes a random subset of rows; expert 0 all of them, expert 1 none. */
static size_t make_tasks(const struct expert *experts, struct expert_task *tasks) {
    struct random random = {7};
    size_t count = 0;
    for (uint32_t e = 0; e < EXPERTS; e++)
        for (uint32_t row = 0; row < ROWS; row++)
            if (e == 0 || (e > 1 && random_below(&random, 3) == 0))
                tasks[count++] = (struct expert_task){&experts[e], row, random_float(&random, 1)};
    return count;
}

static void test_agrees_with_sums(void **state) {
    (void)state;
    struct fixture *f = make_fixture();
    struct expert experts[EXPERTS];
    for (uint32_t e = 0; e < EXPERTS; e++)
        experts[e] = whole_expert(f, e);
    static struct expert_task tasks[EXPERTS * ROWS];
    static double want[ROWS * HIDDEN];
    static float got[4][ROWS * HIDDEN];
    size_t count = make_tasks(experts, tasks);
    memset(want, 0, sizeof want);
    for (size_t t = 0; t < count; t++)
        add_expected(f, (uint32_t)(tasks[t].expert - experts), tasks[t].row, tasks[t].weight,
                     want + tasks[t].row * HIDDEN);
    for (unsigned threads = 1; threads <= 4; threads++) {
        struct threads *pool;
        struct expert_workspace *workspace;
        assert_int_equal(threads_create(threads, &pool), STATUS_OK);
        assert_int_equal(expert_workspace_create(pool, HIDDEN, INNER, ROWS, &workspace), STATUS_OK);
        memset(got[threads - 1], 0, sizeof *got);
        expert_forward(workspace, &f->x[0][0], tasks, count, got[threads - 1]);
        check_rows(want, got[threads - 1]);
        assert_memory_equal(got[0], got[threads - 1], sizeof *got);
        expert_workspace_destroy(workspace);
        threads_destroy(pool);
    }
    free(f);
}

#define LONG_WIDTH                                                                                 \
    640u /* long enough for tasks of more than one tile where there is one thread                  \
          */
#define LONG_ROWS 3u

/* Few rows of wide experts: the same bits with long tasks and with short ones. */
static void test_long_tasks(void **state) {
    (void)state;
    struct random random = {5};
    float *weights = malloc(6 * LONG_WIDTH * LONG_WIDTH * sizeof *weights);
    static float x[LONG_ROWS * LONG_WIDTH], got[2][LONG_ROWS * LONG_WIDTH];
    struct expert experts[2];
    struct expert_task tasks[2 * LONG_ROWS];
    random_fill(&random, 0.1f, 6 * LONG_WIDTH * LONG_WIDTH, weights);
    random_fill(&random, 1, LONG_ROWS * LONG_WIDTH, x);
    for (uint32_t e = 0; e < 2; e++) {
        struct matrix *matrices[] = {&experts[e].gate, &experts[e].up, &experts[e].down};
        for (uint32_t m = 0; m < 3; m++)
            *matrices[m] = matrix_view(WEIGHT_F32, LONG_WIDTH, LONG_WIDTH,
                                       weights + (3 * e + m) * LONG_WIDTH * LONG_WIDTH);
        for (uint32_t row = 0; row < LONG_ROWS; row++)
            tasks[e * LONG_ROWS + row] = (struct expert_task){&experts[e], row, 0.5f};
    }
    for (unsigned i = 0; i < 2; i++) {
        struct threads *pool;
        struct expert_workspace *workspace;
        assert_int_equal(threads_create(i ? 8 : 1, &pool), STATUS_OK);
        assert_int_equal(matmul_task_rows(2 * LONG_WIDTH, LONG_ROWS, pool), i ? 64 : 256);
        assert_int_equal(
            expert_workspace_create(pool, LONG_WIDTH, LONG_WIDTH, LONG_ROWS, &workspace),
            STATUS_OK);
        expert_forward(workspace, x, tasks, 2 * LONG_ROWS, got[i]);
        expert_workspace_destroy(workspace);
        threads_destroy(pool);
    }
    assert_memory_equal(got[0], got[1], sizeof got[0]);
    assert_true(got[0][0] != 0 && got[0][LONG_ROWS * LONG_WIDTH - 1] != 0);
    free(weights);
}

/* Weights that come one after another when they are waited for. */
struct arriving {
    const struct expert *experts;
    bool is_here[EXPERTS];
    uint32_t waits;
};

static bool is_here(void *context, const struct expert *expert) {
    const struct arriving *arriving = context;
    return arriving->is_here[expert - arriving->experts];
}

static void await(void *context, const struct expert *expert) {
    struct arriving *arriving = context;
    assert_false(arriving->is_here[expert - arriving->experts]);
    arriving->is_here[expert - arriving->experts] = true;
    arriving->waits++;
}

/* Whichever of the experts have to be waited for: the same bits. */
static void test_arriving_weights(void **state) {
    (void)state;
    struct fixture *f = make_fixture();
    struct expert experts[EXPERTS];
    for (uint32_t e = 0; e < EXPERTS; e++)
        experts[e] = whole_expert(f, e);
    static struct expert_task tasks[EXPERTS * ROWS];
    static float want[ROWS * HIDDEN], got[ROWS * HIDDEN];
    struct threads *pool;
    struct expert_workspace *workspace;
    size_t count = make_tasks(experts, tasks);
    assert_int_equal(threads_create(2, &pool), STATUS_OK);
    assert_int_equal(expert_workspace_create(pool, HIDDEN, INNER, ROWS, &workspace), STATUS_OK);
    expert_forward(workspace, &f->x[0][0], tasks, count, want);
    for (uint32_t missing = 0; missing < 1u << EXPERTS; missing += 5) {
        struct arriving arriving = {.experts = experts};
        uint32_t waits = 0;
        for (uint32_t e = 0; e < EXPERTS; e++) {
            arriving.is_here[e] = !(missing >> e & 1);
            waits += e != 1 && (missing >> e & 1); /* expert 1 has no rows */
        }
        const struct expert_arrivals arrivals = {is_here, await, &arriving};
        expert_workspace_set_arrivals(workspace, &arrivals);
        memset(got, 0, sizeof got);
        expert_forward(workspace, &f->x[0][0], tasks, count, got);
        assert_memory_equal(got, want, sizeof want);
        assert_int_equal(arriving.waits, waits);
    }
    expert_workspace_destroy(workspace);
    threads_destroy(pool);
    free(f);
}

/* Slices of ragged widths, each added to the same output, make the whole. */
static void test_slices_add_up(void **state) {
    (void)state;
    struct fixture *f = make_fixture();
    const uint32_t cuts[] = {0, 8, 33, INNER};
    static float down[3][HIDDEN * INNER];
    static double want[ROWS * HIDDEN];
    static float got[ROWS * HIDDEN];
    struct threads *pool;
    struct expert_workspace *workspace;
    assert_int_equal(threads_create(2, &pool), STATUS_OK);
    assert_int_equal(expert_workspace_create(pool, HIDDEN, INNER, ROWS, &workspace), STATUS_OK);
    for (int s = 0; s < 3; s++) {
        uint32_t begin = cuts[s], width = cuts[s + 1] - begin;
        for (uint32_t h = 0; h < HIDDEN; h++)
            memcpy(down[s] + h * width, &f->down[4][h][begin], width * sizeof(float));
        struct expert slice = {matrix_view(WEIGHT_F32, width, HIDDEN, f->gate[4][begin]),
                               matrix_view(WEIGHT_F32, width, HIDDEN, f->up[4][begin]),
                               matrix_view(WEIGHT_F32, HIDDEN, width, down[s])};
        const struct expert_task tasks[] = {{&slice, 3, 0.5f}, {&slice, 17, 2}, {&slice, 18, -1}};
        expert_forward(workspace, &f->x[0][0], tasks, 3, got);
    }
    add_expected(f, 4, 3, 0.5, want + 3 * HIDDEN);
    add_expected(f, 4, 17, 2, want + 17 * HIDDEN);
    add_expected(f, 4, 18, -1, want + 18 * HIDDEN);
    check_rows(want, got);
    expert_workspace_destroy(workspace);
    threads_destroy(pool);
    free(f);
}

/* A matrix of random weights, and the same packed. */
struct both {
    struct matrix plain, packed;
};

static struct both make_both(struct random *random, enum weight_format format, uint32_t rows,
                             uint32_t columns) {
    size_t bytes = matrix_bytes(format, rows, columns);
    uint8_t *plain = aligned_alloc(64, bytes), *packed = aligned_alloc(64, bytes);
    weights_fill(random, format, (size_t)rows * columns, plain);
    memcpy(packed, plain, bytes);
    struct both both = {matrix_view(format, rows, columns, plain),
                        matrix_view(format, rows, columns, packed)};
    assert_int_equal(panel_pack_matrix(&both.packed, false), STATUS_OK);
    return both;
}

static void free_expert(const struct expert *expert) {
    free((void *)expert->gate.data);
    free((void *)expert->up.data);
    free((void *)expert->down.data);
}

/* Quantised experts, packed: the result is that of the same experts with unrounded activations but
 * for the rounding of activations (to 8 bits, or with many rows and tiles to bf16, then of weights
 * too). The first has a gate that is not quantised; the second sees few rows, scattered. */
static void check_packed_experts(void) {
    enum { WIDTH = 64, WIDE = 96 };
    struct random random = {17};
    struct expert plain[2], packed[2];
    for (int e = 0; e < 2; e++) {
        struct both gate = make_both(&random, e ? WEIGHT_Q8_0 : WEIGHT_BF16, WIDTH, WIDE);
        struct both up = make_both(&random, WEIGHT_Q8_0, WIDTH, WIDE);
        struct both down = make_both(&random, WEIGHT_Q8_0, WIDE, WIDTH);
        plain[e] = (struct expert){gate.plain, up.plain, down.plain};
        packed[e] = (struct expert){gate.packed, up.packed, down.packed};
    }
    static float x[ROWS * WIDE], want[ROWS * WIDE], got[ROWS * WIDE];
    memset(want, 0, sizeof want);
    memset(got, 0, sizeof got);
    random_fill(&random, 1, ROWS * WIDE, x);
    struct expert_task tasks[ROWS + 3], same[ROWS + 3];
    for (uint32_t t = 0; t < ROWS + 3; t++) {
        tasks[t] = (struct expert_task){&plain[t >= ROWS], t < ROWS ? t : 7 * (t - ROWS), 0.7f};
        same[t] = tasks[t];
        same[t].expert = &packed[t >= ROWS];
    }
    struct threads *pool;
    struct expert_workspace *workspace;
    assert_int_equal(threads_create(2, &pool), STATUS_OK);
    assert_int_equal(expert_workspace_create(pool, WIDE, WIDTH, ROWS, &workspace), STATUS_OK);
    expert_forward(workspace, x, tasks, ROWS + 3, want);
    expert_forward(workspace, x, same, ROWS + 3, got);
    double error = 0, size = 0;
    for (uint32_t i = 0; i < ROWS * WIDE; i++) {
        error += pow((double)want[i] - (double)got[i], 2);
        size += pow((double)want[i], 2);
    }
    assert_true(size > 1e-6);
    if (!(sqrt(error / size) < 0.02))
        fail_msg("%s: off by %g of the result", kernel_get()->name, sqrt(error / size));
    assert_true(error > 0);
    for (int e = 0; e < 2; e++) {
        free_expert(&plain[e]);
        free_expert(&packed[e]);
    }
    expert_workspace_destroy(workspace);
    threads_destroy(pool);
}

static void test_packed_experts(void **state) {
    (void)state;
    const struct kernel *list[8];
    size_t variants = kernel_list(list, 8);
    for (size_t v = 0; v < variants; v++) {
        assert_int_equal(kernel_select(list[v]->name), STATUS_OK);
        check_packed_experts();
    }
    assert_int_equal(kernel_select("auto"), STATUS_OK);
}

static int select_kernels(void **state) {
    (void)state;
    return kernel_select("auto");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_agrees_with_sums), cmocka_unit_test(test_long_tasks),
        cmocka_unit_test(test_arriving_weights), cmocka_unit_test(test_slices_add_up),
        cmocka_unit_test(test_packed_experts),
    };
    return cmocka_run_group_tests(tests, select_kernels, NULL);
}
