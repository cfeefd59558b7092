/* The variant of AVX-512. */
#include "common/kernel/avx512.h"

const struct kernel KERNEL_AVX512 = TABLE("avx512", PEAK_AVX512);
