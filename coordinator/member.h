/* One worker of the cluster: a small state machine that goes from connecting to serving on the
 * messages that come in, and back there after a loss.
 *
 * The inside of cluster, which alone uses this. Everything happens on the loop's thread; what
 * others may see or ask for stands under the cluster's mutex. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "common/address.h"
#include "common/limits.h"
#include "coordinator/cluster.h"
#include "coordinator/cluster_watch.h"
#include "coordinator/shipment.h"
#include "coordinator/sources.h"
#include "proto/channel.h"
#include "proto/dial.h"

enum member_state {
    MEMBER_CONNECTING, /* resolving, connecting */
    MEMBER_GREETING,   /* Hello was sent */
    MEMBER_GREETED,    /* Welcome has come, and after measuring, what was measured */
    MEMBER_MEASURING,  /* Measure was sent */
    MEMBER_LINKING,    /* Figures have come; a data connection for probes is being made */
    MEMBER_LOADING,    /* Assign was sent; it loads, we ship */
    MEMBER_OPENING,    /* it is ready; the data connection is being made */
    MEMBER_SERVING,    /* the data connection is open */
    MEMBER_EXTENDING,  /* it serves, and loads what was added */
    MEMBER_LOST,       /* it failed; the reason was logged */
    MEMBER_STATE_COUNT
};

/* One slot of a worker. */
struct member_slot {
    struct shard shard; /* that it is to hold */
    bool is_wanted;     /* false: it is to hold nothing */
    bool is_assigned;   /* it was given something for it in this session */
    bool is_released;   /* that, or what it had in an earlier one, is not wanted any more */
};

struct member {
    struct cluster *cluster;
    struct address address;
    struct worker_info info;
    uint64_t session_id;               /* that the worker gave */
    struct dial *dial;                 /* while connecting, linking or opening */
    struct channel *channel;           /* NULL before and after */
    struct shipment *shipment;         /* while it lacks shards */
    char peer[ADDRESS_TEXT_BYTES_MAX]; /* where other workers reach it */
    bool is_local;                     /* on this machine, as far as its address tells */
    uint64_t since_ns; /* when its state began, or, loading, when progress was last made */
    uint32_t asked;    /* of `given`: what it was assigned in this session */
    uint32_t assigned; /* slots that it holds, or loads, in this session */
    bool releases;     /* it was asked to with the last Assign */
    atomic_bool alive;
    char refusal[LOG_LINE_BYTES_MAX / 2]; /* why it last failed; the same is not said again */

    /* Under the cluster's mutex. */
    enum member_state state;   /* changed by the loop's thread, which reads it without */
    struct member_slot *slots; /* (count) */
    uint32_t count;
    uint32_t given;    /* shards that it ever was to hold */
    uint64_t bytes;    /* of those that it is to hold now */
    uint32_t *spilled; /* (spilled_count) slots of these that are to lie on its disk */
    uint32_t spilled_count;
    uint64_t bytes_done;      /* while loading */
    uint64_t bytes_given;     /* of these, by other workers */
    uint32_t session, served; /* as in struct cluster_look */
    int data_fd;
    uint64_t reconnect_ms; /* how long it is left alone after its last loss; 0: there was none */
    bool serves, silent, leaving;
    bool listed; /* false: it is not called, and let go if it serves */
    bool to_measure, to_release, dropped, dismissed; /* wishes of the engine's thread */
    bool begins_anew; /* it is dismissed only to be called again at once */
};

struct cluster {
    uv_loop_t loop;
    uv_async_t bell; /* rung by the engine's thread when it has a wish */
    uv_timer_t timer;
    pthread_t thread;
    bool has_thread, tolerates_loss;
    uint64_t fingerprint;
    struct machine_work work; /* to measure */
    struct cluster_load_options load;
    struct sources *sources; /* who has what, and who gets it from where */
    uint64_t bytes_total;    /* of the first loading */

    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool may_load;  /* `load` is there */
    bool is_loaded; /* once */
    bool wants_to_close;
    enum status status; /* of the first member whose loss ends it all */
    atomic_uint changes;
    int wake_fd; /* an eventfd that counts changes, too */
    struct cluster_watch watch;

    uint32_t count;
    struct member members[]; /* (count) */
};

/* Something changed that others may wait for; the mutex is held. */
void member_note_change(struct cluster *cluster);

/* Begins to connect; without an address the place stays empty. Errors: STATUS_USAGE (not an
 * address), STATUS_NO_MEMORY; one line each. */
enum status member_start(struct member *member, struct cluster *cluster, const char *address);

/* Takes up what the engine's thread wishes of it. */
void member_advance(struct member *member);

/* Looks at deadlines: no state but serving may last for ever, and a lost worker is called again. */
void member_tick(struct member *member);

/* Has the worker called from now on, in an empty place or where it was. Errors: STATUS_NO_MEMORY;
 * one line. */
enum status member_enlist(struct member *member, const char *address);

/* The worker is called no more; where it serves it goes on until it is dismissed. */
void member_delist(struct member *member);

/* Parts with the worker and drops everything that is under way; the loop then runs out of it. */
void member_close(struct member *member);

/* The line that says why a worker is lost (NULL: none), unless somebody wrote one before. From any
 * thread. */
void member_log_loss(struct member *member, const char *reason);
