/* Two tables: tensors of the whole model, and those of a layer behind "blk.N.". A stack of experts
 * lies in the file expert by expert, so each of them is a range of its bytes. */
#include "common/weights/gguf_names.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/limits.h"
#include "common/log.h"

struct translation {
    const char *gguf, *name;
    enum gguf_kind kind;
};

static const struct translation MODEL_NAMES[] = {
    {"token_embd.weight", "model.embed_tokens.weight", GGUF_WHOLE},
    {"output_norm.weight", "model.norm.weight", GGUF_WHOLE},
    {"output.weight", "lm_head.weight", GGUF_WHOLE},
};

static const struct translation LAYER_NAMES[] = {
    {"attn_norm.weight", "input_layernorm.weight", GGUF_WHOLE},
    {"ffn_norm.weight", "post_attention_layernorm.weight", GGUF_WHOLE},
    {"attn_q.weight", "self_attn.q_proj.weight", GGUF_WHOLE},
    {"attn_k.weight", "self_attn.k_proj.weight", GGUF_WHOLE},
    {"attn_v.weight", "self_attn.v_proj.weight", GGUF_WHOLE},
    {"attn_q_a.weight", "self_attn.q_a_proj.weight", GGUF_WHOLE},
    {"attn_q_a_norm.weight", "self_attn.q_a_layernorm.weight", GGUF_WHOLE},
    {"attn_q_b.weight", "self_attn.q_b_proj.weight", GGUF_WHOLE},
    {"attn_kv_a_mqa.weight", "self_attn.kv_a_proj_with_mqa.weight", GGUF_WHOLE},
    {"attn_kv_a_norm.weight", "self_attn.kv_a_layernorm.weight", GGUF_WHOLE},
    {"attn_kv_b.weight", "self_attn.kv_b_proj.weight", GGUF_WHOLE},
    {"attn_k_b.weight", "self_attn.k_b_proj.weight", GGUF_HEADS},
    {"attn_v_b.weight", "self_attn.v_b_proj.weight", GGUF_HEADS},
    {"attn_output.weight", "self_attn.o_proj.weight", GGUF_WHOLE},
    {"ffn_gate.weight", "mlp.gate_proj.weight", GGUF_WHOLE},
    {"ffn_up.weight", "mlp.up_proj.weight", GGUF_WHOLE},
    {"ffn_down.weight", "mlp.down_proj.weight", GGUF_WHOLE},
    {"ffn_gate_inp.weight", "mlp.gate.weight", GGUF_WHOLE},
    {"exp_probs_b.bias", "mlp.gate.e_score_correction_bias", GGUF_WHOLE},
    {"ffn_gate_exps.weight", "gate_proj.weight", GGUF_EXPERTS},
    {"ffn_up_exps.weight", "up_proj.weight", GGUF_EXPERTS},
    {"ffn_down_exps.weight", "down_proj.weight", GGUF_EXPERTS},
    {"ffn_gate_shexp.weight", "mlp.shared_experts.gate_proj.weight", GGUF_WHOLE},
    {"ffn_up_shexp.weight", "mlp.shared_experts.up_proj.weight", GGUF_WHOLE},
    {"ffn_down_shexp.weight", "mlp.shared_experts.down_proj.weight", GGUF_WHOLE},
    {"nextn.eh_proj.weight", "eh_proj.weight", GGUF_WHOLE},
    {"nextn.enorm.weight", "enorm.weight", GGUF_WHOLE},
    {"nextn.hnorm.weight", "hnorm.weight", GGUF_WHOLE},
    {"nextn.shared_head_norm.weight", "shared_head.norm.weight", GGUF_WHOLE},
    {"nextn.embed_tokens.weight", "embed_tokens.weight", GGUF_WHOLE},
    {"nextn.shared_head_head.weight", "shared_head.head.weight", GGUF_WHOLE},
};

#define MODEL_NAME_COUNT (sizeof MODEL_NAMES / sizeof *MODEL_NAMES)
#define LAYER_NAME_COUNT (sizeof LAYER_NAMES / sizeof *LAYER_NAMES)

static const struct translation *find_translation(const struct translation *list, size_t count,
                                                  const char *name) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i].gguf, name) == 0)
            return &list[i];
    return NULL;
}

/* Splits "<prefix>17.rest", the number below `bound`; NULL if the name is of another form. */
static const char *split_number(const char *name, const char *prefix, uint32_t bound,
                                uint32_t *number) {
    const char *digits = name + strlen(prefix);
    if (strncmp(name, prefix, strlen(prefix)) != 0 || *digits < '0' || *digits > '9')
        return NULL;
    char *end;
    unsigned long value = strtoul(digits, &end, 10);
    if (*end != '.' || value >= bound)
        return NULL;
    *number = (uint32_t)value;
    return end + 1;
}

static const char GGUF_LAYER[] = "blk.", LAYER[] = "model.layers.", EXPERT[] = "mlp.experts.";

static enum status append_experts(struct directory *directory, const struct directory_entry *stored,
                                  uint32_t layer, const char *projection, const char *path) {
    const struct tensor *stack = &stored->tensor;
    uint64_t experts = stack->shape[0];
    if (stack->dimensions != 3 || experts > EXPERTS_MAX) {
        log_error("%s: tensor %s is no stack of at most %d matrices, one for each expert; the file "
                  "is damaged, download it again",
                  path, stack->name, EXPERTS_MAX);
        return STATUS_FORMAT;
    }
    enum status status = STATUS_OK;
    for (uint32_t expert = 0; expert < experts && status == STATUS_OK; expert++) {
        char name[TENSOR_NAME_BYTES_MAX + 1];
        struct directory_entry entry = *stored;
        snprintf(name, sizeof name, "%s%" PRIu32 ".%s%" PRIu32 ".%s", LAYER, layer, EXPERT, expert,
                 projection);
        entry.tensor.name = name;
        entry.tensor.dimensions = 2;
        entry.tensor.shape[0] = stack->shape[1];
        entry.tensor.shape[1] = stack->shape[2];
        entry.tensor.shape[2] = 1;
        entry.tensor.bytes = stack->bytes / experts;
        entry.offset = stored->offset + expert * entry.tensor.bytes;
        status = directory_append(directory, &entry, path);
    }
    return status;
}

/* Some converters write the heads' matrices as one already. */
static void join_heads(struct tensor *tensor) {
    if (tensor->dimensions != 3)
        return;
    tensor->dimensions = 2;
    tensor->shape[0] *= tensor->shape[1];
    tensor->shape[1] = tensor->shape[2];
    tensor->shape[2] = 1;
}

enum status gguf_append_tensor(struct directory *directory, const struct directory_entry *stored,
                               const char *path) {
    struct directory_entry entry = *stored;
    char name[TENSOR_NAME_BYTES_MAX + 1];
    uint32_t layer = 0;
    const char *part = split_number(stored->tensor.name, GGUF_LAYER, LAYERS_MAX, &layer);
    const struct translation *found =
        part ? find_translation(LAYER_NAMES, LAYER_NAME_COUNT, part)
             : find_translation(MODEL_NAMES, MODEL_NAME_COUNT, stored->tensor.name);
    if (!found)
        return directory_append(directory, stored, path);
    if (found->kind == GGUF_EXPERTS)
        return append_experts(directory, stored, layer, found->name, path);
    if (found->kind == GGUF_HEADS)
        join_heads(&entry.tensor);
    if (part)
        snprintf(name, sizeof name, "%s%" PRIu32 ".%s", LAYER, layer, found->name);
    entry.tensor.name = part ? name : found->name;
    return directory_append(directory, &entry, path);
}

bool gguf_find_place(const char *name, struct gguf_place *out) {
    uint32_t layer = GGUF_NO_LAYER, expert = 0;
    const char *part = split_number(name, LAYER, LAYERS_MAX, &layer);
    const char *projection = part ? split_number(part, EXPERT, EXPERTS_MAX, &expert) : NULL;
    const char *wanted = projection ? projection : part ? part : name;
    const struct translation *list = part ? LAYER_NAMES : MODEL_NAMES;
    size_t count = part ? LAYER_NAME_COUNT : MODEL_NAME_COUNT;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(list[i].name, wanted) != 0 || (list[i].kind == GGUF_EXPERTS) != !!projection)
            continue;
        int prefix =
            part ? snprintf(out->name, sizeof out->name, "%s%" PRIu32 ".", GGUF_LAYER, layer) : 0;
        snprintf(out->name + prefix, sizeof out->name - (size_t)prefix, "%s", list[i].gguf);
        out->part = list[i].gguf;
        out->kind = list[i].kind;
        out->layer = layer;
        out->order = (uint32_t)i;
        out->expert = expert;
        return true;
    }
    return false;
}
