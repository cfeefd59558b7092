/* A shape written as GGUF keys and read again is the same shape; keys of a GGUF file are carried
 * over as they are. */
#include "coordinator/gguf_metadata.h"

#include "common/json.h"
#include "coordinator/gguf_keys.h"
#include "tests/unit/common/weights/checkpoint.h"
#include "tests/unit/common/weights/gguf_file.h"
#include "tests/unit/common/weights/writer_fixture.h"

/* Writes the directory's config.json, and a checkpoint with a single tensor. */
static void write_directory(struct writer_fixture *f, const json_t *config) {
    static const float value = 1;
    struct checkpoint_tensor tensor = {"a", "F32", 1, {1, 1, 1, 1}, &value, sizeof value};
    char path[128];
    snprintf(path, sizeof path, "%s/config.json", f->directory);
    assert_int_equal(json_dump_file(config, path, 0), 0);
    checkpoint_write(f->directory, "model.safetensors", &tensor, 1);
}

/* Ends the file with a head, so that it is not tied. */
static void end_file(struct writer_fixture *f) {
    static const float value = 1;
    gguf_writer_add_tensor(f->writer, "output.weight", 1, (uint64_t[]){1}, 0, 4);
    assert_int_equal(gguf_writer_open(f->writer, f->path), STATUS_OK);
    assert_int_equal(gguf_writer_write(f->writer, &value, 4), STATUS_OK);
    assert_int_equal(gguf_writer_finish(f->writer), STATUS_OK);
}

static json_t *read_config(const char *name) {
    char path[512];
    snprintf(path, sizeof path, TEST_DATA_DIR "/golden/%s/config.json", name);
    json_t *config = json_load_file(path, 0, NULL);
    assert_non_null(config);
    return config;
}

/* `config` is released. */
static void check_round_trip(struct writer_fixture *f, json_t *config) {
    struct model_shape before, after;
    struct weights *weights;
    write_directory(f, config);
    json_decref(config);
    assert_int_equal(model_shape_read(f->directory, &before), STATUS_OK);
    assert_int_equal(weights_open(f->directory, &weights), STATUS_OK);
    assert_int_equal(gguf_metadata_write(weights, &before, 14, f->writer), STATUS_OK);
    weights_close(weights);
    end_file(f);
    assert_int_equal(model_shape_read(f->path, &after), STATUS_OK);
    before.rope_consecutive = true; /* GGUF files have V1's rows in that order */
    assert_memory_equal(&before, &after, sizeof before);
    assert_int_equal(weights_open(f->path, &weights), STATUS_OK);
    const json_t *metadata = weights_metadata(weights);
    assert_int_equal(json_integer_value(json_object_get(metadata, KEY_FILE_TYPE)), 14);
    assert_int_equal(json_integer_value(json_object_get(metadata, KEY_QUANTISATION_VERSION)), 2);
    assert_string_equal(json_string_value(json_object_get(metadata, KEY_TOKENIZER_MODEL)), "none");
    weights_close(weights);
}

static void v1_round_trip(void **state) {
    json_t *config = read_config("deepseek-moe-tiny");
    json_object_set_new(config, "num_key_value_heads", json_integer(2));
    check_round_trip(*state, config);
}

static void v2_lite_round_trip(void **state) {
    check_round_trip(*state, read_config("deepseek-v2-lite-tiny"));
}

static void v2_round_trip(void **state) {
    check_round_trip(*state, read_config("deepseek-v2-tiny"));
}

/* With a draft module, and numbers that no f32 holds exactly. */
static void v3_round_trip(void **state) {
    json_t *config = read_config("deepseek-v3-tiny");
    json_object_set_new(config, "rms_norm_eps", json_real(1.3e-5));
    json_object_set_new(config, "rope_theta", json_real(51234.7));
    json_object_set_new(config, "routed_scaling_factor", json_real(2.827));
    json_object_set_new(json_object_get(config, "rope_scaling"), "mscale", json_real(0.707));
    json_object_set_new(json_object_get(config, "rope_scaling"), "mscale_all_dim",
                        json_real(0.707));
    json_object_set_new(json_object_get(config, "rope_scaling"), "beta_fast", json_real(31.4));
    json_object_set_new(config, "first_k_dense_replace", json_integer(2));
    check_round_trip(*state, config);
}

static void no_yarn_no_ids(void **state) {
    json_t *config = read_config("deepseek-v3-tiny");
    json_object_set_new(config, "rope_scaling", json_null());
    json_object_del(config, "bos_token_id");
    json_object_del(config, "eos_token_id");
    json_object_set_new(config, "n_group", json_integer(1));
    json_object_set_new(config, "topk_group", json_integer(1));
    check_round_trip(*state, config);
}

static void refuse(struct writer_fixture *f, json_t *config, const char *key) {
    struct model_shape shape;
    struct weights *weights;
    write_directory(f, config);
    json_decref(config);
    assert_int_equal(model_shape_read(f->directory, &shape), STATUS_OK);
    assert_int_equal(weights_open(f->directory, &weights), STATUS_OK);
    log_capture_begin(&f->log);
    assert_int_equal(gguf_metadata_write(weights, &shape, 14, f->writer), STATUS_UNSUPPORTED);
    log_capture_expect(&f->log, f->directory, key, NULL);
    weights_close(weights);
}

static void what_gguf_cannot_tell(void **state) {
    json_t *config = read_config("deepseek-v3-tiny");
    json_object_set_new(config, "moe_layer_freq", json_integer(2));
    refuse(*state, config, "moe_layer_freq");
    config = read_config("deepseek-v3-tiny");
    json_object_set_new(json_object_get(config, "rope_scaling"), "mscale", json_real(0.5));
    refuse(*state, config, "mscale");
    config = read_config("deepseek-v3-tiny");
    json_object_set_new(config, "scoring_func", json_string("softmax"));
    refuse(*state, config, "scoring_func");
    config = read_config("deepseek-v3-tiny");
    json_object_set_new(config, "rope_interleave", json_false());
    refuse(*state, config, "rope_interleave");
}

/* Types that JSON cannot tell apart stay, the order too; split.* and the file's type go. */
static void keys_are_carried_over(void **state) {
    struct writer_fixture *f = *state;
    struct gguf_file in;
    static const float value = 1;
    gguf_begin(&in);
    in.alignment = 64;
    gguf_key_u32(&in, "general.alignment", 64);
    gguf_key_text(&in, "general.architecture", "deepseek2");
    gguf_key_value(&in, "unknown.u8", GGUF_U8, "\x07", 1);
    gguf_key_value(&in, "unknown.f64", GGUF_F64, "\1\2\3\4\5\6\7\x3f", 8);
    gguf_key_u32(&in, "general.file_type", 1);
    gguf_key_value(&in, "split.count", GGUF_U16, "\1\0", 2);
    gguf_key_array(&in, "unknown.list", GGUF_I16, 2);
    gguf_put(in.key_stream, "\xff\xff\x05\0", 4);
    gguf_tensor(&in, "output.weight", 1, &(uint64_t){1}, 0, &value, sizeof value);
    gguf_write(&in, f->directory, "in.gguf");
    char path[128];
    snprintf(path, sizeof path, "%s/in.gguf", f->directory);
    struct weights *before, *after;
    struct model_shape shape = {0};
    assert_int_equal(weights_open(path, &before), STATUS_OK);
    assert_int_equal(gguf_metadata_write(before, &shape, 15, f->writer), STATUS_OK);
    end_file(f);
    assert_int_equal(weights_open(f->path, &after), STATUS_OK);
    static const char *const KEYS[] = {
        "general.alignment", "general.architecture",  "unknown.u8", "unknown.f64", "unknown.list",
        KEY_FILE_TYPE,       KEY_QUANTISATION_VERSION};
    static const size_t BEFORE[] = {0, 1, 2, 3, 6};
    size_t index = 0;
    const char *key;
    json_t *ignored;
    json_object_foreach((json_t *)weights_metadata(after), key, ignored) {
        assert_string_equal(key, KEYS[index]);
        if (index < 5) {
            void *a, *b;
            size_t a_bytes, b_bytes;
            assert_int_equal(weights_read_pair(before, BEFORE[index], &a, &a_bytes), STATUS_OK);
            assert_int_equal(weights_read_pair(after, index, &b, &b_bytes), STATUS_OK);
            assert_int_equal(a_bytes, b_bytes);
            assert_memory_equal(a, b, a_bytes);
            free(a);
            free(b);
        }
        index++;
    }
    assert_int_equal(index, 7);
    assert_int_equal(json_integer_value(json_object_get(weights_metadata(after), KEY_FILE_TYPE)),
                     15);
    weights_close(before);
    weights_close(after);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, writer_setup, writer_teardown)

int main(void) {
    log_init("test", LOG_ERROR, NULL);
    const struct CMUnitTest tests[] = {
        TEST(v1_round_trip),         TEST(v2_lite_round_trip), TEST(v2_round_trip),
        TEST(v3_round_trip),         TEST(no_yarn_no_ids),     TEST(what_gguf_cannot_tell),
        TEST(keys_are_carried_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
