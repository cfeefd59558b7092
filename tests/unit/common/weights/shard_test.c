/* Shards: their sizes, that slices are the parts of the whole expert, and experts that are not
 * alike. */
#include "common/weights/shard.h"

#include "tests/unit/common/weights/checkpoint.h"
#include "tests/unit/common/weights/gguf_file.h"

#define FP8_MODEL TEST_DATA_DIR "/golden/deepseek-v3-tiny-fp8" /* hidden 256, inner 192 */
#define V3_MODEL  TEST_DATA_DIR "/golden/deepseek-v3-tiny"     /* hidden 128, inner 32 */

struct fixture {
    char directory[64];
    struct log_capture log;
    struct random random;
    uint8_t *bytes;
};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    test_directory_make(f->directory);
    f->bytes = checkpoint_bytes(&f->random, 4096);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    test_directory_remove(f->directory);
    free(f->bytes);
    free(f);
    return 0;
}

static struct weights *open_sound(const char *path) {
    struct weights *weights = NULL;
    assert_int_equal(weights_open(path, &weights), STATUS_OK);
    return weights;
}

static void *allocate(size_t bytes) {
    void *storage;
    assert_int_equal(posix_memalign(&storage, 64, bytes), 0);
    memset(storage, 0xcd, bytes);
    return storage;
}

static void quantum_follows_the_formats(void **state) {
    (void)state;
    struct shard_layout layout = {256, 192, WEIGHT_BF16, WEIGHT_F32, WEIGHT_F16};
    assert_int_equal(shard_quantum(&layout), 8);
    layout.down = WEIGHT_FP8_E4M3;
    assert_int_equal(shard_quantum(&layout), 128);
    layout.gate = WEIGHT_FP8_E4M3;
    layout.down = WEIGHT_F16;
    assert_int_equal(shard_quantum(&layout), 128);
    /* Slices cut no row of gate and up, so only down's blocks count. */
    layout.gate = layout.up = WEIGHT_Q4_K;
    assert_int_equal(shard_quantum(&layout), 8);
    layout.down = WEIGHT_Q8_0;
    assert_int_equal(shard_quantum(&layout), 32);
    layout.down = WEIGHT_Q6_K;
    assert_int_equal(shard_quantum(&layout), 256);
}

static void views_follow_one_another(void **state) {
    (void)state;
    const struct shard_layout layout = {5, 40, WEIGHT_BF16, WEIGHT_F32, WEIGHT_F16};
    const struct shard shard = {3, 7, 8, 24};
    /* (16, 5) of BF16, (16, 5) of F32, (5, 16) of F16: 160, 320 and 160 bytes, each up to 64. */
    assert_int_equal(shard_bytes(&layout, &shard), 192 + 320 + 192);
    static _Alignas(64) uint8_t storage[704];
    struct expert expert = shard_view(&layout, &shard, storage);
    assert_ptr_equal(expert.gate.data, storage);
    assert_ptr_equal(expert.up.data, storage + 192);
    assert_ptr_equal(expert.down.data, storage + 512);
    assert_int_equal(expert.gate.rows, 16);
    assert_int_equal(expert.gate.columns, 5);
    assert_int_equal(expert.up.format, WEIGHT_F32);
    assert_int_equal(expert.down.rows, 5);
    assert_int_equal(expert.down.columns, 16);
}

static void layouts_are_found(void **state) {
    (void)state;
    struct shard_layout layout;
    struct weights *weights = open_sound(FP8_MODEL);
    assert_int_equal(shard_find_layout(weights, 1, 16, 256, 192, &layout), STATUS_OK);
    assert_int_equal(layout.hidden, 256);
    assert_int_equal(layout.inner, 192);
    assert_int_equal(layout.gate, WEIGHT_FP8_E4M3);
    assert_int_equal(layout.up, WEIGHT_FP8_E4M3);
    assert_int_equal(layout.down, WEIGHT_FP8_E4M3);
    weights_close(weights);
    weights = open_sound(V3_MODEL);
    assert_int_equal(shard_find_layout(weights, 4, 32, 128, 32, &layout), STATUS_OK);
    assert_int_equal(layout.down, WEIGHT_BF16);
    weights_close(weights);
}

/* The shared experts as one, and a dense layer's feed-forward. */
static void ffn_layouts_are_found(void **state) {
    (void)state;
    struct shard_layout layout;
    struct weights *weights = open_sound(V3_MODEL);
    assert_int_equal(shard_find_ffn_layout(weights, 0, 128, 320, &layout), STATUS_OK);
    assert_int_equal(layout.inner, 320);
    assert_int_equal(layout.gate, WEIGHT_BF16);
    assert_int_equal(shard_find_ffn_layout(weights, 1, 128, 32, &layout), STATUS_OK);
    assert_int_equal(layout.inner, 32);
    assert_int_equal(shard_find_ffn_layout(weights, 1, 128, 64, &layout), STATUS_FORMAT);
    assert_int_equal(shard_find_ffn_layout(weights, 99, 128, 64, &layout), STATUS_NOT_FOUND);
    weights_close(weights);
}

static void expect_rows(const struct matrix *part, const struct matrix *whole, uint32_t first_row,
                        uint32_t first_column) {
    size_t part_bytes = weight_row_bytes(part->format, part->columns);
    size_t whole_bytes = weight_row_bytes(whole->format, whole->columns);
    size_t skipped = weight_row_bytes(whole->format, first_column);
    for (uint32_t row = 0; row < part->rows; row++)
        assert_memory_equal(part->data + row * part_bytes,
                            whole->data + (first_row + row) * whole_bytes + skipped, part_bytes);
    uint32_t part_across = (part->columns + 127) / 128, whole_across = (whole->columns + 127) / 128;
    for (uint32_t r = 0; part->scales && r < (part->rows + 127) / 128; r++)
        for (uint32_t c = 0; c < part_across; c++)
            assert_float_equal(
                part->scales[r * part_across + c],
                whole->scales[(first_row / 128 + r) * whole_across + first_column / 128 + c], 0);
}

/* Reads one expert whole and in two slices cut at `cut`, and compares. */
static void check_slices(const char *path, uint32_t layer, uint32_t experts, uint32_t hidden,
                         uint32_t inner, uint32_t cut) {
    struct weights *weights = open_sound(path);
    struct shard_layout layout;
    assert_int_equal(shard_find_layout(weights, layer, experts, hidden, inner, &layout), STATUS_OK);
    const struct shard shards[] = {{layer, experts - 1, 0, inner},
                                   {layer, experts - 1, 0, cut},
                                   {layer, experts - 1, cut, inner}};
    void *storage[3];
    struct expert views[3];
    for (size_t i = 0; i < 3; i++) {
        storage[i] = allocate(shard_bytes(&layout, &shards[i]));
        assert_int_equal(shard_read(weights, &layout, &shards[i], storage[i]), STATUS_OK);
        views[i] = shard_view(&layout, &shards[i], storage[i]);
    }
    for (size_t i = 1; i < 3; i++) {
        expect_rows(&views[i].gate, &views[0].gate, shards[i].begin, 0);
        expect_rows(&views[i].up, &views[0].up, shards[i].begin, 0);
        expect_rows(&views[i].down, &views[0].down, 0, shards[i].begin);
    }
    for (size_t i = 0; i < 3; i++)
        free(storage[i]);
    weights_close(weights);
}

static void slices_are_parts_of_the_expert(void **state) {
    (void)state;
    check_slices(V3_MODEL, 1, 32, 128, 32, 8);
    check_slices(V3_MODEL, 3, 32, 128, 32, 24);
    check_slices(FP8_MODEL, 2, 16, 256, 192, 128);
}

/* Rows of gate and up are cut anywhere, columns of down between blocks. */
static void slices_of_blocked_formats(void **state) {
    struct fixture *f = *state;
    struct gguf_file file;
    char path[128];
    uint8_t *bytes = checkpoint_bytes(&f->random, 160000);
    gguf_begin(&file);
    gguf_tensor(&file, "blk.1.ffn_gate_exps.weight", 3, (const uint64_t[]){512, 96, 3}, 12, bytes,
                3 * 96 * 288);
    gguf_tensor(&file, "blk.1.ffn_up_exps.weight", 3, (const uint64_t[]){512, 96, 3}, 13, bytes + 9,
                3 * 96 * 352);
    gguf_tensor(&file, "blk.1.ffn_down_exps.weight", 3, (const uint64_t[]){96, 512, 3}, 8, bytes,
                3 * 512 * 102);
    gguf_write(&file, f->directory, "m.gguf");
    snprintf(path, sizeof path, "%s/m.gguf", f->directory);
    check_slices(path, 1, 3, 512, 96, 32);
    check_slices(path, 1, 3, 512, 96, 64);
    free(bytes);
}

/* The whole expert is the three tensors. */
static void whole_expert_is_its_tensors(void **state) {
    (void)state;
    struct weights *weights = open_sound(V3_MODEL);
    struct arena *arena = arena_create(0);
    struct shard_layout layout;
    assert_int_equal(shard_find_layout(weights, 2, 32, 128, 32, &layout), STATUS_OK);
    const struct shard shard = {2, 5, 0, 32};
    void *storage = allocate(shard_bytes(&layout, &shard));
    assert_int_equal(shard_read(weights, &layout, &shard, storage), STATUS_OK);
    struct expert expert = shard_view(&layout, &shard, storage);
    struct matrix gate, up, down;
    const char *name = "model.layers.2.mlp.experts.5.gate_proj.weight";
    assert_int_equal(weights_load_matrix(weights, name, 32, 128, arena, &gate), STATUS_OK);
    name = "model.layers.2.mlp.experts.5.up_proj.weight";
    assert_int_equal(weights_load_matrix(weights, name, 32, 128, arena, &up), STATUS_OK);
    name = "model.layers.2.mlp.experts.5.down_proj.weight";
    assert_int_equal(weights_load_matrix(weights, name, 128, 32, arena, &down), STATUS_OK);
    assert_memory_equal(expert.gate.data, gate.data, (size_t)32 * 128 * 2);
    assert_memory_equal(expert.up.data, up.data, (size_t)32 * 128 * 2);
    assert_memory_equal(expert.down.data, down.data, (size_t)32 * 128 * 2);
    free(storage);
    arena_destroy(arena);
    weights_close(weights);
}

/* Two experts of hidden 4 and inner 8 in BF16; the last tensor, the second's down projection, is
 * given by the test. */
static struct weights *open_two_experts(struct fixture *f, struct checkpoint_tensor last) {
    static const char *const NAMES[] = {
        "model.layers.1.mlp.experts.0.gate_proj.weight",
        "model.layers.1.mlp.experts.0.up_proj.weight",
        "model.layers.1.mlp.experts.0.down_proj.weight",
        "model.layers.1.mlp.experts.1.gate_proj.weight",
        "model.layers.1.mlp.experts.1.up_proj.weight",
    };
    struct checkpoint_tensor tensors[6];
    for (size_t i = 0; i < 5; i++) {
        bool down = i == 2;
        tensors[i] = (struct checkpoint_tensor){NAMES[i], "BF16", 2, {down ? 4 : 8, down ? 8 : 4},
                                                f->bytes, 64};
    }
    tensors[5] = last;
    checkpoint_write(f->directory, "model.safetensors", tensors, 6);
    return open_sound(f->directory);
}

static void experts_that_differ_are_refused(void **state) {
    struct fixture *f = *state;
    const char *name = "model.layers.1.mlp.experts.1.down_proj.weight";
    const struct {
        struct checkpoint_tensor last;
        enum status status;
        const char *problem;
    } cases[] = {
        {{"other", "BF16", 2, {4, 8}, f->bytes, 64}, STATUS_NOT_FOUND, "no tensor"},
        {{name, "BF16", 2, {8, 4}, f->bytes, 64}, STATUS_FORMAT, "(4, 8)"},
        {{name, "BF16", 1, {32}, f->bytes, 64}, STATUS_FORMAT, "1 dimensions"},
        {{name, "F16", 2, {4, 8}, f->bytes, 64}, STATUS_FORMAT, "not BF16"},
        {{name, "I8", 2, {4, 8}, f->bytes, 32}, STATUS_UNSUPPORTED, "I8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct weights *weights = open_two_experts(f, cases[i].last);
        struct shard_layout layout = {.hidden = 77};
        log_capture_begin(&f->log);
        assert_int_equal(shard_find_layout(weights, 1, 2, 4, 8, &layout), cases[i].status);
        log_capture_expect(&f->log, f->directory, name, cases[i].problem, NULL);
        assert_int_equal(layout.hidden, 77);
        weights_close(weights);
    }
}

/* A worker's own copy may not be what the coordinator laid out: memory was sized by the layout, so
 * nothing may be read into it. */
static void reading_against_another_layout_is_refused(void **state) {
    struct fixture *f = *state;
    const char *name = "model.layers.1.mlp.experts.1.down_proj.weight";
    struct weights *weights =
        open_two_experts(f, (struct checkpoint_tensor){name, "F32", 2, {4, 8}, f->bytes, 128});
    const struct shard_layout layout = {4, 8, WEIGHT_BF16, WEIGHT_BF16, WEIGHT_BF16};
    const struct shard_layout narrow = {4, 4, WEIGHT_BF16, WEIGHT_BF16, WEIGHT_BF16};
    const struct shard shard = {1, 1, 0, 8}, sound = {1, 0, 0, 8}, first = {1, 0, 0, 4};
    uint8_t *storage = allocate(shard_bytes(&layout, &shard));
    log_capture_begin(&f->log);
    assert_int_equal(shard_read(weights, &layout, &shard, storage), STATUS_FORMAT);
    log_capture_expect(&f->log, name, "F32", "not BF16", NULL);
    log_capture_begin(&f->log);
    assert_int_equal(shard_read(weights, &narrow, &first, storage), STATUS_FORMAT);
    log_capture_expect(&f->log, "experts.0.gate_proj", "(8, 4)", "(4, 4)", NULL);
    for (size_t i = 0; i < shard_bytes(&layout, &shard); i++)
        assert_int_equal(storage[i], 0xcd);
    assert_int_equal(shard_read(weights, &layout, &sound, storage), STATUS_OK);
    assert_memory_equal(storage, f->bytes, 64);
    free(storage);
    weights_close(weights);
}

static void ranges_outside_the_expert_are_refused(void **state) {
    struct fixture *f = *state;
    struct weights *weights = open_sound(FP8_MODEL);
    struct shard_layout layout;
    assert_int_equal(shard_find_layout(weights, 1, 16, 256, 192, &layout), STATUS_OK);
    static const struct {
        struct shard shard;
        enum status status;
    } CASES[] = {
        {{1, 0, 0, 0}, STATUS_FORMAT},         {{1, 0, 0, 193}, STATUS_FORMAT},
        {{1, 0, 128, 64}, STATUS_FORMAT},      {{1, 0, 0, 64}, STATUS_UNSUPPORTED},
        {{1, 0, 64, 192}, STATUS_UNSUPPORTED},
    };
    uint8_t storage[64];
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        log_capture_begin(&f->log);
        assert_int_equal(shard_read(weights, &layout, &CASES[i].shard, storage), CASES[i].status);
        log_capture_expect(&f->log, "model.layers.1.mlp.experts.0.gate_proj.weight", NULL);
    }
    weights_close(weights);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantum_follows_the_formats),
        cmocka_unit_test(views_follow_one_another),
        cmocka_unit_test(layouts_are_found),
        cmocka_unit_test(ffn_layouts_are_found),
        cmocka_unit_test_setup_teardown(slices_of_blocked_formats, setup, teardown),
        cmocka_unit_test(slices_are_parts_of_the_expert),
        cmocka_unit_test(whole_expert_is_its_tensors),
        cmocka_unit_test_setup_teardown(experts_that_differ_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(reading_against_another_layout_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(ranges_outside_the_expert_are_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
