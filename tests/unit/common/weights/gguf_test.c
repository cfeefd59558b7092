/* GGUF files as weights_open reads them: names, stacks and metadata of sound ones; one clear line
 * for each kind of damage; thousands of random damages without a crash; models of several parts. */
#include "common/weights/gguf.h"

#include "common/limits.h"
#include "common/weights/weights.h"
#include "tests/unit/common/weights/gguf_file.h"
#include "tests/unit/random.h"

struct fixture {
    char directory[64], path[128];
    struct log_capture log;
    uint8_t bytes[8192];
};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    struct random random = {17};
    test_directory_make(f->directory);
    snprintf(f->path, sizeof f->path, "%s/m.gguf", f->directory);
    for (size_t i = 0; i < sizeof f->bytes; i++)
        f->bytes[i] = (uint8_t)random_bits(&random);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    test_directory_remove(f->directory);
    free(f);
    return 0;
}

#define SHAPE(...) ((const uint64_t[]){__VA_ARGS__})

/* A file with a tensor of each kind. */
static void build_sound(struct fixture *f, struct gguf_file *file) {
    gguf_begin(file);
    gguf_key_text(file, "general.architecture", "deepseek2");
    gguf_key_u32(file, "deepseek2.block_count", 4);
    gguf_tensor(file, "token_embd.weight", 2, SHAPE(64, 5), 8, f->bytes, 340);
    gguf_tensor(file, "blk.0.attn_norm.weight", 1, SHAPE(7), 0, f->bytes + 9, 28);
    gguf_tensor(file, "blk.3.ffn_gate_exps.weight", 3, SHAPE(32, 4, 3), 2, f->bytes + 50, 216);
    gguf_tensor(file, "blk.3.attn_k_b.weight", 3, SHAPE(32, 2, 3), 30, f->bytes + 70, 384);
    gguf_tensor(file, "blk.3.exp_probs_b.bias", 1, SHAPE(3), 0, f->bytes + 90, 12);
    gguf_tensor(file, "other.thing", 4, SHAPE(2, 1, 3, 2), 24, f->bytes + 100, 12);
}

static struct weights *open_sound(const char *path) {
    struct weights *weights;
    struct log_capture log;
    log_capture_begin(&log);
    enum status status = weights_open(path, &weights);
    fclose(log.stream);
    log_init("test", LOG_ERROR, NULL);
    if (status != STATUS_OK)
        fail_msg("%s", log.text);
    free(log.text);
    return weights;
}

static void expect_tensor(const struct weights *weights, const char *name, const char *type,
                          uint32_t dimensions, uint64_t rows, uint64_t columns, uint64_t bytes) {
    const struct tensor *tensor = weights_find(weights, name);
    if (!tensor)
        fail_msg("there is no %s", name);
    assert_string_equal(tensor->type, type);
    assert_int_equal(tensor->dimensions, dimensions);
    assert_int_equal(tensor->shape[0], rows);
    assert_int_equal(tensor->shape[1], columns);
    assert_int_equal(tensor->bytes, bytes);
}

static void tensors_get_their_names_and_places(void **state) {
    struct fixture *f = *state;
    struct gguf_file file;
    build_sound(f, &file);
    gguf_write(&file, f->directory, "m.gguf");
    struct weights *weights = open_sound(f->path);
    assert_int_equal(weights_count(weights), 8);
    expect_tensor(weights, "model.embed_tokens.weight", "Q8_0", 2, 5, 64, 340);
    expect_tensor(weights, "model.layers.0.input_layernorm.weight", "F32", 1, 7, 1, 28);
    expect_tensor(weights, "model.layers.3.self_attn.k_b_proj.weight", "BF16", 2, 6, 32, 384);
    expect_tensor(weights, "model.layers.3.mlp.gate.e_score_correction_bias", "F32", 1, 3, 1, 12);
    expect_tensor(weights, "other.thing", "I8", 4, 2, 3, 12);
    for (uint32_t expert = 0; expert < 3; expert++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.3.mlp.experts.%u.gate_proj.weight", expert);
        expect_tensor(weights, name, "Q4_0", 2, 4, 32, 72);
        uint8_t storage[128];
        struct region region = {.row = 1, .rows = 2, .columns = 32};
        assert_int_equal(weights_read_region(weights, name, &region, storage), STATUS_OK);
        assert_memory_equal(storage, f->bytes + 50 + 72 * expert + 18, 36);
    }
    weights_close(weights);
}

static void columns_are_read_in_whole_blocks(void **state) {
    struct fixture *f = *state;
    struct gguf_file file;
    gguf_begin(&file);
    gguf_tensor(&file, "output.weight", 2, SHAPE(1024, 3), 12, f->bytes, 3 * 4 * 144);
    gguf_write(&file, f->directory, "m.gguf");
    struct weights *weights = open_sound(f->path);
    uint8_t storage[1024];
    struct region region = {.row = 1, .rows = 2, .column = 256, .columns = 512};
    assert_int_equal(weights_read_region(weights, "lm_head.weight", &region, storage), STATUS_OK);
    assert_memory_equal(storage, f->bytes + 5 * 144, 288);
    assert_memory_equal(storage + 288, f->bytes + 9 * 144, 288);
    region.column = 128;
    log_capture_begin(&f->log);
    assert_int_equal(weights_read_region(weights, "lm_head.weight", &region, storage),
                     STATUS_UNSUPPORTED);
    log_capture_expect(&f->log, f->path, "lm_head.weight", "Q4_K", "multiples of", "256", NULL);
    struct arena *arena = arena_create(0);
    float *values;
    log_capture_begin(&f->log);
    assert_int_equal(weights_load_vector(weights, "lm_head.weight", 3072, arena, &values),
                     STATUS_UNSUPPORTED);
    log_capture_expect(&f->log, "lm_head.weight", "Q4_K", "F32", NULL);
    arena_destroy(arena);
    weights_close(weights);
}

static void every_type_of_metadata_is_read(void **state) {
    struct fixture *f = *state;
    struct gguf_file file;
    gguf_begin(&file);
    gguf_key_value(&file, "u8", GGUF_U8, &(uint8_t){200}, 1);
    gguf_key_value(&file, "i8", GGUF_I8, &(int8_t){-3}, 1);
    gguf_key_value(&file, "u16", GGUF_U16, &(uint16_t){60000}, 2);
    gguf_key_value(&file, "i16", GGUF_I16, &(int16_t){-300}, 2);
    gguf_key_value(&file, "u32", GGUF_U32, &(uint32_t){4000000000}, 4);
    gguf_key_value(&file, "i32", GGUF_I32, &(int32_t){-70000}, 4);
    gguf_key_value(&file, "u64", GGUF_U64, &(uint64_t){1ull << 40}, 8);
    gguf_key_value(&file, "i64", GGUF_I64, &(int64_t){-(1ll << 40)}, 8);
    gguf_key_f32(&file, "f32", 0.5f);
    gguf_key_value(&file, "f64", GGUF_F64, &(double){0.1}, 8);
    gguf_key_f32(&file, "nan", (float)(0.0 / 0.0));
    gguf_key_bool(&file, "yes", 1);
    gguf_key_text(&file, "text", "Größe");
    gguf_key_text(&file, "bad text", "\xff\xfe");
    gguf_key_text(&file, "no text", "");
    gguf_key_array(&file, "list", GGUF_STRING, 2);
    gguf_put_text(file.key_stream, "a", 1);
    gguf_put_text(file.key_stream, "bc", 2);
    gguf_key_array(&file, "none", GGUF_I32, 0);
    gguf_tensor(&file, "x", 1, SHAPE(1), 0, f->bytes, 4);
    gguf_write(&file, f->directory, "m.gguf");
    struct weights *weights = open_sound(f->path);
    json_t *want = json_pack("{s:i, s:i, s:i, s:i, s:I, s:i, s:I, s:I, s:f, s:f, s:n, s:b, s:s, "
                             "s:n, s:s, s:[s,s], s:[]}",
                             "u8", 200, "i8", -3, "u16", 60000, "i16", -300, "u32",
                             (json_int_t)4000000000, "i32", -70000, "u64", (json_int_t)1 << 40,
                             "i64", -((json_int_t)1 << 40), "f32", 0.5, "f64", 0.1, "nan", "yes", 1,
                             "text", "Größe", "bad text", "no text", "", "list", "a", "bc", "none");
    assert_true(json_equal(weights_metadata(weights), want));
    json_decref(want);
    weights_close(weights);
}

/* Each changes a sound file; what must stand in the line, and the status. */
enum damage {
    DAMAGE_MAGIC,
    DAMAGE_VERSION,
    DAMAGE_ENDIANNESS,
    DAMAGE_KEY_COUNT,
    DAMAGE_MANY_KEYS,
    DAMAGE_TENSOR_COUNT,
    DAMAGE_MANY_TENSORS,
    DAMAGE_KEY_LENGTH,
    DAMAGE_KEY_EMPTY,
    DAMAGE_KEY_ZERO,
    DAMAGE_KEY_TWICE,
    DAMAGE_VALUE_TYPE,
    DAMAGE_ARRAY_TYPE,
    DAMAGE_ARRAY_NESTED,
    DAMAGE_ARRAY_COUNT,
    DAMAGE_STRING_LENGTH,
    DAMAGE_BOOL,
    DAMAGE_U64,
    DAMAGE_ALIGNMENT_ZERO,
    DAMAGE_ALIGNMENT_ODD,
    DAMAGE_ALIGNMENT_TEXT,
    DAMAGE_NAME_LENGTH,
    DAMAGE_NO_DIMENSIONS,
    DAMAGE_FIVE_DIMENSIONS,
    DAMAGE_EMPTY_DIMENSION,
    DAMAGE_OVERFLOW,
    DAMAGE_OVERFLOW_BYTES,
    DAMAGE_BLOCKS,
    DAMAGE_OFFSET,
    DAMAGE_OUTSIDE,
    DAMAGE_FAR_OUTSIDE,
    DAMAGE_OVERLAP,
    DAMAGE_STACK,
    DAMAGE_MANY_EXPERTS,
    DAMAGE_TENSOR_TWICE,
    DAMAGE_COUNT
};

static const struct {
    const char *says;
    enum status status;
} DAMAGES[DAMAGE_COUNT] = {
    [DAMAGE_MAGIC] = {"does not begin with \"GGUF\"", STATUS_FORMAT},
    [DAMAGE_VERSION] = {"GGUF version 2", STATUS_UNSUPPORTED},
    [DAMAGE_ENDIANNESS] = {"big-endian", STATUS_UNSUPPORTED},
    [DAMAGE_KEY_COUNT] = {"a key of the metadata", STATUS_FORMAT},
    [DAMAGE_MANY_KEYS] = {"more keys", STATUS_FORMAT},
    [DAMAGE_TENSOR_COUNT] = {"the name of a tensor is empty", STATUS_FORMAT},
    [DAMAGE_MANY_TENSORS] = {"list of tensors", STATUS_FORMAT},
    [DAMAGE_KEY_LENGTH] = {"a key of the metadata is longer", STATUS_FORMAT},
    [DAMAGE_KEY_EMPTY] = {"a key of the metadata is empty", STATUS_FORMAT},
    [DAMAGE_KEY_ZERO] = {"a key of the metadata is empty or has a zero", STATUS_FORMAT},
    [DAMAGE_KEY_TWICE] = {"deepseek2.block_count", STATUS_FORMAT},
    [DAMAGE_VALUE_TYPE] = {"bad.key has a value of no known type", STATUS_FORMAT},
    [DAMAGE_ARRAY_TYPE] = {"bad.key has a value of no known type", STATUS_FORMAT},
    [DAMAGE_ARRAY_NESTED] = {"bad.key is an array of arrays", STATUS_UNSUPPORTED},
    [DAMAGE_ARRAY_COUNT] = {"bad.key has more values", STATUS_FORMAT},
    [DAMAGE_STRING_LENGTH] = {"bad.key has a string", STATUS_FORMAT},
    [DAMAGE_BOOL] = {"bad.key is neither true nor false", STATUS_FORMAT},
    [DAMAGE_U64] = {"bad.key is larger", STATUS_FORMAT},
    [DAMAGE_ALIGNMENT_ZERO] = {"general.alignment", STATUS_FORMAT},
    [DAMAGE_ALIGNMENT_ODD] = {"general.alignment", STATUS_FORMAT},
    [DAMAGE_ALIGNMENT_TEXT] = {"general.alignment", STATUS_FORMAT},
    [DAMAGE_NAME_LENGTH] = {"the name of a tensor is longer", STATUS_FORMAT},
    [DAMAGE_NO_DIMENSIONS] = {"bad.tensor must have one to four dimensions", STATUS_FORMAT},
    [DAMAGE_FIVE_DIMENSIONS] = {"bad.tensor must have one to four dimensions", STATUS_FORMAT},
    [DAMAGE_EMPTY_DIMENSION] = {"bad.tensor has no values", STATUS_FORMAT},
    [DAMAGE_OVERFLOW] = {"bad.tensor has no values, or more", STATUS_FORMAT},
    [DAMAGE_OVERFLOW_BYTES] = {"bad.tensor has more values", STATUS_FORMAT},
    [DAMAGE_BLOCKS] = {"bad.tensor has rows of 300 values", STATUS_FORMAT},
    [DAMAGE_OFFSET] = {"bad.tensor does not start at a multiple", STATUS_FORMAT},
    [DAMAGE_OUTSIDE] = {"bad.tensor with 4096 bytes", STATUS_FORMAT},
    [DAMAGE_FAR_OUTSIDE] = {"bad.tensor with 4 bytes", STATUS_FORMAT},
    [DAMAGE_OVERLAP] = {"overlap", STATUS_FORMAT},
    [DAMAGE_STACK] = {"blk.1.ffn_up_exps.weight is no stack", STATUS_FORMAT},
    [DAMAGE_MANY_EXPERTS] = {"blk.1.ffn_up_exps.weight is no stack", STATUS_FORMAT},
    [DAMAGE_TENSOR_TWICE] = {"again in", STATUS_FORMAT},
};

static void damage_keys(struct gguf_file *file, enum damage damage) {
    switch (damage) {
    case DAMAGE_KEY_LENGTH:
        gguf_put_u64(file->key_stream, 1ull << 60);
        file->keys++;
        break;
    case DAMAGE_KEY_EMPTY:
        gguf_key_u32(file, "", 1);
        break;
    case DAMAGE_KEY_ZERO:
        gguf_put_text(file->key_stream, "a\0b", 3);
        file->keys++;
        break;
    case DAMAGE_KEY_TWICE:
        gguf_key_u32(file, "deepseek2.block_count", 4);
        break;
    case DAMAGE_VALUE_TYPE:
        gguf_key(file, "bad.key", 13);
        break;
    case DAMAGE_ARRAY_TYPE:
        gguf_key_array(file, "bad.key", 4000000000, 3);
        break;
    case DAMAGE_ARRAY_NESTED:
        gguf_key_array(file, "bad.key", GGUF_ARRAY, 1);
        break;
    case DAMAGE_ARRAY_COUNT:
        gguf_key_array(file, "bad.key", GGUF_U8, 1ull << 62);
        break;
    case DAMAGE_STRING_LENGTH:
        gguf_key_value(file, "bad.key", GGUF_STRING, &(uint64_t){UINT64_MAX}, 8);
        break;
    case DAMAGE_BOOL:
        gguf_key_bool(file, "bad.key", 2);
        break;
    case DAMAGE_U64:
        gguf_key_value(file, "bad.key", GGUF_U64, &(uint64_t){UINT64_MAX}, 8);
        break;
    case DAMAGE_ALIGNMENT_ZERO:
        gguf_key_u32(file, "general.alignment", 0);
        break;
    case DAMAGE_ALIGNMENT_ODD:
        gguf_key_u32(file, "general.alignment", 48);
        break;
    case DAMAGE_ALIGNMENT_TEXT:
        gguf_key_text(file, "general.alignment", "32");
        break;
    default:
        break;
    }
}

static void damage_tensors(struct gguf_file *file, enum damage damage) {
    static const char NAME[] = "bad.tensor";
    const uint64_t next = 2048; /* behind the sound file's tensors */
    switch (damage) {
    case DAMAGE_NAME_LENGTH:
        gguf_put_u64(file->tensor_stream, TENSOR_NAME_BYTES_MAX + 1);
        file->tensors++;
        break;
    case DAMAGE_NO_DIMENSIONS:
        gguf_list(file, NAME, 0, NULL, 0, next);
        break;
    case DAMAGE_FIVE_DIMENSIONS:
        gguf_list(file, NAME, 5, SHAPE(1, 1, 1, 1, 1), 0, next);
        break;
    case DAMAGE_EMPTY_DIMENSION:
        gguf_list(file, NAME, 2, SHAPE(4, 0), 0, next);
        break;
    case DAMAGE_OVERFLOW:
        gguf_list(file, NAME, 3, SHAPE(1ull << 30, 1ull << 30, 1ull << 30), 0, next);
        break;
    case DAMAGE_OVERFLOW_BYTES:
        gguf_list(file, NAME, 2, SHAPE(1ull << 32, 1ull << 31), 0, next);
        break;
    case DAMAGE_BLOCKS:
        gguf_list(file, NAME, 2, SHAPE(300, 2), 12, next);
        break;
    case DAMAGE_OFFSET:
        gguf_list(file, NAME, 1, SHAPE(1), 0, next + 4);
        break;
    case DAMAGE_OUTSIDE:
        gguf_list(file, NAME, 1, SHAPE(1024), 0, next);
        break;
    case DAMAGE_FAR_OUTSIDE:
        gguf_list(file, NAME, 1, SHAPE(1), 0, UINT64_MAX - 31);
        break;
    case DAMAGE_OVERLAP:
        gguf_list(file, NAME, 1, SHAPE(1), 0, 64);
        break;
    case DAMAGE_STACK:
        gguf_list(file, "blk.1.ffn_up_exps.weight", 2, SHAPE(2, 2), 0, next);
        break;
    case DAMAGE_MANY_EXPERTS:
        gguf_list(file, "blk.1.ffn_up_exps.weight", 3, SHAPE(1, 1, EXPERTS_MAX + 1), 24, 0);
        break;
    case DAMAGE_TENSOR_TWICE:
        gguf_list(file, "token_embd.weight", 1, SHAPE(1), 0, next);
        break;
    default:
        break;
    }
}

static void damage_header(struct gguf_file *file, enum damage damage) {
    if (damage == DAMAGE_MAGIC)
        file->magic = 0x47474d4c;
    if (damage == DAMAGE_VERSION)
        file->version = 2;
    if (damage == DAMAGE_ENDIANNESS)
        file->version = 0x03000000;
    if (damage == DAMAGE_KEY_COUNT)
        file->keys += 100;
    if (damage == DAMAGE_MANY_KEYS)
        file->keys = UINT64_MAX;
    if (damage == DAMAGE_TENSOR_COUNT)
        file->tensors += 100;
    if (damage == DAMAGE_MANY_TENSORS)
        file->tensors = UINT64_MAX;
}

static void damage_is_named(void **state) {
    struct fixture *f = *state;
    for (int damage = 0; damage < DAMAGE_COUNT; damage++) {
        struct gguf_file file;
        build_sound(f, &file);
        gguf_put(file.data_stream, f->bytes, damage == DAMAGE_OUTSIDE ? 1200 : 4096);
        damage_keys(&file, (enum damage)damage);
        damage_tensors(&file, (enum damage)damage);
        damage_header(&file, (enum damage)damage);
        gguf_write(&file, f->directory, "m.gguf");
        struct weights *weights;
        log_capture_begin(&f->log);
        enum status status = weights_open(f->path, &weights);
        if (status != DAMAGES[damage].status)
            fail_msg("damage %d (%s): %s", damage, DAMAGES[damage].says, status_name(status));
        log_capture_expect(&f->log, f->path, DAMAGES[damage].says, NULL);
    }
}

static void other_types_are_refused_when_read(void **state) {
    struct fixture *f = *state;
    static const struct {
        uint32_t number;
        const char *name;
    } CASES[] = {{16, "IQ2_XXS"}, {29, "IQ1_M"},   {35, "TQ2_0"},    {39, "MXFP4"},
                 {9, "Q8_1"},     {4, "number 4"}, {99, "number 99"}};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct gguf_file file;
        gguf_begin(&file);
        gguf_tensor(&file, "blk.2.ffn_down_exps.weight", 3, SHAPE(256, 1, 2), CASES[i].number,
                    f->bytes, 1024);
        gguf_write(&file, f->directory, "m.gguf");
        struct weights *weights = open_sound(f->path);
        const struct tensor *tensor;
        log_capture_begin(&f->log);
        assert_int_equal(weights_find_matrix(weights,
                                             "model.layers.2.mlp.experts.1.down_proj.weight", 1,
                                             256, &tensor),
                         STATUS_UNSUPPORTED);
        log_capture_expect(&f->log, f->path, "model.layers.2.mlp.experts.1.down_proj.weight",
                           CASES[i].name, NULL);
        weights_close(weights);
    }
}

/* ---- Parts. */

static void write_part(struct fixture *f, const char *name, uint16_t part, uint16_t parts,
                       int32_t total) {
    struct gguf_file file;
    char tensor[32];
    snprintf(tensor, sizeof tensor, "blk.%u.ffn_norm.weight", part);
    gguf_begin(&file);
    if (part == 0)
        gguf_key_text(&file, "general.architecture", "deepseek2");
    gguf_key_value(&file, "split.no", GGUF_U16, &part, 2);
    gguf_key_value(&file, "split.count", GGUF_U16, &parts, 2);
    gguf_key_value(&file, "split.tensors.count", GGUF_I32, &total, 4);
    if (part != 0) /* the first part of published models often has metadata only */
        gguf_tensor(&file, tensor, 1, SHAPE(4), 0, f->bytes + 16 * part, 16);
    gguf_write(&file, f->directory, name);
}

static void parts_make_one_model(void **state) {
    struct fixture *f = *state;
    static const char *const NAMES[] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf",
                                        "m-00003-of-00003.gguf"};
    for (uint16_t part = 0; part < 3; part++)
        write_part(f, NAMES[part], part, 3, 2);
    uint64_t fingerprints[3];
    for (size_t i = 0; i < 3; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", f->directory, NAMES[i]);
        struct weights *weights = open_sound(path);
        assert_int_equal(weights_count(weights), 2);
        assert_string_equal(
            json_string_value(json_object_get(weights_metadata(weights), "general.architecture")),
            "deepseek2");
        struct arena *arena = arena_create(0);
        float *values;
        assert_int_equal(weights_load_vector(weights,
                                             "model.layers.2.post_attention_layernorm.weight", 4,
                                             arena, &values),
                         STATUS_OK);
        assert_memory_equal(values, f->bytes + 32, 16);
        assert_int_equal(weights_fingerprint(weights, &fingerprints[i]), STATUS_OK);
        assert_int_equal(fingerprints[i], fingerprints[0]);
        arena_destroy(arena);
        weights_close(weights);
    }
}

static void expect_refusal(struct fixture *f, const char *name, enum status status,
                           const char *place, const char *says) {
    char path[128];
    struct weights *weights;
    snprintf(path, sizeof path, "%s/%s", f->directory, name);
    log_capture_begin(&f->log);
    assert_int_equal(weights_open(path, &weights), status);
    log_capture_expect(&f->log, place, says, NULL);
}

static void wrong_parts_are_named(void **state) {
    struct fixture *f = *state;
    write_part(f, "a-00001-of-00002.gguf", 0, 2, 2);
    expect_refusal(f, "a-00001-of-00002.gguf", STATUS_NOT_FOUND, "a-00002-of-00002.gguf",
                   "is missing");
    write_part(f, "a-00002-of-00002.gguf", 1, 2, 7);
    expect_refusal(f, "a-00002-of-00002.gguf", STATUS_FORMAT, "a-00002-of-00002.gguf",
                   "hold 1 tensors, not 2");
    write_part(f, "a-00002-of-00002.gguf", 0, 2, 2);
    expect_refusal(f, "a-00001-of-00002.gguf", STATUS_FORMAT, "a-00002-of-00002.gguf",
                   "is part 1 of 2");
    write_part(f, "renamed.gguf", 1, 3, 2);
    expect_refusal(f, "renamed.gguf", STATUS_FORMAT, "renamed.gguf", "-00002-of-00003.gguf");
    expect_refusal(f, "none.gguf", STATUS_NOT_FOUND, "none.gguf", "cannot open");
}

static void names_of_parts_are_understood(void **state) {
    (void)state;
    static const struct {
        const char *path;
        uint32_t parts;
    } CASES[] = {{"m.gguf", 1},
                 {"d/m-00001-of-00009.gguf", 9},
                 {"m-00009-of-00009.gguf", 9},
                 {"m-00000-of-00009.gguf", 1},
                 {"m-00010-of-00009.gguf", 1},
                 {"m-00001-of-99999.gguf", 1},
                 {"m-0001-of-00009.gguf", 1},
                 {"m-    1-of-00009.gguf", 1},
                 {"-00001-of-00009.gguf", 1}};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
        if (gguf_count_parts(CASES[i].path) != CASES[i].parts)
            fail_msg("%s", CASES[i].path);
    char path[PATH_MAX];
    assert_int_equal(gguf_part_path("d/m-00001-of-00009.gguf", 8, path), STATUS_OK);
    assert_string_equal(path, "d/m-00009-of-00009.gguf");
    assert_true(gguf_is_path("x.gguf"));
    assert_false(gguf_is_path(".gguf"));
    assert_false(gguf_is_path("x.gguf.part"));
}

/* ---- Random damage. */

static void read_everything(const struct weights *weights) {
    static uint8_t storage[1 << 16];
    for (size_t i = 0; i < weights_count(weights); i++) {
        const struct tensor *tensor = weights_at(weights, i);
        struct region all = {.rows = (uint32_t)tensor->shape[0],
                             .columns = (uint32_t)tensor->shape[1]};
        if (tensor->format != WEIGHT_FORMAT_COUNT && tensor->bytes < sizeof storage / 2)
            weights_read_region(weights, tensor->name, &all, storage);
    }
    uint64_t fingerprint;
    weights_fingerprint(weights, &fingerprint);
}

static void random_damage_never_crashes(void **state) {
    struct fixture *f = *state;
    struct gguf_file file;
    build_sound(f, &file);
    gguf_key_array(&file, "tokenizer.ggml.tokens", GGUF_STRING, 3);
    for (size_t i = 0; i < 3; i++)
        gguf_put_text(file.key_stream, "tok", i + 1);
    gguf_key_array(&file, "tokenizer.ggml.token_type", GGUF_I32, 3);
    for (uint32_t i = 0; i < 3; i++)
        gguf_put_u32(file.key_stream, i);
    gguf_write(&file, f->directory, "m.gguf");
    uint8_t sound[4096], bytes[4096];
    FILE *stream = fopen(f->path, "rb");
    size_t count = fread(sound, 1, sizeof sound, stream);
    fclose(stream);
    assert_true(count > 1500 && count < sizeof sound);
    size_t header_bytes = count - 1100; /* damage to the data is no error */
    struct random random = {23};
    FILE *nowhere = fopen("/dev/null", "w");
    log_init("test", LOG_DEBUG, nowhere);
    size_t opened = 0, refused = 0;
    for (int turn = 0; turn < 6000; turn++) {
        memcpy(bytes, sound, count);
        for (uint32_t flips = 1 + random_below(&random, 3); flips; flips--) {
            uint8_t *at = &bytes[random_below(&random, (uint32_t)header_bytes)];
            *at = turn % 3 ? (uint8_t)(*at ^ 1u << random_below(&random, 8))
                           : (uint8_t)random_bits(&random);
        }
        size_t kept = turn % 5 == 0 ? random_below(&random, (uint32_t)count) : count;
        stream = fopen(f->path, "wb");
        assert_int_equal(fwrite(bytes, 1, kept, stream), kept);
        fclose(stream);
        struct weights *weights;
        if (weights_open(f->path, &weights) == STATUS_OK) {
            read_everything(weights);
            weights_close(weights);
            opened++;
        } else {
            refused++;
        }
    }
    log_init("test", LOG_ERROR, NULL);
    fclose(nowhere);
    assert_true(opened > 200);
    assert_true(refused > 1000);
}

/* Every length at which a file can be cut off. */
static void truncation_is_named(void **state) {
    struct fixture *f = *state;
    struct gguf_file file;
    build_sound(f, &file);
    gguf_write(&file, f->directory, "m.gguf");
    FILE *stream = fopen(f->path, "rb");
    fseek(stream, 0, SEEK_END);
    long count = ftell(stream);
    fclose(stream);
    for (long kept = count - 1; kept >= 0; kept--) {
        assert_int_equal(truncate(f->path, kept), 0);
        struct weights *weights;
        log_capture_begin(&f->log);
        assert_int_equal(weights_open(f->path, &weights), STATUS_FORMAT);
        log_capture_expect(&f->log, f->path, "download it again", NULL);
    }
}

#define TEST(NAME) cmocka_unit_test_setup_teardown(NAME, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(tensors_get_their_names_and_places),
        TEST(columns_are_read_in_whole_blocks),
        TEST(every_type_of_metadata_is_read),
        TEST(damage_is_named),
        TEST(other_types_are_refused_when_read),
        TEST(parts_make_one_model),
        TEST(wrong_parts_are_named),
        TEST(names_of_parts_are_understood),
        TEST(truncation_is_named),
        TEST(random_damage_never_crashes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
