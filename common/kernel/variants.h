/* The variants of the kernel table, for the files of the kernels alone. */
#pragma once

#include "common/kernel/kernel.h"

extern const struct kernel KERNEL_REFERENCE;
extern const struct peak PEAK_REFERENCE;
#if defined(__x86_64__)
extern const struct kernel KERNEL_AVX2;
extern const struct kernel KERNEL_AVX512;
extern const struct kernel KERNEL_AMX;
extern const struct peak PEAK_AVX2;
extern const struct peak PEAK_AVX512;
extern const struct peak PEAK_AMX;
#elif defined(__aarch64__)
extern const struct kernel KERNEL_NEON;
extern const struct peak PEAK_NEON;
#endif
