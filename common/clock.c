/* CLOCK_MONOTONIC through the vDSO: no system call. */
#include "common/clock.h"

#include <time.h>

uint64_t clock_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

double clock_elapsed_s(uint64_t since_ns) {
    return (double)(clock_now_ns() - since_ns) * 1e-9;
}
