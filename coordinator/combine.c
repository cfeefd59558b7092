/* Completions of all connections arrive through one queue, so waiting for all workers costs as long
 * as the slowest. A worker that computes for long is not lost: the control plane's health reports
 * decide that, and are looked at between polls; the deadline here only bounds what they might miss.
 */
#include "coordinator/combine.h"

#include <string.h>

#include "common/clock.h"
#include "common/kernel/kernel.h"
#include "common/log.h"
#include "proto/wire.h"

#define COMPLETIONS_MAX  64
#define POLL_INTERVAL_MS 100
/* A worker whose control plane lives but whose answer does not come: 8192 rows through the largest
 * experts on one slow core take under two minutes. */
#define COMBINE_TIMEOUT_S 120

static uint32_t find_holder(const struct dispatch *dispatch, const struct connection *connection) {
    uint32_t holder = 0;
    while (dispatch->connections[holder] != connection)
        holder++;
    return holder;
}

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

/* The control plane often notices the same loss at the same time; cluster_lose sees to a single
 * line. */
static enum status lose_holder(struct dispatch *dispatch, uint32_t holder, enum status status) {
    dispatch->failed = true;
    cluster_lose(
        dispatch->cluster, holder,
        status == STATUS_CONNECTION
            ? "the data connection closed in the middle of an answer; see that worker's log, "
              "restart it and try again"
            : NULL);
    return status;
}

static enum status check_reply(struct dispatch *dispatch, uint32_t holder, const uint8_t *reply,
                               struct wire_header *header) {
    const char *address = dispatch->stats[holder].address;
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
        header->layer != ticket->layer || header->rows != ticket->parts[holder].rows ||
        header->hidden != dispatch->hidden) {
        log_error("worker %s: answered frame %llu (layer %u, %u rows), which was not asked of it; "
                  "install the same release on both machines",
                  address, (unsigned long long)header->sequence, header->layer, header->rows);
        return STATUS_PROTOCOL;
    }
    return STATUS_OK;
}

static enum status take_completion(struct dispatch *dispatch, const struct completion *completion) {
    uint32_t holder = find_holder(dispatch, completion->connection);
    if (completion->status)
        return lose_holder(dispatch, holder, completion->status);
    struct ticket *ticket = find_buffer(dispatch, holder, completion->buffer);
    if (completion->operation == TRANSPORT_RECEIVE) {
        struct wire_header header;
        enum status status = check_reply(dispatch, holder, completion->buffer, &header);
        if (status)
            return lose_holder(dispatch, holder, status);
        dispatch->stats[holder].busy_s += header.busy_us * 1e-6;
        dispatch->stats[holder].bytes_in += completion->bytes;
    }
    ticket->pending--;
    return STATUS_OK;
}

/* The control plane may know of a loss that the data connection does not show. It has logged it. */
static enum status check_health(struct dispatch *dispatch, const struct ticket *ticket,
                                uint64_t started_ns) {
    for (uint32_t h = 0; h < dispatch->workers; h++)
        if (!cluster_is_alive(dispatch->cluster, h)) {
            dispatch->failed = true;
            return STATUS_CONNECTION;
        }
    if (clock_elapsed_s(started_ns) < COMBINE_TIMEOUT_S)
        return STATUS_OK;
    log_error(
        "no answer for layer %u within %d s from a worker that reports good health; its log may "
        "say why",
        ticket->layer, COMBINE_TIMEOUT_S);
    dispatch->failed = true;
    return STATUS_TIMEOUT;
}

static enum status await_replies(struct dispatch *dispatch, struct ticket *ticket) {
    struct completion completions[COMPLETIONS_MAX];
    uint64_t started_ns = clock_now_ns();
    while (ticket->pending) {
        size_t count =
            transport_poll(dispatch->transport, completions, COMPLETIONS_MAX, POLL_INTERVAL_MS);
        enum status status = count ? STATUS_OK : check_health(dispatch, ticket, started_ns);
        for (size_t i = 0; status == STATUS_OK && i < count; i++)
            status = take_completion(dispatch, &completions[i]);
        if (status)
            return status;
    }
    return STATUS_OK;
}

struct addition {
    const struct dispatch *dispatch;
    const struct ticket *ticket;
    float *out;
};

static void add_row(void *context, size_t row, unsigned thread) {
    (void)thread;
    const struct addition *addition = context;
    size_t hidden = addition->dispatch->hidden;
    for (uint32_t h = 0; h < addition->dispatch->workers; h++) {
        const struct ticket_part *part = &addition->ticket->parts[h];
        if (part->row_of[row] != UINT32_MAX)
            kernel_get()->add_scaled(1.0f,
                                     wire_combine_rows(part->reply) + part->row_of[row] * hidden,
                                     hidden, addition->out + row * hidden);
    }
}

/* What is computed here, while the workers compute. */
static void compute_here(struct dispatch *dispatch, struct ticket *ticket, float *out) {
    uint64_t started_ns = clock_now_ns();
    if (ticket->task_count == 0)
        return;
    expert_forward(dispatch->workspace, ticket->x, ticket->tasks, ticket->task_count, out);
    if (dispatch->store)
        dispatch->stats[dispatch->workers].busy_s += clock_elapsed_s(started_ns);
}

enum status combine_await(struct dispatch *dispatch, struct ticket *ticket, float *out) {
    enum status status = STATUS_OK;
    compute_here(dispatch, ticket, out);
    if (ticket->pending) {
        status = await_replies(dispatch, ticket);
        if (status == STATUS_OK) {
            struct addition addition = {dispatch, ticket, out};
            threads_run(dispatch->threads, ticket->rows, add_row, &addition);
        }
    }
    ticket->in_use = false;
    return status;
}
