/* Sizes and places of matrices in memory. */
#include "common/weights/matrix.h"

#include "common/kernel/block_formats.h"
#include "tests/unit/test.h"

static void formats_have_names_and_sizes(void **state) {
    (void)state;
    assert_string_equal(weight_format_name(WEIGHT_F32), "F32");
    assert_string_equal(weight_format_name(WEIGHT_F16), "F16");
    assert_string_equal(weight_format_name(WEIGHT_BF16), "BF16");
    assert_string_equal(weight_format_name(WEIGHT_FP8_E4M3), "FP8");
    assert_string_equal(weight_format_name(WEIGHT_FORMAT_COUNT), "unknown");
    assert_int_equal(weight_row_bytes(WEIGHT_F32, 7), 28);
    assert_int_equal(weight_row_bytes(WEIGHT_F16, 7), 14);
    assert_int_equal(weight_row_bytes(WEIGHT_BF16, 7), 14);
    assert_int_equal(weight_row_bytes(WEIGHT_FP8_E4M3, 7), 7);
    assert_int_equal(weight_block(WEIGHT_BF16), 1);
    assert_int_equal(weight_block(WEIGHT_FP8_E4M3), 128);
    assert_int_equal(weight_block_rows(WEIGHT_BF16), 1);
    assert_int_equal(weight_block_rows(WEIGHT_FP8_E4M3), 128);
}

static void blocked_formats_have_the_sizes_of_their_blocks(void **state) {
    (void)state;
    static const struct {
        enum weight_format format;
        const char *name;
        uint32_t block, bytes;
    } CASES[] = {
        {WEIGHT_Q4_0, "Q4_0", 32, sizeof(struct block_q4_0)},
        {WEIGHT_Q4_1, "Q4_1", 32, sizeof(struct block_q4_1)},
        {WEIGHT_Q5_0, "Q5_0", 32, sizeof(struct block_q5_0)},
        {WEIGHT_Q5_1, "Q5_1", 32, sizeof(struct block_q5_1)},
        {WEIGHT_Q8_0, "Q8_0", 32, sizeof(struct block_q8_0)},
        {WEIGHT_Q2_K, "Q2_K", 256, sizeof(struct block_q2_k)},
        {WEIGHT_Q3_K, "Q3_K", 256, sizeof(struct block_q3_k)},
        {WEIGHT_Q4_K, "Q4_K", 256, sizeof(struct block_q4_k)},
        {WEIGHT_Q5_K, "Q5_K", 256, sizeof(struct block_q5_k)},
        {WEIGHT_Q6_K, "Q6_K", 256, sizeof(struct block_q6_k)},
        {WEIGHT_IQ4_NL, "IQ4_NL", 32, sizeof(struct block_iq4_nl)},
        {WEIGHT_IQ4_XS, "IQ4_XS", 256, sizeof(struct block_iq4_xs)},
    };
    size_t blocked = 0;
    for (int format = 0; format < WEIGHT_FORMAT_COUNT; format++)
        blocked += weight_is_blocked((enum weight_format)format);
    assert_int_equal(blocked, sizeof CASES / sizeof *CASES);
    for (size_t i = 0; i < blocked; i++) {
        assert_true(weight_is_blocked(CASES[i].format));
        assert_string_equal(weight_format_name(CASES[i].format), CASES[i].name);
        assert_int_equal(weight_block(CASES[i].format), CASES[i].block);
        assert_int_equal(weight_block_rows(CASES[i].format), 1);
        assert_int_equal(weight_row_bytes(CASES[i].format, 1024),
                         1024 / CASES[i].block * CASES[i].bytes);
        /* A block that is cut short takes its whole room. */
        assert_int_equal(weight_row_bytes(CASES[i].format, 257),
                         (257 / CASES[i].block + 1) * CASES[i].bytes);
    }
}

static void matrices_follow_one_another_aligned(void **state) {
    (void)state;
    static const uint32_t SIZES[] = {1, 3, 8, 127, 128, 129, 300};
    const size_t count = sizeof SIZES / sizeof SIZES[0];
    for (int format = 0; format < WEIGHT_FORMAT_COUNT; format++)
        for (size_t r = 0; r < count; r++)
            for (size_t c = 0; c < count; c++) {
                size_t bytes = matrix_bytes((enum weight_format)format, SIZES[r], SIZES[c]);
                size_t data = SIZES[r] * weight_row_bytes((enum weight_format)format, SIZES[c]);
                assert_int_equal(bytes % 64, 0);
                assert_true(bytes >= data);
                /* No more than the scales and the alignment. */
                assert_true(bytes <= data + 4 * 9 + 3 + 63);
            }
}

static void large_matrices_do_not_overflow(void **state) {
    (void)state;
    assert_int_equal(matrix_bytes(WEIGHT_F32, 1u << 20, 1u << 20), UINT64_C(1) << 42);
}

static void views_point_into_the_storage(void **state) {
    (void)state;
    static _Alignas(64) uint8_t storage[64];
    struct matrix plain = matrix_view(WEIGHT_BF16, 2, 3, storage);
    assert_int_equal(plain.format, WEIGHT_BF16);
    assert_int_equal(plain.rows, 2);
    assert_int_equal(plain.columns, 3);
    assert_ptr_equal(plain.data, storage);
    assert_null(plain.scales);
}

static void scales_follow_the_padded_data(void **state) {
    (void)state;
    /* 129 x 3 values are 387 bytes, padded to 388; 2 x 1 blocks have 8 bytes of scales. */
    static _Alignas(64) uint8_t storage[448];
    assert_int_equal(matrix_bytes(WEIGHT_FP8_E4M3, 129, 3), 448);
    struct matrix view = matrix_view(WEIGHT_FP8_E4M3, 129, 3, storage);
    assert_ptr_equal(view.data, storage);
    assert_ptr_equal(view.scales, storage + 388);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formats_have_names_and_sizes),
        cmocka_unit_test(blocked_formats_have_the_sizes_of_their_blocks),
        cmocka_unit_test(matrices_follow_one_another_aligned),
        cmocka_unit_test(large_matrices_do_not_overflow),
        cmocka_unit_test(views_point_into_the_storage),
        cmocka_unit_test(scales_follow_the_padded_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
