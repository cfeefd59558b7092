/* See variants.h. The product's own list is compiled once more under another name. */
#include "tests/kernel/variants.h"

#include <string.h>

size_t kernel_list_native(const struct kernel **out, size_t max);

#if WITH_EMULATED

extern const struct kernel KERNEL_AVX512_EMULATED, KERNEL_AMX_EMULATED;

static const struct kernel *const EMULATED[] = {&KERNEL_AVX512_EMULATED, &KERNEL_AMX_EMULATED};
#define EMULATED_COUNT (sizeof EMULATED / sizeof *EMULATED)

static bool is_listed(const char *name, const struct kernel *const *list, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i]->name, name) == 0)
            return true;
    return false;
}

/* Behind the reference, because `auto` takes the last. */
size_t kernel_list(const struct kernel **out, size_t max) {
    const struct kernel *native[VARIANTS_MAX];
    size_t native_count = kernel_list_native(native, VARIANTS_MAX), count = 0;
    if (count < max)
        out[count++] = native[0];
    for (size_t i = 0; i < EMULATED_COUNT && count < max; i++)
        if (!is_listed(EMULATED[i]->name, native, native_count))
            out[count++] = EMULATED[i];
    for (size_t i = 1; i < native_count && count < max; i++)
        out[count++] = native[i];
    return count;
}

const char *variants_note(const struct kernel *kernel) {
    for (size_t i = 0; i < EMULATED_COUNT; i++)
        if (kernel == EMULATED[i])
            return " (emulated)";
    return "";
}

#else

size_t kernel_list(const struct kernel **out, size_t max) {
    return kernel_list_native(out, max);
}

const char *variants_note(const struct kernel *kernel) {
    (void)kernel;
    return "";
}

#endif
