/* Rows are sorted by expert with one counting sort, and each expert's shards append their rows to
 * their holders; so all rows of a shard stand together and a worker can run them as they stand. A
 * row travels to a holder once, however many of its experts are there. What is computed here,
 * shared experts among it, becomes one list of tasks that combine works off while workers do
 * theirs. */
#include "coordinator/dispatch.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/cluster_limits.h"
#include "common/log.h"
#include "proto/wire.h"

/* How long holders are watched before their load is balanced. */
#define BALANCE_WINDOW_S 5.0

uint32_t dispatch_entries_per_row(uint32_t experts_per_token) {
    return experts_per_token * PARTS_PER_HOLDER_MAX + 1;
}

size_t dispatch_answer_bytes(const struct dispatch *dispatch, uint32_t rows, uint32_t width,
                             enum wire_format format) {
    return wire_combine_bytes(rows, width, format, dispatch->trace ? THREADS_MAX : 0);
}

/* A COMBINE frame of the largest batch, the logits of one row, or an ERROR frame. */
static size_t reply_bytes_max(const struct dispatch *dispatch) {
    size_t combine = dispatch_answer_bytes(dispatch, dispatch->rows_max, dispatch->hidden,
                                           wire_answer_format(dispatch->format));
    size_t error = sizeof(struct wire_header) + WIRE_ERROR_BYTES_MAX;
    size_t logits = dispatch_answer_bytes(dispatch, 1, dispatch->head_rows, WIRE_F32);
    combine = combine > logits ? combine : logits;
    return combine > error ? combine : error;
}

/* A DISPATCH frame of the largest batch, or one row for the head. */
static size_t frame_bytes_max(const struct dispatch *dispatch) {
    size_t head = wire_dispatch_bytes(1, 1, dispatch->hidden, WIRE_F32);
    size_t batch = wire_dispatch_bytes(dispatch->rows_max,
                                       dispatch->rows_max * dispatch_entries_per_row(dispatch->k),
                                       dispatch->hidden, dispatch->format);
    return batch > head ? batch : head;
}

static enum status take_part(struct dispatch *dispatch, uint32_t holder, struct ticket_part *part) {
    struct arena *arena = dispatch->arena;
    part->row_of = arena_take(arena, dispatch->rows_max, sizeof *part->row_of);
    if (!part->row_of)
        return STATUS_NO_MEMORY;
    if (holder >= dispatch->holders->workers)
        return STATUS_OK;
    part->frame = arena_take(arena, dispatch->frame_bytes, 1);
    part->reply = arena_take(arena, dispatch->reply_bytes, 1);
    return part->frame && part->reply ? STATUS_OK : STATUS_NO_MEMORY;
}

/* Of the feed-forwards that all rows meet, should all of their parts be computed here. */
static size_t ffn_tasks_max(const struct dispatch *dispatch) {
    uint32_t parts = 0;
    for (uint32_t layer = 0; layer < dispatch->placement->layers; layer++) {
        uint32_t count = placement_find(dispatch->placement, layer, SHARD_FFN)->count;
        parts = count > parts ? count : parts;
    }
    return (size_t)dispatch->rows_max * (parts + 1);
}

static enum status take_memory(struct dispatch *dispatch) {
    struct arena *arena = dispatch->arena;
    uint32_t holders = dispatch->placement->holders;
    size_t entries = (size_t)dispatch->rows_max * dispatch->k;
    dispatch->stats = arena_take(arena, holders, sizeof *dispatch->stats);
    dispatch->by_expert = arena_take(arena, entries, sizeof *dispatch->by_expert);
    dispatch->expert_first =
        arena_take(arena, dispatch->placement->experts + 1u, sizeof *dispatch->expert_first);
    dispatch->copy_of = arena_take(arena, dispatch->placement->experts, sizeof *dispatch->copy_of);
    dispatch->loads = arena_take(arena, holders, sizeof *dispatch->loads);
    dispatch->read_rates = arena_take(arena, holders, sizeof *dispatch->read_rates);
    dispatch->measured_rates = arena_take(arena, holders, sizeof *dispatch->measured_rates);
    if (!dispatch->stats || !dispatch->by_expert || !dispatch->expert_first || !dispatch->copy_of ||
        !dispatch->loads || !dispatch->read_rates || !dispatch->measured_rates)
        return STATUS_NO_MEMORY;
    for (uint32_t t = 0; t < TICKETS_MAX; t++) {
        struct ticket *ticket = &dispatch->tickets[t];
        ticket->parts = arena_take(arena, holders, sizeof *ticket->parts);
        ticket->tasks = arena_take(arena, entries * PARTS_PER_HOLDER_MAX + ffn_tasks_max(dispatch),
                                   sizeof *ticket->tasks);
        if (!ticket->parts || !ticket->tasks)
            return STATUS_NO_MEMORY;
        if (dispatch->holders->workers) {
            ticket->sums =
                arena_take(arena, (size_t)dispatch->rows_max * dispatch->hidden, sizeof(float));
            if (!ticket->sums)
                return STATUS_NO_MEMORY;
        }
        for (uint32_t h = 0; h < holders; h++)
            if (take_part(dispatch, h, &ticket->parts[h]))
                return STATUS_NO_MEMORY;
    }
    return STATUS_OK;
}

/* Tells the transport where small frames will be sent from and replies received. What is pinned is
 * taken, so places that nobody has yet do without. */
static void register_frames(struct dispatch *dispatch) {
    for (uint32_t t = 0; t < TICKETS_PINNED_MAX; t++)
        for (uint32_t h = 0; h < dispatch->holders->workers; h++) {
            const struct ticket_part *part = &dispatch->tickets[t].parts[h];
            if (!dispatch->holders->all[h].address)
                continue;
            struct transport *transport = dispatch->holders->transport;
            transport_register(transport, part->frame, dispatch->frame_bytes);
            transport_register(transport, part->reply, dispatch->reply_bytes);
        }
}

enum status dispatch_create(const struct dispatch_options *options, struct dispatch **out) {
    struct dispatch *dispatch = calloc(1, sizeof *dispatch);
    if (!dispatch || !(dispatch->arena = arena_create(0))) {
        dispatch_destroy(dispatch);
        return STATUS_NO_MEMORY;
    }
    dispatch->placement = options->placement;
    dispatch->hidden = options->hidden;
    dispatch->rows_max = options->rows_max;
    dispatch->k = options->experts_per_token;
    dispatch->holders = options->holders;
    dispatch->failover = options->failover;
    dispatch->workspace = options->workspace;
    dispatch->threads = options->threads;
    dispatch->trace = options->trace;
    dispatch->format = options->format;
    const struct expert_places *head = placement_find(options->placement, 0, SHARD_HEAD);
    for (uint32_t i = 0; i < head->count; i++)
        if (head->parts[i].end - head->parts[i].begin > dispatch->head_rows)
            dispatch->head_rows = head->parts[i].end - head->parts[i].begin;
    dispatch->first_copies_only = options->first_copies_only;
    dispatch->frame_bytes = frame_bytes_max(dispatch);
    dispatch->reply_bytes = reply_bytes_max(dispatch);
    enum status status = statistics_create(options->placement->holders, options->placement->layers,
                                           &dispatch->statistics);
    if (!status)
        status = load_window_create(options->placement->holders, options->placement->layers,
                                    options->placement->experts, &dispatch->window);
    if (!status)
        status = take_memory(dispatch);
    if (status)
        log_error("not enough memory to dispatch %u rows; lower --batch-tokens", options->rows_max);
    for (uint32_t h = 0; status == STATUS_OK && h < options->placement->holders; h++) {
        dispatch->read_rates[h] = options->read_rates[h];
        dispatch->measured_rates[h] = 0;
    }
    if (status) {
        dispatch_destroy(dispatch);
        return status;
    }
    register_frames(dispatch);
    *out = dispatch;
    return STATUS_OK;
}

void dispatch_destroy(struct dispatch *dispatch) {
    if (!dispatch)
        return;
    load_window_destroy(dispatch->window);
    statistics_destroy(dispatch->statistics);
    arena_destroy(dispatch->arena);
    free(dispatch);
}

/* The first one: a batch of one part never touches the memory of the others, and one of four parts
 * touches a quarter of each. */
struct ticket *dispatch_open_ticket(struct dispatch *dispatch) {
    for (uint32_t t = 0; t < TICKETS_MAX; t++)
        if (!dispatch->tickets[t].in_use)
            return &dispatch->tickets[t];
    assert(!"more tickets than TICKETS_MAX");
    return NULL;
}

/* Counting sort of all (row, choice) pairs by expert; rows stay in ascending order. */
static void sort_by_expert(struct dispatch *dispatch, const uint32_t *experts, uint32_t rows) {
    uint32_t pairs = experts ? rows * dispatch->k : 0, *first = dispatch->expert_first;
    memset(first, 0, (dispatch->placement->experts + 1u) * sizeof *first);
    for (uint32_t p = 0; p < pairs; p++)
        first[experts[p] + 1]++;
    for (uint32_t e = 0; e < dispatch->placement->experts; e++)
        first[e + 1] += first[e];
    for (uint32_t p = 0; p < pairs; p++)
        dispatch->by_expert[first[experts[p]]++] = p;
    /* Each start has moved to its end; shift them back. */
    for (uint32_t e = dispatch->placement->experts; e > 0; e--)
        first[e] = first[e - 1];
    first[0] = 0;
}

static double read_time(const struct dispatch *dispatch, const struct shard_layout *layout,
                        const struct placed_shard *part) {
    const struct shard shard = {.begin = part->begin, .end = part->end};
    return (double)shard_bytes(layout, &shard) / dispatch->read_rates[part->holder];
}

/* How long the copy's holders read if the copy is taken: the longest that one of them then has to.
 * A holder that may be lost, or wants to leave, counts as if it had more than all others. */
static double load_with(const struct dispatch *dispatch, const struct shard_layout *layout,
                        const struct expert_places *places, uint32_t first) {
    double most = 0;
    for (uint32_t i = first; i < placement_copy_end(places, first); i++) {
        const struct placed_shard *part = &places->parts[i];
        const struct holder *holder = &dispatch->holders->all[part->holder];
        double load = dispatch->loads[part->holder] + read_time(dispatch, layout, part);
        if (holder->silent || holder->leaving)
            load += 1e30;
        most = load > most ? load : most;
    }
    return most;
}

/* Chooses the served copy of one expert whose busiest holder has least to read; false: none is
 * served. */
static bool choose_copy(struct dispatch *dispatch, uint32_t layer, uint32_t expert) {
    const struct expert_places *places = placement_find(dispatch->placement, layer, expert);
    const struct shard_layout *layout = &dispatch->placement->layouts[layer];
    uint32_t best = UINT32_MAX;
    double least = 0;
    for (uint32_t first = 0; first < places->count; first = placement_copy_end(places, first)) {
        if (!placement_copy_is_served(places, first, dispatch->holders->served))
            continue;
        double load = load_with(dispatch, layout, places, first);
        if (best == UINT32_MAX || load < least) {
            best = first;
            least = load;
        }
        if (dispatch->first_copies_only)
            break;
    }
    dispatch->copy_of[expert] = best;
    if (best == UINT32_MAX)
        return false;
    for (uint32_t i = best; i < placement_copy_end(places, best); i++)
        dispatch->loads[places->parts[i].holder] += read_time(dispatch, layout, &places->parts[i]);
    return true;
}

/* For each expert that rows were routed to; false: one is not served. */
static bool choose_copies(struct dispatch *dispatch, uint32_t layer) {
    memset(dispatch->loads, 0, dispatch->placement->holders * sizeof *dispatch->loads);
    for (uint32_t expert = 0; expert < dispatch->placement->experts; expert++)
        if (dispatch->expert_first[expert] < dispatch->expert_first[expert + 1] &&
            !choose_copy(dispatch, layer, expert))
            return false;
    return true;
}

/* The parts of the copy in use: [*begin, *end) of the places that are returned. */
static const struct expert_places *copy_in_use(const struct dispatch *dispatch, uint32_t layer,
                                               uint32_t expert, uint32_t *begin, uint32_t *end) {
    const struct expert_places *places = placement_find(dispatch->placement, layer, expert);
    *begin = dispatch->copy_of[expert];
    *end = placement_copy_end(places, *begin);
    return places;
}

/* Only of one that serves it well. */
bool dispatch_asks(const struct dispatch *dispatch, const struct placed_shard *part) {
    const struct holder *holder = &dispatch->holders->all[part->holder];
    return part->order < dispatch->holders->served[part->holder] && !holder->silent &&
           !holder->leaving;
}

/* Numbers the rows that each holder gets, in ascending order. */
static void assign_rows(struct dispatch *dispatch, struct ticket *ticket) {
    const struct dispatch_work *work = &ticket->work;
    for (uint32_t h = 0; h < dispatch->placement->holders; h++) {
        struct ticket_part *part = &ticket->parts[h];
        part->rows = part->entries = part->pending = 0;
        part->width = dispatch->hidden;
        memset(part->row_of, 0xff, work->rows * sizeof *part->row_of);
    }
    const struct expert_places *ffn = placement_find(dispatch->placement, work->layer, SHARD_FFN);
    for (uint32_t i = 0; i < ffn->count; i++) {
        struct ticket_part *part = &ticket->parts[ffn->parts[i].holder];
        if (!dispatch_asks(dispatch, &ffn->parts[i]))
            continue;
        for (uint32_t row = 0; row < work->rows; row++)
            part->row_of[row] = row;
        part->rows = work->rows;
    }
    for (uint32_t row = 0; work->experts && row < work->rows; row++)
        for (uint32_t choice = 0; choice < dispatch->k; choice++) {
            uint32_t begin, end;
            const struct expert_places *places = copy_in_use(
                dispatch, work->layer, work->experts[row * dispatch->k + choice], &begin, &end);
            for (uint32_t i = begin; i < end; i++) {
                struct ticket_part *part = &ticket->parts[places->parts[i].holder];
                if (part->row_of[row] == UINT32_MAX)
                    part->row_of[row] = part->rows++;
            }
        }
}

static void add_entry(struct dispatch *dispatch, struct ticket *ticket, uint32_t row,
                      const struct placed_shard *shard, float weight) {
    struct ticket_part *part = &ticket->parts[shard->holder];
    if (shard->holder >= dispatch->holders->workers)
        ticket->tasks[ticket->task_count++] = (struct expert_task){
            expert_store_get(dispatch->holders->store, shard->slot), row, weight};
    else
        wire_dispatch_entries(part->frame)[part->entries++] =
            (struct wire_entry){part->row_of[row], shard->slot, weight};
}

static void fill_entries(struct dispatch *dispatch, struct ticket *ticket) {
    for (uint32_t expert = 0; expert < dispatch->placement->experts; expert++) {
        uint32_t first = dispatch->expert_first[expert], last = dispatch->expert_first[expert + 1];
        if (first == last)
            continue;
        uint32_t begin, end;
        const struct expert_places *places =
            copy_in_use(dispatch, ticket->work.layer, expert, &begin, &end);
        for (uint32_t i = begin; i < end; i++)
            for (uint32_t p = first; p < last; p++) {
                uint32_t pair = dispatch->by_expert[p];
                add_entry(dispatch, ticket, pair / dispatch->k, &places->parts[i],
                          ticket->work.weights[pair]);
            }
    }
}

/* Completes the frame of one holder and posts it together with the buffer for the answer. A holder
 * that does not take it is lost, which combine finds. */
void dispatch_send_part(struct dispatch *dispatch, struct ticket *ticket, uint32_t h) {
    struct ticket_part *part = &ticket->parts[h];
    const struct dispatch_work *work = &ticket->work;
    const struct holder *holder = &dispatch->holders->all[h];
    struct transport *transport = dispatch->holders->transport;
    struct wire_header header = {
        .type = WIRE_DISPATCH,
        .format = (uint8_t)ticket->format,
        .sequence = ticket->sequence,
        .layer = work->layer,
        .rows = part->rows,
        .entries = part->entries,
        .hidden = dispatch->hidden,
    };
    wire_encode_header(&header, part->frame);
    uint8_t *rows = wire_dispatch_rows(part->frame);
    size_t row_bytes = wire_row_bytes(ticket->format, dispatch->hidden);
    for (uint32_t row = 0; row < work->rows; row++)
        if (part->row_of[row] != UINT32_MAX)
            wire_store(ticket->format, work->x + (size_t)row * dispatch->hidden, dispatch->hidden,
                       rows + part->row_of[row] * row_bytes);
    size_t bytes = wire_dispatch_bytes(part->rows, part->entries, dispatch->hidden, ticket->format);
    part->session = holder->session;
    part->pending = 2;
    part->sent_ns = clock_now_ns();
    dispatch->stats[h].bytes_out += bytes;
    if (!ticket->is_head)
        statistics_load(dispatch->statistics, h, work->layer)->bytes_out += bytes;
    if (transport_post_receive(transport, holder->connection, part->reply, dispatch->reply_bytes) ||
        transport_post_send(transport, holder->connection, part->frame, bytes))
        holders_lose(dispatch->holders, h, "takes no more frames; see its log");
}

/* What all rows meet: the coordinator's own part and those that no worker is asked for become
 * tasks, the others entries of frames. */
static void list_ffn(struct dispatch *dispatch, struct ticket *ticket) {
    const struct dispatch_work *work = &ticket->work;
    const struct expert_places *places =
        placement_find(dispatch->placement, work->layer, SHARD_FFN);
    for (uint32_t i = 0; i < work->ffn_count; i++) {
        const struct placed_shard *part = i > 0 ? &places->parts[i - 1] : NULL;
        bool asked = part && dispatch_asks(dispatch, part);
        if (!asked && work->ffn[i].gate.rows == 0)
            continue;
        for (uint32_t row = 0; row < work->rows; row++)
            if (asked)
                add_entry(dispatch, ticket, row, part, 1.0f);
            else
                ticket->tasks[ticket->task_count++] =
                    (struct expert_task){&work->ffn[i], row, 1.0f};
    }
}

/* What is not needed any more, while no ticket names it. */
static enum status release(struct dispatch *dispatch) {
    for (uint32_t t = 0; t < TICKETS_MAX; t++)
        if (dispatch->tickets[t].in_use)
            return STATUS_OK;
    return failover_release(dispatch->failover);
}

enum status dispatch_attend(struct dispatch *dispatch) {
    holders_refresh(dispatch->holders);
    enum status status = failover_react(dispatch->failover);
    if (!status)
        status = release(dispatch);
    dispatch->failed |= status != STATUS_OK;
    return status;
}

enum status dispatch_resend(struct dispatch *dispatch, struct ticket *ticket) {
    const struct dispatch_work *work = &ticket->work;
    uint64_t started_ns = clock_now_ns();
    enum status status = dispatch_attend(dispatch);
    sort_by_expert(dispatch, work->experts, work->rows);
    while (!status && !choose_copies(dispatch, work->layer))
        status = failover_wait(dispatch->failover, work->layer);
    if (status) {
        dispatch->failed = true;
        return status;
    }
    failover_rest(dispatch->failover);
    ticket->sequence = ++dispatch->sequence;
    ticket->task_count = 0;
    assign_rows(dispatch, ticket);
    list_ffn(dispatch, ticket);
    fill_entries(dispatch, ticket);
    for (uint32_t h = 0; h < dispatch->placement->holders; h++)
        if (ticket->parts[h].rows > 0 && h < dispatch->holders->workers)
            dispatch_send_part(dispatch, ticket, h);
    if (dispatch->holders->workers)
        transport_flush(dispatch->holders->transport);
    trace_work(dispatch->trace, "dispatch", work->layer, started_ns);
    return STATUS_OK;
}

static double ffn_bytes(const struct expert *ffn) {
    const struct matrix *parts[] = {&ffn->gate, &ffn->up, &ffn->down};
    double bytes = 0;
    for (int i = 0; i < 3; i++)
        bytes += (double)matrix_bytes(parts[i]->format, parts[i]->rows, parts[i]->columns);
    return bytes;
}

/* What the chosen copies and the coordinator's own part of the layer have holders read. */
static void count_reads(struct dispatch *dispatch, const struct dispatch_work *work) {
    struct load_window *window = dispatch->window;
    const struct shard_layout *layout = &dispatch->placement->layouts[work->layer];
    for (uint32_t expert = 0; expert < dispatch->placement->experts; expert++) {
        if (dispatch->expert_first[expert] == dispatch->expert_first[expert + 1])
            continue;
        uint32_t begin, end;
        const struct expert_places *places =
            copy_in_use(dispatch, work->layer, expert, &begin, &end);
        window->uses[(size_t)work->layer * window->experts + expert]++;
        placement_note_use(dispatch->placement, work->layer, expert, begin);
        for (uint32_t i = begin; i < end; i++) {
            const struct shard shard = {.begin = places->parts[i].begin,
                                        .end = places->parts[i].end};
            window->read_bytes[places->parts[i].holder] += (double)shard_bytes(layout, &shard);
        }
    }
    const struct expert_places *places =
        placement_find(dispatch->placement, work->layer, SHARD_FFN);
    for (uint32_t i = 0; i < work->ffn_count; i++) {
        bool asked = i > 0 && dispatch_asks(dispatch, &places->parts[i - 1]);
        uint32_t holder = asked ? places->parts[i - 1].holder : dispatch->holders->workers;
        if (asked || dispatch->holders->store)
            window->read_bytes[holder] += ffn_bytes(&work->ffn[i]);
    }
}

static void count_visits(struct dispatch *dispatch, const struct ticket *ticket) {
    for (uint32_t row = 0; ticket->work.experts && row < ticket->work.rows; row++) {
        uint32_t visited = 0;
        for (uint32_t h = 0; h < dispatch->placement->holders; h++)
            visited += ticket->parts[h].row_of[row] != UINT32_MAX;
        dispatch->statistics->fanout[visited]++;
    }
    for (uint32_t h = 0; h < dispatch->placement->holders; h++) {
        dispatch->stats[h].rows += ticket->parts[h].rows;
        statistics_load(dispatch->statistics, h, ticket->work.layer)->rows += ticket->parts[h].rows;
    }
}

/* Now and then: what holders did lately decides which copies are taken from now on, and whether
 * others are made. */
static enum status balance(struct dispatch *dispatch) {
    struct load_window *window = dispatch->window;
    double window_s = clock_elapsed_s(window->since_ns), slowest = 0;
    if (window_s < BALANCE_WINDOW_S)
        return STATUS_OK;
    load_window_rates(window, window_s, dispatch->measured_rates);
    for (uint32_t h = 0; h < window->holders; h++)
        if (dispatch->measured_rates[h] > 0 &&
            (slowest == 0 || dispatch->measured_rates[h] < slowest))
            slowest = dispatch->measured_rates[h];
    for (uint32_t h = 0; h < window->holders && slowest > 0; h++)
        dispatch->read_rates[h] =
            dispatch->measured_rates[h] > 0 ? dispatch->measured_rates[h] : slowest;
    enum status status = STATUS_OK;
    if (slowest > 0)
        status = failover_balance(dispatch->failover, window, window_s, dispatch->read_rates);
    load_window_reopen(window);
    return status;
}

enum status dispatch_send(struct dispatch *dispatch, const struct dispatch_work *work,
                          struct ticket **out) {
    if (dispatch->failed)
        return STATUS_CONNECTION;
    enum status status = balance(dispatch);
    if (!status)
        status = release(dispatch);
    if (status)
        return status;
    struct ticket *ticket = dispatch_open_ticket(dispatch);
    ticket->in_use = true;
    ticket->is_head = false;
    ticket->work = *work;
    ticket->format = dispatch->format;
    ticket->answer_format = wire_answer_format(dispatch->format);
    status = dispatch_resend(dispatch, ticket);
    if (status)
        return status;
    count_reads(dispatch, work);
    count_visits(dispatch, ticket);
    *out = ticket;
    return STATUS_OK;
}
