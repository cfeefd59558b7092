/* A frame owns a receive buffer and a reply buffer and goes round: posted for receiving, computed,
 * its reply posted for sending, posted again. So the number of frames bounds the queue, memory is
 * fixed, and the coordinator may have one frame on the wire while another is computed.
 *
 * The thread computes between two polls; the pool's other threads help. New connections and the
 * wish to stop come through a mailbox under a mutex, with transport_wake as the bell. */
#include "worker/service.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/address.h"
#include "common/arena.h"
#include "common/clock.h"
#include "common/cluster_limits.h"
#include "common/kernel/matmul.h"
#include "common/log.h"
#include "common/transport/transport.h"
#include "proto/wire.h"
#include "worker/expert.h"

#define ERROR_TEXT_BYTES 256

struct frame {
    uint8_t *request; /* (request_bytes), one DISPATCH frame */
    uint8_t *reply;   /* (reply_bytes), one COMBINE or ERROR frame */
};

struct service {
    struct service_options options;
    struct arena *arena;
    struct transport *transport;
    struct expert_workspace *workspace;
    struct frame frames[SERVICE_FRAMES];
    size_t request_bytes, reply_bytes;
    uint32_t entries_max;
    struct expert_task *tasks;      /* (entries_max) */
    float *rows, *sums;             /* (batch_rows, hidden), for frames that are not in f32 */
    struct matmul_workspace matmul; /* for the output head */
    struct connection *connection;
    const struct frame *failing; /* the connection closes when this ERROR frame has left */

    pthread_t thread;
    pthread_mutex_t mutex; /* guards the mailbox below */
    bool stopping;
    bool attached; /* a connection is being served, or waits to be */
    int offered_fd;
    char offered_peer[ADDRESS_TEXT_BYTES_MAX];
};

static void close_connection(struct service *service) {
    transport_remove(service->transport, service->connection);
    service->connection = NULL;
    service->failing = NULL;
    pthread_mutex_lock(&service->mutex);
    service->attached = false;
    pthread_mutex_unlock(&service->mutex);
}

static void post_receive(struct service *service, struct frame *frame) {
    if (transport_post_receive(service->transport, service->connection, frame->request,
                               service->request_bytes))
        close_connection(service);
}

/* Answers with a sentence; the connection closes when it has left. */
static void reply_error(struct service *service, struct frame *frame, uint64_t sequence,
                        const char *text) {
    struct wire_header header = {
        .type = WIRE_ERROR, .sequence = sequence, .payload_bytes = strlen(text)};
    wire_encode_header(&header, frame->reply);
    memcpy(frame->reply + sizeof header, text, header.payload_bytes);
    service->failing = frame;
    if (transport_post_send(service->transport, service->connection, frame->reply,
                            sizeof header + header.payload_bytes))
        close_connection(service);
}

/* Writes what is wrong with a frame to the log and to `text`, for the peer. */
__attribute__((format(printf, 3, 4))) static void
complain(const struct service *service, char text[ERROR_TEXT_BYTES], const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, ERROR_TEXT_BYTES, format, arguments);
    va_end(arguments);
    log_error("%s broke the data protocol: %s; closing its data connection",
              connection_peer(service->connection), text);
}

/* Whether the frame is what was agreed on. */
static enum status check_frame(struct service *service, const struct wire_header *header,
                               char text[ERROR_TEXT_BYTES]) {
    const struct service_options *options = &service->options;
    if (header->type == WIRE_DISPATCH && header->hidden == options->hidden && header->rows > 0 &&
        header->rows <= options->batch_rows && header->entries <= service->entries_max)
        return STATUS_OK;
    complain(service, text,
             "frame of type %u with %" PRIu32 " rows of %" PRIu32 " values and %" PRIu32
             " entries; agreed were up to %" PRIu32 " rows of %" PRIu32 " and %" PRIu32 " entries",
             header->type, header->rows, header->hidden, header->entries, options->batch_rows,
             options->hidden, service->entries_max);
    return STATUS_PROTOCOL;
}

/* The rows of the output head that the frame is for; NULL: it is for experts. */
static const struct expert *head_of(const struct service *service, const struct frame *frame,
                                    const struct wire_header *header) {
    const struct expert_store *store = service->options.store;
    uint32_t slot = header->entries ? wire_dispatch_entries(frame->request)->slot : 0;
    return header->entries && expert_store_shard(store, slot)->expert == SHARD_HEAD
               ? expert_store_get(store, slot)
               : NULL;
}

/* Spans in an answer, where the coordinator wants them. */
static uint32_t span_count(const struct service *service) {
    const struct service_options *options = &service->options;
    return options->tells_spans ? threads_count(options->threads) - 1 : 0;
}

static size_t combine_bytes_max(const struct service *service, uint32_t rows, uint32_t width) {
    return wire_combine_bytes(rows, width, WIRE_F32, span_count(service));
}

/* Each row has to be named once, with the same slot, and the logits have to fit into the answer. */
static enum status check_head(struct service *service, const struct frame *frame,
                              const struct wire_header *header, const struct expert *head,
                              char text[ERROR_TEXT_BYTES]) {
    const struct wire_entry *entries = wire_dispatch_entries(frame->request);
    uint32_t same = 1;
    while (same < header->entries && entries[same].slot == entries[0].slot)
        same++;
    if (same == header->rows && same == header->entries &&
        combine_bytes_max(service, header->rows, head->gate.rows) <= service->reply_bytes)
        return STATUS_OK;
    complain(service, text,
             "frame of %" PRIu32 " rows and %" PRIu32 " entries for %" PRIu32
             " rows of the output head in slot %" PRIu32,
             header->rows, header->entries, head->gate.rows, entries[0].slot);
    return STATUS_PROTOCOL;
}

/* The slots of checked entries may have been released, or never been filled. */
static enum status check_slots(struct service *service, const struct frame *frame,
                               const struct wire_header *header) {
    const struct wire_entry *entries = wire_dispatch_entries(frame->request);
    for (uint32_t i = 0; i < header->entries; i++) {
        if (expert_store_is_served(service->options.store, entries[i].slot))
            continue;
        log_error("%s: entry %" PRIu32 " of %" PRIu32 " is not valid (slot %" PRIu32
                  " holds nothing); install the same release on both machines",
                  connection_peer(service->connection), i, header->entries, entries[i].slot);
        return STATUS_PROTOCOL;
    }
    return STATUS_OK;
}

/* Makes tasks of checked entries, which must all be of experts of the frame's layer. */
static enum status list_tasks(struct service *service, struct frame *frame,
                              const struct wire_header *header, char text[ERROR_TEXT_BYTES]) {
    const struct expert_store *store = service->options.store;
    const struct wire_entry *entries = wire_dispatch_entries(frame->request);
    for (uint32_t i = 0; i < header->entries; i++) {
        uint32_t slot = entries[i].slot, layer = expert_store_shard(store, slot)->layer;
        if (layer != header->layer || expert_store_shard(store, slot)->expert == SHARD_HEAD) {
            complain(service, text,
                     "slot %" PRIu32 " holds a shard of layer %" PRIu32
                     ", the frame is for experts of %" PRIu32,
                     slot, layer, header->layer);
            return STATUS_PROTOCOL;
        }
        const struct expert *expert = expert_store_is_spilled(store, slot)
                                          ? spill_expert(service->options.spill, slot)
                                          : expert_store_get(store, slot);
        service->tasks[i] = (struct expert_task){expert, entries[i].row, entries[i].weight};
    }
    return STATUS_OK;
}

/* One row of a frame that is not in f32, on its way in or out. */
struct conversion {
    enum wire_format format;
    uint32_t hidden;
    float *values; /* (rows, hidden) */
    uint8_t *frame_rows;
};

static void load_row(void *context, size_t row, unsigned thread) {
    (void)thread;
    const struct conversion *c = context;
    wire_load(c->format, c->frame_rows + row * wire_row_bytes(c->format, c->hidden), c->hidden,
              c->values + row * c->hidden);
}

static void store_row(void *context, size_t row, unsigned thread) {
    (void)thread;
    const struct conversion *c = context;
    wire_store(c->format, c->values + row * c->hidden, c->hidden,
               c->frame_rows + row * wire_row_bytes(c->format, c->hidden));
}

/* The frame's rows in f32. */
static const float *load_rows(struct service *service, struct frame *frame,
                              const struct wire_header *header) {
    enum wire_format format = (enum wire_format)header->format;
    void *rows = wire_dispatch_rows(frame->request);
    struct conversion in = {format, header->hidden, service->rows, rows};
    if (format == WIRE_F32)
        return rows;
    threads_run(service->options.threads, header->rows, load_row, &in);
    return service->rows;
}

static uint32_t us_between(uint64_t begin_ns, uint64_t end_ns) {
    return end_ns > begin_ns ? (uint32_t)((end_ns - begin_ns) / 1000) : 0;
}

/* How many of the tasks from `first` on may be computed now; what is on the disk is being read. */
static size_t fetch_tasks(struct service *service, size_t first, size_t count) {
    struct spill *spill = service->options.spill;
    return spill ? spill_fetch(spill, service->tasks + first, count - first) : count - first;
}

/* Adds up all tasks, in their order, in parts where they are more than can be read at once. Errors:
 * STATUS_IO where spill_fault says so. */
static enum status compute_tasks(struct service *service, const float *x, size_t ready,
                                 size_t count, float *sums) {
    const struct spill *spill = service->options.spill;
    for (size_t first = 0; ready > 0; ready = fetch_tasks(service, first, count)) {
        expert_forward(service->workspace, x, service->tasks + first, ready, sums);
        first += ready;
        if (first == count)
            break;
    }
    return spill && spill_fault(spill) ? STATUS_IO : STATUS_OK;
}

/* The frame's tasks, which are listed, over its rows; the sums in the reply. Errors: those of
 * compute_tasks. */
static enum status compute_rows(struct service *service, struct frame *frame,
                                const struct wire_header *header) {
    struct threads *threads = service->options.threads;
    enum wire_format format = (enum wire_format)header->format, answer = wire_answer_format(format);
    size_t ready = fetch_tasks(service, 0, header->entries);
    const float *x = load_rows(service, frame, header);
    float *sums = format == WIRE_F32 ? wire_combine_rows(frame->reply) : service->sums;
    memset(sums, 0, (size_t)header->rows * header->hidden * sizeof *sums);
    enum status status = compute_tasks(service, x, ready, header->entries, sums);
    if (format != WIRE_F32) {
        struct conversion out = {answer, header->hidden, sums, wire_combine_rows(frame->reply)};
        threads_run(threads, header->rows, store_row, &out);
    }
    return status;
}

/* Completes the reply, whose rows are there, and posts it. */
static void post_reply(struct service *service, struct frame *frame, struct wire_header *reply,
                       uint64_t started_ns) {
    reply->type = WIRE_COMBINE;
    reply->entries = span_count(service);
    reply->busy_us = us_between(started_ns, clock_now_ns());
    wire_encode_header(reply, frame->reply);
    for (uint32_t i = 0; i < reply->entries; i++) {
        struct thread_span span = threads_take_span(service->options.threads, i + 1);
        wire_combine_spans(frame->reply)[i] = (struct wire_span){
            us_between(started_ns, span.begin_ns), us_between(started_ns, span.end_ns),
            (uint32_t)(span.busy_ns / 1000)};
    }
    if (transport_post_send(service->transport, service->connection, frame->reply,
                            wire_combine_bytes(reply->rows, reply->hidden,
                                               (enum wire_format)reply->format, reply->entries)))
        close_connection(service);
}

/* Computes one frame and posts the reply. The slots that it names stay as they are meanwhile. */
static void serve_frame(struct service *service, struct frame *frame) {
    const char *peer = connection_peer(service->connection);
    uint64_t started_ns = clock_now_ns();
    struct wire_header header;
    char text[ERROR_TEXT_BYTES] = "the frame's entries are not valid";
    if (wire_decode_header(frame->request, peer, &header)) { /* the transport checked it already */
        close_connection(service);
        return;
    }
    const struct expert *head = NULL;
    if (check_frame(service, &header, text) ||
        wire_check_entries(frame->request, &header, expert_store_served_end(service->options.store),
                           peer) ||
        check_slots(service, frame, &header) ||
        ((head = head_of(service, frame, &header)) ? check_head(service, frame, &header, head, text)
                                                   : list_tasks(service, frame, &header, text))) {
        reply_error(service, frame, header.sequence, text);
        return;
    }
    enum wire_format format = head ? WIRE_F32 : wire_answer_format((enum wire_format)header.format);
    uint32_t width = head ? head->gate.rows : header.hidden;
    if (head)
        matmul(&service->matmul, &head->gate, load_rows(service, frame, &header), header.rows,
               wire_combine_rows(frame->reply));
    else if (compute_rows(service, frame, &header)) {
        reply_error(service, frame, header.sequence, spill_fault(service->options.spill));
        return;
    }
    struct wire_header reply = {.format = (uint8_t)format,
                                .sequence = header.sequence,
                                .layer = header.layer,
                                .rows = header.rows,
                                .hidden = width};
    post_reply(service, frame, &reply, started_ns);
}

static void handle_completion(struct service *service, const struct completion *completion) {
    /* Completions of a connection that was removed in this round are stale. */
    if (completion->connection != service->connection)
        return;
    if (completion->status) {
        log_info("%s: data connection ended (%s)", connection_peer(service->connection),
                 status_name(completion->status));
        close_connection(service);
        return;
    }
    for (size_t i = 0; i < SERVICE_FRAMES; i++) {
        struct frame *frame = &service->frames[i];
        if (completion->buffer == frame->request && !service->failing) {
            expert_store_enter(service->options.store);
            serve_frame(service, frame);
            expert_store_leave(service->options.store);
        } else if (completion->buffer == frame->reply && !service->failing)
            post_receive(service, frame);
        else if (completion->buffer == frame->reply && service->failing == frame)
            close_connection(service); /* nothing was posted behind the ERROR frame */
        else
            continue;
        return;
    }
}

static void adopt_connection(struct service *service, int fd, const char *peer) {
    if (transport_add(service->transport, fd, peer, &service->connection)) {
        pthread_mutex_lock(&service->mutex);
        service->attached = false;
        pthread_mutex_unlock(&service->mutex);
        return;
    }
    log_debug("%s: data connection opened", peer);
    for (size_t i = 0; i < SERVICE_FRAMES && service->connection; i++)
        post_receive(service, &service->frames[i]);
}

/* Empties the mailbox; false when the thread is to end. */
static bool read_mailbox(struct service *service) {
    char peer[sizeof service->offered_peer];
    pthread_mutex_lock(&service->mutex);
    bool stopping = service->stopping;
    int fd = service->offered_fd;
    service->offered_fd = -1;
    memcpy(peer, service->offered_peer, sizeof peer);
    pthread_mutex_unlock(&service->mutex);
    if (fd >= 0)
        adopt_connection(service, fd, peer);
    return !stopping;
}

static void *service_main(void *argument) {
    struct service *service = argument;
    struct completion completions[2 * SERVICE_FRAMES];
    const size_t max = sizeof completions / sizeof *completions;
    while (read_mailbox(service)) {
        size_t count = transport_poll(service->transport, completions, max, -1);
        for (size_t i = 0; i < count; i++) {
            handle_completion(service, &completions[i]);
            transport_flush(service->transport); /* before the next one is computed */
        }
    }
    if (service->connection)
        close_connection(service);
    return NULL;
}

static enum status check_options(const struct service_options *options) {
    if (options->hidden >= 1 && options->hidden <= HIDDEN_MAX && options->batch_rows >= 1 &&
        options->batch_rows <= BATCH_ROWS_MAX && options->entries_per_row >= 1 &&
        options->entries_per_row <= ENTRIES_PER_ROW_MAX && options->head_rows <= VOCABULARY_MAX)
        return STATUS_OK;
    log_error("assignment for frames of %" PRIu32 " rows of %" PRIu32 " values and %" PRIu32
              " entries for each is out of bounds; is the coordinator of the same release?",
              options->batch_rows, options->hidden, options->entries_per_row);
    return STATUS_PROTOCOL;
}

/* For the output head, if any of it is here. */
static bool take_matmul(struct service *service) {
    const struct service_options *options = &service->options;
    struct matmul_workspace *matmul = &service->matmul;
    if (options->head_rows == 0)
        return true;
    *matmul = (struct matmul_workspace){options->threads, NULL, matmul_scratch_floats(), NULL};
    matmul->scratch = arena_take(
        service->arena, threads_count(options->threads) * matmul->scratch_stride, sizeof(float));
    matmul->prepared =
        arena_take(service->arena, options->batch_rows, matmul_row_bytes(options->hidden));
    return matmul->scratch && matmul->prepared;
}

static enum status take_buffers(struct service *service) {
    const struct service_options *options = &service->options;
    service->entries_max = options->batch_rows * options->entries_per_row;
    service->request_bytes =
        wire_dispatch_bytes(options->batch_rows, service->entries_max, options->hidden, WIRE_F32);
    service->reply_bytes = combine_bytes_max(service, options->batch_rows, options->hidden);
    if (service->reply_bytes < sizeof(struct wire_header) + WIRE_ERROR_BYTES_MAX)
        service->reply_bytes = sizeof(struct wire_header) + WIRE_ERROR_BYTES_MAX;
    size_t logits_bytes = combine_bytes_max(service, 1, options->head_rows);
    if (service->reply_bytes < logits_bytes)
        service->reply_bytes = logits_bytes;
    service->arena = arena_create(0);
    if (!service->arena)
        return STATUS_NO_MEMORY;
    service->tasks = arena_take(service->arena, service->entries_max, sizeof *service->tasks);
    size_t values = (size_t)options->batch_rows * options->hidden;
    service->rows = arena_take(service->arena, values, sizeof *service->rows);
    service->sums = arena_take(service->arena, values, sizeof *service->sums);
    bool taken = service->tasks && service->rows && service->sums && take_matmul(service);
    for (size_t i = 0; i < SERVICE_FRAMES && taken; i++) {
        service->frames[i].request = arena_take(service->arena, service->request_bytes, 1);
        service->frames[i].reply = arena_take(service->arena, service->reply_bytes, 1);
        taken = service->frames[i].request && service->frames[i].reply;
    }
    return taken ? STATUS_OK : STATUS_NO_MEMORY;
}

static enum status open_transport(struct service *service) {
    const struct transport_options options = {sizeof(struct wire_header), wire_message_bytes,
                                              service->options.transport};
    enum status status = transport_create(&options, &service->transport);
    for (size_t i = 0; status == STATUS_OK && i < SERVICE_FRAMES; i++) {
        const struct frame *frame = &service->frames[i];
        transport_register(service->transport, frame->request, service->request_bytes);
        transport_register(service->transport, frame->reply, service->reply_bytes);
    }
    return status;
}

enum status service_create(const struct service_options *options, struct service **out) {
    enum status status = check_options(options);
    if (status)
        return status;
    struct service *service = calloc(1, sizeof *service);
    if (!service)
        goto err_no_memory;
    service->options = *options;
    service->offered_fd = -1;
    pthread_mutex_init(&service->mutex, NULL);
    if ((status = take_buffers(service)) ||
        (status = expert_workspace_create(options->threads, options->hidden, options->inner_max,
                                          options->batch_rows, &service->workspace)))
        goto err_free_buffers;
    if ((status = open_transport(service)))
        goto err_free_buffers;
    if (options->spill) {
        const struct expert_arrivals arrivals = spill_arrivals(options->spill);
        expert_workspace_set_arrivals(service->workspace, &arrivals);
    }
    threads_watch(options->threads, options->tells_spans);
    if (pthread_create(&service->thread, NULL, service_main, service)) {
        status = STATUS_NO_MEMORY;
        goto err_destroy_transport;
    }
    *out = service;
    return STATUS_OK;

err_destroy_transport:
    transport_destroy(service->transport);
err_free_buffers:
    expert_workspace_destroy(service->workspace);
    arena_destroy(service->arena);
    pthread_mutex_destroy(&service->mutex);
    free(service);
    if (status != STATUS_NO_MEMORY)
        return status;
err_no_memory:
    log_error("no memory to serve frames of %" PRIu32 " rows of %" PRIu32 " values; lower --memory",
              options->batch_rows, options->hidden);
    return STATUS_NO_MEMORY;
}

enum status service_attach(struct service *service, int fd, const char *peer) {
    pthread_mutex_lock(&service->mutex);
    bool taken = service->attached;
    if (!taken) {
        service->attached = true;
        service->offered_fd = fd;
        snprintf(service->offered_peer, sizeof service->offered_peer, "%s", peer);
    }
    pthread_mutex_unlock(&service->mutex);
    if (taken) {
        log_error("%s: this session has a data connection already; closing the new one", peer);
        close(fd);
        return STATUS_PROTOCOL;
    }
    transport_wake(service->transport);
    return STATUS_OK;
}

void service_destroy(struct service *service) {
    if (!service)
        return;
    pthread_mutex_lock(&service->mutex);
    service->stopping = true;
    pthread_mutex_unlock(&service->mutex);
    transport_wake(service->transport);
    pthread_join(service->thread, NULL);
    if (service->offered_fd >= 0)
        close(service->offered_fd);
    transport_destroy(service->transport);
    expert_workspace_destroy(service->workspace);
    arena_destroy(service->arena);
    pthread_mutex_destroy(&service->mutex);
    free(service);
}
