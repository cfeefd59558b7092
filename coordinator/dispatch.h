/* Dispatch: from routed rows to work for each holder of shards. Returns a ticket that combine
 * consumes.
 *
 * A holder is a worker behind a data connection, or this process with an expert store of its own
 * (the last holder, where there is one); the rest of the engine cannot tell, nor whether one was
 * lost. Used by the engine thread. Between dispatch_send and combine_await the engine is free to
 * compute. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/arena.h"
#include "common/cluster_limits.h"
#include "common/status.h"
#include "coordinator/failover.h"
#include "coordinator/holders.h"
#include "coordinator/placement.h"
#include "coordinator/rebalance.h"
#include "coordinator/statistics.h"
#include "coordinator/trace.h"
#include "proto/wire.h"
#include "worker/expert.h"

/* One holder's part of one ticket. Only workers have frames. */
struct ticket_part {
    uint8_t *frame;   /* DISPATCH frame to send */
    uint8_t *reply;   /* COMBINE frame received */
    uint32_t *row_of; /* (rows_max) batch row -> row of this part, UINT32_MAX: not visited */
    uint32_t rows;    /* rows in the part */
    uint32_t entries; /* (row, shard) pairs in the part's frame */
    uint32_t pending; /* completions still to come */
    uint32_t session; /* of the holder when the frame was sent */
    uint32_t width;   /* values in a row of the answer */
    uint64_t sent_ns;
};

/* What one layer asks for. */
struct dispatch_work {
    uint32_t layer, rows;
    const float *x;           /* (rows, hidden) */
    const uint32_t *experts;  /* (rows, k); NULL: a layer without routed experts */
    const float *weights;     /* (rows, k) */
    const struct expert *ffn; /* (ffn_count) parts of what each row meets with weight one, as in
                                 struct layer */
    uint32_t ffn_count;
};

/* Work under way between dispatch and combine. */
struct ticket {
    bool in_use;
    bool is_head; /* logits and not a layer */
    uint64_t sequence;
    struct dispatch_work work;
    enum wire_format format, answer_format; /* of rows on the way there and back */
    struct ticket_part *parts;              /* (holders) */
    struct expert_task *tasks;              /* (task_count) computed here */
    size_t task_count;
    float *sums; /* (rows_max, hidden) of what is computed here; NULL: no workers */
};

/* Figures of one holder since the start, for the user. */
struct holder_stats {
    const char *address; /* as in struct holder */
    uint32_t shards;     /* that it holds or is to hold now */
    uint64_t rows;
    double busy_s;
    uint64_t bytes_out, bytes_in; /* as the coordinator sees it: out is to the worker */
};

/* Shared with combine.c, which is the other half of this module, and head.c; nobody else looks
 * inside. */
struct dispatch {
    struct arena *arena;
    struct placement *placement;
    uint32_t hidden, rows_max, k;
    uint32_t head_rows; /* most rows of the output head that a worker has; 0: none has any */
    size_t frame_bytes, reply_bytes; /* of each part's buffers */
    struct holders *holders;
    struct failover *failover;
    struct expert_workspace *workspace;
    struct threads *threads;
    struct trace *trace; /* NULL: none */
    enum wire_format format;
    struct ticket tickets[TICKETS_MAX];
    uint64_t sequence;
    uint32_t *expert_first; /* (experts + 1) into by_expert */
    uint32_t *by_expert;    /* (rows_max * k) row * k + choice, sorted by expert, then row */
    uint32_t *copy_of;      /* (experts) the copy in use, as its first part */
    double *loads;          /* (holders) time to read the current ticket's weights */
    double *read_rates;     /* (holders) relative to each other; planned, then measured */
    double *measured_rates; /* (holders) in bytes per second; 0: not yet */
    struct load_window *window;
    bool failed;                /* it ends here: an expert found no holder in time, say */
    struct holder_stats *stats; /* (holders) counts only */
    struct statistics *statistics;
    bool first_copies_only;
};

struct dispatch_options {
    struct threads *threads;
    struct placement *placement;        /* changed by failover alone, but for the use of copies */
    struct holders *holders;            /* of that placement */
    struct failover *failover;          /* for them */
    struct expert_workspace *workspace; /* of the engine's size, for what is computed here */
    struct trace *trace;                /* NULL: none */
    const double *read_rates;           /* (holders) how fast weights are read, relative; copied */
    enum wire_format format;            /* of rows on the way, there and back */
    bool first_copies_only;             /* others are for when those are lost */
    uint32_t hidden, rows_max, experts_per_token;
};

/* Most entries that a frame has for one row. */
uint32_t dispatch_entries_per_row(uint32_t experts_per_token);

/* What the options point to must outlive the last step. Takes all buffers it will need. Errors:
 * STATUS_NO_MEMORY. */
enum status dispatch_create(const struct dispatch_options *options, struct dispatch **out);

/* After holders_destroy: until then the transport may still fill buffers of a step that failed. */
void dispatch_destroy(struct dispatch *dispatch);

/* Sends every row to the holders of its experts, each expert to the copy whose holders have least
 * to do, and to those of what all rows meet. What `work` points to must stay as it is until
 * combine_await. At most TICKETS_MAX tickets are open at a time. Waits where experts have no holder
 * at present. Errors: those of failover_wait; nothing can be dispatched any more then. */
enum status dispatch_send(struct dispatch *dispatch, const struct dispatch_work *work,
                          struct ticket **out);

/* Takes over what has changed with holders, and does for those that were lost or want to leave what
 * failover_react says, and, where no ticket is open, what failover_release says: before each
 * sending, and while there is nothing to send. Errors: those of the two; nothing can be dispatched
 * any more then. */
enum status dispatch_attend(struct dispatch *dispatch);

/* For head: a ticket that is not in use; whether a worker is asked for its part of SHARD_FFN or
 * SHARD_HEAD, which is here as well; and one worker's frame, whose rows are numbered and whose
 * entries are filled in. */
struct ticket *dispatch_open_ticket(struct dispatch *dispatch);
bool dispatch_asks(const struct dispatch *dispatch, const struct placed_shard *part);
void dispatch_send_part(struct dispatch *dispatch, struct ticket *ticket, uint32_t holder);

/* Bytes of an answer with `rows` rows of `width` values, and with spans where they are asked for.
 */
size_t dispatch_answer_bytes(const struct dispatch *dispatch, uint32_t rows, uint32_t width,
                             enum wire_format format);

/* Sends the work of an open ticket again, to the holders there are now. For combine. */
enum status dispatch_resend(struct dispatch *dispatch, struct ticket *ticket);
