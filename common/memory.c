/* MemAvailable counts what the page cache would give back, which sysconf's free pages do not. */
#include "common/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>

#include "common/log.h"

enum status memory_available(uint64_t *bytes) {
    FILE *file = fopen("/proc/meminfo", "re");
    char line[128];
    uint64_t kibibytes = 0;
    while (file && kibibytes == 0 && fgets(line, sizeof line, file))
        sscanf(line, "MemAvailable: %" SCNu64, &kibibytes);
    if (file)
        fclose(file);
    if (kibibytes == 0) {
        log_error("/proc/meminfo does not say how much memory is available; give --memory");
        return STATUS_IO;
    }
    *bytes = kibibytes * 1024;
    return STATUS_OK;
}

void *memory_map(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    /* Advice only: without huge pages everything works as well. */
    madvise(memory, bytes, MADV_HUGEPAGE);
    return memory;
}

void memory_unmap(void *memory, size_t bytes) {
    munmap(memory, bytes);
}
