/* Monotonic time. Everything that waits or measures takes its time from here. */
#pragma once

#include <stdint.h>

/* Nanoseconds on the monotonic clock; only differences mean anything. */
uint64_t clock_now_ns(void);

/* Seconds from `since_ns` until now. */
double clock_elapsed_s(uint64_t since_ns);
