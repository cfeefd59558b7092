/* The two forms of latent attention give the same numbers, for decode steps, prompt chunks behind a
 * past, and several sequences in one batch; chunks of any size give what one long chunk gives; a
 * past split over threads gives what one task gives; and Wk and Wv give the same in any form. */
#include "tests/unit/test.h"

#include <math.h>

#include "common/kernel/kernel.h"
#include "coordinator/attention.h"
#include "coordinator/attention_absorbed.h"
#include "coordinator/attention_expanded.h"
#include "coordinator/attention_latent.h"
#include "coordinator/latent_weights.h"
#include "tests/kernel/weights.h"
#include "tests/unit/random.h"

#define CONTEXT 4000u
#define TOKENS  200u

static const struct model_shape SHAPE = {
    .hidden = 40,
    .norm_epsilon = 1e-6f,
    .attention = ATTENTION_LATENT,
    .heads = 5,
    .q_rank = 24,
    .kv_rank = 36,
    .nope_dim = 12,
    .rope_dim = 8,
    .v_dim = 20,
    .rope_consecutive = true,
    .rope = {.theta = 10000,
             .yarn = true,
             .factor = 4,
             .original_positions = 32,
             .beta_fast = 32,
             .beta_slow = 1,
             .mscale = 1,
             .mscale_all_dim = 0.7},
};

struct fixture {
    struct arena *arena;
    struct threads *threads;
    struct kv_cache *cache;
    struct attention *attention;
    struct attention_weights weights;
    float *x; /* (TOKENS, hidden) */
};

static struct matrix random_matrix(struct arena *arena, struct random *random, uint32_t rows,
                                   uint32_t columns) {
    float *values = arena_take(arena, (size_t)rows * columns, sizeof(float));
    random_fill(random, 1.0f / sqrtf((float)columns) * 2, (size_t)rows * columns, values);
    return matrix_view(WEIGHT_F32, rows, columns, values);
}

static float *random_vector(struct arena *arena, struct random *random, uint32_t count) {
    float *values = arena_take(arena, count, sizeof(float));
    random_fill(random, 1, count, values);
    return values;
}

static void setup_with(struct fixture *f, const struct model_shape *s, unsigned threads,
                       enum weight_format cache_format) {
    struct random random = {3};
    const struct kv_cache_options cache = {1, CONTEXT, 3, cache_format};
    assert_int_equal(kernel_select("auto"), STATUS_OK);
    f->arena = arena_create(0);
    assert_int_equal(threads_create(threads, &f->threads), STATUS_OK);
    assert_int_equal(kv_cache_create(s, &cache, &f->cache), STATUS_OK);
    assert_int_equal(attention_create(s, f->threads, f->cache, TOKENS, &f->attention), STATUS_OK);
    uint32_t q_rows = s->heads * (s->nope_dim + s->rope_dim);
    f->weights = (struct attention_weights){
        .q_a = random_matrix(f->arena, &random, s->q_rank, s->hidden),
        .q_a_norm = random_vector(f->arena, &random, s->q_rank),
        .q_b = random_matrix(f->arena, &random, q_rows, s->q_rank),
        .kv_a = random_matrix(f->arena, &random, s->kv_rank + s->rope_dim, s->hidden),
        .kv_a_norm = random_vector(f->arena, &random, s->kv_rank),
        .kv_b = random_matrix(f->arena, &random, s->heads * (s->nope_dim + s->v_dim), s->kv_rank),
        .o = random_matrix(f->arena, &random, s->hidden, s->heads * s->v_dim),
    };
    f->x = random_vector(f->arena, &random, TOKENS * s->hidden);
}

static void setup(struct fixture *f, unsigned threads) {
    setup_with(f, &SHAPE, threads, WEIGHT_F32);
}

static void teardown(struct fixture *f) {
    attention_destroy(f->attention);
    kv_cache_destroy(f->cache);
    threads_destroy(f->threads);
    arena_destroy(f->arena);
}

static void forward(struct fixture *f, const struct batch_segment *segments, uint32_t count,
                    uint32_t rows, const float *x, float *out) {
    struct batch batch = {NULL, rows, segments, count, 0};
    attention_begin(f->attention, &batch);
    attention_forward(f->attention, &f->weights, 0, &batch, x, out);
}

static void expect_close(const float *a, const float *b, size_t count, const char *what) {
    for (size_t i = 0; i < count; i++)
        if (!(fabsf(a[i] - b[i]) <= 2e-5f))
            fail_msg("%s: value %zu is %g and %g", what, i, (double)a[i], (double)b[i]);
}

/* Runs all tokens in one chunk, then the forms on segments of every size over the cache so filled.
 */
static void test_forms_agree(void **state) {
    (void)state;
    struct fixture f;
    setup(&f, 2);
    uint32_t sequence;
    static float out[TOKENS * 40];
    assert_int_equal(kv_cache_open(f.cache, &sequence), STATUS_OK);
    assert_int_equal(kv_cache_extend(f.cache, sequence, TOKENS), STATUS_OK);
    struct batch_segment all = {sequence, 0, 0, TOKENS};
    forward(&f, &all, 1, TOKENS, f.x, out);
    const uint32_t sizes[] = {1, 2, 4, 5, 63, 65, TOKENS};
    size_t mixed_floats = (size_t)SHAPE.heads * SHAPE.v_dim;
    static float absorbed[TOKENS * 100];
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint32_t rows = sizes[i];
        struct batch_segment segment = {sequence, TOKENS - rows, 0, rows};
        struct batch batch = {NULL, rows, &segment, 1, 0};
        struct attention_call call = {f.attention, &f.weights, 0, &batch};
        attention_begin(f.attention, &batch);
        attention_latent_forward(&call, f.x + (size_t)(TOKENS - rows) * SHAPE.hidden);
        struct attention_share share = {&segment, 0, SHAPE.heads, &f.attention->scratch[0]};
        attention_latent_absorbed(&call, &share);
        memcpy(absorbed, f.attention->mixed, rows * mixed_floats * sizeof(float));
        memset(f.attention->mixed, 0, rows * mixed_floats * sizeof(float));
        attention_latent_expanded(&call, &share);
        expect_close(absorbed, f.attention->mixed, rows * mixed_floats, "forms");
    }
    teardown(&f);
}

static void run_in_chunks(struct fixture *f, uint32_t sequence, uint32_t chunk, float *out) {
    for (uint32_t at = 0; at < TOKENS; at += chunk) {
        uint32_t rows = TOKENS - at < chunk ? TOKENS - at : chunk;
        assert_int_equal(kv_cache_extend(f->cache, sequence, rows), STATUS_OK);
        struct batch_segment segment = {sequence, at, 0, rows};
        forward(f, &segment, 1, rows, f->x + (size_t)at * SHAPE.hidden,
                out + (size_t)at * SHAPE.hidden);
    }
}

static void test_chunks_agree(void **state) {
    (void)state;
    struct fixture f;
    setup(&f, 3);
    static float want[TOKENS * 40], got[TOKENS * 40];
    const uint32_t chunks[] = {TOKENS, 1, 3, 64, 127, 130};
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        uint32_t sequence;
        assert_int_equal(kv_cache_open(f.cache, &sequence), STATUS_OK);
        run_in_chunks(&f, sequence, chunks[i], i ? got : want);
        if (i)
            expect_close(want, got, TOKENS * SHAPE.hidden, "chunks");
        kv_cache_close(f.cache, sequence);
    }
    teardown(&f);
}

/* Replaces kv_b by its two parts: per head Wk transposed, and Wv. */
static void split_kv_b(struct fixture *f) {
    const struct model_shape *s = &SHAPE;
    uint32_t head_rows = s->nope_dim + s->v_dim;
    const float *whole = (const float *)(const void *)f->weights.kv_b.data;
    float *k = arena_take(f->arena, (size_t)s->heads * s->kv_rank * s->nope_dim, sizeof *k);
    float *v = arena_take(f->arena, (size_t)s->heads * s->v_dim * s->kv_rank, sizeof *v);
    for (uint32_t h = 0; h < s->heads; h++, whole += (size_t)head_rows * s->kv_rank) {
        for (uint32_t c = 0; c < s->kv_rank; c++)
            for (uint32_t r = 0; r < s->nope_dim; r++)
                k[((size_t)h * s->kv_rank + c) * s->nope_dim + r] = whole[r * s->kv_rank + c];
        memcpy(v + (size_t)h * s->v_dim * s->kv_rank, whole + (size_t)s->nope_dim * s->kv_rank,
               (size_t)s->v_dim * s->kv_rank * sizeof *v);
    }
    f->weights.kv_b = (struct matrix){0};
    f->weights.k_b = matrix_view(WEIGHT_F32, s->heads * s->kv_rank, s->nope_dim, k);
    f->weights.v_b = matrix_view(WEIGHT_F32, s->heads * s->v_dim, s->kv_rank, v);
}

/* In one chunk and token by token, so that both forms of attention take both forms of weights. */
static void test_split_weights_agree(void **state) {
    (void)state;
    struct fixture f;
    setup(&f, 2);
    static float want[TOKENS * 40], got[TOKENS * 40];
    const uint32_t chunks[] = {TOKENS, 1};
    for (size_t i = 0; i < 2; i++) {
        uint32_t sequence;
        struct attention_weights whole = f.weights;
        assert_int_equal(kv_cache_open(f.cache, &sequence), STATUS_OK);
        run_in_chunks(&f, sequence, chunks[i], want);
        kv_cache_close(f.cache, sequence);
        split_kv_b(&f);
        assert_int_equal(kv_cache_open(f.cache, &sequence), STATUS_OK);
        run_in_chunks(&f, sequence, chunks[i], got);
        kv_cache_close(f.cache, sequence);
        expect_close(want, got, TOKENS * SHAPE.hidden, "split weights");
        f.weights = whole;
    }
    teardown(&f);
}

/* Random rows in the cache of a new sequence. */
static uint32_t open_past(struct fixture *f, struct random *random, uint32_t positions) {
    uint32_t sequence, width = kv_cache_width(f->cache);
    float row[512];
    assert_int_equal(kv_cache_open(f->cache, &sequence), STATUS_OK);
    assert_int_equal(kv_cache_extend(f->cache, sequence, positions), STATUS_OK);
    for (uint32_t p = 0; p < positions; p++) {
        random_fill(random, 1, width, row);
        kv_cache_write(f->cache, 0, sequence, p, row);
    }
    return sequence;
}

/* The last rows of one or two sequences of different lengths, on pools of several sizes: the plan
 * splits them, and each head gets what one task for all of it gives. */
static void check_split(unsigned threads, uint32_t rows, uint32_t segment_count) {
    struct fixture f;
    struct random random = {threads + rows};
    setup_with(&f, &SHAPE, threads, WEIGHT_F16);
    const uint32_t lengths[] = {1711, 1100};
    struct batch_segment segments[2];
    for (uint32_t i = 0; i < segment_count; i++)
        segments[i] = (struct batch_segment){open_past(&f, &random, lengths[i]), lengths[i] - rows,
                                             i * rows, rows};
    struct batch batch = {NULL, rows * segment_count, segments, segment_count, 0};
    struct attention_call call = {f.attention, &f.weights, 0, &batch};
    size_t floats = (size_t)batch.rows * SHAPE.heads * SHAPE.v_dim;
    static float want[8 * 100];
    random_fill(&random, 1, batch.rows * SHAPE.heads * (SHAPE.nope_dim + SHAPE.rope_dim),
                f.attention->q);
    for (uint32_t i = 0; i < segment_count; i++) {
        struct attention_share share = {&segments[i], 0, SHAPE.heads, &f.attention->scratch[0]};
        attention_latent_absorbed(&call, &share);
    }
    memcpy(want, f.attention->mixed, floats * sizeof(float));
    memset(f.attention->mixed, 0, floats * sizeof(float));
    struct absorbed_plan plan = attention_absorbed_plan(&call);
    assert_true(plan.splits > 1 && (uint64_t)plan.splits * plan.positions >= lengths[0]);
    assert_true(attention_count_tasks(&call, plan.heads) * plan.splits <=
                f.attention->split.tasks_max);
    attention_absorbed_split(&call, &plan);
    expect_close(want, f.attention->mixed, floats, "split past");
    teardown(&f);
}

static void test_split_past(void **state) {
    (void)state;
    for (unsigned threads = 3; threads <= 9; threads += 3)
        for (uint32_t rows = 1; rows <= ABSORBED_JOINT_ROWS_MAX; rows += 3)
            for (uint32_t segments = 1; segments <= 2; segments++)
                check_split(threads, rows, segments);
}

/* Few positions are not split, nor is what keeps every thread busy. */
static void test_short_past_is_one_loop(void **state) {
    (void)state;
    struct fixture f;
    setup(&f, 2);
    struct batch_segment segments[] = {{0, 500, 0, 1}, {1, 3000, 1, 1}};
    struct batch batch = {NULL, 1, segments, 1, 0};
    struct attention_call call = {f.attention, &f.weights, 0, &batch};
    struct absorbed_plan plan = attention_absorbed_plan(&call);
    assert_int_equal(plan.splits, 1);
    assert_int_equal(plan.heads, 3);
    batch = (struct batch){NULL, 2, segments, 2, 0};
    plan = attention_absorbed_plan(&call);
    assert_int_equal(plan.splits, 1);
    assert_int_equal(plan.heads, 5);
    assert_int_equal(plan.segments, 1);
    teardown(&f);
}

/* Sequences of different lengths that decode side by side share tasks, on pools that take all of
 * them in a task or some, and get what each gets alone. */
static void check_joint(unsigned threads, uint32_t segments_want) {
    enum { SEQUENCES = 3 };
    struct fixture f;
    struct random random = {threads};
    setup_with(&f, &SHAPE, threads, WEIGHT_F16);
    const uint32_t lengths[SEQUENCES] = {1, 70, 23};
    struct batch_segment segments[SEQUENCES];
    for (uint32_t i = 0; i < SEQUENCES; i++)
        segments[i] =
            (struct batch_segment){open_past(&f, &random, lengths[i]), lengths[i] - 1, i, 1};
    struct batch batch = {NULL, SEQUENCES, segments, SEQUENCES, 0};
    struct attention_call call = {f.attention, &f.weights, 0, &batch};
    size_t floats = (size_t)SEQUENCES * SHAPE.heads * SHAPE.v_dim;
    static float want[SEQUENCES * 100];
    random_fill(&random, 1, SEQUENCES * SHAPE.heads * (SHAPE.nope_dim + SHAPE.rope_dim),
                f.attention->q);
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        struct attention_share share = {&segments[i], 0, SHAPE.heads, &f.attention->scratch[0]};
        attention_latent_absorbed(&call, &share);
    }
    memcpy(want, f.attention->mixed, floats * sizeof(float));
    memset(f.attention->mixed, 0, floats * sizeof(float));
    struct absorbed_plan plan = attention_absorbed_plan(&call);
    assert_int_equal(plan.splits, 1);
    assert_int_equal(plan.segments, segments_want);
    attention_absorbed_joint(&call, &plan);
    expect_close(want, f.attention->mixed, floats, "joint sequences");
    teardown(&f);
}

static void test_sequences_share_tasks(void **state) {
    (void)state;
    check_joint(1, 3);
    check_joint(2, 2);
    check_joint(4, 2);
    check_joint(12, 1);
}

/* A batch's numbers with every cache format, against f32: the formats round to 11 and 8 bits, and
 * to 1/254 of the largest of 32 values. Stated for inputs of order one and results of order one. */
static void test_cache_formats(void **state) {
    (void)state;
    static float want[TOKENS * 40], got[TOKENS * 40];
    const struct {
        enum weight_format format;
        float tolerance;
    } cases[] = {{WEIGHT_F32, 0}, {WEIGHT_F16, 2e-3f}, {WEIGHT_BF16, 2e-2f}, {WEIGHT_Q8_0, 4e-2f}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f;
        uint32_t sequence;
        setup_with(&f, &SHAPE, 2, cases[i].format);
        assert_int_equal(kv_cache_open(f.cache, &sequence), STATUS_OK);
        run_in_chunks(&f, sequence, 50, i ? got : want);
        float largest = 0;
        for (size_t v = 0; i && v < TOKENS * SHAPE.hidden; v++)
            largest = fmaxf(largest, fabsf(got[v] - want[v]));
        if (!(largest <= cases[i].tolerance))
            fail_msg("%s: off by %g", weight_format_name(cases[i].format), (double)largest);
        /* A tolerance that another format would keep says nothing. */
        if (cases[i].tolerance > 0)
            assert_true(largest > cases[i].tolerance / 20);
        teardown(&f);
    }
}

/* A shape whose Wv is whole panels of every format. */
static const struct model_shape WIDE = {
    .hidden = 32,
    .norm_epsilon = 1e-6f,
    .attention = ATTENTION_LATENT,
    .heads = 3,
    .kv_rank = 256,
    .nope_dim = 128,
    .rope_dim = 8,
    .v_dim = 128,
    .rope = {.theta = 10000},
};

/* A kv_b of any format with values of about 1 / 16. */
static struct matrix random_kv_b(struct arena *arena, enum weight_format format) {
    const struct model_shape *s = &WIDE;
    struct random random = {31};
    uint32_t rows = s->heads * (s->nope_dim + s->v_dim);
    size_t count = (size_t)rows * s->kv_rank;
    struct matrix matrix = matrix_view(
        format, rows, s->kv_rank, arena_take(arena, matrix_bytes(format, rows, s->kv_rank), 1));
    if (weight_is_blocked(format)) {
        block_fill(&random, format, count, (void *)matrix.data);
        return matrix;
    }
    for (size_t i = 0; i < count; i++) {
        float value = random_float(&random, 1.0f / 16);
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        if (format == WEIGHT_F32)
            ((float *)matrix.data)[i] = value;
        else if (format == WEIGHT_BF16)
            ((uint16_t *)matrix.data)[i] = (uint16_t)(bits >> 16);
        else
            ((uint8_t *)matrix.data)[i] =
                (uint8_t)(random_below(&random, 0x30) | (random_bits(&random) & 0x80));
    }
    for (size_t i = 0; matrix.scales && i < (rows / FP8_BLOCK) * (s->kv_rank / FP8_BLOCK); i++)
        ((float *)matrix.scales)[i] = 0.1f * (float)(i + 1);
    return matrix;
}

/* What queries are multiplied with for scores of order one, so that no position stands out. */
static float score_scale(const struct matrix *kv_b) {
    float row[256];
    double squares = 0;
    for (uint32_t r = 0; r < WIDE.nope_dim; r++) {
        matmul_expand(kv_b, r, 1, 0, kv_b->columns, row, kv_b->columns);
        for (uint32_t c = 0; c < kv_b->columns; c++)
            squares += (double)row[c] * row[c];
    }
    return (float)(3 / sqrt(squares));
}

/* attention->mixed of `rows` last rows by a form, whose weights are in `weights`. */
static void run_form(struct fixture *f, bool absorbed, uint32_t sequence, uint32_t rows,
                     float *out) {
    struct batch_segment segment = {sequence, TOKENS - rows, 0, rows};
    struct batch batch = {NULL, rows, &segment, 1, 0};
    struct attention_call call = {f->attention, &f->weights, 0, &batch};
    struct attention_share share = {&segment, 0, WIDE.heads, &f->attention->scratch[0]};
    if (absorbed)
        attention_latent_absorbed(&call, &share);
    else
        attention_latent_expanded(&call, &share);
    memcpy(out, f->attention->mixed, (size_t)rows * WIDE.heads * WIDE.v_dim * sizeof(float));
}

/* A kv_b as it is, and taken apart with Wv packed: equal but for the rounding of activations where
 * packed weights take 8 bits, 1/254 of the largest of 32. */
static void check_weights(enum weight_format format) {
    enum { ROWS = 70, FLOATS = ROWS * 3 * 128 };
    static float want[2][FLOATS], got[FLOATS];
    struct fixture f;
    struct random random = {9};
    setup_with(&f, &WIDE, 1, WEIGHT_F32);
    uint32_t sequence = open_past(&f, &random, TOKENS);
    struct matrix kv_b = random_kv_b(f.arena, format);
    random_fill(&random, score_scale(&kv_b), ROWS * WIDE.heads * (WIDE.nope_dim + WIDE.rope_dim),
                f.attention->q);
    f.weights = (struct attention_weights){.kv_b = kv_b};
    for (int absorbed = 0; absorbed < 2; absorbed++)
        run_form(&f, absorbed, sequence, ROWS, want[absorbed]);
    float largest = 0;
    for (size_t i = 0; i < FLOATS; i++)
        largest = fmaxf(largest, fabsf(want[0][i]));
    for (size_t i = 0; i < FLOATS; i++) {
        if (!(fabsf(want[0][i] - want[1][i]) <= 2e-5f * largest))
            fail_msg("%s: forms give %g and %g", weight_format_name(format), (double)want[0][i],
                     (double)want[1][i]);
    }
    assert_true(largest > 1e-4f && latent_can_split(format, &WIDE));
    uint32_t key_rows = WIDE.heads * WIDE.nope_dim, value_rows = WIDE.heads * WIDE.v_dim;
    void *keys = arena_take(f.arena, matrix_bytes(format, key_rows, WIDE.kv_rank), 1);
    void *values = arena_take(f.arena, matrix_bytes(format, value_rows, WIDE.kv_rank), 1);
    f.weights = (struct attention_weights){
        .k_up = matrix_view(format, key_rows, WIDE.kv_rank, keys),
        .v_b = matrix_view(format, value_rows, WIDE.kv_rank, values),
    };
    latent_split(&kv_b, &WIDE, &f.weights.k_up, &f.weights.v_b);
    for (int packed = 0; packed < 2; packed++) {
        if (packed)
            assert_int_equal(panel_pack_matrix(&f.weights.v_b, false), STATUS_OK);
        float tolerance = panel_takes_q8(&f.weights.v_b) ? 0.02f * largest : 2e-5f * largest;
        for (int absorbed = 0; absorbed < 2; absorbed++) {
            run_form(&f, absorbed, sequence, ROWS, got);
            for (size_t i = 0; i < FLOATS; i++)
                if (!(fabsf(want[0][i] - got[i]) <= tolerance))
                    fail_msg("%s, packed %d, absorbed %d: %g, expected %g (largest %g)",
                             weight_format_name(format), packed, absorbed, (double)got[i],
                             (double)want[0][i], (double)largest);
        }
    }
    teardown(&f);
}

static void test_weights_in_any_form(void **state) {
    (void)state;
    const enum weight_format formats[] = {WEIGHT_F32,  WEIGHT_BF16, WEIGHT_FP8_E4M3, WEIGHT_Q4_0,
                                          WEIGHT_Q8_0, WEIGHT_Q4_K, WEIGHT_Q5_0,     WEIGHT_Q6_K};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        check_weights(formats[i]);
}

static void test_square_blocks_are_not_cut(void **state) {
    (void)state;
    struct model_shape shape = WIDE;
    shape.nope_dim = 64;
    assert_false(latent_can_split(WEIGHT_FP8_E4M3, &shape));
    assert_true(latent_can_split(WEIGHT_Q4_0, &shape));
}

/* Two sequences in one batch, one with a past: each row is what it would be alone. */
static void test_sequences_share_a_batch(void **state) {
    (void)state;
    struct fixture f;
    setup(&f, 2);
    static float alone[TOKENS * 40], joint[10 * 40];
    uint32_t a, b;
    assert_int_equal(kv_cache_open(f.cache, &a), STATUS_OK);
    run_in_chunks(&f, a, TOKENS, alone);
    kv_cache_truncate(f.cache, a, 0);
    assert_int_equal(kv_cache_open(f.cache, &b), STATUS_OK);
    assert_int_equal(kv_cache_extend(f.cache, a, 50), STATUS_OK);
    static float past[50 * 40];
    struct batch_segment first = {a, 0, 0, 50};
    forward(&f, &first, 1, 50, f.x, past);
    assert_int_equal(kv_cache_extend(f.cache, a, 1), STATUS_OK);
    assert_int_equal(kv_cache_extend(f.cache, b, 6), STATUS_OK);
    struct batch_segment segments[] = {{b, 0, 0, 6}, {a, 50, 6, 1}};
    static float x[7 * 40];
    memcpy(x, f.x, 6 * SHAPE.hidden * sizeof(float));
    memcpy(x + 6 * SHAPE.hidden, f.x + 50 * SHAPE.hidden, SHAPE.hidden * sizeof(float));
    forward(&f, segments, 2, 7, x, joint);
    expect_close(alone, joint, 6 * SHAPE.hidden, "first sequence");
    expect_close(alone + 50 * SHAPE.hidden, joint + 6 * SHAPE.hidden, SHAPE.hidden,
                 "second sequence");
    teardown(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms_agree),
        cmocka_unit_test(test_chunks_agree),
        cmocka_unit_test(test_split_weights_agree),
        cmocka_unit_test(test_split_past),
        cmocka_unit_test(test_short_past_is_one_loop),
        cmocka_unit_test(test_sequences_share_tasks),
        cmocka_unit_test(test_cache_formats),
        cmocka_unit_test(test_weights_in_any_form),
        cmocka_unit_test(test_square_blocks_are_not_cut),
        cmocka_unit_test(test_sequences_share_a_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
