/* The two forms of latent attention give the same numbers, for decode steps, prompt chunks behind a
 * past, and several sequences in one batch; and chunks of any size give what one long chunk gives.
 */
#include "tests/unit/test.h"

#include <math.h>

#include "common/kernel/kernel.h"
#include "coordinator/attention.h"
#include "coordinator/attention_latent.h"
#include "tests/unit/random.h"

#define CONTEXT 300u
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

static void setup(struct fixture *f, unsigned threads) {
    const struct model_shape *s = &SHAPE;
    struct random random = {3};
    assert_int_equal(kernel_select("auto"), STATUS_OK);
    f->arena = arena_create(0);
    assert_int_equal(threads_create(threads, &f->threads), STATUS_OK);
    assert_int_equal(kv_cache_create(s, 1, CONTEXT, 3, &f->cache), STATUS_OK);
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

static void teardown(struct fixture *f) {
    attention_destroy(f->attention);
    kv_cache_destroy(f->cache);
    threads_destroy(f->threads);
    arena_destroy(f->arena);
}

static void forward(struct fixture *f, const struct batch_segment *segments, uint32_t count,
                    uint32_t rows, const float *x, float *out) {
    struct batch batch = {NULL, rows, segments, count};
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
        struct batch batch = {NULL, rows, &segment, 1};
        struct attention_call call = {f.attention, &f.weights, 0, &batch};
        attention_begin(f.attention, &batch);
        attention_latent_forward(&call, f.x + (size_t)(TOKENS - rows) * SHAPE.hidden);
        struct attention_share share = {&segment, 0, SHAPE.heads, f.attention->scratch};
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
        cmocka_unit_test(test_sequences_share_a_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
