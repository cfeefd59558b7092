/* How much memory this machine has to give. From any thread. */
#pragma once

#include <stdint.h>

#include "common/status.h"

/* Bytes that new work can take without swapping: MemAvailable of /proc/meminfo. Errors: STATUS_IO,
 * with one line. */
enum status memory_available(uint64_t *bytes);
