/* Everything a command needs, opened in the right order and closed in reverse: checkpoint, shape,
 * own weights, workers or in-process experts, KV cache, engine. Used by the commands, from the main
 * thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "coordinator/cluster.h"
#include "coordinator/engine.h"
#include "coordinator/planning.h"
#include "coordinator/tokenizer.h"

struct runtime;

struct runtime_options {
    const char *model_path;
    const char *workers;       /* comma-separated HOST:PORT list, or NULL */
    const char *cluster;       /* path of a cluster file, or NULL */
    bool follows_cluster;      /* workers may be added to that file and taken out meanwhile */
    uint32_t local_workers;    /* worker daemons to start on this machine; 0 for none */
    uint32_t worker_timeout_s; /* as in failover.h */
    uint64_t memory_bytes; /* for experts in this process beside workers; PLANNING_MEMORY_AUTO */
    uint32_t threads;      /* 0: one per core */
    const char *isa;       /* "auto" or a kernel's name */
    const char *placement, *optimize, *replicas, *offload; /* as in planning.h */
    const char *cache_directory; /* where figures of this machine are remembered, or NULL */
    const char *popularity;      /* path of statistics, or NULL */
    uint32_t nodes_max;          /* machines of one token at most; 0: as many as it has */
    const char *trace;           /* path of a Chrome trace to write, or NULL */
    const char *wire;            /* as in planning.h */
    const char *overlap;         /* "auto", "on", "2" or "off": batches in parts that overlap */
    const char *transport;       /* to workers: one of TRANSPORT_CHOICES */
    uint32_t batch_rows;         /* rows of one engine step at most */
    const char *kv_cache;        /* "auto", "f32", "f16", "bf16" or "q8" */
    uint32_t context;   /* positions of the KV cache; 0: a default within the model's context */
    uint32_t sequences; /* of the KV cache; 0: one */
    bool with_draft;    /* load the draft module too */
    bool exact;         /* multiply all weights with unrounded activations */
    bool show_progress;
};

/* Errors: those of every part, one line each; STATUS_USAGE for workers named in two ways. */
enum status runtime_open(const struct runtime_options *options, struct runtime **out);

/* Takes leave of workers, ends those started here, frees everything. NULL is allowed. */
void runtime_close(struct runtime *runtime);

const struct model_shape *runtime_shape(const struct runtime *runtime);

/* NULL when the model has no tokenizer: it works with ids. */
const struct tokenizer *runtime_tokenizer(const struct runtime *runtime);

struct engine *runtime_engine(struct runtime *runtime);

/* A descriptor that can be read when something has changed with workers, to wait for between two
 * answers; then runtime_attend does at once for those that were lost, are back or want to leave
 * what the engine does between two sendings. What goes wrong is logged and ends the next answer. -1
 * without workers. */
int runtime_wake_fd(const struct runtime *runtime);
void runtime_attend(struct runtime *runtime);

/* The engine's pool, for use between its steps. */
struct threads *runtime_threads(struct runtime *runtime);

/* What the routed experts of each layer are stored as: (layers). */
const struct outline *runtime_outline(const struct runtime *runtime);

/* Figures of each holder of experts since the start, without an address for places that no worker
 * has; returns how many holders there are (at most
 * `max` are written). */
size_t runtime_holder_stats(const struct runtime *runtime, struct holder_stats *out, size_t max);

/* The workers; NULL where there are none. */
const struct cluster *runtime_cluster(const struct runtime *runtime);

/* Where experts are and why. */
const struct planning *runtime_planning(const struct runtime *runtime);

/* What was asked of them by layer, and the fan-out. */
const struct statistics *runtime_statistics(const struct runtime *runtime);
