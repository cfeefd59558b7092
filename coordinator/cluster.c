/* One loop for all workers: each member is a small state machine that goes from connecting to
 * serving on the messages that come in, and the caller's thread runs the loop until all have
 * arrived or one is lost. Between connecting and loading, and after loading, a thread runs it,
 * because workers let go of a coordinator that falls silent; the caller stops that thread before it
 * touches the loop again.
 *
 * Shipping reads one shard after another on libuv's threads and keeps SHIP_WRITES_MAX chunks under
 * way for each worker: memory is one shard and 4 MiB for each, whatever the size of the model. */
#include "coordinator/cluster.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#include "common/address.h"
#include "common/clock.h"
#include "common/limits.h"
#include "common/log.h"
#include "coordinator/dial.h"
#include "coordinator/measurement.h"
#include "proto/channel.h"
#include "proto/wire.h"

enum member_state {
    MEMBER_CONNECTING, /* resolving, connecting */
    MEMBER_GREETING,   /* Hello was sent */
    MEMBER_GREETED,    /* Welcome has come, and after measuring, what was measured */
    MEMBER_MEASURING,  /* Measure was sent */
    MEMBER_LINKING,    /* Figures have come; a data connection for probes is being made */
    MEMBER_LOADING,    /* Assign was sent; it loads, we ship */
    MEMBER_OPENING,    /* it is ready; the data connection is being made */
    MEMBER_SERVING,    /* the data connection is open */
    MEMBER_LOST,       /* it failed; the reason was logged */
    MEMBER_STATE_COUNT
};

static const char *const STATE_NAMES[MEMBER_STATE_COUNT] = {"connecting", "greeting", "greeted",
                                                            "measuring",  "linking",  "loading",
                                                            "opening",    "serving",  "lost"};

#define TO(state) (1u << (state))

/* The states that may follow each state; MEMBER_LOST follows all of them. */
static const unsigned NEXT_STATES[MEMBER_STATE_COUNT] = {
    [MEMBER_CONNECTING] = TO(MEMBER_GREETING),
    [MEMBER_GREETING] = TO(MEMBER_GREETED),
    [MEMBER_GREETED] = TO(MEMBER_MEASURING) | TO(MEMBER_LOADING),
    [MEMBER_MEASURING] = TO(MEMBER_LINKING),
    [MEMBER_LINKING] = TO(MEMBER_GREETED),
    [MEMBER_LOADING] = TO(MEMBER_OPENING),
    [MEMBER_OPENING] = TO(MEMBER_SERVING),
};

/* What is shipped to one worker. */
struct shipment {
    uint32_t *begin, *end; /* (ranges) of slots that it needs */
    size_t ranges, range;
    uint32_t slot; /* next in the current range */
    uint8_t *buffer;
    uint32_t buffer_slot;
    size_t bytes, offset; /* of the shard in the buffer; what of it was sent */
    uv_work_t read;
    bool reading;
    enum status read_status;
};

struct member {
    struct cluster *cluster;
    uint32_t index;
    enum member_state state;
    struct address address;
    struct worker_info info;
    uint64_t session_id;
    struct dial *dial;       /* while connecting, linking or opening */
    struct channel *channel; /* NULL before and after */
    int data_fd;             /* -1 before it is open and after it was taken */
    atomic_bool alive;
    uint64_t bytes_done, moved_ns; /* while loading: progress, and when it last grew */
    struct shipment shipment;
};

struct cluster {
    uv_loop_t loop;
    uv_async_t pause; /* makes the thread leave the loop */
    uv_timer_t timer; /* deadline of connecting or measuring; then looks for stalled loading */
    pthread_t thread;
    bool has_thread;
    bool closing;
    enum status status; /* of the first member that was lost */
    uint64_t fingerprint;
    struct machine_work work;         /* while measuring */
    struct cluster_load_options load; /* while loading */
    uint64_t bytes_total;
    uint32_t count;
    struct member members[]; /* (count) */
};

static void set_state(struct member *member, enum member_state state) {
    assert(state == MEMBER_LOST || NEXT_STATES[member->state] & TO(state));
    log_debug("worker %s: %s -> %s", member->info.address, STATE_NAMES[member->state],
              STATE_NAMES[state]);
    member->state = state;
}

/* Gives up on a worker without a line of its own; only the first call counts. */
static void lose(struct member *member, enum status status) {
    struct cluster *cluster = member->cluster;
    if (member->state == MEMBER_LOST)
        return;
    set_state(member, MEMBER_LOST);
    atomic_store(&member->alive, false);
    if (cluster->status == STATUS_OK)
        cluster->status = status;
    if (member->dial)
        dial_cancel(member->dial);
    member->dial = NULL;
    if (member->channel)
        channel_close(member->channel);
}

/* The same with the one line that says why. */
__attribute__((format(printf, 3, 4))) static void fail(struct member *member, enum status status,
                                                       const char *format, ...) {
    char text[LOG_LINE_BYTES_MAX / 2];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    cluster_lose(member->cluster, member->index, text);
    lose(member, status);
}

static void on_pause(uv_async_t *pause) {
    uv_stop(pause->loop);
}

static void *thread_main(void *argument) {
    struct cluster *cluster = argument;
    uv_run(&cluster->loop, UV_RUN_DEFAULT);
    return NULL;
}

static enum status start_thread(struct cluster *cluster) {
    if (pthread_create(&cluster->thread, NULL, thread_main, cluster)) {
        log_error("cannot start the thread that watches the workers; lower --threads");
        return STATUS_NO_MEMORY;
    }
    cluster->has_thread = true;
    return STATUS_OK;
}

static void stop_thread(struct cluster *cluster) {
    if (!cluster->has_thread)
        return;
    uv_async_send(&cluster->pause);
    pthread_join(cluster->thread, NULL);
    cluster->has_thread = false;
}

/* Runs the loop until every worker is in `state`, or one is lost. */
static enum status run_until(struct cluster *cluster, enum member_state state) {
    for (;;) {
        uint32_t arrived = 0;
        for (uint32_t i = 0; i < cluster->count; i++)
            arrived += cluster->members[i].state == state;
        if (cluster->status || arrived == cluster->count)
            return cluster->status;
        uv_run(&cluster->loop, UV_RUN_ONCE);
    }
}

static void say_hello(struct member *member) {
    char name[64] = "";
    gethostname(name, sizeof name - 1);
    Control__Hello hello = CONTROL__HELLO__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    hello.protocol_version = CONTROL_VERSION;
    hello.software_version = SKEIN_VERSION;
    hello.node_name = name;
    hello.fingerprint = member->cluster->fingerprint;
    message.kind_case = CONTROL__MESSAGE__KIND_HELLO;
    message.hello = &hello;
    channel_send(member->channel, &message);
}

static void say_goodbye(struct member *member) {
    Control__Goodbye goodbye = CONTROL__GOODBYE__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    message.kind_case = CONTROL__MESSAGE__KIND_GOODBYE;
    message.goodbye = &goodbye;
    channel_send(member->channel, &message);
}

/* The lists of an Assign, in one allocation: 4 by layer, then 4 by slot. */
static uint32_t *list_assignment(const struct cluster_load_options *load, uint32_t worker) {
    size_t layers = load->placement->layers, slots = load->placement->held[worker].count;
    uint32_t *lists = calloc(4 * layers + 4 * slots + 1, sizeof *lists);
    if (!lists)
        return NULL;
    uint32_t *by_slot = lists + 4 * layers;
    for (size_t i = 0; i < slots; i++) {
        const struct shard *shard = &load->placement->held[worker].shards[i];
        const struct shard_layout *layout = &load->layouts[shard->layer];
        lists[0 * layers + shard->layer] = layout->inner;
        lists[1 * layers + shard->layer] = layout->gate;
        lists[2 * layers + shard->layer] = layout->up;
        lists[3 * layers + shard->layer] = layout->down;
        by_slot[0 * slots + i] = shard->layer;
        by_slot[1 * slots + i] = shard->expert;
        by_slot[2 * slots + i] = shard->begin;
        by_slot[3 * slots + i] = shard->end;
    }
    return lists;
}

static enum status say_assign(struct member *member) {
    const struct cluster_load_options *load = &member->cluster->load;
    size_t layers = load->placement->layers, slots = load->placement->held[member->index].count;
    uint32_t *lists = list_assignment(load, member->index);
    if (!lists) {
        fail(member, STATUS_NO_MEMORY, "no memory to list its shards; end other programs");
        return STATUS_NO_MEMORY;
    }
    Control__Assign assign = CONTROL__ASSIGN__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    assign.fingerprint = load->fingerprint;
    assign.hidden = load->hidden;
    assign.batch_rows = load->batch_rows;
    assign.experts_per_token = load->experts_per_token;
    assign.exact_activations = load->exact;
    assign.n_layer_inner = assign.n_layer_gate_format = layers;
    assign.n_layer_up_format = assign.n_layer_down_format = layers;
    assign.layer_inner = lists;
    assign.layer_gate_format = lists + layers;
    assign.layer_up_format = lists + 2 * layers;
    assign.layer_down_format = lists + 3 * layers;
    assign.n_shard_layer = assign.n_shard_expert = slots;
    assign.n_shard_begin = assign.n_shard_end = slots;
    assign.shard_layer = lists + 4 * layers;
    assign.shard_expert = assign.shard_layer + slots;
    assign.shard_begin = assign.shard_layer + 2 * slots;
    assign.shard_end = assign.shard_layer + 3 * slots;
    message.kind_case = CONTROL__MESSAGE__KIND_ASSIGN;
    message.assign = &assign;
    channel_send(member->channel, &message);
    free(lists);
    return STATUS_OK;
}

static const struct shard *member_shard(const struct member *member, uint32_t slot) {
    return &member->cluster->load.placement->held[member->index].shards[slot];
}

static size_t slot_bytes(const struct member *member, uint32_t slot) {
    const struct shard *shard = member_shard(member, slot);
    return shard_bytes(&member->cluster->load.layouts[shard->layer], shard);
}

static void run_read(uv_work_t *work) {
    struct member *member = work->data;
    struct shipment *shipment = &member->shipment;
    const struct cluster_load_options *load = &member->cluster->load;
    const struct shard *shard = member_shard(member, shipment->buffer_slot);
    shipment->read_status =
        shard_read(load->weights, &load->layouts[shard->layer], shard, shipment->buffer);
}

static void continue_shipping(struct member *member);

static void on_read_done(uv_work_t *work, int error) {
    (void)error;
    struct member *member = work->data;
    struct shipment *shipment = &member->shipment;
    shipment->reading = false;
    if (member->state != MEMBER_LOADING || member->cluster->closing)
        return;
    if (shipment->read_status) {
        lose(member, shipment->read_status); /* the reader named file and tensor */
        return;
    }
    shipment->offset = 0;
    shipment->bytes = slot_bytes(member, shipment->buffer_slot);
    continue_shipping(member);
}

static void send_chunk(struct member *member) {
    struct shipment *shipment = &member->shipment;
    size_t rest = shipment->bytes - shipment->offset;
    Control__ShardData data = CONTROL__SHARD_DATA__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    data.slot = shipment->buffer_slot;
    data.offset = shipment->offset;
    data.data.data = shipment->buffer + shipment->offset;
    data.data.len = rest < SHIP_CHUNK_BYTES ? rest : SHIP_CHUNK_BYTES;
    message.kind_case = CONTROL__MESSAGE__KIND_SHARD_DATA;
    message.shard_data = &data;
    shipment->offset += data.data.len;
    channel_send(member->channel, &message);
}

/* Sends what the window allows of the shard in the buffer, then has the next one read. */
static void continue_shipping(struct member *member) {
    struct shipment *shipment = &member->shipment;
    if (shipment->reading)
        return;
    while (shipment->offset < shipment->bytes && channel_pending(member->channel) < SHIP_WRITES_MAX)
        send_chunk(member);
    if (shipment->offset < shipment->bytes || shipment->range == shipment->ranges)
        return;
    shipment->buffer_slot = shipment->slot++;
    if (shipment->slot == shipment->end[shipment->range] && ++shipment->range < shipment->ranges)
        shipment->slot = shipment->begin[shipment->range];
    shipment->reading = true;
    shipment->read.data = member;
    uv_queue_work(&member->cluster->loop, &shipment->read, run_read, on_read_done);
}

static void free_shipment(struct shipment *shipment) {
    free(shipment->begin);
    free(shipment->end);
    free(shipment->buffer);
    *shipment = (struct shipment){0};
}

/* Whether `need` lists ranges of the worker's slots in ascending order. */
static bool need_is_valid(const struct member *member, const Control__Need *need) {
    uint32_t slots = member->cluster->load.placement->held[member->index].count, last = 0;
    bool valid = need->n_begin == need->n_end && need->n_begin > 0 && need->n_begin <= slots;
    for (size_t i = 0; i < need->n_begin && valid; i++) {
        valid = need->begin[i] >= last && need->begin[i] < need->end[i] && need->end[i] <= slots;
        last = need->end[i];
    }
    return valid;
}

static enum status handle_need(struct member *member, const Control__Need *need) {
    struct shipment *shipment = &member->shipment;
    if (shipment->ranges > 0 || !need_is_valid(member, need)) {
        fail(member, STATUS_PROTOCOL,
             "asks for slots that it does not have; install the same "
             "release on both machines");
        return STATUS_PROTOCOL;
    }
    size_t largest = 0;
    for (size_t i = 0; i < need->n_begin; i++)
        for (uint32_t slot = need->begin[i]; slot < need->end[i]; slot++)
            if (slot_bytes(member, slot) > largest)
                largest = slot_bytes(member, slot);
    shipment->begin = calloc(need->n_begin, sizeof *shipment->begin);
    shipment->end = calloc(need->n_begin, sizeof *shipment->end);
    shipment->buffer = aligned_alloc(64, largest); /* shard_bytes is a multiple of 64 */
    if (!shipment->begin || !shipment->end || !shipment->buffer) {
        free_shipment(shipment);
        fail(member, STATUS_NO_MEMORY,
             "no memory for a shard of %zu bytes to send; end other "
             "programs, or give the worker its own --model",
             largest);
        return STATUS_NO_MEMORY;
    }
    memcpy(shipment->begin, need->begin, need->n_begin * sizeof *need->begin);
    memcpy(shipment->end, need->end, need->n_begin * sizeof *need->end);
    shipment->ranges = need->n_begin;
    shipment->slot = shipment->begin[0];
    continue_shipping(member);
    return STATUS_OK;
}

static void on_data_connected(void *context, int fd, const char *reason) {
    struct member *member = context;
    member->dial = NULL;
    if (fd < 0) {
        fail(member, STATUS_CONNECTION, "no data connection: %s; does a firewall allow only one?",
             reason);
        return;
    }
    uint8_t frame[sizeof(struct wire_header)];
    struct wire_header header = {.type = WIRE_OPEN, .sequence = member->session_id};
    wire_encode_header(&header, frame);
    /* The buffer of a fresh socket always has room for so little. */
    if (send(fd, frame, sizeof frame, MSG_NOSIGNAL) != (ssize_t)sizeof frame) {
        close(fd);
        fail(member, STATUS_CONNECTION, "closed the data connection at once; see its log");
        return;
    }
    member->data_fd = fd;
    set_state(member, member->state == MEMBER_LINKING ? MEMBER_GREETED : MEMBER_SERVING);
}

static enum status open_data(struct member *member) {
    if (dial_start(&member->cluster->loop, &member->address, on_data_connected, member,
                   &member->dial)) {
        fail(member, STATUS_CONNECTION, "no resources for a data connection; end other programs");
        return STATUS_CONNECTION;
    }
    return STATUS_OK;
}

static void report_progress(struct member *member, uint64_t bytes_done) {
    struct cluster *cluster = member->cluster;
    uint64_t share = cluster->load.placement->held[member->index].bytes, sum = 0;
    if (bytes_done > share)
        bytes_done = share;
    if (bytes_done != member->bytes_done)
        member->moved_ns = clock_now_ns();
    member->bytes_done = bytes_done;
    for (uint32_t i = 0; i < cluster->count; i++)
        sum += cluster->members[i].bytes_done;
    if (cluster->load.progress)
        cluster->load.progress(cluster->load.context, sum, cluster->bytes_total);
}

static enum status handle_ready(struct member *member) {
    report_progress(member, UINT64_MAX);
    set_state(member, MEMBER_OPENING);
    return open_data(member);
}

static enum status handle_figures(struct member *member, const Control__Figures *figures) {
    struct worker_info *info = &member->info;
    if (!measurement_take_figures(figures, &member->cluster->work, &info->figures)) {
        fail(member, STATUS_PROTOCOL,
             "sent figures that it was not asked for or that no machine has; install the same "
             "release on both machines");
        return STATUS_PROTOCOL;
    }
    info->figures.memory_bytes = info->memory_bytes;
    info->figures.threads = info->cores;
    memcpy(info->figures.isa, info->isa, sizeof info->isa);
    set_state(member, MEMBER_LINKING);
    return open_data(member);
}

/* Peers' names end up on terminals and in JSON. */
static void copy_plain(const char *text, size_t capacity, char *out) {
    size_t i = 0;
    for (; text[i] && i + 1 < capacity; i++)
        out[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    out[i] = '\0';
}

static enum status handle_welcome(struct member *member, const Control__Welcome *welcome) {
    struct worker_info *info = &member->info;
    if (welcome->protocol_version != CONTROL_VERSION) {
        fail(member, STATUS_PROTOCOL,
             "it speaks control protocol %u (skein-worker %.20s), this program %u (skein %s); "
             "upgrade the %s",
             welcome->protocol_version, welcome->software_version, CONTROL_VERSION, SKEIN_VERSION,
             welcome->protocol_version > CONTROL_VERSION ? "coordinator" : "worker");
        return STATUS_PROTOCOL;
    }
    copy_plain(welcome->node_name, sizeof info->name, info->name);
    copy_plain(welcome->isa, sizeof info->isa, info->isa);
    info->cores = welcome->cores;
    info->memory_bytes = welcome->memory_bytes;
    info->has_model = welcome->has_model;
    member->session_id = welcome->session_id;
    channel_trust(member->channel);
    set_state(member, MEMBER_GREETED);
    return STATUS_OK;
}

static enum status on_message(void *context, const Control__Message *message) {
    struct member *member = context;
    enum member_state state = member->state;
    switch (message->kind_case) {
    case CONTROL__MESSAGE__KIND_ERROR:
        fail(member, STATUS_PROTOCOL, "%.300s", message->error->text);
        return STATUS_PROTOCOL;
    case CONTROL__MESSAGE__KIND_WELCOME:
        if (state == MEMBER_GREETING)
            return handle_welcome(member, message->welcome);
        break;
    case CONTROL__MESSAGE__KIND_FIGURES:
        if (state == MEMBER_MEASURING)
            return handle_figures(member, message->figures);
        break;
    case CONTROL__MESSAGE__KIND_NEED:
        if (state == MEMBER_LOADING)
            return handle_need(member, message->need);
        break;
    case CONTROL__MESSAGE__KIND_PROGRESS:
        if (state == MEMBER_LOADING) {
            report_progress(member, message->progress->bytes_done);
            return STATUS_OK;
        }
        break;
    case CONTROL__MESSAGE__KIND_READY:
        if (state == MEMBER_LOADING)
            return handle_ready(member);
        break;
    default:
        break;
    }
    fail(member, STATUS_PROTOCOL, "sent %s while it was %s; is it a skein-worker of this release?",
         control_kind_name(message), STATE_NAMES[state]);
    return STATUS_PROTOCOL;
}

static void on_written(void *context) {
    struct member *member = context;
    if (member->state == MEMBER_LOADING && member->shipment.ranges > 0)
        continue_shipping(member);
}

static void on_end(void *context, enum status status) {
    struct member *member = context;
    member->channel = NULL;
    if (status == STATUS_OK || member->state == MEMBER_LOST)
        return;
    if (status == STATUS_PROTOCOL)
        lose(member, status);
    else if (status == STATUS_TIMEOUT)
        fail(member, STATUS_CONNECTION,
             "no sign of life for %d s; is the machine up, and the network?",
             HEALTH_MISSED_MAX * HEALTH_INTERVAL_MS / 1000);
    else if (status == STATUS_NO_MEMORY)
        fail(member, STATUS_NO_MEMORY, "no memory for its messages; end other programs");
    else if (member->state == MEMBER_GREETING)
        fail(member, STATUS_CONNECTION,
             "closed the connection instead of answering; is it a skein-worker?");
    else
        fail(member, STATUS_CONNECTION,
             "connection lost while it was %s; has skein-worker ended there?",
             STATE_NAMES[member->state]);
}

static const struct channel_handlers HANDLERS = {on_message, on_written, on_end};

static void on_connected(void *context, int fd, const char *reason) {
    struct member *member = context;
    member->dial = NULL;
    if (fd < 0) {
        fail(member, STATUS_CONNECTION, "%s; is skein-worker running there?", reason);
        return;
    }
    enum status status = channel_open(&member->cluster->loop, fd, member->info.address, &HANDLERS,
                                      member, &member->channel);
    if (status) {
        lose(member, status);
        return;
    }
    set_state(member, MEMBER_GREETING);
    say_hello(member);
}

static void on_connect_deadline(uv_timer_t *timer) {
    struct cluster *cluster = timer->data;
    for (uint32_t i = 0; i < cluster->count && !cluster->status; i++) {
        struct member *member = &cluster->members[i];
        if (member->state == MEMBER_CONNECTING)
            fail(member, STATUS_CONNECTION,
                 "no connection within %d s; is the machine up, and does a firewall let us in?",
                 CONNECT_TIMEOUT_MS / 1000);
        else if (member->state == MEMBER_GREETING)
            fail(member, STATUS_CONNECTION, "no answer within %d s; is it a skein-worker?",
                 CONNECT_TIMEOUT_MS / 1000);
    }
}

static enum status add_member(struct cluster *cluster, uint32_t index, const char *address) {
    struct member *member = &cluster->members[index];
    *member = (struct member){.cluster = cluster, .index = index, .data_fd = -1};
    atomic_init(&member->alive, true);
    if (!address_parse(address, &member->address)) {
        log_error("worker %s: not an address; write HOST:PORT, for example 192.168.0.2:7717",
                  address);
        return STATUS_USAGE;
    }
    member->info.address = strdup(address);
    cluster->count = index + 1;
    if (!member->info.address ||
        dial_start(&cluster->loop, &member->address, on_connected, member, &member->dial)) {
        log_error("worker %s: no resources to connect; end other programs", address);
        return STATUS_NO_MEMORY;
    }
    return STATUS_OK;
}

static enum status create(uint32_t count, uint64_t fingerprint, struct cluster **out) {
    struct cluster *cluster = NULL;
    if (count > WORKERS_MAX) {
        log_error("%" PRIu32 " workers, at most %d are allowed", count, WORKERS_MAX);
        return STATUS_USAGE;
    }
    cluster = calloc(1, sizeof *cluster + count * sizeof *cluster->members);
    if (!cluster || uv_loop_init(&cluster->loop)) {
        log_error("no memory for a cluster of %" PRIu32 " workers; end other programs", count);
        free(cluster);
        return STATUS_NO_MEMORY;
    }
    uv_async_init(&cluster->loop, &cluster->pause, on_pause);
    uv_timer_init(&cluster->loop, &cluster->timer);
    cluster->timer.data = cluster;
    cluster->fingerprint = fingerprint;
    *out = cluster;
    return STATUS_OK;
}

enum status cluster_connect(const char *const *addresses, uint32_t count, uint64_t fingerprint,
                            struct cluster **out) {
    struct cluster *cluster;
    enum status status = create(count, fingerprint, &cluster);
    if (status)
        return status;
    for (uint32_t i = 0; i < count && !status; i++)
        status = add_member(cluster, i, addresses[i]);
    uv_timer_start(&cluster->timer, on_connect_deadline, CONNECT_TIMEOUT_MS, 0);
    if (!status)
        status = run_until(cluster, MEMBER_GREETED);
    uv_timer_stop(&cluster->timer);
    if (!status)
        status = start_thread(cluster);
    if (status) {
        cluster_destroy(cluster);
        return status;
    }
    *out = cluster;
    return STATUS_OK;
}

static void on_measure_deadline(uv_timer_t *timer) {
    struct cluster *cluster = timer->data;
    for (uint32_t i = 0; i < cluster->count && !cluster->status; i++) {
        struct member *member = &cluster->members[i];
        if (member->state == MEMBER_MEASURING || member->state == MEMBER_LINKING)
            fail(member, STATUS_TIMEOUT,
                 "has not measured its machine within %d s; is that busy with other programs?",
                 MEASURE_TIMEOUT_MS / 1000);
    }
}

/* The loop's thread keeps the health reports flowing meanwhile. */
static enum status probe_link(struct cluster *cluster, struct member *member) {
    int fd = cluster_take_data_socket(cluster, member->index);
    enum status status = measurement_probe_link(fd, member->info.address, &member->info.link);
    if (status == STATUS_OK) {
        member->info.is_measured = true;
        return status;
    }
    stop_thread(cluster);
    if (status == STATUS_TIMEOUT)
        fail(member, status,
             "did not answer all probes of its link within %d s; is the network "
             "that slow, or the machine busy?",
             PROBE_TIMEOUT_MS / 1000);
    else if (status == STATUS_CONNECTION)
        fail(member, status, "closed the data connection while its link was measured; see its log");
    else
        cluster_lose(cluster, member->index, NULL);
    lose(member, status);
    return cluster->status; /* of who noticed first */
}

enum status cluster_measure(struct cluster *cluster, const struct machine_work *work,
                            const bool *wanted) {
    stop_thread(cluster);
    cluster->work = *work;
    for (uint32_t i = 0; i < cluster->count && !cluster->status; i++) {
        struct member *member = &cluster->members[i];
        if (wanted && !wanted[i])
            continue;
        set_state(member, MEMBER_MEASURING);
        measurement_ask(member->channel, work);
    }
    uv_timer_start(&cluster->timer, on_measure_deadline, MEASURE_TIMEOUT_MS, 0);
    enum status status = run_until(cluster, MEMBER_GREETED);
    uv_timer_stop(&cluster->timer);
    if (!status)
        status = start_thread(cluster);
    for (uint32_t i = 0; i < cluster->count && !status; i++)
        if (!wanted || wanted[i])
            status = probe_link(cluster, &cluster->members[i]);
    return status;
}

void cluster_destroy(struct cluster *cluster) {
    if (!cluster)
        return;
    stop_thread(cluster);
    cluster->closing = true;
    for (uint32_t i = 0; i < cluster->count; i++) {
        struct member *member = &cluster->members[i];
        if (member->dial)
            dial_cancel(member->dial);
        if (!member->channel)
            continue;
        say_goodbye(member);
        channel_finish(member->channel);
    }
    uv_close((uv_handle_t *)&cluster->timer, NULL);
    uv_close((uv_handle_t *)&cluster->pause, NULL);
    uv_run(&cluster->loop, UV_RUN_DEFAULT);
    uv_loop_close(&cluster->loop);
    for (uint32_t i = 0; i < cluster->count; i++) {
        struct member *member = &cluster->members[i];
        free_shipment(&member->shipment);
        if (member->data_fd >= 0)
            close(member->data_fd);
        free((char *)member->info.address);
    }
    free(cluster);
}

static void on_stall_tick(uv_timer_t *timer) {
    struct cluster *cluster = timer->data;
    for (uint32_t i = 0; i < cluster->count && !cluster->status; i++) {
        struct member *member = &cluster->members[i];
        if (member->state == MEMBER_LOADING &&
            clock_elapsed_s(member->moved_ns) * 1000 > LOAD_STALL_MS)
            fail(member, STATUS_TIMEOUT,
                 "loaded nothing for %d s; is a disk or file server stuck, there or here?",
                 LOAD_STALL_MS / 1000);
    }
}

enum status cluster_load(struct cluster *cluster, const struct cluster_load_options *options) {
    assert(options->placement->holders >= cluster->count);
    stop_thread(cluster);
    cluster->load = *options;
    cluster->bytes_total = 0;
    for (uint32_t i = 0; i < cluster->count && !cluster->status; i++) {
        struct member *member = &cluster->members[i];
        cluster->bytes_total += options->placement->held[i].bytes;
        member->moved_ns = clock_now_ns();
        set_state(member, MEMBER_LOADING);
        say_assign(member);
    }
    uv_timer_start(&cluster->timer, on_stall_tick, HEALTH_INTERVAL_MS, HEALTH_INTERVAL_MS);
    enum status status = run_until(cluster, MEMBER_SERVING);
    uv_timer_stop(&cluster->timer);
    for (uint32_t i = 0; i < cluster->count && !status; i++)
        free_shipment(&cluster->members[i].shipment);
    return status ? status : start_thread(cluster);
}

uint32_t cluster_size(const struct cluster *cluster) {
    return cluster->count;
}

const struct worker_info *cluster_worker(const struct cluster *cluster, uint32_t worker) {
    return &cluster->members[worker].info;
}

int cluster_take_data_socket(struct cluster *cluster, uint32_t worker) {
    int fd = cluster->members[worker].data_fd;
    cluster->members[worker].data_fd = -1;
    return fd;
}

void cluster_lose(struct cluster *cluster, uint32_t worker, const char *reason) {
    struct member *member = &cluster->members[worker];
    if (atomic_exchange(&member->alive, false) && reason)
        log_error("worker %s: %s", member->info.address, reason);
}

bool cluster_is_alive(const struct cluster *cluster, uint32_t worker) {
    return atomic_load(&cluster->members[worker].alive);
}
