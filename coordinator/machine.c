/* The best of several passes counts: whatever else runs on the machine makes passes slower, nothing
 * makes one faster than the hardware. Work goes through the pool in many small tasks, so that a
 * thread that is held up leaves its share to the others, as in the model's own loops. */
#include "coordinator/machine.h"

#include <assert.h>
#include <string.h>

#include "common/clock.h"
#include "common/kernel/kernel.h"
#include "common/log.h"
#include "common/memory.h"

/* Passes are repeated for so long. One takes milliseconds, so that some fall between the moments in
 * which another process has one of the processors. */
#define MEASURE_S 0.2

/* Two huge pages: long enough for the prefetchers to get going. */
#define READ_TASK_BYTES (4u << 20)

/* Tasks of a multiplying pass for each thread, and how long one takes at least. */
#define MULTIPLY_TASKS  4u
#define MULTIPLY_TASK_S 2e-4

static void raise_to(double *best, double value) {
    if (value > *best)
        *best = value;
}

/* Memory that was never written would be one page of zeros, read from the cache over and over. */
static void fill_task(void *context, size_t task, unsigned thread) {
    (void)thread;
    memset((char *)context + task * READ_TASK_BYTES, 1, READ_TASK_BYTES);
}

static void read_task(void *context, size_t task, unsigned thread) {
    (void)thread;
    const float *values = context;
    size_t count = READ_TASK_BYTES / sizeof *values;
    kernel_get()->peak->read(values + task * count, count);
}

static enum status measure_read(struct threads *threads, size_t bytes, double *bytes_per_s) {
    assert(bytes % READ_TASK_BYTES == 0);
    void *memory = memory_map(bytes);
    if (!memory) {
        log_error(
            "no memory to measure reading with, %zu MiB; free some, or choose a smaller model",
            bytes >> 20);
        return STATUS_NO_MEMORY;
    }
    size_t tasks = bytes / READ_TASK_BYTES;
    threads_run(threads, tasks, fill_task, memory);
    uint64_t began_ns = clock_now_ns();
    do {
        uint64_t started_ns = clock_now_ns();
        threads_run(threads, tasks, read_task, memory);
        raise_to(bytes_per_s, (double)bytes / clock_elapsed_s(started_ns));
    } while (clock_elapsed_s(began_ns) < MEASURE_S);
    memory_unmap(memory, bytes);
    return STATUS_OK;
}

struct multiply_call {
    const struct peak_multiplier *multiplier;
    size_t rounds;
};

static void multiply_task(void *context, size_t task, unsigned thread) {
    (void)task, (void)thread;
    const struct multiply_call *call = context;
    call->multiplier->run(call->rounds);
}

static size_t find_rounds(const struct peak_multiplier *multiplier) {
    for (size_t rounds = 1024;; rounds *= 2) {
        uint64_t started_ns = clock_now_ns();
        multiplier->run(rounds);
        if (clock_elapsed_s(started_ns) >= MULTIPLY_TASK_S)
            return rounds;
    }
}

static void measure_multiplier(struct threads *threads, const struct peak_multiplier *multiplier,
                               double *operations_per_s) {
    struct multiply_call call = {multiplier, find_rounds(multiplier)};
    size_t tasks = (size_t)MULTIPLY_TASKS * threads_count(threads);
    double operations = (double)tasks * (double)call.rounds * multiplier->operations;
    uint64_t began_ns = clock_now_ns();
    do {
        uint64_t started_ns = clock_now_ns();
        threads_run(threads, tasks, multiply_task, &call);
        raise_to(operations_per_s, operations / clock_elapsed_s(started_ns));
    } while (clock_elapsed_s(began_ns) < MEASURE_S);
}

enum status machine_measure(struct threads *threads, size_t read_bytes,
                            struct machine_rates *rates) {
    enum status status = measure_read(threads, read_bytes, &rates->read_bytes_per_s);
    if (status)
        return status;
    const struct peak *peak = kernel_get()->peak;
    for (size_t i = 0; i < peak->multiplier_count; i++) {
        const struct peak_multiplier *multiplier = &peak->multipliers[i];
        if (!multiplier->is_present || multiplier->is_present())
            measure_multiplier(threads, multiplier, &rates->operations_per_s[multiplier->unit]);
    }
    return STATUS_OK;
}
