/* The mixed recipe follows what people know by its name: half of the layers, the outer eighths and
 * every third one between them, have their values and down projections in the finer format. Errors
 * there reach the residual stream unmixed, and the first and last layers matter most. */
#include "coordinator/recipe.h"

#include <stddef.h>
#include <string.h>

static const struct recipe RECIPES[] = {
    {"bf16", 32, WEIGHT_BF16, WEIGHT_BF16, WEIGHT_BF16},
    {"q8_0", 7, WEIGHT_Q8_0, WEIGHT_Q8_0, WEIGHT_Q8_0},
    {"q6_k", 18, WEIGHT_Q6_K, WEIGHT_Q6_K, WEIGHT_Q6_K},
    {"q5_k", 16, WEIGHT_Q5_K, WEIGHT_Q5_K, WEIGHT_Q6_K},
    {"q4_k_m", 15, WEIGHT_Q4_K, WEIGHT_Q6_K, WEIGHT_Q6_K},
    {"q4_k", 14, WEIGHT_Q4_K, WEIGHT_Q4_K, WEIGHT_Q6_K},
    {"q4_0", 2, WEIGHT_Q4_0, WEIGHT_Q4_0, WEIGHT_Q6_K},
};

const struct recipe *recipe_find(const char *name) {
    for (size_t i = 0; i < sizeof RECIPES / sizeof *RECIPES; i++)
        if (strcmp(RECIPES[i].name, name) == 0)
            return &RECIPES[i];
    return NULL;
}

static bool is_among(const char *part, const char *const *list, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(part, list[i]) == 0)
            return true;
    return false;
}

#define IS_AMONG(part, list) is_among(part, list, sizeof(list) / sizeof *(list))

static bool is_finer_layer(uint32_t layer, uint32_t layers) {
    uint32_t eighth = layers / 8;
    return layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2;
}

enum weight_format recipe_wanted(const struct recipe *recipe, const struct recipe_tensor *tensor) {
    static const char *const EXACT[] = {"ffn_gate_inp.weight", "exp_probs_b.bias"};
    static const char *const FINER[] = {"attn_v.weight",        "attn_v_b.weight",
                                        "attn_kv_b.weight",     "ffn_down.weight",
                                        "ffn_down_exps.weight", "ffn_down_shexp.weight"};
    if (tensor->dimensions == 1 || IS_AMONG(tensor->part, EXACT))
        return WEIGHT_F32;
    if (strcmp(tensor->part, "output.weight") == 0 ||
        (tensor->tied_head && strcmp(tensor->part, "token_embd.weight") == 0))
        return recipe->head;
    bool finer = IS_AMONG(tensor->part, FINER) && is_finer_layer(tensor->layer, tensor->layers);
    return finer ? recipe->finer : recipe->base;
}

enum weight_format recipe_fitting(enum weight_format wanted, uint32_t columns) {
    static const enum weight_format NARROWER[WEIGHT_FORMAT_COUNT] = {
        [WEIGHT_Q4_K] = WEIGHT_Q5_0, [WEIGHT_Q5_K] = WEIGHT_Q5_1, [WEIGHT_Q6_K] = WEIGHT_Q8_0};
    if (columns % weight_block(wanted) == 0)
        return wanted;
    enum weight_format narrower = NARROWER[wanted];
    if (narrower && columns % weight_block(narrower) == 0)
        return narrower;
    return WEIGHT_BF16;
}
