/* A cluster as a YAML file describes it: the machines that there are, and for planning also
 * machines that there might be.
 *
 *     workers:
 *       - 10.0.0.2:7717                    # a worker that is asked what it can do
 *       - {name: old PC, address: 10.0.0.3:7717}
 *       - {name: mini, count: 2, memory: 16G, read_gb_per_s: 40, gops: 300}
 *       - {memory: 64G, read_gb_per_s: 80, gops: {q4_k: 900, bf16: 400},
 *          link_gbit_per_s: 10, round_trip_us: 60, spill: 200G, disk_gb_per_s: 3}
 *     coordinator: {memory: 32G, read_gb_per_s: 60, gops: 500}
 *     link: {gbit_per_s: 2.5, round_trip_us: 100}        # where a machine does not say
 *
 * `run` needs addresses only; `plan` takes what stands here before what a machine says of itself.
 * Used by worker_list and `plan`. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/arena.h"
#include "common/machine.h"
#include "common/status.h"

struct cluster_machine {
    const char *name;    /* NULL: none was given */
    const char *kind;    /* the name that all machines of one entry share; NULL likewise */
    const char *address; /* HOST:PORT; NULL: only described */
    bool described;      /* figures and link are set */
    struct machine_figures figures;
    struct link_figures link; /* a coordinator's own in to_bytes_per_s; 0: none was given */
};

/* Zero-initialise; cluster_file_cleanup frees what it holds. */
struct cluster_file {
    struct arena *arena;
    struct cluster_machine *workers; /* (count), in the order of the file */
    uint32_t count;
    struct cluster_machine coordinator; /* described or empty: the machine that reads this */
};

/* Errors: those of yaml_file_read; STATUS_FORMAT and STATUS_USAGE (a key that is unknown or stands
 * twice, a value out of bounds, a machine with neither address nor figures, none or more than
 * WORKERS_MAX): one line that names file, line and key. */
enum status cluster_file_read(const char *path, struct cluster_file *out);
void cluster_file_cleanup(struct cluster_file *file);
