/* The control plane as the coordinator sees it: connect to workers, learn what they can take,
 * measure them, assign shards, ship weights to those without a copy, watch their health, and take
 * those back that were lost.
 *
 * Owned by main. A thread of its own runs the event loop (libuv) from cluster_connect to
 * cluster_destroy; the functions below ask it for things, wait for it, or read what it found. They
 * are called by one thread, the engine's. libuv appears only in cluster.c, cluster_watch, member
 * and shipment. */
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

/* What a worker said of itself when it was first greeted, and what was measured; only the address
 * where that has not happened yet. */
struct worker_info {
    const char *address; /* HOST:PORT as given; NULL: a place that nobody has yet */
    char name[64];       /* its host name */
    char isa[32];
    uint32_t cores;
    uint64_t memory_bytes; /* what it will take for shards */
    uint64_t spill_bytes;  /* that it may keep on its disk beyond those */
    bool has_model;        /* it has an own copy with our fingerprint */
    bool is_measured;      /* by cluster_measure; figures and link are set */
    struct machine_figures figures;
    struct link_figures link;
};

/* How far loading is: all workers, and the one that has just reported. */
struct cluster_loading {
    uint64_t bytes_done, bytes_total, bytes_given; /* the last of those done, by other workers */
    uint32_t worker;
    uint64_t worker_bytes_done, worker_bytes_total;
};

/* Shows that: called on the cluster's thread until cluster_load returns, and must not ask anything
 * of the cluster but cluster_worker. */
typedef void (*cluster_progress)(void *context, const struct cluster_loading *loading);

/* Connects to all `addresses` at once and greets them; NULL, behind all others, is a place for one
 * that the cluster file may gain (cluster_follow). With `tolerates_loss` it goes on, now and while
 * measuring and loading, as long as one answers: the others are called from cluster_load on.
 * Errors: STATUS_USAGE (not an address), STATUS_CONNECTION (none within CONNECT_TIMEOUT),
 * STATUS_PROTOCOL (version, not a worker), STATUS_REFUSED (busy): one line with the remedy. */
enum status cluster_connect(const char *const *addresses, uint32_t count, uint64_t fingerprint,
                            bool tolerates_loss, struct cluster **out);

/* Has the workers with `wanted` (cluster_size; NULL: all) measure how fast they do `work`, all at
 * once, and measures the links to them, one after the other; the answers are in worker_info. Takes
 * a second for each weight format and worker that has not done that before, else some 100 ms for
 * each worker. `transport`, one of TRANSPORT_CHOICES or NULL for auto, carries the probes; links
 * that are as they are remembered in `directory` (NULL: nowhere) keep those figures. At most once,
 * before cluster_load. Errors: STATUS_CONNECTION, STATUS_TIMEOUT (within MEASURE_TIMEOUT_MS,
 * PROBE_TIMEOUT_MS for a link), STATUS_PROTOCOL (figures that cannot be): one line that names the
 * worker. */
enum status cluster_measure(struct cluster *cluster, const struct machine_work *work,
                            const bool *wanted, const char *transport, const char *directory);

/* Says goodbye to all workers, which stay up, and frees everything. NULL is allowed. */
void cluster_destroy(struct cluster *cluster);

uint32_t cluster_size(const struct cluster *cluster);
const struct worker_info *cluster_worker(const struct cluster *cluster, uint32_t worker);

struct cluster_load_options {
    const struct placement *placement; /* holder i is worker i; there may be more holders; it and
                                          its layouts must stay, as must weights */
    const struct weights *weights;     /* for shipping */
    uint64_t fingerprint;              /* of `weights` */
    uint32_t hidden;
    uint32_t batch_rows;       /* most rows in one frame */
    uint32_t entries_per_row;  /* most entries for one row and worker */
    bool exact;                /* weights are to meet unrounded activations */
    bool wants_spans;          /* answers are to say when each of a worker's threads computed */
    cluster_progress progress; /* may be NULL */
    void *context;             /* for `progress` */
};

/* Sends each worker its shards of the placement, ships what it cannot read itself, and waits until
 * all are ready and the data connections are open. Once. Errors: STATUS_CONNECTION,
 * STATUS_PROTOCOL, STATUS_TIMEOUT (no progress), unless losses are tolerated; STATUS_REFUSED (too
 * little memory, say), those of shard_read: one line that names the worker. From now on a lost
 * worker is called until it is back, and then given what it held. */
enum status cluster_load(struct cluster *cluster, const struct cluster_load_options *options);

/* Follows the cluster file at `path` from now on: workers that it gains are called, as far as there
 * are places, and join with nothing to hold; those that it loses are to be let go (`leaving`), and
 * are not called any more. A file that cannot be read or is not right changes nothing; one line
 * says where and why, a second one that. Once, after cluster_load. Errors: STATUS_NO_MEMORY. */
enum status cluster_follow(struct cluster *cluster, const char *path);

/* A number that grows whenever cluster_look may have something new to say of a worker; waiting
 * until it differs from `seen`, or `timeout_ms` are over; and a descriptor that can be read from
 * such a change on until cluster_clear_wake. */
uint32_t cluster_changes(const struct cluster *cluster);
void cluster_wait(struct cluster *cluster, uint32_t seen, int timeout_ms);
int cluster_wake_fd(const struct cluster *cluster);
void cluster_clear_wake(struct cluster *cluster);

/* How a worker stands. A session is one time of serving; it ends with the worker's loss. */
struct cluster_look {
    const char *address; /* stays as long as the cluster; NULL: nobody has the place */
    uint32_t session;    /* counts from 1 */
    uint32_t served;     /* of the shards that it was ever given, in this order: what frames may
                            name */
    int data_fd;         /* new data connection of this session, handed out once: a socket that has
                            sent its WIRE_OPEN; the caller takes it over. -1: none */
    bool serves;         /* false: it is lost, or on its way back */
    bool silent;         /* nothing has come from it for a while; it may turn out to be lost */
    bool leaving;        /* is to be let go as soon as its shards are held elsewhere */
};
void cluster_look(struct cluster *cluster, uint32_t worker, struct cluster_look *out);

/* Whether the worker is connected and was not found lost. From any thread. */
bool cluster_is_alive(const struct cluster *cluster, uint32_t worker);

/* The data plane lost the worker in `session`: logs `reason` (NULL: it was logged) unless the
 * session's end was logged before. */
void cluster_lose(struct cluster *cluster, uint32_t worker, uint32_t session, const char *reason);

/* Has the worker load what the placement has in `slots` (count; NULL: from 0 on), in which it holds
 * nothing. It serves that once cluster_look says so; where it is lost at present, after its return.
 * Errors: STATUS_NO_MEMORY. */
enum status cluster_extend(struct cluster *cluster, uint32_t worker, const uint32_t *slots,
                           uint32_t count);

/* Begins a new session with the worker, in which it is to hold what the placement has for it now,
 * on its disk what is spilled there: a session cannot change that while it serves. Errors:
 * STATUS_NO_MEMORY; one line. */
enum status cluster_reassign(struct cluster *cluster, uint32_t worker);

/* Has the worker give back the memory of these slots (count), which no frame under way names and
 * none will, until something else was put there. It need not serve them yet. */
void cluster_release(struct cluster *cluster, uint32_t worker, const uint32_t *slots,
                     uint32_t count);

/* Bytes that workers have loaded, of what those that load at present are to hold. */
void cluster_bytes_loaded(struct cluster *cluster, uint64_t *bytes_done, uint64_t *bytes_total);

/* Lets a worker go: nothing is asked of it any more until it comes back with a new session. */
void cluster_dismiss(struct cluster *cluster, uint32_t worker);
