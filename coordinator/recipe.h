/* Which format each tensor of a written file has: the choices of `skein quantize --type`. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/weights/matrix.h"

/* What --type takes, as a list for options. */
#define RECIPE_CHOICES "bf16|q8_0|q6_k|q5_k|q4_k_m|q4_k|q4_0"

struct recipe {
    const char *name;
    uint32_t file_type;       /* GGUF's number for such files */
    enum weight_format base;  /* of most matrices */
    enum weight_format finer; /* of what matters more, in about half of the layers */
    enum weight_format head;
};

/* The recipe of that name; NULL if there is none. */
const struct recipe *recipe_find(const char *name);

/* A tensor that is to be written. */
struct recipe_tensor {
    const char *part; /* its name without the layer's, "ffn_down_exps.weight" */
    uint32_t layer;   /* UINT32_MAX: of the whole model */
    uint32_t layers;  /* of the model, without the draft module */
    uint32_t dimensions;
    uint32_t columns;
    bool tied_head; /* the embedding is the head, too */
};

/* The format that the recipe wants. Vectors, the router and its bias are F32. */
enum weight_format recipe_wanted(const struct recipe *recipe, const struct recipe_tensor *tensor);

/* The wanted format, or where rows of so many columns are no whole blocks of it, the usual one in
 * its place: with blocks of 32 and one bit more (Q5_0 for Q4_K, Q5_1 for Q5_K, Q8_0 for Q6_K), else
 * BF16. */
enum weight_format recipe_fitting(enum weight_format wanted, uint32_t columns);
