/* The table is chosen once by name or by what the processor reports; after that it is a constant
 * pointer. It is the process's only mutable global besides the logger's settings. */
#include "common/kernel/kernel.h"

#include <cblas.h>
#include <stdio.h>
#include <string.h>

#include "common/kernel/variants.h"
#include "common/log.h"

#define VARIANTS_MAX 8

static const struct kernel *chosen = &KERNEL_REFERENCE;

/* Our own pool calls sgemm from every thread, each on a tile of its own. OpenBLAS must not start
 * threads beneath that, and its single-threaded build hands the same buffer to all callers: wrong
 * sums, silently. */
static enum status prepare_blas(void) {
    if (openblas_get_parallel() == OPENBLAS_SEQUENTIAL) {
        log_error("this OpenBLAS (%s) must not be called from several threads; install "
                  "libopenblas0-pthread",
                  openblas_get_config());
        return STATUS_UNSUPPORTED;
    }
    openblas_set_num_threads(1);
    return STATUS_OK;
}

enum status kernel_select(const char *name) {
    enum status status = prepare_blas();
    if (status)
        return status;
    const struct kernel *variants[VARIANTS_MAX];
    size_t count = kernel_list(variants, VARIANTS_MAX);
    if (strcmp(name, "auto") == 0) {
        chosen = variants[count - 1];
        return STATUS_OK;
    }
    char names[128] = "auto";
    for (size_t i = 0; i < count; i++) {
        if (strcmp(name, variants[i]->name) == 0) {
            chosen = variants[i];
            return STATUS_OK;
        }
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, ", %s", variants[i]->name);
    }
    log_error("--isa %s: this processor has %s", name, names);
    return STATUS_UNSUPPORTED;
}

const struct kernel *kernel_get(void) {
    return chosen;
}
