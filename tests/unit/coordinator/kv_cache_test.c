/* Pages are handed out, returned and never shared; a full cache says so. Rows come back within what
 * their format keeps, and take as much memory as it says. */
#include "tests/unit/test.h"

#include <math.h>

#include "common/kernel/kernel.h"
#include "coordinator/kv_cache.h"
#include "tests/unit/random.h"

static const struct model_shape LATENT = {
    .attention = ATTENTION_LATENT, .kv_rank = 6, .rope_dim = 2};
static const struct model_shape HEADS = {
    .attention = ATTENTION_MULTI_HEAD, .kv_heads = 3, .head_dim = 4};

static struct kv_cache *create(const struct model_shape *shape, uint32_t layers,
                               uint32_t positions_max, uint32_t sequences_max,
                               enum weight_format format) {
    const struct kv_cache_options options = {layers, positions_max, sequences_max, format};
    struct kv_cache *cache;
    assert_int_equal(kv_cache_create(shape, &options, &cache), STATUS_OK);
    return cache;
}

static void test_width_is_compressed(void **state) {
    (void)state;
    struct kv_cache *cache = create(&LATENT, 2, 100, 1, WEIGHT_F32);
    assert_int_equal(kv_cache_width(cache), 8);
    assert_int_equal(kv_cache_part_width(cache), 8);
    assert_int_equal(kv_cache_positions_max(cache), KV_PAGE_POSITIONS);
    kv_cache_destroy(cache);
    cache = create(&HEADS, 2, 129, 1, WEIGHT_F32);
    assert_int_equal(kv_cache_width(cache), 24);
    assert_int_equal(kv_cache_part_width(cache), 4);
    assert_int_equal(kv_cache_positions_max(cache), 2 * KV_PAGE_POSITIONS);
    kv_cache_destroy(cache);
}

static void test_memory_of_formats(void **state) {
    (void)state;
    const struct model_shape v3 = {.attention = ATTENTION_LATENT, .kv_rank = 512, .rope_dim = 64};
    const struct {
        enum weight_format format;
        size_t v3_bytes, heads_bytes; /* small heads fill a block of Q8_0 each */
    } cases[] = {{WEIGHT_F32, 576 * 4, 24 * 4},
                 {WEIGHT_F16, 576 * 2, 24 * 2},
                 {WEIGHT_BF16, 576 * 2, 24 * 2},
                 {WEIGHT_Q8_0, 576 / 32 * 34, 6 * 34}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct kv_cache *cache = create(&v3, 1, 1, 1, cases[i].format);
        assert_int_equal(kv_cache_row_bytes(cache), cases[i].v3_bytes);
        kv_cache_destroy(cache);
        cache = create(&HEADS, 1, 1, 1, cases[i].format);
        assert_int_equal(kv_cache_row_bytes(cache), cases[i].heads_bytes);
        kv_cache_destroy(cache);
    }
}

/* A row with a value of its own for each place, exact in f16. */
static void fill_row(uint32_t layer, int sequence, uint32_t position, float row[8]) {
    for (int i = 0; i < 8; i++)
        row[i] =
            (float)((layer * 2 + (uint32_t)sequence) * 256 + position) + (i < 4 ? 0.0f : -2048.0f);
}

static void test_rows_do_not_overlap(void **state) {
    (void)state;
    uint32_t sequences[2], positions = 2 * KV_PAGE_POSITIONS;
    struct kv_cache *cache = create(&LATENT, 3, 4 * KV_PAGE_POSITIONS, 2, WEIGHT_F16);
    for (int s = 0; s < 2; s++)
        assert_int_equal(kv_cache_open(cache, &sequences[s]), STATUS_OK);
    /* Grown in turns, so that their pages interleave. */
    for (int round = 0; round < 2; round++)
        for (int s = 0; s < 2; s++)
            assert_int_equal(kv_cache_extend(cache, sequences[s], KV_PAGE_POSITIONS), STATUS_OK);
    float row[8], read[2 * KV_PAGE_POSITIONS][9];
    for (uint32_t layer = 0; layer < 3; layer++)
        for (int s = 0; s < 2; s++)
            for (uint32_t p = 0; p < positions; p++) {
                fill_row(layer, s, p, row);
                kv_cache_write(cache, layer, sequences[s], p, row);
            }
    for (uint32_t layer = 0; layer < 3; layer++)
        for (int s = 0; s < 2; s++) {
            const struct kv_run run = {layer, sequences[s], 0, positions};
            kv_cache_read(cache, &run, 0, read[0], 9);
            for (uint32_t p = 0; p < positions; p++) {
                fill_row(layer, s, p, row);
                assert_memory_equal(row, read[p], sizeof row);
            }
        }
    kv_cache_destroy(cache);
}

/* Every part of rows of magnitudes from 1e-6 to 1e5, read in runs that cross pages. Tolerances:
 * half a unit in the last place of the format, and for Q8_0 half of 1/127 of the largest of 32 with
 * its scale rounded to f16; below that what f16's smallest number leaves. */
static void check_rounding(const struct model_shape *shape, enum weight_format format) {
    enum { POSITIONS = 200, WIDTH_MAX = 400 };
    static float rows[POSITIONS][WIDTH_MAX], read[POSITIONS][WIDTH_MAX];
    struct random random = {7};
    struct kv_cache *cache = create(shape, 2, POSITIONS, 1, format);
    uint32_t sequence, width = kv_cache_width(cache), part_width = kv_cache_part_width(cache);
    assert_int_equal(kv_cache_open(cache, &sequence), STATUS_OK);
    assert_int_equal(kv_cache_extend(cache, sequence, POSITIONS), STATUS_OK);
    for (uint32_t p = 0; p < POSITIONS; p++) {
        random_fill(&random, powf(10, (float)(p % 12) - 6), width, rows[p]);
        kv_cache_write(cache, 1, sequence, p, rows[p]);
    }
    const struct kv_run run = {1, sequence, 3, POSITIONS - 3};
    for (uint32_t part = 0; part < width / part_width; part++) {
        kv_cache_read(cache, &run, part, read[0], WIDTH_MAX);
        for (uint32_t p = 3; p < POSITIONS; p++)
            for (uint32_t i = 0; i < part_width; i++) {
                const float *want = rows[p] + part * part_width, *block = want + i / 32 * 32;
                float tolerance = 0, largest = 0;
                for (uint32_t c = 0; c < 32 && i / 32 * 32 + c < part_width; c++)
                    largest = fmaxf(largest, fabsf(block[c]));
                if (format == WEIGHT_F16)
                    tolerance = fabsf(want[i]) * 0x1p-11f + 0x1p-25f;
                else if (format == WEIGHT_BF16)
                    tolerance = fabsf(want[i]) * 0x1p-8f;
                else if (format == WEIGHT_Q8_0)
                    tolerance = largest * (0.5f / 127 + 0x1p-11f) + 127 * 0x1p-25f;
                float got = read[p - 3][i];
                if (fabsf(want[i]) > 65504 && format == WEIGHT_F16)
                    assert_true(got == copysignf(65504, want[i]));
                else if (!(fabsf(got - want[i]) <= tolerance))
                    fail_msg("%s: part %u of position %u, value %u: %g, expected %g",
                             weight_format_name(format), part, p, i, (double)got, (double)want[i]);
            }
    }
    kv_cache_destroy(cache);
}

static void test_rounding(void **state) {
    (void)state;
    const struct model_shape odd = {.attention = ATTENTION_LATENT, .kv_rank = 37, .rope_dim = 10};
    const struct model_shape heads = {
        .attention = ATTENTION_MULTI_HEAD, .kv_heads = 4, .head_dim = 48};
    const enum weight_format formats[] = {WEIGHT_F32, WEIGHT_F16, WEIGHT_BF16, WEIGHT_Q8_0};
    const struct kernel *list[8];
    size_t variants = kernel_list(list, 8);
    for (size_t v = 0; v < variants; v++)
        for (size_t f = 0; f < 4; f++) {
            assert_int_equal(kernel_select(list[v]->name), STATUS_OK);
            check_rounding(&odd, formats[f]);
            check_rounding(&heads, formats[f]);
        }
}

static void test_full_and_freed(void **state) {
    (void)state;
    struct log_capture capture;
    uint32_t a, b, c;
    struct kv_cache *cache = create(&LATENT, 1, 2 * KV_PAGE_POSITIONS, 2, WEIGHT_F16);
    assert_int_equal(kv_cache_open(cache, &a), STATUS_OK);
    assert_int_equal(kv_cache_open(cache, &b), STATUS_OK);
    log_capture_begin(&capture);
    assert_int_equal(kv_cache_open(cache, &c), STATUS_NO_MEMORY);
    log_capture_expect(&capture, "all 2 sequences", NULL);
    assert_int_equal(kv_cache_extend(cache, a, KV_PAGE_POSITIONS + 1), STATUS_OK);
    log_capture_begin(&capture);
    assert_int_equal(kv_cache_extend(cache, b, 1), STATUS_NO_MEMORY);
    log_capture_expect(&capture, "context is full", "--context", NULL);
    assert_int_equal(kv_cache_length(cache, b), 0);
    log_capture_begin(&capture);
    assert_int_equal(kv_cache_extend(cache, a, UINT32_MAX), STATUS_NO_MEMORY);
    log_capture_expect(&capture, "context is full", NULL);
    kv_cache_truncate(cache, a, KV_PAGE_POSITIONS);
    assert_int_equal(kv_cache_extend(cache, b, 1), STATUS_OK);
    kv_cache_close(cache, b);
    assert_int_equal(kv_cache_extend(cache, a, 1), STATUS_OK);
    assert_int_equal(kv_cache_length(cache, a), KV_PAGE_POSITIONS + 1);
    assert_int_equal(kv_cache_open(cache, &c), STATUS_OK);
    assert_int_equal(kv_cache_length(cache, c), 0);
    kv_cache_destroy(cache);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_width_is_compressed), cmocka_unit_test(test_memory_of_formats),
        cmocka_unit_test(test_rows_do_not_overlap), cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_full_and_freed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
