/* Which variants this processor can run. The compiler's list of features stands for the processor
 * and for the operating system, which must save the registers; AMX's have to be asked for. */
#include "common/kernel/variants.h"

#if defined(__x86_64__)

#include <asm/prctl.h>
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Features 22, 24 and 25 of leaf 7: products of bf16, tiles, products of int8. */
#define AMX_FEATURES (1u << 22 | 1u << 24 | 1u << 25)
/* The number of the tiles' contents among the parts of a thread's state. */
#define XFEATURE_XTILEDATA 18

static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

/* A thread's state grows by 8 KiB with the first use of tiles, so Linux gives them only to
 * processes that ask. What it grants is the whole process's: threads that run already, threads that
 * come, and its forks. Where it refuses (a signal stack too small for the tiles) AMX is not there.
 */
static bool has_amx(void) {
    unsigned eax, ebx, ecx, edx;
    return has_avx512() && __builtin_cpu_supports("avx512bf16") &&
           __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) &&
           (edx & AMX_FEATURES) == AMX_FEATURES &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

#elif defined(__aarch64__)

#include <sys/auxv.h>

#endif

size_t kernel_list(const struct kernel **out, size_t max) {
    size_t count = 0;
    if (count < max)
        out[count++] = &KERNEL_REFERENCE;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (count < max && has_avx2())
        out[count++] = &KERNEL_AVX2;
    if (count < max && has_avx512())
        out[count++] = &KERNEL_AVX512;
    if (count < max && has_amx())
        out[count++] = &KERNEL_AMX;
#elif defined(__aarch64__)
    if (count < max && getauxval(AT_HWCAP) & HWCAP_ASIMDDP)
        out[count++] = &KERNEL_NEON;
#endif
    return count;
}
