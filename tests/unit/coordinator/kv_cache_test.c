/* Pages are handed out, returned and never shared; a full cache says so. */
#include "tests/unit/test.h"

#include "coordinator/kv_cache.h"

static const struct model_shape LATENT = {
    .attention = ATTENTION_LATENT, .kv_rank = 6, .rope_dim = 2};
static const struct model_shape HEADS = {
    .attention = ATTENTION_MULTI_HEAD, .kv_heads = 3, .head_dim = 4};

static void test_width_is_compressed(void **state) {
    (void)state;
    struct kv_cache *cache;
    assert_int_equal(kv_cache_create(&LATENT, 2, 100, 1, &cache), STATUS_OK);
    assert_int_equal(kv_cache_width(cache), 8);
    assert_int_equal(kv_cache_positions_max(cache), KV_PAGE_POSITIONS);
    kv_cache_destroy(cache);
    assert_int_equal(kv_cache_create(&HEADS, 2, 129, 1, &cache), STATUS_OK);
    assert_int_equal(kv_cache_width(cache), 24);
    assert_int_equal(kv_cache_positions_max(cache), 2 * KV_PAGE_POSITIONS);
    kv_cache_destroy(cache);
}

static void test_rows_do_not_overlap(void **state) {
    (void)state;
    struct kv_cache *cache;
    uint32_t sequences[2];
    assert_int_equal(kv_cache_create(&LATENT, 3, 4 * KV_PAGE_POSITIONS, 2, &cache), STATUS_OK);
    for (int s = 0; s < 2; s++)
        assert_int_equal(kv_cache_open(cache, &sequences[s]), STATUS_OK);
    /* Grown in turns, so that their pages interleave. */
    for (int round = 0; round < 2; round++)
        for (int s = 0; s < 2; s++)
            assert_int_equal(kv_cache_extend(cache, sequences[s], KV_PAGE_POSITIONS), STATUS_OK);
    float value = 0;
    for (uint32_t layer = 0; layer < 3; layer++)
        for (int s = 0; s < 2; s++)
            for (uint32_t p = 0; p < 2 * KV_PAGE_POSITIONS; p++)
                for (int i = 0; i < 8; i++)
                    kv_cache_row(cache, layer, sequences[s], p)[i] = value++;
    value = 0;
    for (uint32_t layer = 0; layer < 3; layer++)
        for (int s = 0; s < 2; s++)
            for (uint32_t p = 0; p < 2 * KV_PAGE_POSITIONS; p++)
                for (int i = 0; i < 8; i++)
                    assert_true(kv_cache_row(cache, layer, sequences[s], p)[i] == value++);
    kv_cache_destroy(cache);
}

static void test_full_and_freed(void **state) {
    (void)state;
    struct kv_cache *cache;
    struct log_capture capture;
    uint32_t a, b, c;
    assert_int_equal(kv_cache_create(&LATENT, 1, 2 * KV_PAGE_POSITIONS, 2, &cache), STATUS_OK);
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
        cmocka_unit_test(test_width_is_compressed),
        cmocka_unit_test(test_rows_do_not_overlap),
        cmocka_unit_test(test_full_and_freed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
