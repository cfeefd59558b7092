/* A worker's part of the head is a slot like any other: its frame has one entry for each row. The
 * coordinator's own rows are computed while workers do theirs. */
#include "coordinator/head.h"

#include <string.h>

#include "common/clock.h"
#include "coordinator/combine.h"

/* Whether the buffers have room for frames of so many rows and their answers. */
static bool fits(const struct dispatch *dispatch, uint32_t rows) {
    return wire_dispatch_bytes(rows, rows, dispatch->hidden, WIRE_F32) <= dispatch->frame_bytes &&
           dispatch_answer_bytes(dispatch, rows, dispatch->head_rows, WIRE_F32) <=
               dispatch->reply_bytes;
}

/* Asks workers for their rows; the others' parts stay without rows. */
static void send_rows(const struct head *head, struct ticket *ticket) {
    struct dispatch *dispatch = head->dispatch;
    const struct expert_places *places = placement_find(dispatch->placement, 0, SHARD_HEAD);
    uint32_t rows = ticket->work.rows;
    for (uint32_t h = 0; h < dispatch->holders->workers; h++)
        ticket->parts[h].rows = ticket->parts[h].entries = ticket->parts[h].pending = 0;
    for (uint32_t i = 0; i < places->count; i++) {
        const struct placed_shard *shard = &places->parts[i];
        struct ticket_part *part = &ticket->parts[shard->holder];
        if (!dispatch_asks(dispatch, shard))
            continue;
        part->rows = part->entries = rows;
        part->width = shard->end - shard->begin;
        for (uint32_t row = 0; row < rows; row++) {
            part->row_of[row] = row;
            wire_dispatch_entries(part->frame)[row] = (struct wire_entry){row, shard->slot, 1.0f};
        }
        dispatch_send_part(dispatch, ticket, shard->holder);
    }
    transport_flush(dispatch->holders->transport);
}

static void compute(const struct head *head, const struct ticket *ticket, uint32_t begin,
                    uint32_t end, float *logits) {
    if (begin < end)
        matmul_rows(head->matmul, head->weights, begin, end - begin, ticket->work.x,
                    ticket->work.rows, logits + begin, head->weights->rows);
}

/* What the worker answered, or computed here in its place. */
static void take_part(const struct head *head, const struct ticket *ticket,
                      const struct placed_shard *shard, float *logits) {
    const struct ticket_part *part = &ticket->parts[shard->holder];
    if (part->rows == 0 || part->pending > 0) {
        compute(head, ticket, shard->begin, shard->end, logits);
        return;
    }
    const float *answer = wire_combine_rows(part->reply);
    for (uint32_t row = 0; row < part->rows; row++)
        memcpy(logits + (size_t)row * head->weights->rows + shard->begin,
               answer + (size_t)row * part->width, part->width * sizeof *answer);
}

/* The rows of the head that workers have are theirs to compute. */
static void share(const struct head *head, const struct expert_places *places, const float *x,
                  uint32_t rows, float *logits) {
    struct dispatch *dispatch = head->dispatch;
    struct ticket *ticket = dispatch_open_ticket(dispatch);
    ticket->in_use = ticket->is_head = true;
    ticket->sequence = ++dispatch->sequence;
    ticket->work = (struct dispatch_work){.rows = rows, .x = x};
    ticket->format = ticket->answer_format = WIRE_F32;
    holders_refresh(dispatch->holders);
    send_rows(head, ticket);
    compute(head, ticket, 0, places->parts[0].begin, logits);
    combine_wait(dispatch, ticket);
    for (uint32_t i = 0; i < places->count; i++)
        take_part(head, ticket, &places->parts[i], logits);
    ticket->in_use = false;
}

void head_logits(const struct head *head, const float *x, uint32_t rows, float *logits) {
    struct dispatch *dispatch = head->dispatch;
    const struct expert_places *places = placement_find(dispatch->placement, 0, SHARD_HEAD);
    uint64_t started_ns = clock_now_ns();
    if (places->count > 0 && fits(dispatch, rows))
        share(head, places, x, rows, logits);
    else
        matmul(head->matmul, head->weights, x, rows, logits);
    trace_work(dispatch->trace, "head", 0, started_ns);
}
