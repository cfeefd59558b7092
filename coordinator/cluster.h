/* The control plane as the coordinator sees it: connect to workers, learn what they can take,
 * measure them, assign shards, ship weights to those without a copy, watch their health.
 *
 * Owned by main. cluster_connect, cluster_measure and cluster_load run the event loop (libuv) on
 * the calling thread and return when all workers are through or one failed; after each of them a
 * thread of its own sends and checks health reports. libuv appears only in cluster.c and dial. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/machine.h"
#include "common/status.h"
#include "common/weights/weights.h"
#include "coordinator/placement.h"
#include "worker/expert_store.h"

struct cluster;

/* What a worker said of itself, and what was measured. */
struct worker_info {
    const char *address; /* HOST:PORT as given */
    char name[64];       /* its host name */
    char isa[32];
    uint32_t cores;
    uint64_t memory_bytes; /* what it will take for shards */
    bool has_model;        /* it has an own copy with our fingerprint */
    bool is_measured;      /* by cluster_measure; figures and link are set */
    struct machine_figures figures;
    struct link_figures link;
};

/* Progress of loading, for display: called on the loading thread whenever a worker reports. */
typedef void (*cluster_progress)(void *context, uint64_t bytes_done, uint64_t bytes_total);

/* Connects to all `addresses` at once and greets them. Errors: STATUS_USAGE (malformed address),
 * STATUS_CONNECTION (unreachable, within CONNECT_TIMEOUT), STATUS_PROTOCOL (version, not a worker,
 * busy with another coordinator): one line that names the worker and the remedy. */
enum status cluster_connect(const char *const *addresses, uint32_t count, uint64_t fingerprint,
                            struct cluster **out);

/* Has the workers with `wanted` (cluster_size; NULL: all) measure how fast they do `work`, all at
 * once, and measures the links to them, one after the other; the answers are in worker_info. Takes
 * a second for each weight format and worker that has not done that before, else some 100 ms for
 * each worker. At most once, before cluster_load. Errors: STATUS_CONNECTION, STATUS_TIMEOUT (within
 * MEASURE_TIMEOUT_MS, PROBE_TIMEOUT_MS for a link), STATUS_PROTOCOL (figures that cannot be): one
 * line that names the worker. */
enum status cluster_measure(struct cluster *cluster, const struct machine_work *work,
                            const bool *wanted);

/* Says goodbye to all workers, which stay up, and frees everything. NULL is allowed. */
void cluster_destroy(struct cluster *cluster);

uint32_t cluster_size(const struct cluster *cluster);
const struct worker_info *cluster_worker(const struct cluster *cluster, uint32_t worker);

struct cluster_load_options {
    const struct placement *placement;  /* holder i is worker i; there may be more holders */
    const struct shard_layout *layouts; /* (placement->layers) */
    const struct weights *weights;      /* for shipping */
    uint64_t fingerprint;               /* of `weights` */
    uint32_t hidden;
    uint32_t batch_rows;        /* most rows in one frame */
    uint32_t experts_per_token; /* most entries for one row and worker */
    bool exact;                 /* weights are to meet unrounded activations */
    cluster_progress progress;  /* may be NULL */
    void *context;              /* for `progress` */
};

/* Sends each worker its shards of the placement, ships what it cannot read itself, waits until all
 * are ready, opens the data connections and starts watching health. Once. Errors:
 * STATUS_CONNECTION, STATUS_PROTOCOL, STATUS_TIMEOUT (a worker reports no progress), those of
 * shard_read: one line that names the worker. */
enum status cluster_load(struct cluster *cluster, const struct cluster_load_options *options);

/* The worker's data connection: a connected socket that has sent its WIRE_OPEN; the caller takes it
 * over. Once per worker, after cluster_load. */
int cluster_take_data_socket(struct cluster *cluster, uint32_t worker);

/* The data plane lost the worker: logs `reason` unless somebody has logged that worker's loss
 * before; NULL takes note of a loss that was logged. From any thread. */
void cluster_lose(struct cluster *cluster, uint32_t worker, const char *reason);

/* False once the control connection dropped or HEALTH_MISSED_MAX health reports failed to come; the
 * reason was then logged. From any thread. */
bool cluster_is_alive(const struct cluster *cluster, uint32_t worker);
