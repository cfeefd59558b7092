/* The variants of the kernel table, for kernel.c alone. */
#pragma once

#include "common/kernel/kernel.h"

extern const struct kernel KERNEL_REFERENCE;
#if defined(__x86_64__)
extern const struct kernel KERNEL_AVX2;
extern const struct kernel KERNEL_AVX512;
#endif
