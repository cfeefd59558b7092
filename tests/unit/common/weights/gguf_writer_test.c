/* Files written and read back through the reader; what is left behind when writing ends early. */
#include "common/weights/gguf_writer.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "common/weights/gguf_types.h"
#include "common/weights/weights.h"
#include "tests/unit/common/weights/writer_fixture.h"

static const float VALUES[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

static void add_tensors(struct gguf_writer *writer) {
    gguf_writer_add_tensor(writer, "output_norm.weight", 1, (uint64_t[]){3}, 0, 12);
    gguf_writer_add_tensor(writer, "blk.1.ffn_up_exps.weight", 3, (uint64_t[]){2, 1, 2}, 0, 16);
    gguf_writer_add_tensor(writer, "output.weight", 2, (uint64_t[]){1, 5}, 0, 20);
}

/* All in one go, across the tensors' ends. */
static void write_tensors(struct gguf_writer *writer, size_t piece) {
    for (size_t at = 0; at < sizeof VALUES; at += piece) {
        size_t left = sizeof VALUES - at;
        assert_int_equal(
            gguf_writer_write(writer, (const char *)VALUES + at, left < piece ? left : piece),
            STATUS_OK);
    }
}

static void expect_values(const struct weights *weights, const char *name, size_t first,
                          size_t count) {
    float read[12];
    assert_non_null(weights_find(weights, name));
    assert_int_equal(weights_find(weights, name)->bytes, count * sizeof(float));
    assert_int_equal(weights_read_bytes(weights, name, 0, read, count * sizeof(float)), STATUS_OK);
    assert_memory_equal(read, VALUES + first, count * sizeof(float));
}

static void check_file(struct writer_fixture *f, uint32_t alignment, size_t piece) {
    gguf_writer_set_alignment(f->writer, alignment);
    gguf_writer_add_u32(f->writer, "general.alignment", alignment);
    add_tensors(f->writer);
    uint64_t bytes = gguf_writer_file_bytes(f->writer);
    assert_int_equal(gguf_writer_open(f->writer, f->path), STATUS_OK);
    write_tensors(f->writer, piece);
    assert_int_not_equal(access(f->path, F_OK), 0);
    assert_int_equal(gguf_writer_finish(f->writer), STATUS_OK);
    assert_int_not_equal(access(f->part, F_OK), 0);
    struct stat facts;
    assert_int_equal(stat(f->path, &facts), 0);
    assert_int_equal(facts.st_size, bytes);
    assert_int_equal(bytes % alignment, 0);
    struct weights *weights;
    assert_int_equal(weights_open(f->path, &weights), STATUS_OK);
    assert_int_equal(weights_count(weights), 4);
    expect_values(weights, "model.norm.weight", 0, 3);
    expect_values(weights, "model.layers.1.mlp.experts.0.up_proj.weight", 3, 2);
    expect_values(weights, "model.layers.1.mlp.experts.1.up_proj.weight", 5, 2);
    expect_values(weights, "lm_head.weight", 7, 5);
    weights_close(weights);
}

static void tensors_are_read_back(void **state) {
    check_file(*state, 32, sizeof VALUES);
}

static void any_alignment_and_piece(void **state) {
    check_file(*state, 8192, 7);
}

static void keys_are_read_back(void **state) {
    struct writer_fixture *f = *state;
    json_t *texts = json_pack("[s, s, s%]", "a", "", "\xc3\xa4\x00z", (size_t)4);
    gguf_writer_add_u32(f->writer, "u32", 4000000000u);
    gguf_writer_add_f32(f->writer, "f32", 0.0707f);
    gguf_writer_add_bool(f->writer, "yes", true);
    gguf_writer_add_string(f->writer, "text",
                           "pr\xc3\xbc"
                           "fung");
    gguf_writer_add_strings(f->writer, "texts", texts);
    gguf_writer_add_i32s(f->writer, "numbers", (int32_t[]){-1, 5}, 2);
    gguf_writer_add_pair(f->writer, "\3\0\0\0\0\0\0\0raw\0\0\0\0\x7f", 16);
    add_tensors(f->writer);
    assert_int_equal(gguf_writer_open(f->writer, f->path), STATUS_OK);
    write_tensors(f->writer, 48);
    assert_int_equal(gguf_writer_finish(f->writer), STATUS_OK);
    struct weights *weights;
    assert_int_equal(weights_open(f->path, &weights), STATUS_OK);
    json_t *wanted = json_pack("{s:I, s:f, s:b, s:s, s:O, s:[i, i], s:i}", "u32",
                               (json_int_t)4000000000, "f32", 0.0707, "yes", 1, "text",
                               "pr\xc3\xbc"
                               "fung",
                               "texts", texts, "numbers", -1, 5, "raw", 127);
    assert_non_null(wanted);
    assert_true(json_equal(wanted, weights_metadata(weights)));
    /* A pair can be taken out as it went in. */
    void *pair;
    size_t bytes;
    assert_int_equal(weights_read_pair(weights, 6, &pair, &bytes), STATUS_OK);
    assert_int_equal(bytes, 16);
    assert_memory_equal(pair, "\3\0\0\0\0\0\0\0raw\0\0\0\0\x7f", 16);
    free(pair);
    json_decref(wanted);
    json_decref(texts);
    weights_close(weights);
}

static void an_early_end_leaves_nothing(void **state) {
    struct writer_fixture *f = *state;
    test_file_write(f->directory, "m.gguf", "before");
    add_tensors(f->writer);
    assert_int_equal(gguf_writer_open(f->writer, f->path), STATUS_OK);
    assert_int_equal(gguf_writer_write(f->writer, VALUES, 16), STATUS_OK);
    assert_int_equal(access(f->part, F_OK), 0);
    gguf_writer_destroy(f->writer);
    f->writer = NULL;
    assert_int_not_equal(access(f->part, F_OK), 0);
    struct stat facts;
    assert_int_equal(stat(f->path, &facts), 0);
    assert_int_equal(facts.st_size, 6);
}

static void refuse_open(struct writer_fixture *f, const char *path, const char *reason) {
    add_tensors(f->writer);
    log_capture_begin(&f->log);
    assert_int_equal(gguf_writer_open(f->writer, path), STATUS_IO);
    log_capture_expect(&f->log, path, reason, NULL);
}

static void no_such_directory(void **state) {
    refuse_open(*state, "/nowhere/m.gguf", "No such file or directory");
}

static void two_writers_of_one_file(void **state) {
    struct writer_fixture *f = *state;
    test_file_write(f->directory, "m.gguf.part", "theirs");
    int theirs = open(f->part, O_RDONLY);
    assert_int_equal(flock(theirs, LOCK_EX), 0);
    refuse_open(f, f->path, "another process");
    struct stat facts;
    assert_int_equal(fstat(theirs, &facts), 0);
    assert_int_equal(facts.st_size, 6);
    assert_int_equal(facts.st_nlink, 1);
    close(theirs);
}

/* What an interrupted process left is taken over. */
static void a_stale_temporary_file(void **state) {
    struct writer_fixture *f = *state;
    test_file_write(f->directory, "m.gguf.part", "a longer text than the whole file could be");
    check_file(f, 32, 48);
}

static void too_little_space(void **state) {
    struct writer_fixture *f = *state;
    struct rlimit before, small = {4096, 4096};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    gguf_writer_add_tensor(f->writer, "a", 1, (uint64_t[]){1 << 20}, 0, 4 << 20);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    log_capture_begin(&f->log);
    enum status status = gguf_writer_open(f->writer, f->path);
    char *block = calloc(1, 4 << 20);
    if (status == STATUS_OK) /* a file system that takes no space ahead */
        status = gguf_writer_write(f->writer, block, 4 << 20);
    free(block);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(status, STATUS_IO);
    log_capture_expect(&f->log, f->path, "File too large", "disk", NULL);
    gguf_writer_destroy(f->writer);
    f->writer = NULL;
    assert_int_not_equal(access(f->part, F_OK), 0);
}

static void a_directory_of_that_name(void **state) {
    struct writer_fixture *f = *state;
    assert_int_equal(mkdir(f->path, 0777), 0);
    add_tensors(f->writer);
    assert_int_equal(gguf_writer_open(f->writer, f->path), STATUS_OK);
    write_tensors(f->writer, 48);
    log_capture_begin(&f->log);
    assert_int_equal(gguf_writer_finish(f->writer), STATUS_IO);
    log_capture_expect(&f->log, f->path, "directory", NULL);
}

static void types_have_numbers(void **state) {
    (void)state;
    uint32_t number;
    assert_true(gguf_type_number(WEIGHT_F32, &number) && number == 0);
    assert_true(gguf_type_number(WEIGHT_Q4_K, &number) && number == 12);
    assert_true(gguf_type_number(WEIGHT_BF16, &number) && number == 30);
    assert_false(gguf_type_number(WEIGHT_FP8_E4M3, &number));
    assert_false(gguf_type_number(WEIGHT_FORMAT_COUNT, &number));
    assert_true(gguf_type_number_by_name("IQ3_S", &number) && number == 21);
    assert_false(gguf_type_number_by_name("number 77", &number));
    assert_null(gguf_find_type(4));
    assert_null(gguf_find_type(UINT32_MAX));
    assert_int_equal(gguf_value_bytes(GGUF_VALUE_U64), 8);
    assert_int_equal(gguf_value_bytes(GGUF_VALUE_STRING), 0);
    assert_int_equal(gguf_value_bytes(99), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(tensors_are_read_back, writer_setup, writer_teardown),
        cmocka_unit_test_setup_teardown(any_alignment_and_piece, writer_setup, writer_teardown),
        cmocka_unit_test_setup_teardown(keys_are_read_back, writer_setup, writer_teardown),
        cmocka_unit_test_setup_teardown(an_early_end_leaves_nothing, writer_setup, writer_teardown),
        cmocka_unit_test_setup_teardown(no_such_directory, writer_setup, writer_teardown),
        cmocka_unit_test_setup_teardown(two_writers_of_one_file, writer_setup, writer_teardown),
        cmocka_unit_test_setup_teardown(a_stale_temporary_file, writer_setup, writer_teardown),
        cmocka_unit_test_setup_teardown(too_little_space, writer_setup, writer_teardown),
        cmocka_unit_test_setup_teardown(a_directory_of_that_name, writer_setup, writer_teardown),
        cmocka_unit_test(types_have_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
