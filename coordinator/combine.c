/* Completions of all connections arrive through one queue, so waiting for all workers costs as long
 * as the slowest. A worker that computes for long is not lost: the control plane's health reports
 * decide that, and are looked at between polls; the deadline here only bounds what they might miss.
 *
 * A reply is a sum over experts and cannot be had in part: when a worker is lost the whole layer is
 * asked for again, once those that live have answered. What is computed here is therefore kept
 * apart until all is there. */
#include "coordinator/combine.h"

#include <string.h>

#include "common/clock.h"
#include "common/cluster_limits.h"
#include "common/kernel/kernel.h"
#include "common/log.h"
#include "proto/wire.h"

#define COMPLETIONS_MAX  64
#define POLL_INTERVAL_MS 100
/* A worker whose control plane lives but whose answer does not come: 8192 rows through the largest
 * experts on one slow core take under two minutes. */
#define COMBINE_TIMEOUT_S 120

/* The ticket that `sequence` belongs to; NULL if none is open. */
static struct ticket *find_ticket(struct dispatch *dispatch, uint64_t sequence) {
    for (uint32_t t = 0; t < TICKETS_MAX; t++)
        if (dispatch->tickets[t].in_use && dispatch->tickets[t].sequence == sequence)
            return &dispatch->tickets[t];
    return NULL;
}

/* The ticket and part whose frame or reply buffer completed. */
static struct ticket *find_buffer(struct dispatch *dispatch, uint32_t holder, const void *buffer) {
    for (uint32_t t = 0; t < TICKETS_MAX; t++) {
        const struct ticket_part *part = &dispatch->tickets[t].parts[holder];
        if (part->frame == buffer || part->reply == buffer)
            return &dispatch->tickets[t];
    }
    return NULL;
}

static enum status check_reply(struct dispatch *dispatch, uint32_t holder, const uint8_t *reply,
                               struct wire_header *header) {
    const char *address = dispatch->holders->all[holder].address;
    enum status status = wire_decode_header(reply, address, header);
    if (status)
        return status;
    if (header->type == WIRE_ERROR) {
        log_error("worker %s refuses the work: %.*s; see that worker's log", address,
                  (int)header->payload_bytes, (const char *)reply + sizeof *header);
        return STATUS_PROTOCOL;
    }
    const struct ticket *ticket = find_ticket(dispatch, header->sequence);
    if (header->type != WIRE_COMBINE || !ticket || ticket->parts[holder].reply != reply ||
        header->format != ticket->answer_format || header->layer != ticket->work.layer ||
        header->rows != ticket->parts[holder].rows ||
        header->hidden != ticket->parts[holder].width || (header->entries && !dispatch->trace)) {
        log_error("worker %s: answered frame %llu (layer %u, %u rows), which was not asked of it; "
                  "install the same release on both machines",
                  address, (unsigned long long)header->sequence, header->layer, header->rows);
        return STATUS_PROTOCOL;
    }
    return STATUS_OK;
}

static void count_busy(struct dispatch *dispatch, uint32_t holder, double busy_s) {
    dispatch->stats[holder].busy_s += busy_s;
    dispatch->window->busy_s[holder] += busy_s;
}

static void take_completion(struct dispatch *dispatch, const struct completion *completion) {
    uint32_t holder = holders_find(dispatch->holders, completion->connection);
    if (holder == dispatch->holders->count)
        return; /* lost by an earlier completion of the same poll */
    if (completion->status) {
        holders_lose(dispatch->holders, holder,
                     completion->status == STATUS_CONNECTION
                         ? "the data connection closed in the middle of an answer; see its log"
                         : NULL);
        return;
    }
    struct ticket *ticket = find_buffer(dispatch, holder, completion->buffer);
    if (completion->operation == TRANSPORT_RECEIVE) {
        struct wire_header header;
        if (check_reply(dispatch, holder, completion->buffer, &header)) {
            holders_lose(dispatch->holders, holder, NULL);
            return;
        }
        count_busy(dispatch, holder, header.busy_us * 1e-6);
        dispatch->stats[holder].bytes_in += completion->bytes;
        if (!ticket->is_head)
            statistics_load(dispatch->statistics, holder, header.layer)->bytes_in +=
                completion->bytes;
        trace_worker(dispatch->trace, holder, ticket->parts[holder].sent_ns, &header,
                     wire_combine_spans(completion->buffer));
    }
    ticket->parts[holder].pending--;
}

/* Whether the holder's answer to the ticket is still to come, and never will. */
static bool is_torn(const struct dispatch *dispatch, const struct ticket *ticket, uint32_t h) {
    const struct holder *holder = &dispatch->holders->all[h];
    return ticket->parts[h].pending > 0 &&
           (!holder->connection || holder->session != ticket->parts[h].session);
}

/* How many workers may still answer. */
static uint32_t count_pending(const struct dispatch *dispatch, const struct ticket *ticket) {
    uint32_t count = 0;
    for (uint32_t h = 0; h < dispatch->holders->workers; h++)
        count += ticket->parts[h].pending > 0 && !is_torn(dispatch, ticket, h);
    return count;
}

/* Whether all experts of the ticket have a copy on holders that answer. */
static bool can_do_without_silent(const struct dispatch *dispatch, const struct ticket *ticket) {
    const struct dispatch_work *work = &ticket->work;
    for (uint32_t p = 0; work->experts && p < work->rows * dispatch->k; p++) {
        const struct expert_places *places =
            placement_find(dispatch->placement, work->layer, work->experts[p]);
        bool found = false;
        for (uint32_t first = 0; first < places->count && !found;
             first = placement_copy_end(places, first)) {
            found = placement_copy_is_served(places, first, dispatch->holders->served);
            for (uint32_t i = first; i < placement_copy_end(places, first); i++)
                found &= !dispatch->holders->all[places->parts[i].holder].silent;
        }
        if (!found)
            return false;
    }
    return true;
}

/* Looks at the workers whose answers are missing: one that says nothing at all is not waited for
 * where others can do its work, and none for ever. */
static void check_missing(struct dispatch *dispatch, const struct ticket *ticket,
                          uint64_t started_ns) {
    bool late = clock_elapsed_s(started_ns) >= COMBINE_TIMEOUT_S;
    holders_refresh(dispatch->holders);
    for (uint32_t h = 0; h < dispatch->holders->workers; h++) {
        if (ticket->parts[h].pending == 0 || is_torn(dispatch, ticket, h))
            continue;
        if (late)
            holders_lose(dispatch->holders, h,
                         "reports good health and does not answer; its log may say why");
        else if (dispatch->holders->all[h].silent && can_do_without_silent(dispatch, ticket))
            holders_lose(dispatch->holders, h, "has fallen silent; asking others for its part");
    }
}

void combine_wait(struct dispatch *dispatch, const struct ticket *ticket) {
    struct completion completions[COMPLETIONS_MAX];
    uint64_t started_ns = clock_now_ns();
    while (count_pending(dispatch, ticket) > 0) {
        size_t count = transport_poll(dispatch->holders->transport, completions, COMPLETIONS_MAX,
                                      POLL_INTERVAL_MS);
        for (size_t i = 0; i < count; i++)
            take_completion(dispatch, &completions[i]);
        if (count == 0)
            check_missing(dispatch, ticket, started_ns);
    }
    trace_work(dispatch->trace, "wait", ticket->work.layer, started_ns);
}

static bool is_complete(const struct dispatch *dispatch, const struct ticket *ticket) {
    for (uint32_t h = 0; h < dispatch->holders->workers; h++)
        if (ticket->parts[h].pending > 0)
            return false;
    return true;
}

struct addition {
    const struct dispatch *dispatch;
    const struct ticket *ticket;
    float *out;
};

static void add_row(void *context, size_t row, unsigned thread) {
    (void)thread;
    const struct addition *addition = context;
    const struct ticket *ticket = addition->ticket;
    uint32_t hidden = addition->dispatch->hidden;
    enum wire_format format = wire_answer_format(addition->dispatch->format);
    size_t row_bytes = wire_row_bytes(format, hidden);
    enum weight_format weights = format == WIRE_BF16 ? WEIGHT_BF16 : WEIGHT_F32;
    float *out = addition->out + row * hidden;
    if (ticket->task_count)
        kernel_get()->add_scaled(1.0f, ticket->sums + row * hidden, hidden, out);
    for (uint32_t h = 0; h < addition->dispatch->holders->workers; h++) {
        const struct ticket_part *part = &ticket->parts[h];
        if (part->row_of[row] != UINT32_MAX)
            kernel_get()->add[weights]((uint8_t *)wire_combine_rows(part->reply) +
                                           part->row_of[row] * row_bytes,
                                       hidden, 1.0f, out);
    }
}

/* What is computed here, while the workers compute. */
static void compute_here(struct dispatch *dispatch, struct ticket *ticket, float *out) {
    uint64_t started_ns = clock_now_ns();
    if (ticket->task_count == 0)
        return;
    expert_forward(dispatch->workspace, ticket->work.x, ticket->tasks, ticket->task_count, out);
    trace_work(dispatch->trace, "own experts", ticket->work.layer, started_ns);
    if (dispatch->holders->store)
        count_busy(dispatch, dispatch->holders->workers, clock_elapsed_s(started_ns));
}

enum status combine_await(struct dispatch *dispatch, struct ticket *ticket, float *out) {
    if (dispatch->holders->workers == 0) {
        compute_here(dispatch, ticket, out);
        ticket->in_use = false;
        return STATUS_OK;
    }
    for (;;) {
        size_t sums = (size_t)ticket->work.rows * dispatch->hidden;
        if (ticket->task_count)
            memset(ticket->sums, 0, sums * sizeof *ticket->sums);
        compute_here(dispatch, ticket, ticket->sums);
        combine_wait(dispatch, ticket);
        if (is_complete(dispatch, ticket))
            break;
        enum status status = dispatch_resend(dispatch, ticket);
        if (status)
            return status;
    }
    uint64_t started_ns = clock_now_ns();
    struct addition addition = {dispatch, ticket, out};
    threads_run(dispatch->threads, ticket->work.rows, add_row, &addition);
    trace_work(dispatch->trace, "combine", ticket->work.layer, started_ns);
    ticket->in_use = false;
    return STATUS_OK;
}
