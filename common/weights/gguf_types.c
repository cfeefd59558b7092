/* Two tables, indexed by the numbers that files hold. */
#include "common/weights/gguf_types.h"

#include <string.h>

/* The types by their numbers. Those that skein does not read are here so that their lengths can be
 * checked as well, and that they can be named. */
static const struct gguf_type TYPES[] = {
    [0] = {"F32", WEIGHT_F32, 1, 4},
    [1] = {"F16", WEIGHT_F16, 1, 2},
    [2] = {"Q4_0", WEIGHT_Q4_0, 32, 18},
    [3] = {"Q4_1", WEIGHT_Q4_1, 32, 20},
    [6] = {"Q5_0", WEIGHT_Q5_0, 32, 22},
    [7] = {"Q5_1", WEIGHT_Q5_1, 32, 24},
    [8] = {"Q8_0", WEIGHT_Q8_0, 32, 34},
    [9] = {"Q8_1", WEIGHT_FORMAT_COUNT, 32, 36},
    [10] = {"Q2_K", WEIGHT_Q2_K, 256, 84},
    [11] = {"Q3_K", WEIGHT_Q3_K, 256, 110},
    [12] = {"Q4_K", WEIGHT_Q4_K, 256, 144},
    [13] = {"Q5_K", WEIGHT_Q5_K, 256, 176},
    [14] = {"Q6_K", WEIGHT_Q6_K, 256, 210},
    [15] = {"Q8_K", WEIGHT_FORMAT_COUNT, 256, 292},
    [16] = {"IQ2_XXS", WEIGHT_FORMAT_COUNT, 256, 66},
    [17] = {"IQ2_XS", WEIGHT_FORMAT_COUNT, 256, 74},
    [18] = {"IQ3_XXS", WEIGHT_FORMAT_COUNT, 256, 98},
    [19] = {"IQ1_S", WEIGHT_FORMAT_COUNT, 256, 50},
    [20] = {"IQ4_NL", WEIGHT_IQ4_NL, 32, 18},
    [21] = {"IQ3_S", WEIGHT_FORMAT_COUNT, 256, 110},
    [22] = {"IQ2_S", WEIGHT_FORMAT_COUNT, 256, 82},
    [23] = {"IQ4_XS", WEIGHT_IQ4_XS, 256, 136},
    [24] = {"I8", WEIGHT_FORMAT_COUNT, 1, 1},
    [25] = {"I16", WEIGHT_FORMAT_COUNT, 1, 2},
    [26] = {"I32", WEIGHT_FORMAT_COUNT, 1, 4},
    [27] = {"I64", WEIGHT_FORMAT_COUNT, 1, 8},
    [28] = {"F64", WEIGHT_FORMAT_COUNT, 1, 8},
    [29] = {"IQ1_M", WEIGHT_FORMAT_COUNT, 256, 56},
    [30] = {"BF16", WEIGHT_BF16, 1, 2},
    [34] = {"TQ1_0", WEIGHT_FORMAT_COUNT, 256, 54},
    [35] = {"TQ2_0", WEIGHT_FORMAT_COUNT, 256, 66},
    [39] = {"MXFP4", WEIGHT_FORMAT_COUNT, 32, 17},
};

#define TYPE_COUNT (sizeof TYPES / sizeof *TYPES)

const struct gguf_type *gguf_find_type(uint32_t number) {
    return number < TYPE_COUNT && TYPES[number].name ? &TYPES[number] : NULL;
}

bool gguf_type_number(enum weight_format format, uint32_t *out) {
    for (uint32_t i = 0; i < TYPE_COUNT; i++)
        if (TYPES[i].name && TYPES[i].format == format && format != WEIGHT_FORMAT_COUNT) {
            *out = i;
            return true;
        }
    return false;
}

bool gguf_type_number_by_name(const char *name, uint32_t *out) {
    for (uint32_t i = 0; i < TYPE_COUNT; i++)
        if (TYPES[i].name && strcmp(TYPES[i].name, name) == 0) {
            *out = i;
            return true;
        }
    return false;
}

uint32_t gguf_value_bytes(uint32_t type) {
    static const uint8_t BYTES[] = {
        [GGUF_VALUE_U8] = 1,  [GGUF_VALUE_I8] = 1,  [GGUF_VALUE_U16] = 2,  [GGUF_VALUE_I16] = 2,
        [GGUF_VALUE_U32] = 4, [GGUF_VALUE_I32] = 4, [GGUF_VALUE_F32] = 4,  [GGUF_VALUE_U64] = 8,
        [GGUF_VALUE_I64] = 8, [GGUF_VALUE_F64] = 8, [GGUF_VALUE_BOOL] = 1,
    };
    return type < sizeof BYTES ? BYTES[type] : 0;
}
