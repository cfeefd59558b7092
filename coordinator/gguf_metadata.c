/* Written from the shape, which is checked and has its defaults put in. What the reader of these
 * keys derives (gguf_config.c) and the shape has otherwise is refused here. */
#include "coordinator/gguf_metadata.h"

#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/weights/gguf_types.h"
#include "coordinator/gguf_keys.h"
#include "coordinator/gguf_vocabulary.h"

/* Value of general.quantization_version: the layouts of block_formats.h. */
#define QUANTISATION_VERSION 2

/* ---- From a Hugging Face directory. */

struct output {
    struct gguf_writer *writer;
    const char *architecture;
};

static const char *format_key(const struct output *output, const char *name, char key[128]) {
    snprintf(key, 128, "%s.%s", output->architecture, name);
    return key;
}

static void put(const struct output *output, const char *name, uint32_t value) {
    char key[128];
    gguf_writer_add_u32(output->writer, format_key(output, name, key), value);
}

static void put_real(const struct output *output, const char *name, double value) {
    char key[128];
    gguf_writer_add_f32(output->writer, format_key(output, name, key), (float)value);
}

static uint32_t count_leading_dense(const struct model_shape *shape) {
    uint32_t count = 0;
    while (count < shape->layers && !shape->is_expert_layer[count])
        count++;
    return count;
}

static enum status check_expressible(const char *path, const struct model_shape *shape) {
    const char *problem = NULL;
    for (uint32_t layer = count_leading_dense(shape); layer < shape->layers; layer++)
        if (!shape->is_expert_layer[layer])
            problem = "dense layers between those with experts (\"moe_layer_freq\")";
    if (shape->rope.yarn && shape->rope.mscale != shape->rope.mscale_all_dim)
        problem = "an \"mscale\" that is not its \"mscale_all_dim\"";
    if ((shape->score == SCORE_SIGMOID) != shape->score_bias)
        problem = "this \"scoring_func\" with this \"topk_method\"";
    if (shape->attention == ATTENTION_LATENT && !shape->rope_consecutive)
        problem = "a \"rope_interleave\" that is false";
    if (!problem)
        return STATUS_OK;
    log_error("%s: config.json has %s, which a GGUF file cannot tell; the model must stay as it is",
              path, problem);
    return STATUS_UNSUPPORTED;
}

static void write_sizes(const struct output *output, const struct model_shape *shape) {
    put(output, KEY_BLOCK_COUNT, shape->layers + shape->draft_layers);
    if (shape->draft_layers)
        put(output, KEY_NEXTN_PREDICT_LAYERS, shape->draft_layers);
    put(output, KEY_CONTEXT_LENGTH, shape->context);
    put(output, KEY_EMBEDDING_LENGTH, shape->hidden);
    put(output, KEY_FEED_FORWARD_LENGTH, shape->dense_inner);
    put(output, KEY_VOCAB_SIZE, shape->vocabulary);
    put_real(output, KEY_LAYER_NORM_RMS_EPSILON, (double)shape->norm_epsilon);
}

/* Latent attention is given as it runs absorbed, one key and value head of the cache's size; "_mla"
 * are the sizes of the heads themselves. */
static void write_attention(const struct output *output, const struct model_shape *shape) {
    put(output, KEY_HEAD_COUNT, shape->heads);
    if (shape->attention == ATTENTION_MULTI_HEAD) {
        put(output, KEY_HEAD_COUNT_KV, shape->kv_heads);
        put(output, KEY_ROPE_DIMENSION_COUNT, shape->head_dim);
        return;
    }
    put(output, KEY_HEAD_COUNT_KV, 1);
    put(output, KEY_Q_LORA_RANK, shape->q_rank);
    put(output, KEY_KV_LORA_RANK, shape->kv_rank);
    put(output, KEY_KEY_LENGTH, shape->kv_rank + shape->rope_dim);
    put(output, KEY_VALUE_LENGTH, shape->kv_rank);
    put(output, KEY_KEY_LENGTH_MLA, shape->nope_dim + shape->rope_dim);
    put(output, KEY_VALUE_LENGTH_MLA, shape->v_dim);
    put(output, KEY_ROPE_DIMENSION_COUNT, shape->rope_dim);
}

static void write_rope(const struct output *output, const struct rope_shape *rope) {
    char key[128];
    put_real(output, KEY_ROPE_FREQ_BASE, rope->theta);
    if (!rope->yarn)
        return;
    gguf_writer_add_string(output->writer, format_key(output, KEY_SCALING_TYPE, key), "yarn");
    put_real(output, KEY_SCALING_FACTOR, rope->factor);
    put(output, KEY_SCALING_ORIGINAL_CONTEXT_LENGTH, rope->original_positions);
    put_real(output, KEY_YARN_BETA_FAST, rope->beta_fast);
    put_real(output, KEY_YARN_BETA_SLOW, rope->beta_slow);
    put_real(output, KEY_YARN_LOG_MULTIPLIER, rope->mscale_all_dim * YARN_LOG_FACTOR);
}

static void write_experts(const struct output *output, const struct model_shape *shape) {
    char key[128];
    put(output, KEY_LEADING_DENSE_BLOCK_COUNT, count_leading_dense(shape));
    put(output, KEY_EXPERT_COUNT, shape->experts);
    put(output, KEY_EXPERT_USED_COUNT, shape->experts_per_token);
    put(output, KEY_EXPERT_SHARED_COUNT, shape->shared_experts);
    put(output, KEY_EXPERT_FEED_FORWARD_LENGTH, shape->expert_inner);
    put(output, KEY_EXPERT_GROUP_COUNT, shape->groups);
    put(output, KEY_EXPERT_GROUP_USED_COUNT, shape->groups_per_token);
    put(output, KEY_EXPERT_GATING_FUNC,
        shape->score == SCORE_SIGMOID ? GATING_SIGMOID : GATING_SOFTMAX);
    put_real(output, KEY_EXPERT_WEIGHTS_SCALE, (double)shape->weight_scale);
    gguf_writer_add_bool(output->writer, format_key(output, KEY_EXPERT_WEIGHTS_NORM, key),
                         shape->normalise_weights);
}

/* The last part of the directory's true path. */
static void write_name(const char *path, struct gguf_writer *writer) {
    char *true_path = realpath(path, NULL);
    if (true_path)
        gguf_writer_add_string(writer, KEY_NAME, basename(true_path));
    free(true_path);
}

static void write_file_keys(uint32_t file_type, struct gguf_writer *writer) {
    gguf_writer_add_u32(writer, KEY_FILE_TYPE, file_type);
    gguf_writer_add_u32(writer, KEY_QUANTISATION_VERSION, QUANTISATION_VERSION);
}

static enum status write_made(const char *path, const struct model_shape *shape, uint32_t file_type,
                              struct gguf_writer *writer) {
    enum status status = check_expressible(path, shape);
    if (status != STATUS_OK)
        return status;
    bool multi_head = shape->attention == ATTENTION_MULTI_HEAD;
    struct output output = {writer, multi_head ? ARCHITECTURE_V1 : ARCHITECTURE_LATENT};
    gguf_writer_add_string(writer, KEY_ARCHITECTURE, output.architecture);
    gguf_writer_add_string(writer, KEY_KIND, "model");
    write_name(path, writer);
    gguf_writer_add_u32(writer, KEY_ALIGNMENT, GGUF_ALIGNMENT_DEFAULT);
    write_file_keys(file_type, writer);
    write_sizes(&output, shape);
    write_attention(&output, shape);
    write_rope(&output, &shape->rope);
    write_experts(&output, shape);
    return gguf_vocabulary_write(path, shape, writer);
}

/* ---- From a GGUF file. */

/* Keys that tell of the file and not of the model: written anew, or not at all. */
static bool tells_of_file(const char *key) {
    return strcmp(key, KEY_FILE_TYPE) == 0 || strcmp(key, KEY_QUANTISATION_VERSION) == 0 ||
           strncmp(key, "split.", 6) == 0;
}

static enum status carry_over(const struct weights *weights, uint32_t file_type,
                              struct gguf_writer *writer) {
    const json_t *metadata = weights_metadata(weights);
    const json_t *alignment = json_object_get(metadata, KEY_ALIGNMENT);
    if (alignment)
        gguf_writer_set_alignment(writer, (uint32_t)json_integer_value(alignment));
    const char *key;
    json_t *value;
    size_t index = 0;
    json_object_foreach((json_t *)metadata, key, value) {
        void *pair;
        size_t bytes;
        if (tells_of_file(key)) {
            index++;
            continue;
        }
        enum status status = weights_read_pair(weights, index++, &pair, &bytes);
        if (status != STATUS_OK)
            return status;
        gguf_writer_add_pair(writer, pair, bytes);
        free(pair);
    }
    write_file_keys(file_type, writer);
    return STATUS_OK;
}

enum status gguf_metadata_write(const struct weights *weights, const struct model_shape *shape,
                                uint32_t file_type, struct gguf_writer *writer) {
    return weights_metadata(weights) ? carry_over(weights, file_type, writer)
                                     : write_made(weights_path(weights), shape, file_type, writer);
}
