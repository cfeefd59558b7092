/* Memory of this machine: how much there is to give, and large pieces of it. From any thread. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

/* Bytes that new work can take without swapping: MemAvailable of /proc/meminfo. Errors: STATUS_IO,
 * with one line. */
enum status memory_available(uint64_t *bytes);

/* Maps `bytes` of zeroed anonymous memory for data that will be written and read as a whole, in
 * huge pages where the system has them: fewer page faults while loading, fewer misses of the
 * address cache while streaming. NULL when memory is out. */
void *memory_map(size_t bytes);
void memory_unmap(void *memory, size_t bytes);
