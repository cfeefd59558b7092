/* Figures of this machine that are measured once and remembered, in machines.json of a cache
 * directory.
 *
 * Used by the worker and the coordinator, on the thread that owns the pool. A record counts for the
 * same processor, memory, kernels, number of threads and software version; removing the file makes
 * everybody measure again. */
#pragma once

#include "common/machine.h"

/* Completes `figures`, of which threads and isa are set, with what `work` asks for: from the
 * record, and where that lacks something by measuring (machine_measure_figures with `bytes`) and
 * remembering. `directory` may be NULL; a record that is damaged or cannot be written is a warning
 * and measured, or not remembered. Errors: those of measuring. */
enum status machine_record_complete(const char *directory, struct threads *threads,
                                    const struct machine_work *work, size_t bytes,
                                    struct machine_figures *figures);

/* Completes figures->disk_bytes_per_s in the same way, for files in `directory`. Where that cannot
 * be measured it stays 0, after a warning. */
void machine_record_complete_disk(const char *directory, struct machine_figures *figures);
