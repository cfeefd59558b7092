/* Checkpoints: sound ones in one file and in many, every way in which one can be broken, regions of
 * all types, and headers with random damage. */
#include "common/weights/weights.h"

#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/limits.h"
#include "tests/unit/common/weights/checkpoint.h"

struct fixture {
    char directory[64];
    struct log_capture log;
    struct arena *arena;
    struct random random;
    uint8_t *bytes; /* 1 MiB of random ones */
};

#define BYTES ((size_t)1 << 20)

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    test_directory_make(f->directory);
    f->arena = arena_create(0);
    f->bytes = checkpoint_bytes(&f->random, BYTES);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    test_directory_remove(f->directory);
    arena_destroy(f->arena);
    free(f->bytes);
    free(f);
    return 0;
}

static struct weights *open_sound(const char *path) {
    struct weights *weights = NULL;
    assert_int_equal(weights_open(path, &weights), STATUS_OK);
    return weights;
}

/* Opening must fail with one line that has both texts; the second may be empty. */
static void expect_broken(struct fixture *f, enum status wanted, const char *first,
                          const char *second) {
    struct weights *weights = NULL;
    log_capture_begin(&f->log);
    enum status status = weights_open(f->directory, &weights);
    if (status != wanted)
        print_message("expected \"%s\"\n", first);
    assert_int_equal(status, wanted);
    assert_null(weights);
    log_capture_expect(&f->log, f->directory, first, second, NULL);
}

static void one_file_is_read(void **state) {
    struct fixture *f = *state;
    const struct checkpoint_tensor tensors[] = {
        {"z", "F32", 2, {4, 3}, f->bytes, 48},
        {"a.weight", "BF16", 1, {7}, f->bytes + 100, 14},
        {"m", "I64", 3, {2, 1, 5}, f->bytes + 200, 80},
        {"scalar", "F32", 0, {0}, f->bytes, 4},
        {"empty", "F16", 2, {0, 9}, f->bytes, 0},
        {"odd", "Q4_X", 2, {2, 3}, f->bytes, 3},
    };
    checkpoint_write(f->directory, "model.safetensors", tensors, 6);
    struct weights *weights = open_sound(f->directory);
    assert_string_equal(weights_path(weights), f->directory);
    assert_int_equal(weights_count(weights), 6);
    static const char *const SORTED[] = {"a.weight", "empty", "m", "odd", "scalar", "z"};
    for (size_t i = 0; i < 6; i++)
        assert_string_equal(weights_at(weights, i)->name, SORTED[i]);
    const struct tensor *z = weights_find(weights, "z");
    assert_int_equal(z->format, WEIGHT_F32);
    assert_string_equal(z->type, "F32");
    assert_int_equal(z->dimensions, 2);
    assert_int_equal(z->shape[0], 4);
    assert_int_equal(z->shape[1], 3);
    assert_int_equal(z->shape[2], 1);
    assert_int_equal(z->bytes, 48);
    assert_int_equal(weights_find(weights, "m")->format, WEIGHT_FORMAT_COUNT);
    assert_int_equal(weights_find(weights, "m")->dimensions, 3);
    assert_string_equal(weights_find(weights, "odd")->type, "Q4_X");
    assert_null(weights_find(weights, "zz"));
    assert_null(weights_find(weights, ""));
    weights_close(weights);
    weights_close(NULL);

    char path[128];
    snprintf(path, sizeof path, "%s/model.safetensors", f->directory);
    weights = open_sound(path);
    assert_int_equal(weights_count(weights), 6);
    weights_close(weights);
}

static void write_split(struct fixture *f, const char *index) {
    const struct checkpoint_tensor tensors[] = {
        {"a", "F32", 2, {4, 3}, f->bytes, 48},
        {"b", "BF16", 1, {7}, f->bytes + 100, 14},
        {"c", "F16", 2, {10, 20}, f->bytes + 200, 400},
    };
    const struct checkpoint_tensor second[] = {tensors[1]};
    const struct checkpoint_tensor first[] = {tensors[2], tensors[0]};
    checkpoint_write(f->directory, "model-00001-of-00002.safetensors", first, 2);
    checkpoint_write(f->directory, "model-00002-of-00002.safetensors", second, 1);
    test_file_write(f->directory, "model.safetensors.index.json", index);
}

static const char SPLIT_INDEX[] =
    "{\"metadata\": {\"total_size\": 462}, \"weight_map\": {"
    "\"a\": \"model-00001-of-00002.safetensors\", \"b\": \"model-00002-of-00002.safetensors\","
    "\"c\": \"model-00001-of-00002.safetensors\"}}";

static void many_files_are_one_checkpoint(void **state) {
    struct fixture *f = *state;
    char whole[128];
    snprintf(whole, sizeof whole, "%s/whole", f->directory);
    assert_int_equal(mkdir(whole, 0700), 0);
    const struct checkpoint_tensor tensors[] = {
        {"a", "F32", 2, {4, 3}, f->bytes, 48},
        {"b", "BF16", 1, {7}, f->bytes + 100, 14},
        {"c", "F16", 2, {10, 20}, f->bytes + 200, 400},
    };
    checkpoint_write(whole, "model.safetensors", tensors, 3);
    write_split(f, SPLIT_INDEX);
    struct weights *one = open_sound(whole), *many = open_sound(f->directory);
    assert_int_equal(weights_count(many), 3);
    uint64_t one_hash = 1, many_hash = 2;
    assert_int_equal(weights_fingerprint(one, &one_hash), STATUS_OK);
    assert_int_equal(weights_fingerprint(many, &many_hash), STATUS_OK);
    assert_int_equal(one_hash, many_hash);
    uint8_t storage[448];
    const struct region region = {0, 10, 0, 20};
    assert_int_equal(weights_read_region(many, "c", &region, storage), STATUS_OK);
    assert_memory_equal(storage, f->bytes + 200, 400);
    weights_close(one);
    weights_close(many);
}

static uint64_t fingerprint_of(struct fixture *f, const struct checkpoint_tensor *tensor) {
    checkpoint_write(f->directory, "model.safetensors", tensor, 1);
    struct weights *weights = open_sound(f->directory);
    uint64_t hash = 0;
    assert_int_equal(weights_fingerprint(weights, &hash), STATUS_OK);
    weights_close(weights);
    return hash;
}

static void fingerprint_tells_checkpoints_apart(void **state) {
    struct fixture *f = *state;
    const struct checkpoint_tensor original = {"a", "F16", 2, {40, 30}, f->bytes, 2400};
    struct checkpoint_tensor renamed = original, retyped = original, reshaped = original;
    uint64_t hash = fingerprint_of(f, &original);
    assert_int_equal(fingerprint_of(f, &original), hash);
    renamed.name = "b";
    assert_int_not_equal(fingerprint_of(f, &renamed), hash);
    retyped.type = "BF16";
    assert_int_not_equal(fingerprint_of(f, &retyped), hash);
    reshaped.shape[0] = 30;
    reshaped.shape[1] = 40;
    assert_int_not_equal(fingerprint_of(f, &reshaped), hash);
    f->bytes[1200] ^= 1;
    assert_int_not_equal(fingerprint_of(f, &original), hash);
}

static void missing_and_foreign_paths_are_named(void **state) {
    struct fixture *f = *state;
    struct weights *weights = NULL;
    char path[128];
    expect_broken(f, STATUS_NOT_FOUND, "model.safetensors.index.json", "download");
    test_file_write(f->directory, "config.json", "{}");
    expect_broken(f, STATUS_NOT_FOUND, "holds no model", "download");
    snprintf(path, sizeof path, "%s/config.json", f->directory);
    log_capture_begin(&f->log);
    assert_int_equal(weights_open(path, &weights), STATUS_UNSUPPORTED);
    log_capture_expect(&f->log, path, ".safetensors", NULL);
    snprintf(path, sizeof path, "%s/absent", f->directory);
    log_capture_begin(&f->log);
    assert_int_equal(weights_open(path, &weights), STATUS_NOT_FOUND);
    log_capture_expect(&f->log, path, "No such file", NULL);
    snprintf(path, sizeof path, "%s/model.safetensors", f->directory);
    assert_int_equal(mkfifo(path, 0600), 0);
    expect_broken(f, STATUS_IO, "model.safetensors", "not a regular file");
    assert_null(weights);
}

static void truncated_files_are_refused(void **state) {
    struct fixture *f = *state;
    char path[128];
    snprintf(path, sizeof path, "%s/model.safetensors", f->directory);
    const struct checkpoint_tensor tensor = {"a.b", "F32", 2, {10, 10}, f->bytes, 400};
    checkpoint_write(f->directory, "model.safetensors", &tensor, 1);
    struct stat facts;
    assert_int_equal(stat(path, &facts), 0);
    assert_int_equal(truncate(path, facts.st_size - 1), 0);
    expect_broken(f, STATUS_FORMAT, "a.b", "truncated");
    assert_int_equal(truncate(path, 20), 0);
    expect_broken(f, STATUS_FORMAT, "truncated (20 of", "download it again");
    assert_int_equal(truncate(path, 7), 0);
    expect_broken(f, STATUS_FORMAT, "truncated (7 bytes", "download it again");
    assert_int_equal(truncate(path, 0), 0);
    expect_broken(f, STATUS_FORMAT, "truncated (0 bytes", "download it again");
}

static void headers_of_other_files_are_refused(void **state) {
    struct fixture *f = *state;
    const char *name = "model.safetensors";
    checkpoint_write_raw(f->directory, name, UINT64_MAX, "{}", NULL, 0);
    expect_broken(f, STATUS_FORMAT, name, "not a safetensors file");
    checkpoint_write_raw(f->directory, name, SAFETENSORS_HEADER_BYTES_MAX + 1, "{}", NULL, 0);
    expect_broken(f, STATUS_FORMAT, name, "not a safetensors file");
    checkpoint_write_raw(f->directory, name, 1000, "{}", NULL, 0);
    expect_broken(f, STATUS_FORMAT, name, "(10 of 1008 bytes)");
    static const struct {
        const char *header, *problem;
    } CASES[] = {
        {"", "not valid JSON"},
        {"{\"a\":", "not valid JSON"},
        {"{} x", "not valid JSON"},
        {"{\"\xff\": 1}", "not valid JSON"},
        {"[]", "not a JSON object"},
        {"{}", "no tensors"},
        {"{\"__metadata__\": {}}", "no tensors"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        checkpoint_write_header(f->directory, name, CASES[i].header, 64);
        expect_broken(f, STATUS_FORMAT, name, CASES[i].problem);
    }
}

/* Entries for a tensor "t.w" in a file with 64 bytes of data. */
static void broken_entries_are_refused(void **state) {
    struct fixture *f = *state;
    static const struct {
        const char *entry, *problem;
    } CASES[] = {
        {"7", "not a JSON object"},
        {"{}", "\"dtype\""},
        {"{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}", "\"dtype\""},
        {"{\"dtype\":\"F32\",\"data_offsets\":[0,4]}", "\"shape\""},
        {"{\"dtype\":\"F32\",\"shape\":4,\"data_offsets\":[0,4]}", "\"shape\""},
        {"{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}", "\"shape\""},
        {"{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}", "\"shape\""},
        {"{\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]}", "\"shape\""},
        {"{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}", "\"shape\""},
        {"{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}",
         "\"shape\""},
        {"{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}",
         "do not fit"},
        {"{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}", "2 values of type F32"},
        {"{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,4]}", "1 values of type F16"},
        {"{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,4]}", "1 values of type I64"},
        {"{\"dtype\":\"F32\",\"shape\":[1]}", "\"data_offsets\""},
        {"{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}", "\"data_offsets\""},
        {"{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}", "\"data_offsets\""},
        {"{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,\"4\"]}", "\"data_offsets\""},
        {"{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}", "\"data_offsets\""},
        {"{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4.5]}", "\"data_offsets\""},
        {"{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,4]}", "ends before it begins"},
        {"{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[64,68]}", "outside the file"},
        {"{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[9223372036854775803,"
         "9223372036854775807]}",
         "outside the file"},
        {"{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,9223372036854775808]}",
         "not valid JSON"},
        {"{\"dtype\":\"F32\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,4]}",
         "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        char header[256];
        snprintf(header, sizeof header, "{\"t.w\":%s}", CASES[i].entry);
        checkpoint_write_header(f->directory, "model.safetensors", header, 64);
        bool parsed = strcmp(CASES[i].problem, "not valid JSON") != 0;
        expect_broken(f, STATUS_FORMAT, CASES[i].problem, parsed ? "t.w" : "model.safetensors");
    }
}

#define ENTRY(begin, end) "{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[" begin "," end "]}"

static void contradicting_entries_are_refused(void **state) {
    struct fixture *f = *state;
    const char *name = "model.safetensors";
    checkpoint_write_header(f->directory, name,
                            "{\"a\":" ENTRY("0", "4") ",\"b\":" ENTRY("3", "7") "}", 64);
    expect_broken(f, STATUS_FORMAT, "a and b overlap", "download it again");
    checkpoint_write_header(f->directory, name,
                            "{\"a\":" ENTRY("4", "8") ",\"b\":" ENTRY("4", "8") "}", 64);
    expect_broken(f, STATUS_FORMAT, "overlap", "download it again");
    checkpoint_write_header(f->directory, name,
                            "{\"a\":" ENTRY("0", "4") ",\"a\":" ENTRY("4", "8") "}", 64);
    expect_broken(f, STATUS_FORMAT, "duplicate", "download it again");
    char header[1024], long_name[TENSOR_NAME_BYTES_MAX + 2];
    memset(long_name, 'n', sizeof long_name);
    long_name[sizeof long_name - 1] = '\0';
    snprintf(header, sizeof header, "{\"%s\":" ENTRY("0", "4") "}", long_name);
    checkpoint_write_header(f->directory, name, header, 64);
    expect_broken(f, STATUS_FORMAT, "nnnnnnnn", "longer than 255");
    snprintf(header, sizeof header, "{\"t\":{\"dtype\":\"%s\"}}", long_name);
    checkpoint_write_header(f->directory, name, header, 64);
    expect_broken(f, STATUS_FORMAT, "tensor t", "\"dtype\"");
}

static void holes_and_neighbours_are_fine(void **state) {
    struct fixture *f = *state;
    checkpoint_write_header(
        f->directory, "model.safetensors",
        "{\"a\":" ENTRY("8", "12") ",\"b\":" ENTRY("0", "4") ",\"c\":" ENTRY(
            "4", "8") ",\"d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[8,8]}}",
        64);
    weights_close(open_sound(f->directory));
}

static void broken_indices_are_refused(void **state) {
    struct fixture *f = *state;
    static const struct {
        const char *index;
        enum status status;
        const char *first, *second;
    } CASES[] = {
        {"{\"weight_map\": ", STATUS_FORMAT, "model.safetensors.index.json", "JSON"},
        {"[]", STATUS_FORMAT, "model.safetensors.index.json", "object"},
        {"{}", STATUS_FORMAT, "model.safetensors.index.json", "\"weight_map\""},
        {"{\"weight_map\": []}", STATUS_FORMAT, "model.safetensors.index.json", "\"weight_map\""},
        {"{\"weight_map\": {}}", STATUS_FORMAT, "model.safetensors.index.json", "\"weight_map\""},
        {"{\"weight_map\": {\"a\": 7}}", STATUS_FORMAT, "tensor a", "index.json"},
        {"{\"weight_map\": {\"a\": \"\"}}", STATUS_FORMAT, "tensor a", "index.json"},
        {"{\"weight_map\": {\"a\": \"/etc/passwd\"}}", STATUS_FORMAT, "tensor a", "/etc/passwd"},
        {"{\"weight_map\": {\"a\": \"..\"}}", STATUS_FORMAT, "tensor a", "\"..\""},
        {"{\"weight_map\": {\"a\": \"../x.safetensors\"}}", STATUS_FORMAT, "tensor a",
         "plain name"},
        {"{\"weight_map\": {\"a\": \"sub/x.safetensors\"}}", STATUS_FORMAT, "tensor a",
         "plain name"},
        {"{\"weight_map\": {\"a\": \"gone.safetensors\"}}", STATUS_NOT_FOUND, "gone.safetensors",
         "download it"},
        {"{\"weight_map\": {\"d\": \"model-00001-of-00002.safetensors\"}}", STATUS_FORMAT,
         "tensor d", "model-00001-of-00002.safetensors"},
        {"{\"weight_map\": {\"a\": \"model-00001-of-00002.safetensors\","
         "\"c\": \"model-00002-of-00002.safetensors\"}}",
         STATUS_FORMAT, "tensor c", "model-00002-of-00002.safetensors"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        write_split(f, CASES[i].index);
        expect_broken(f, CASES[i].status, CASES[i].first, CASES[i].second);
    }
}

static void too_many_files_are_refused(void **state) {
    struct fixture *f = *state;
    char *index;
    size_t bytes;
    FILE *stream = open_memstream(&index, &bytes);
    fputs("{\"weight_map\": {\"x\": \"y\"", stream);
    for (int i = 0; i < WEIGHT_FILES_MAX; i++)
        fprintf(stream, ", \"t%d\": \"f%d\"", i, i);
    fputs("}}", stream);
    fclose(stream);
    test_file_write(f->directory, "model.safetensors.index.json", index);
    free(index);
    expect_broken(f, STATUS_FORMAT, "index.json", "more than 4096 files");
}

static void duplicates_across_files_are_refused(void **state) {
    struct fixture *f = *state;
    write_split(f, SPLIT_INDEX);
    const struct checkpoint_tensor twice[] = {
        {"a", "F32", 2, {4, 3}, f->bytes, 48},
        {"b", "BF16", 1, {7}, f->bytes + 100, 14},
    };
    checkpoint_write(f->directory, "model-00002-of-00002.safetensors", twice, 2);
    expect_broken(f, STATUS_FORMAT, "tensor a", "model-00002-of-00002.safetensors");
}

/* The region cut out of a whole matrix by hand. */
static void expect_values(const uint8_t *whole, uint32_t columns, size_t value_bytes,
                          const struct region *region, const uint8_t *got) {
    size_t row_bytes = region->columns * value_bytes;
    for (uint32_t row = 0; row < region->rows; row++) {
        size_t at = ((size_t)(region->row + row) * columns + region->column) * value_bytes;
        assert_memory_equal(got + row * row_bytes, whole + at, row_bytes);
    }
}

static void regions_of_plain_types_are_cut_out(void **state) {
    struct fixture *f = *state;
    /* Rows of 40 values; rows of 9000 values, where few fit a block; rows with gaps too wide for
     * one. */
    static const struct {
        const char *type;
        enum weight_format format;
        uint32_t rows, columns;
    } CASES[] = {
        {"BF16", WEIGHT_BF16, 300, 40},   {"F16", WEIGHT_F16, 300, 40},
        {"F32", WEIGHT_F32, 300, 40},     {"F32", WEIGHT_F32, 29, 9000},
        {"BF16", WEIGHT_BF16, 3000, 170}, {"F16", WEIGHT_F16, 1, 200000},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        uint32_t rows = CASES[i].rows, columns = CASES[i].columns;
        size_t value_bytes = weight_row_bytes(CASES[i].format, 1);
        size_t bytes = (size_t)rows * columns * value_bytes;
        assert_true(bytes <= BYTES);
        const struct checkpoint_tensor tensors[] = {
            {"before", "U8", 1, {13}, f->bytes, 13},
            {"m", CASES[i].type, 2, {rows, columns}, f->bytes, bytes},
        };
        checkpoint_write(f->directory, "model.safetensors", tensors, 2);
        struct weights *weights = open_sound(f->directory);
        for (int turn = 0; turn < 30; turn++) {
            struct region region = {.row = random_below(&f->random, rows),
                                    .column = random_below(&f->random, columns)};
            region.rows = 1 + random_below(&f->random, rows - region.row);
            region.columns = 1 + random_below(&f->random, columns - region.column);
            if (turn < 4) /* whole rows, and up to the file's last byte */
                region.column = turn < 2 ? 0 : columns - 1,
                region.columns = columns - region.column;
            if (turn % 2 == 0 && turn < 4)
                region.row = 0, region.rows = rows;
            size_t wanted = matrix_bytes(CASES[i].format, region.rows, region.columns);
            uint8_t *storage = malloc(wanted);
            assert_int_equal(weights_read_region(weights, "m", &region, storage), STATUS_OK);
            expect_values(f->bytes, columns, value_bytes, &region, storage);
            free(storage);
        }
        weights_close(weights);
    }
}

/* Rows whose gaps are wider than a block may bridge are read one by one. */
static void regions_with_wide_gaps_are_cut_out(void **state) {
    struct fixture *f = *state;
    const struct checkpoint_tensor tensor = {"m", "F32", 2, {20, 10000}, f->bytes, 800000};
    checkpoint_write(f->directory, "model.safetensors", &tensor, 1);
    struct weights *weights = open_sound(f->directory);
    const struct region region = {.row = 3, .rows = 17, .column = 9990, .columns = 10};
    uint8_t storage[704];
    assert_int_equal(weights_read_region(weights, "m", &region, storage), STATUS_OK);
    expect_values(f->bytes, 10000, 4, &region, storage);
    weights_close(weights);
}

#define FP8_ROWS    300
#define FP8_COLUMNS 450

/* An FP8 matrix (300, 450) with 3 x 4 scales of the given type. */
static struct weights *open_fp8(struct fixture *f, const char *type, const void *scales,
                                size_t scale_bytes) {
    const struct checkpoint_tensor tensors[] = {
        {"w", "F8_E4M3", 2, {FP8_ROWS, FP8_COLUMNS}, f->bytes, FP8_ROWS * FP8_COLUMNS},
        {"w_scale_inv", type, 2, {3, 4}, scales, scale_bytes},
    };
    checkpoint_write(f->directory, "model.safetensors", tensors, 2);
    return open_sound(f->directory);
}

static const struct region FP8_REGIONS[] = {
    {0, 300, 0, 450},   {0, 128, 0, 128},     {128, 128, 0, 450}, {256, 44, 384, 66},
    {0, 300, 128, 256}, {128, 172, 256, 194}, {0, 300, 384, 66},
};

static void check_fp8_region(const struct weights *weights, const struct region *region,
                             const uint8_t *whole, const float *scales) {
    void *storage;
    size_t bytes = matrix_bytes(WEIGHT_FP8_E4M3, region->rows, region->columns);
    assert_int_equal(posix_memalign(&storage, 64, bytes), 0);
    assert_int_equal(weights_read_region(weights, "w", region, storage), STATUS_OK);
    struct matrix m = matrix_view(WEIGHT_FP8_E4M3, region->rows, region->columns, storage);
    expect_values(whole, FP8_COLUMNS, 1, region, m.data);
    size_t across = (region->columns + 127) / 128;
    for (size_t r = 0; r < (region->rows + 127) / 128; r++)
        for (size_t c = 0; c < across; c++)
            assert_float_equal(m.scales[r * across + c],
                               scales[(region->row / 128 + r) * 4 + region->column / 128 + c], 0);
    free(storage);
}

static void fp8_regions_come_with_their_scales(void **state) {
    struct fixture *f = *state;
    float scales[12];
    uint16_t brain_scales[12];
    for (uint16_t i = 0; i < 12; i++) {
        scales[i] = (float)(1u << i);
        brain_scales[i] = (uint16_t)((127 + i) << 7);
    }
    struct weights *weights = open_fp8(f, "F32", scales, sizeof scales);
    for (size_t i = 0; i < sizeof FP8_REGIONS / sizeof FP8_REGIONS[0]; i++)
        check_fp8_region(weights, &FP8_REGIONS[i], f->bytes, scales);
    weights_close(weights);
    weights = open_fp8(f, "BF16", brain_scales, sizeof brain_scales);
    for (size_t i = 0; i < sizeof FP8_REGIONS / sizeof FP8_REGIONS[0]; i++)
        check_fp8_region(weights, &FP8_REGIONS[i], f->bytes, scales);
    weights_close(weights);
}

/* Reading must fail with one line that has both texts. */
static void expect_unreadable(struct fixture *f, const char *name, const struct region *region,
                              enum status wanted, const char *first, const char *second) {
    static _Alignas(64) uint8_t storage[1 << 18];
    struct weights *weights = open_sound(f->directory);
    log_capture_begin(&f->log);
    assert_int_equal(weights_read_region(weights, name, region, storage), wanted);
    log_capture_expect(&f->log, f->directory, first, second, NULL);
    weights_close(weights);
}

static void wrong_regions_are_refused(void **state) {
    struct fixture *f = *state;
    const float scales[12] = {0};
    weights_close(open_fp8(f, "F32", scales, sizeof scales));
    static const struct {
        struct region region;
        enum status status;
    } CASES[] = {
        {{0, 0, 0, 450}, STATUS_FORMAT},
        {{0, 300, 0, 0}, STATUS_FORMAT},
        {{0, 301, 0, 450}, STATUS_FORMAT},
        {{0, 300, 0, 451}, STATUS_FORMAT},
        {{128, 200, 0, 450}, STATUS_FORMAT},
        {{128, UINT32_MAX, 0, 450}, STATUS_FORMAT},
        {{UINT32_MAX, UINT32_MAX, 0, 450}, STATUS_FORMAT},
        {{1, 127, 0, 128}, STATUS_UNSUPPORTED},
        {{0, 100, 0, 128}, STATUS_UNSUPPORTED},
        {{0, 128, 64, 64}, STATUS_UNSUPPORTED},
        {{0, 128, 0, 449}, STATUS_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++)
        expect_unreadable(f, "w", &CASES[i].region, CASES[i].status, "tensor w ",
                          CASES[i].status == STATUS_FORMAT ? "(300, 450)" : "multiples of 128");
}

static void unreadable_tensors_are_named(void **state) {
    struct fixture *f = *state;
    const struct checkpoint_tensor tensors[] = {
        {"int", "I8", 2, {8, 8}, f->bytes, 64},
        {"new", "F4_Z", 2, {8, 8}, f->bytes, 32},
        {"vector", "F32", 1, {64}, f->bytes, 256},
        {"cube", "F32", 3, {8, 8, 1}, f->bytes, 256},
        {"alone", "F8_E4M3", 2, {8, 8}, f->bytes, 64},
        {"coarse", "F8_E4M3", 2, {8, 8}, f->bytes, 64},
        {"coarse_scale_inv", "F32", 2, {2, 1}, f->bytes, 8},
        {"scalar", "F8_E4M3", 2, {8, 8}, f->bytes, 64},
        {"scalar_scale_inv", "F32", 0, {0}, f->bytes, 4},
        {"nested", "F8_E4M3", 2, {8, 8}, f->bytes, 64},
        {"nested_scale_inv", "F8_E4M3", 2, {1, 1}, f->bytes, 1},
    };
    checkpoint_write(f->directory, "model.safetensors", tensors,
                     sizeof tensors / sizeof tensors[0]);
    const struct region all = {0, 8, 0, 8};
    expect_unreadable(f, "absent", &all, STATUS_NOT_FOUND, "no tensor absent", "download");
    expect_unreadable(f, "int", &all, STATUS_UNSUPPORTED, "tensor int", "I8");
    expect_unreadable(f, "new", &all, STATUS_UNSUPPORTED, "tensor new", "F4_Z");
    expect_unreadable(f, "vector", &all, STATUS_FORMAT, "tensor vector", "1 dimensions");
    expect_unreadable(f, "cube", &all, STATUS_FORMAT, "tensor cube", "3 dimensions");
    expect_unreadable(f, "alone", &all, STATUS_NOT_FOUND, "alone_scale_inv", "download");
    expect_unreadable(f, "coarse", &all, STATUS_FORMAT, "coarse_scale_inv", "(2, 1)");
    expect_unreadable(f, "scalar", &all, STATUS_FORMAT, "scalar_scale_inv", "0 dimensions");
    expect_unreadable(f, "nested", &all, STATUS_FORMAT, "nested_scale_inv", "F8_E4M3");
}

static void files_cut_short_meanwhile_are_read_errors(void **state) {
    struct fixture *f = *state;
    const struct checkpoint_tensor tensor = {"w", "F32", 2, {100, 100}, f->bytes, 40000};
    checkpoint_write(f->directory, "model.safetensors", &tensor, 1);
    struct weights *weights = open_sound(f->directory);
    char path[128];
    snprintf(path, sizeof path, "%s/model.safetensors", f->directory);
    assert_int_equal(truncate(path, 20000), 0);
    static const struct region REGIONS[] = {{0, 100, 0, 100}, {0, 100, 0, 50}};
    float *storage = malloc(40000 + 64);
    for (size_t i = 0; i < 2; i++) {
        log_capture_begin(&f->log);
        assert_int_equal(weights_read_region(weights, "w", &REGIONS[i], storage), STATUS_IO);
        log_capture_expect(&f->log, path, "ends at byte 20000", "changed", NULL);
    }
    uint64_t hash = 7;
    log_capture_begin(&f->log);
    assert_int_equal(weights_fingerprint(weights, &hash), STATUS_IO);
    log_capture_expect(&f->log, path, "ends at byte", NULL);
    assert_int_equal(hash, 7);
    float *values = NULL;
    log_capture_begin(&f->log);
    assert_int_equal(weights_load_vector(weights, "w", 10000, f->arena, &values), STATUS_IO);
    log_capture_expect(&f->log, path, NULL);
    assert_null(values);
    free(storage);
    weights_close(weights);
}

static void matrices_are_loaded(void **state) {
    struct fixture *f = *state;
    const struct checkpoint_tensor tensor = {"w", "BF16", 2, {5, 7}, f->bytes, 70};
    checkpoint_write(f->directory, "model.safetensors", &tensor, 1);
    struct weights *weights = open_sound(f->directory);
    struct matrix matrix = {.rows = 99};
    assert_int_equal(weights_load_matrix(weights, "w", 5, 7, f->arena, &matrix), STATUS_OK);
    assert_int_equal(matrix.format, WEIGHT_BF16);
    assert_int_equal(matrix.rows, 5);
    assert_int_equal(matrix.columns, 7);
    assert_int_equal((uintptr_t)matrix.data % 64, 0);
    assert_memory_equal(matrix.data, f->bytes, 70);
    log_capture_begin(&f->log);
    matrix.rows = 99;
    assert_int_equal(weights_load_matrix(weights, "w", 7, 5, f->arena, &matrix), STATUS_FORMAT);
    log_capture_expect(&f->log, "tensor w is (5, 7)", "(7, 5)", NULL);
    log_capture_begin(&f->log);
    assert_int_equal(weights_load_matrix(weights, "v", 5, 7, f->arena, &matrix), STATUS_NOT_FOUND);
    log_capture_expect(&f->log, "tensor v", NULL);
    assert_int_equal(matrix.rows, 99);
    weights_close(weights);
}

static void vectors_are_widened(void **state) {
    struct fixture *f = *state;
    static const float values[4] = {1.5F, -2.0F, 0.0F, 96.0F};
    static const uint16_t brain[4] = {0x3fc0, 0xc000, 0x0000, 0x42c0};
    static const uint16_t half[4] = {0x3e00, 0xc000, 0x0000, 0x5600};
    const struct checkpoint_tensor tensors[] = {
        {"f32", "F32", 1, {4}, values, 16},    {"bf16", "BF16", 2, {2, 2}, brain, 8},
        {"f16", "F16", 3, {1, 4, 1}, half, 8}, {"fp8", "F8_E4M3", 1, {4}, f->bytes, 4},
        {"int", "I32", 1, {4}, f->bytes, 16},
    };
    checkpoint_write(f->directory, "model.safetensors", tensors, 5);
    struct weights *weights = open_sound(f->directory);
    static const char *const READABLE[] = {"f32", "bf16", "f16"};
    for (size_t i = 0; i < 3; i++) {
        float *out = NULL;
        assert_int_equal(weights_load_vector(weights, READABLE[i], 4, f->arena, &out), STATUS_OK);
        assert_memory_equal(out, values, sizeof values);
    }
    static const struct {
        const char *name;
        size_t count;
        enum status status;
        const char *problem;
    } CASES[] = {
        {"fp8", 4, STATUS_UNSUPPORTED, "F8_E4M3"},  {"int", 4, STATUS_UNSUPPORTED, "I32"},
        {"gone", 4, STATUS_NOT_FOUND, "no tensor"}, {"f32", 5, STATUS_FORMAT, "4 values"},
        {"bf16", 3, STATUS_FORMAT, "4 values"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        float *out = NULL;
        log_capture_begin(&f->log);
        assert_int_equal(
            weights_load_vector(weights, CASES[i].name, CASES[i].count, f->arena, &out),
            CASES[i].status);
        log_capture_expect(&f->log, CASES[i].name, CASES[i].problem, NULL);
        assert_null(out);
    }
    weights_close(weights);
}

static void bundled_models_open(void **state) {
    (void)state;
    static const struct {
        const char *path;
        size_t count;
    } CASES[] = {
        {TEST_DATA_DIR "/golden/deepseek-moe-tiny", 186},
        {TEST_DATA_DIR "/golden/deepseek-v2-lite-tiny", 190},
        {TEST_DATA_DIR "/golden/deepseek-v2-tiny", 342},
        {TEST_DATA_DIR "/golden/deepseek-v3-tiny", 459},
        {TEST_DATA_DIR "/golden/deepseek-v3-tiny-fp8", 259},
        {DEMO_MODEL_DIR, 569},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        struct weights *weights = open_sound(CASES[i].path);
        assert_int_equal(weights_count(weights), CASES[i].count);
        weights_close(weights);
    }
}

/* Reads all that can be read; no result matters but that nothing crashes. */
static void read_everything(const struct weights *weights) {
    struct arena *arena = arena_create(0);
    for (size_t i = 0; i < weights_count(weights); i++) {
        const struct tensor *tensor = weights_at(weights, i);
        struct matrix matrix;
        float *values;
        weights_load_matrix(weights, tensor->name, (uint32_t)tensor->shape[0],
                            (uint32_t)tensor->shape[1], arena, &matrix);
        weights_load_vector(weights, tensor->name, (size_t)(tensor->bytes / 2), arena, &values);
    }
    uint64_t hash;
    weights_fingerprint(weights, &hash);
    arena_destroy(arena);
}

static void damage(struct random *random, uint8_t *bytes, size_t header_bytes) {
    uint32_t flips = 1 + random_below(random, 3);
    static const char LIKELY[] = "0123456789-,:[]{}\".eE ";
    for (uint32_t i = 0; i < flips; i++) {
        size_t at = random_below(random, (uint32_t)header_bytes);
        if (random_below(random, 2))
            bytes[at] = (uint8_t)LIKELY[random_below(random, sizeof LIKELY - 1)];
        else
            bytes[at] ^= (uint8_t)(1u << random_below(random, 8));
    }
}

static void random_damage_never_crashes(void **state) {
    struct fixture *f = *state;
    const struct checkpoint_tensor tensors[] = {
        {"w", "F8_E4M3", 2, {12, 13}, f->bytes, 156},
        {"w_scale_inv", "F32", 2, {1, 1}, f->bytes, 4},
        {"norm", "BF16", 1, {13}, f->bytes, 26},
        {"m", "F32", 2, {3, 4}, f->bytes, 48},
        {"i", "I64", 1, {1}, f->bytes, 8},
    };
    checkpoint_write(f->directory, "model.safetensors", tensors, 5);
    char path[128];
    snprintf(path, sizeof path, "%s/model.safetensors", f->directory);
    uint8_t sound[2048], bytes[2048];
    FILE *file = fopen(path, "rb");
    size_t count = fread(sound, 1, sizeof sound, file);
    fclose(file);
    assert_true(count < sizeof sound);
    FILE *nowhere = fopen("/dev/null", "w");
    log_init("test", LOG_DEBUG, nowhere);
    size_t opened = 0, refused = 0;
    for (int turn = 0; turn < 4000; turn++) {
        memcpy(bytes, sound, count);
        damage(&f->random, bytes, count - 242);
        size_t kept = turn % 4 == 0 ? random_below(&f->random, (uint32_t)count) : count;
        file = fopen(path, "wb");
        assert_int_equal(fwrite(bytes, 1, kept, file), kept);
        fclose(file);
        struct weights *weights;
        if (weights_open(f->directory, &weights) == STATUS_OK) {
            read_everything(weights);
            weights_close(weights);
            opened++;
        } else {
            refused++;
        }
    }
    log_init("test", LOG_ERROR, NULL);
    fclose(nowhere);
    /* Damage to a name is no error of the file, damage elsewhere is: both must have been met. */
    assert_true(opened > 100);
    assert_true(refused > 1000);
}

/* 92,000 tensors in 163 files, V3's numbers, must open in seconds even under the sanitizers. */
static void large_checkpoints_open_fast(void **state) {
    struct fixture *f = *state;
    enum { FILES = 163, PER_FILE = 564 };
    char *index;
    size_t index_bytes;
    FILE *stream = open_memstream(&index, &index_bytes);
    fputs("{\"weight_map\": {\"x\": \"m0.safetensors\"", stream);
    for (int file = 0; file < FILES; file++) {
        char name[32], *header;
        size_t header_bytes;
        snprintf(name, sizeof name, "m%d.safetensors", file);
        FILE *header_stream = open_memstream(&header, &header_bytes);
        fprintf(header_stream, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                file ? "__metadata__" : "x");
        for (int i = 0; i < PER_FILE; i++) {
            const char *format = "model.layers.%d.mlp.experts.%d.gate_proj.weight";
            char tensor[96];
            snprintf(tensor, sizeof tensor, format, i, file);
            fprintf(header_stream,
                    ",\"%s\":{\"dtype\":\"F16\",\"shape\":[1,1],\"data_offsets\":[%d,%d]}", tensor,
                    2 * i, 2 * i + 2);
            fprintf(stream, ",\"%s\":\"%s\"", tensor, name);
        }
        fputc('}', header_stream);
        fclose(header_stream);
        checkpoint_write_header(f->directory, name, header, (size_t)2 * PER_FILE);
        free(header);
    }
    fputs("}}", stream);
    fclose(stream);
    test_file_write(f->directory, "model.safetensors.index.json", index);
    free(index);
    clock_t begin = clock();
    struct weights *weights = open_sound(f->directory);
    uint64_t hash;
    assert_int_equal(weights_fingerprint(weights, &hash), STATUS_OK);
    double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    print_message("%zu tensors: %.2f s of processor time\n", weights_count(weights), seconds);
    assert_int_equal(weights_count(weights), FILES * PER_FILE + 1);
    assert_non_null(weights_find(weights, "model.layers.563.mlp.experts.162.gate_proj.weight"));
    assert_true(seconds < 20);
    weights_close(weights);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_file_is_read, setup, teardown),
        cmocka_unit_test_setup_teardown(many_files_are_one_checkpoint, setup, teardown),
        cmocka_unit_test_setup_teardown(fingerprint_tells_checkpoints_apart, setup, teardown),
        cmocka_unit_test_setup_teardown(missing_and_foreign_paths_are_named, setup, teardown),
        cmocka_unit_test_setup_teardown(truncated_files_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(headers_of_other_files_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(broken_entries_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(contradicting_entries_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(holes_and_neighbours_are_fine, setup, teardown),
        cmocka_unit_test_setup_teardown(broken_indices_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(too_many_files_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(duplicates_across_files_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(regions_of_plain_types_are_cut_out, setup, teardown),
        cmocka_unit_test_setup_teardown(regions_with_wide_gaps_are_cut_out, setup, teardown),
        cmocka_unit_test_setup_teardown(fp8_regions_come_with_their_scales, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_regions_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(unreadable_tensors_are_named, setup, teardown),
        cmocka_unit_test_setup_teardown(files_cut_short_meanwhile_are_read_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(matrices_are_loaded, setup, teardown),
        cmocka_unit_test_setup_teardown(vectors_are_widened, setup, teardown),
        cmocka_unit_test(bundled_models_open),
        cmocka_unit_test_setup_teardown(random_damage_never_crashes, setup, teardown),
        cmocka_unit_test_setup_teardown(large_checkpoints_open_fast, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
