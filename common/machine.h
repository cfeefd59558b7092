/* What machines and the links to them can do: the figures that a placement is planned with, and the
 * measuring of this machine.
 *
 * Measured by a worker for itself and by the coordinator for itself (both through machine_record,
 * which remembers) and by `bench`; each on the thread that owns the pool. All rates are of all
 * threads together, and such as go on: what a system takes of its processors all the time is
 * taken of them, too. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/kernel/peak.h"
#include "common/status.h"
#include "common/threads.h"
#include "common/weights/matrix.h"

/* Memory that is measured with, taken and given back: out of reach of every cache but the largest
 * servers'. */
#define MACHINE_MEASURE_BYTES (256u << 20)

/* Rows of activations in the batch of batch_macs_per_s: what an expert gets of a prompt's chunk of
 * some hundred tokens. */
#define MACHINE_BATCH_ROWS 32u

/* Products with weights of one format. Both 0: not measured. */
struct format_figures {
    double decode_bytes_per_s; /* weights, as matrix_bytes() counts them, met by one row */
    double batch_macs_per_s;   /* multiply-accumulates with MACHINE_BATCH_ROWS rows */
};

struct machine_figures {
    uint64_t memory_bytes;   /* that it gives to weights */
    uint32_t threads;        /* that compute */
    char isa[32];            /* of the kernels in use, as --isa takes it */
    double read_bytes_per_s; /* by loads alone; 0: not measured */
    struct format_figures formats[WEIGHT_FORMAT_COUNT];
    uint64_t spill_bytes;    /* of weights that it may keep on its disk beyond memory */
    double disk_bytes_per_s; /* that it reads these with; 0: not measured */
};

/* Between the coordinator and a worker. A frame of n bytes and its short answer take about
 * round_trip_s + n / bytes_per_s. */
struct link_figures {
    double round_trip_s;     /* median; a frame without payload, with both ends' wake-ups */
    double to_bytes_per_s;   /* from the coordinator to the worker */
    double from_bytes_per_s; /* from the worker to the coordinator */
};

/* Products to measure. */
struct machine_work {
    uint32_t formats; /* bit f: weights of enum weight_format f */
    bool exact;       /* weights meet unrounded activations (--activations f32) */
};

/* Measures what `figures` lacks of read_bytes_per_s and of the formats of `work`, in `bytes` of
 * memory, a multiple of 4 MiB: reading for an eighth of a second, each format for a quarter. The
 * kernels must have been selected; its other fields are left alone. Errors: STATUS_NO_MEMORY, with
 * one line. */
enum status machine_measure_figures(struct threads *threads, const struct machine_work *work,
                                    size_t bytes, struct machine_figures *figures);

/* Whether `figures` has all that machine_measure_figures would measure. */
bool machine_has_figures(const struct machine_figures *figures, const struct machine_work *work);

/* Whether a rate may come from a measurement: at least 1, so that times stay finite, and below
 * what any machine reaches. For figures from a file or a peer. */
bool machine_rate_is_plausible(double per_s);

/* What the processor does where it does nothing else, against which `bench` holds the model. */
struct machine_peak {
    double read_bytes_per_s;
    double operations_per_s[PEAK_UNIT_COUNT]; /* 0: there is no multiplier of this kind */
};

/* Measures for an eighth of a second each. `bytes` as above. Errors: STATUS_NO_MEMORY, with one
 * line. */
enum status machine_measure_peak(struct threads *threads, size_t bytes, struct machine_peak *peak);
