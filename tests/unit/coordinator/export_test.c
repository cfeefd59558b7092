/* Exporting the golden models: the plan, a run that is interrupted, and inputs that contradict
 * themselves. What the files hold is checked end to end (tests/e2e/quantize.py). */
#include "coordinator/export.h"

#include <signal.h>

#include "coordinator/export_plan.h"
#include "coordinator/interrupt.h"
#include "tests/unit/files.h"

#define V1 TEST_DATA_DIR "/golden/deepseek-moe-tiny"
#define V3 TEST_DATA_DIR "/golden/deepseek-v3-tiny"

struct fixture {
    char directory[64], out[128], part[140];
    struct threads *threads;
    struct log_capture log;
};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    test_directory_make(f->directory);
    snprintf(f->out, sizeof f->out, "%s/out.gguf", f->directory);
    snprintf(f->part, sizeof f->part, "%s.part", f->out);
    assert_int_equal(threads_create(2, &f->threads), STATUS_OK);
    interrupt_arm();
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    interrupt_disarm();
    threads_destroy(f->threads);
    test_directory_remove(f->directory);
    free(f);
    return 0;
}

static enum status run(struct fixture *f, const char *in, struct export_figures *figures) {
    struct export_options options = {
        .in = in, .out = f->out, .recipe = recipe_find("q4_k_m"), .threads = f->threads};
    return export_model(&options, figures);
}

static const struct export_tensor *find(const struct export_plan *plan, const char *name) {
    for (size_t i = 0; i < plan->count; i++)
        if (strcmp(plan->tensors[i].name, name) == 0)
            return &plan->tensors[i];
    fail_msg("there is no %s", name);
    return NULL;
}

static void expect(const struct export_plan *plan, const char *name, enum export_kind kind,
                   enum weight_format format, const uint64_t *shape, uint32_t dimensions) {
    const struct export_tensor *tensor = find(plan, name);
    assert_int_equal(tensor->kind, kind);
    assert_int_equal(tensor->format, format);
    assert_int_equal(tensor->dimensions, dimensions);
    assert_memory_equal(tensor->shape, shape, dimensions * sizeof *shape);
}

static void the_plan_of_v3(void **state) {
    (void)state;
    struct weights *weights;
    struct model_shape shape;
    struct export_plan plan;
    assert_int_equal(model_shape_read(V3, &shape), STATUS_OK);
    assert_int_equal(weights_open(V3, &weights), STATUS_OK);
    assert_int_equal(export_plan_make(weights, &shape, recipe_find("q4_k"), &plan), STATUS_OK);
    assert_string_equal(plan.tensors[0].name, "token_embd.weight");
    assert_string_equal(plan.tensors[1].name, "output_norm.weight");
    assert_string_equal(plan.tensors[2].name, "output.weight");
    expect(&plan, "output_norm.weight", EXPORT_VECTOR, WEIGHT_F32, (uint64_t[]){128}, 1);
    expect(&plan, "output.weight", EXPORT_MATRICES, WEIGHT_Q8_0, (uint64_t[]){320, 128}, 2);
    expect(&plan, "blk.1.ffn_down_exps.weight", EXPORT_MATRICES, WEIGHT_Q5_0,
           (uint64_t[]){32, 128, 32}, 3);
    expect(&plan, "blk.4.attn_k_b.weight", EXPORT_KEYS, WEIGHT_Q5_0, (uint64_t[]){4, 64, 32}, 3);
    expect(&plan, "blk.4.attn_v_b.weight", EXPORT_VALUES, WEIGHT_Q5_0, (uint64_t[]){4, 32, 64}, 3);
    expect(&plan, "blk.0.attn_q_b.weight", EXPORT_MATRICES, WEIGHT_BF16, (uint64_t[]){192, 48}, 2);
    expect(&plan, "blk.4.nextn.eh_proj.weight", EXPORT_MATRICES, WEIGHT_Q4_K,
           (uint64_t[]){128, 256}, 2);
    expect(&plan, "blk.2.ffn_gate_inp.weight", EXPORT_MATRICES, WEIGHT_F32, (uint64_t[]){32, 128},
           2);
    assert_int_equal(find(&plan, "blk.1.ffn_down_exps.weight")->sources, 32);
    assert_int_equal(plan.fallbacks[WEIGHT_BF16], 5);
    assert_int_equal(plan.fallbacks[WEIGHT_Q8_0], 1);
    assert_int_equal(plan.skipped, 0);
    assert_int_equal(plan.requantised, 0);
    export_plan_cleanup(&plan);
    weights_close(weights);
}

/* A layer beyond the model's, as directories without num_nextn_predict_layers have it. */
static void layers_that_are_not_told_of(void **state) {
    (void)state;
    struct weights *weights;
    struct model_shape shape;
    struct export_plan plan;
    assert_int_equal(model_shape_read(V3, &shape), STATUS_OK);
    assert_int_equal(weights_open(V3, &weights), STATUS_OK);
    shape.draft_layers = 0;
    assert_int_equal(export_plan_make(weights, &shape, recipe_find("bf16"), &plan), STATUS_OK);
    assert_true(plan.skipped > 100);
    assert_non_null(strstr(plan.skipped_name, "layers.4."));
    for (size_t i = 0; i < plan.count; i++)
        assert_null(strstr(plan.tensors[i].name, "blk.4."));
    export_plan_cleanup(&plan);
    weights_close(weights);
}

static void the_plan_of_v1(void **state) {
    (void)state;
    struct weights *weights;
    struct model_shape shape;
    struct export_plan plan;
    assert_int_equal(model_shape_read(V1, &shape), STATUS_OK);
    assert_int_equal(weights_open(V1, &weights), STATUS_OK);
    assert_int_equal(export_plan_make(weights, &shape, recipe_find("q8_0"), &plan), STATUS_OK);
    expect(&plan, "blk.0.attn_q.weight", EXPORT_TURNED, WEIGHT_Q8_0, (uint64_t[]){128, 128}, 2);
    expect(&plan, "blk.3.attn_k.weight", EXPORT_TURNED, WEIGHT_Q8_0, (uint64_t[]){128, 128}, 2);
    expect(&plan, "blk.3.attn_v.weight", EXPORT_MATRICES, WEIGHT_Q8_0, (uint64_t[]){128, 128}, 2);
    export_plan_cleanup(&plan);
    weights_close(weights);
}

static void figures_are_true(void **state) {
    struct fixture *f = *state;
    struct export_figures figures;
    assert_int_equal(run(f, V3, &figures), STATUS_OK);
    struct stat facts;
    assert_int_equal(stat(f->out, &facts), 0);
    assert_int_equal(facts.st_size, figures.out_bytes);
    assert_true(figures.in_bytes > figures.out_bytes);
    assert_in_range(8 * figures.out_bytes / figures.values, 5, 7);
}

static void an_interrupted_run(void **state) {
    struct fixture *f = *state;
    struct export_figures figures;
    raise(SIGINT);
    assert_int_equal(run(f, V3, &figures), STATUS_CANCELLED);
    assert_int_not_equal(access(f->out, F_OK), 0);
    assert_int_not_equal(access(f->part, F_OK), 0);
}

static void onto_its_own_input(void **state) {
    struct fixture *f = *state;
    struct export_figures figures;
    assert_int_equal(run(f, V1, &figures), STATUS_OK);
    log_capture_begin(&f->log);
    assert_int_equal(run(f, f->out, &figures), STATUS_USAGE);
    log_capture_expect(&f->log, f->out, "another name", NULL);
}

static void onto_a_directory(void **state) {
    struct fixture *f = *state;
    struct export_figures figures;
    assert_int_equal(mkdir(f->out, 0777), 0);
    log_capture_begin(&f->log);
    assert_int_equal(run(f, V1, &figures), STATUS_USAGE);
    log_capture_expect(&f->log, f->out, "directory", NULL);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void) {
    log_init("test", LOG_ERROR, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_plan_of_v3), cmocka_unit_test(layers_that_are_not_told_of),
        cmocka_unit_test(the_plan_of_v1), TEST(figures_are_true),
        TEST(an_interrupted_run),         TEST(onto_its_own_input),
        TEST(onto_a_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
