/* What each --type makes of each tensor. */
#include "coordinator/recipe.h"

#include "tests/unit/test.h"

static enum weight_format wanted(const char *type, const char *part, uint32_t layer) {
    struct recipe_tensor tensor = {
        .part = part, .layer = layer, .layers = 27, .dimensions = 2, .columns = 2048};
    return recipe_wanted(recipe_find(type), &tensor);
}

static void every_choice_is_known(void **state) {
    (void)state;
    char choices[] = RECIPE_CHOICES;
    size_t count = 0;
    for (char *name = strtok(choices, "|"); name; name = strtok(NULL, "|")) {
        assert_non_null(recipe_find(name));
        count++;
    }
    assert_int_equal(count, 7);
    assert_null(recipe_find("q4_1"));
}

static void one_format_for_most(void **state) {
    (void)state;
    assert_int_equal(wanted("bf16", "attn_q.weight", 3), WEIGHT_BF16);
    assert_int_equal(wanted("bf16", "output.weight", UINT32_MAX), WEIGHT_BF16);
    assert_int_equal(wanted("q8_0", "output.weight", UINT32_MAX), WEIGHT_Q8_0);
    assert_int_equal(wanted("q4_0", "token_embd.weight", UINT32_MAX), WEIGHT_Q4_0);
    assert_int_equal(wanted("q4_0", "output.weight", UINT32_MAX), WEIGHT_Q6_K);
    assert_int_equal(wanted("q4_k", "ffn_down_exps.weight", 0), WEIGHT_Q4_K);
    assert_int_equal(wanted("q5_k", "attn_v_b.weight", 26), WEIGHT_Q5_K);
}

static void exact_tensors(void **state) {
    (void)state;
    struct recipe_tensor norm = {.part = "attn_norm.weight", .layers = 27, .dimensions = 1};
    assert_int_equal(recipe_wanted(recipe_find("q4_0"), &norm), WEIGHT_F32);
    assert_int_equal(wanted("q4_0", "ffn_gate_inp.weight", 3), WEIGHT_F32);
    assert_int_equal(wanted("bf16", "ffn_gate_inp.weight", 3), WEIGHT_F32);
}

static void a_tied_embedding_is_a_head(void **state) {
    (void)state;
    struct recipe_tensor tensor = {.part = "token_embd.weight",
                                   .layer = UINT32_MAX,
                                   .layers = 27,
                                   .dimensions = 2,
                                   .tied_head = true};
    assert_int_equal(recipe_wanted(recipe_find("q4_k"), &tensor), WEIGHT_Q6_K);
}

/* Of 27 layers: 0 to 2, 23 to 26, and every third between. */
static void the_mixed_recipe(void **state) {
    (void)state;
    uint32_t finer = 0;
    for (uint32_t layer = 0; layer < 27; layer++) {
        bool expected = layer < 3 || layer >= 23 || (layer - 3) % 3 == 2;
        enum weight_format format = wanted("q4_k_m", "ffn_down_exps.weight", layer);
        assert_int_equal(format, expected ? WEIGHT_Q6_K : WEIGHT_Q4_K);
        assert_int_equal(wanted("q4_k_m", "attn_v.weight", layer), format);
        assert_int_equal(wanted("q4_k_m", "ffn_up_exps.weight", layer), WEIGHT_Q4_K);
        finer += expected;
    }
    assert_in_range(finer, 12, 15);
    assert_int_equal(wanted("q4_k_m", "ffn_down_exps.weight", 27), WEIGHT_Q6_K); /* draft module */
    assert_int_equal(wanted("q4_k_m", "output.weight", UINT32_MAX), WEIGHT_Q6_K);
    assert_int_equal(wanted("q4_k_m", "token_embd.weight", UINT32_MAX), WEIGHT_Q4_K);
}

static void rows_that_do_not_fit(void **state) {
    (void)state;
    assert_int_equal(recipe_fitting(WEIGHT_Q4_K, 512), WEIGHT_Q4_K);
    assert_int_equal(recipe_fitting(WEIGHT_Q4_K, 1408), WEIGHT_Q5_0);
    assert_int_equal(recipe_fitting(WEIGHT_Q5_K, 1408), WEIGHT_Q5_1);
    assert_int_equal(recipe_fitting(WEIGHT_Q6_K, 1408), WEIGHT_Q8_0);
    assert_int_equal(recipe_fitting(WEIGHT_Q6_K, 40), WEIGHT_BF16);
    assert_int_equal(recipe_fitting(WEIGHT_Q4_0, 48), WEIGHT_BF16);
    assert_int_equal(recipe_fitting(WEIGHT_Q8_0, 96), WEIGHT_Q8_0);
    assert_int_equal(recipe_fitting(WEIGHT_BF16, 7), WEIGHT_BF16);
    assert_int_equal(recipe_fitting(WEIGHT_F32, 7), WEIGHT_F32);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_choice_is_known), cmocka_unit_test(one_format_for_most),
        cmocka_unit_test(exact_tensors),         cmocka_unit_test(a_tied_embedding_is_a_head),
        cmocka_unit_test(the_mixed_recipe),      cmocka_unit_test(rows_that_do_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
