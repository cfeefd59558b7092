/* The list of variants for tests: those that the processor has, and in plain C those that it lacks
 * (emulated_avx512.h, emulated_amx.h). Linked ahead of the product's library, variants.c takes the
 * place of common/kernel/variants.c, so kernel_list() and --isa know all of them; `auto` still
 * takes what the processor has. */
#pragma once

#include "common/kernel/kernel.h"

#define VARIANTS_MAX 8

/* "" or " (emulated)", to follow a variant's name. */
const char *variants_note(const struct kernel *kernel);
