/* Until everything is loaded for the first time a lost worker may end it all: the cluster's
 * `status` keeps why. From then on it is called back, and given what it held before. */
#include "coordinator/member.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/cluster_limits.h"
#include "common/log.h"
#include "coordinator/measurement.h"
#include "proto/wire.h"

static const char *const STATE_NAMES[MEMBER_STATE_COUNT] = {
    "connecting", "greeting", "greeted", "measuring", "linking",
    "loading",    "opening",  "serving", "extending", "lost"};

#define TO(state) (1u << (state))

/* The states that may follow each state. */
static const unsigned NEXT_STATES[MEMBER_STATE_COUNT] = {
    [MEMBER_CONNECTING] = TO(MEMBER_GREETING) | TO(MEMBER_LOST),
    [MEMBER_GREETING] = TO(MEMBER_GREETED) | TO(MEMBER_LOST),
    [MEMBER_GREETED] = TO(MEMBER_MEASURING) | TO(MEMBER_LOADING) | TO(MEMBER_LOST),
    [MEMBER_MEASURING] = TO(MEMBER_LINKING) | TO(MEMBER_LOST),
    [MEMBER_LINKING] = TO(MEMBER_GREETED) | TO(MEMBER_LOST),
    [MEMBER_LOADING] = TO(MEMBER_OPENING) | TO(MEMBER_LOST),
    [MEMBER_OPENING] = TO(MEMBER_SERVING) | TO(MEMBER_LOST),
    [MEMBER_SERVING] = TO(MEMBER_EXTENDING) | TO(MEMBER_LOST),
    [MEMBER_EXTENDING] = TO(MEMBER_SERVING) | TO(MEMBER_LOST),
    [MEMBER_LOST] = TO(MEMBER_CONNECTING),
};

void member_note_change(struct cluster *cluster) {
    atomic_fetch_add(&cluster->changes, 1);
    eventfd_write(cluster->wake_fd, 1); /* a full counter can be read all the same */
    pthread_cond_broadcast(&cluster->changed);
}

static uint32_t member_index(const struct member *member) {
    return (uint32_t)(member - member->cluster->members);
}

/* Says whether other workers may be sent to this one. */
static void note_health(struct member *member) {
    const struct source_health health = {
        .usable = member->channel && member->state >= MEMBER_LOADING &&
                  member->state != MEMBER_LOST && !member->silent,
        .is_local = member->is_local,
        .is_leaving = member->leaving || !member->listed,
    };
    sources_set_health(member->cluster->sources, member_index(member), health);
}

static void set_state(struct member *member, enum member_state state) {
    assert(NEXT_STATES[member->state] & TO(state));
    log_debug("worker %s: %s -> %s", member->info.address, STATE_NAMES[member->state],
              STATE_NAMES[state]);
    member->since_ns = clock_now_ns();
    pthread_mutex_lock(&member->cluster->mutex);
    member->state = state;
    member_note_change(member->cluster);
    pthread_mutex_unlock(&member->cluster->mutex);
    note_health(member);
}

static uint64_t elapsed_ms(uint64_t since_ns) {
    return (clock_now_ns() - since_ns) / 1000000;
}

static void say_goodbye(struct member *member) {
    Control__Goodbye goodbye = CONTROL__GOODBYE__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    message.kind_case = CONTROL__MESSAGE__KIND_GOODBYE;
    message.goodbye = &goodbye;
    channel_send(member->channel, &message);
    channel_finish(member->channel);
}

/* Whether to go on without the worker for now; the mutex is held. Until all is loaded that is not
 * so where the reason lies here or in the configuration, or where the worker refuses its
 * assignment.
 */
static bool may_return(const struct member *member, enum status status) {
    const struct cluster *cluster = member->cluster;
    if (cluster->is_loaded || !cluster->tolerates_loss)
        return cluster->is_loaded;
    switch (status) {
    case STATUS_CONNECTION:
    case STATUS_TIMEOUT:
        return true;
    case STATUS_PROTOCOL:
        return cluster->may_load || member->state > MEMBER_GREETING;
    case STATUS_REFUSED:
        return cluster->may_load && member->state < MEMBER_LOADING;
    default:
        return false;
    }
}

/* Gives up on a worker without a line of its own; only the first call counts. */
static void lose(struct member *member, enum status status) {
    struct cluster *cluster = member->cluster;
    if (member->state == MEMBER_LOST)
        return;
    bool earned = (member->state == MEMBER_SERVING || member->state == MEMBER_EXTENDING) &&
                  elapsed_ms(member->since_ns) > RECONNECT_MAX_MS;
    atomic_store(&member->alive, false);
    pthread_mutex_lock(&cluster->mutex);
    bool dismissed = member->dismissed;
    member->reconnect_ms = member->begins_anew                       ? RECONNECT_ANEW_MS
                           : earned || !member->reconnect_ms         ? RECONNECT_MIN_MS
                           : member->reconnect_ms < RECONNECT_MAX_MS ? member->reconnect_ms * 2
                                                                     : RECONNECT_MAX_MS;
    member->served = 0;
    member->serves = member->silent = member->leaving = member->dropped = member->dismissed = false;
    member->begins_anew = false;
    member->to_measure = false;
    if (member->data_fd >= 0)
        close(member->data_fd);
    member->data_fd = -1;
    if (!may_return(member, status) && cluster->status == STATUS_OK)
        cluster->status = status;
    pthread_mutex_unlock(&cluster->mutex);
    set_state(member, MEMBER_LOST);
    shipment_end(member->shipment);
    member->shipment = NULL;
    sources_forget(cluster->sources, member_index(member));
    if (member->dial)
        dial_cancel(member->dial);
    member->dial = NULL;
    if (member->channel && dismissed)
        say_goodbye(member);
    else if (member->channel)
        channel_close(member->channel);
}

void member_log_loss(struct member *member, const char *reason) {
    if (atomic_exchange(&member->alive, false) && reason)
        log_error("worker %s: %s", member->info.address, reason);
}

/* Loses the worker with the one line that says why. */
__attribute__((format(printf, 3, 4))) static void fail(struct member *member, enum status status,
                                                       const char *format, ...) {
    char text[LOG_LINE_BYTES_MAX / 2];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (member->reconnect_ms > 0 && !atomic_load(&member->alive) &&
        strcmp(member->refusal, text) != 0)
        log_warning("worker %s, which was lost: %s", member->info.address, text);
    snprintf(member->refusal, sizeof member->refusal, "%s", text);
    member_log_loss(member, text);
    lose(member, status);
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

/* The lists of an Assign, in one allocation. */
struct assignment_lists {
    uint32_t *layouts; /* 4 by layout, one behind the other */
    uint32_t *slots;   /* (slot_count) */
    uint32_t *shards;  /* 4 by slot, one behind the other */
    uint32_t *released;
    size_t layout_count, slot_count, released_count;
};

static bool is_to_be_assigned(const struct member_slot *slot) {
    return slot->is_wanted && (!slot->is_assigned || slot->is_released);
}

/* What the worker is to hold or to release and was not yet asked to; the mutex is held. */
static bool take_lists(const struct member *member, struct assignment_lists *lists) {
    size_t layouts = SHARD_LAYOUTS(member->cluster->load.placement->layers), slots = 0;
    size_t released = 0;
    for (uint32_t slot = 0; slot < member->count; slot++) {
        slots += is_to_be_assigned(&member->slots[slot]);
        released += member->slots[slot].is_released && member->slots[slot].is_assigned;
    }
    uint32_t *all = calloc(4 * layouts + 5 * slots + released + 1, sizeof *all);
    *lists = (struct assignment_lists){
        .layouts = all, .layout_count = layouts, .slot_count = slots, .released_count = released};
    if (!all)
        return false;
    lists->slots = all + 4 * layouts;
    lists->shards = lists->slots + slots;
    lists->released = lists->shards + 4 * slots;
    return true;
}

static void list_layouts(const struct member *member, const struct assignment_lists *lists) {
    for (size_t i = 0; i < lists->layout_count; i++) {
        const struct shard_layout *layout = &member->cluster->load.placement->layouts[i];
        lists->layouts[0 * lists->layout_count + i] = layout->inner;
        lists->layouts[1 * lists->layout_count + i] = layout->gate;
        lists->layouts[2 * lists->layout_count + i] = layout->up;
        lists->layouts[3 * lists->layout_count + i] = layout->down;
    }
}

/* Takes note that the worker is asked for all that it is to hold, and lists what is new to it; the
 * mutex is held. */
static enum status list_slots(struct member *member, const struct assignment_lists *lists) {
    struct sources *sources = member->cluster->sources;
    uint32_t index = member_index(member), added = 0, released = 0;
    size_t slots = lists->slot_count;
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < member->count && !status; i++) {
        struct member_slot *slot = &member->slots[i];
        bool is_new = is_to_be_assigned(slot);
        if (slot->is_released)
            sources_release(sources, index, i);
        if (slot->is_released && slot->is_assigned) {
            lists->released[released++] = i;
            member->assigned--;
        }
        slot->is_released = false;
        slot->is_assigned = slot->is_wanted;
        if (!is_new)
            continue;
        lists->slots[added] = i;
        lists->shards[0 * slots + added] = slot->shard.layer;
        lists->shards[1 * slots + added] = slot->shard.expert;
        lists->shards[2 * slots + added] = slot->shard.begin;
        lists->shards[3 * slots + added] = slot->shard.end;
        added++;
        member->assigned++;
        status = sources_assign(sources, index, i, &slot->shard);
    }
    for (uint32_t i = 0; member->state == MEMBER_LOADING && !status && i < member->spilled_count;
         i++)
        sources_spill(sources, index, member->spilled[i]);
    member->asked = member->given;
    member->to_release = false;
    return status;
}

static void send_assign(struct member *member, const struct assignment_lists *lists) {
    const struct cluster_load_options *load = &member->cluster->load;
    size_t layouts = lists->layout_count, slots = lists->slot_count;
    Control__Assign assign = CONTROL__ASSIGN__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    assign.fingerprint = load->fingerprint;
    assign.hidden = load->hidden;
    assign.batch_rows = load->batch_rows;
    assign.experts_per_token = load->entries_per_row;
    assign.exact_activations = load->exact;
    assign.wants_spans = load->wants_spans;
    if (member->state == MEMBER_LOADING) {
        assign.n_layer_inner = assign.n_layer_gate_format = assign.n_layer_up_format =
            assign.n_layer_down_format = layouts;
        assign.n_spilled_slot = member->spilled_count;
        assign.spilled_slot = member->spilled;
    }
    assign.layer_inner = lists->layouts;
    assign.layer_gate_format = lists->layouts + layouts;
    assign.layer_up_format = lists->layouts + 2 * layouts;
    assign.layer_down_format = lists->layouts + 3 * layouts;
    assign.n_released_slot = lists->released_count;
    assign.released_slot = lists->released;
    assign.n_slot = assign.n_shard_layer = assign.n_shard_expert = slots;
    assign.n_shard_begin = assign.n_shard_end = slots;
    assign.slot = lists->slots;
    assign.shard_layer = lists->shards;
    assign.shard_expert = lists->shards + slots;
    assign.shard_begin = lists->shards + 2 * slots;
    assign.shard_end = lists->shards + 3 * slots;
    message.kind_case = CONTROL__MESSAGE__KIND_ASSIGN;
    message.assign = &assign;
    channel_send(member->channel, &message);
}

/* Assigns what the worker was not yet asked to hold, and has it release what it no longer is to. */
static void say_assign(struct member *member) {
    struct assignment_lists lists;
    enum status status = STATUS_NO_MEMORY;
    pthread_mutex_lock(&member->cluster->mutex);
    if (take_lists(member, &lists))
        status = list_slots(member, &lists);
    pthread_mutex_unlock(&member->cluster->mutex);
    if (status) {
        fail(member, STATUS_NO_MEMORY, "no memory to list its shards; end other programs");
    } else {
        member->releases = lists.released_count > 0;
        list_layouts(member, &lists);
        send_assign(member, &lists);
    }
    free(lists.layouts);
}

void member_advance(struct member *member) {
    struct cluster *cluster = member->cluster;
    pthread_mutex_lock(&cluster->mutex);
    bool leaves = member->dropped || member->dismissed;
    bool measures = member->state == MEMBER_GREETED && member->to_measure;
    bool loads = member->state == MEMBER_GREETED && cluster->may_load;
    bool extends =
        member->state == MEMBER_SERVING && (member->given > member->asked || member->to_release);
    pthread_mutex_unlock(&cluster->mutex);
    if (leaves) {
        lose(member, STATUS_CONNECTION);
    } else if (measures) {
        set_state(member, MEMBER_MEASURING);
        measurement_ask(member->channel, &cluster->work);
    } else if (loads || extends) {
        set_state(member, loads ? MEMBER_LOADING : MEMBER_EXTENDING);
        say_assign(member);
    }
}

static void on_shipment_failed(void *context, enum status status) {
    lose(context, status); /* the reader named file and tensor */
}

static void say_source(struct member *member, uint32_t slot, const char *peer) {
    Control__Source source = CONTROL__SOURCE__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    source.slot = slot;
    source.peer = (char *)peer;
    message.kind_case = CONTROL__MESSAGE__KIND_SOURCE;
    message.source = &source;
    channel_send(member->channel, &message);
}

/* The next shard to send; what other workers have is named on the way. */
static bool next_shard(void *context, struct shipment_item *out) {
    struct member *member = context;
    struct cluster *cluster = member->cluster;
    uint32_t slot, peer;
    while (channel_pending(member->channel) < SHIP_SOURCES_MAX) {
        switch (sources_next(cluster->sources, member_index(member), &slot, &peer)) {
        case SOURCE_PEER:
            say_source(member, slot, cluster->members[peer].peer);
            break;
        case SOURCE_HERE:
            pthread_mutex_lock(&cluster->mutex);
            *out = (struct shipment_item){slot, member->slots[slot].shard};
            pthread_mutex_unlock(&cluster->mutex);
            return true;
        case SOURCE_LATER:
            member->since_ns = clock_now_ns(); /* it waits for us */
            return false;
        default:
            return false;
        }
    }
    return false;
}

static void on_shard_sent(void *context, uint32_t slot) {
    struct member *member = context;
    sources_note_sent(member->cluster->sources, member_index(member), slot);
}

static size_t largest_shard(const struct member *member) {
    size_t largest = 0;
    pthread_mutex_lock(&member->cluster->mutex);
    for (uint32_t i = 0; i < member->count; i++) {
        const struct member_slot *slot = &member->slots[i];
        if (!slot->is_assigned)
            continue;
        size_t bytes = placement_shard_bytes(member->cluster->load.placement, &slot->shard);
        if (bytes > largest)
            largest = bytes;
    }
    pthread_mutex_unlock(&member->cluster->mutex);
    return largest;
}

static enum status handle_need(struct member *member, const Control__Need *need) {
    struct cluster *cluster = member->cluster;
    if (need->n_begin != need->n_end || !sources_need(cluster->sources, member_index(member),
                                                      need->begin, need->end, need->n_begin)) {
        fail(member, STATUS_PROTOCOL,
             "asks for slots that it does not have; install the same "
             "release on both machines");
        return STATUS_PROTOCOL;
    }
    const struct shipment_options options = {
        .loop = &cluster->loop,
        .channel = member->channel,
        .weights = cluster->load.weights,
        .placement = cluster->load.placement,
        .shard_bytes_max = largest_shard(member),
        .next = next_shard,
        .sent = on_shard_sent,
        .failed = on_shipment_failed,
        .context = member,
    };
    member->since_ns = clock_now_ns(); /* it waits for another source */
    if (!member->shipment && shipment_start(&options, &member->shipment)) {
        fail(member, STATUS_NO_MEMORY,
             "no memory for a shard to send; end other programs, or give the worker its own "
             "--model");
        return STATUS_NO_MEMORY;
    }
    shipment_continue(member->shipment);
    return STATUS_OK;
}

/* The worker serves all that it was asked to hold. */
static void begin_serving(struct member *member, int data_fd) {
    struct cluster *cluster = member->cluster;
    pthread_mutex_lock(&cluster->mutex);
    member->served = member->asked;
    member->serves = true;
    if (data_fd >= 0) {
        member->data_fd = data_fd;
        member->session++;
    }
    pthread_mutex_unlock(&cluster->mutex);
    atomic_store(&member->alive, true);
    set_state(member, MEMBER_SERVING);
    if (data_fd >= 0 && member->reconnect_ms > 0)
        log_warning("worker %s %s with %" PRIu32 " shards", member->info.address,
                    member->session > 1 ? "is back" : "joins", member->assigned);
    member_advance(member);
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
    if (member->state == MEMBER_OPENING) {
        begin_serving(member, fd);
        return;
    }
    pthread_mutex_lock(&member->cluster->mutex);
    member->data_fd = fd;
    member->to_measure = false;
    pthread_mutex_unlock(&member->cluster->mutex);
    set_state(member, MEMBER_GREETED);
}

static enum status open_data(struct member *member) {
    if (dial_start(&member->cluster->loop, &member->address, on_data_connected, member,
                   &member->dial)) {
        fail(member, STATUS_CONNECTION, "no resources for a data connection; end other programs");
        return STATUS_CONNECTION;
    }
    return STATUS_OK;
}

static void report_progress(struct member *member, uint64_t bytes_done, uint64_t bytes_given) {
    struct cluster *cluster = member->cluster;
    struct cluster_loading loading = {.worker = member_index(member),
                                      .bytes_total = cluster->bytes_total};
    pthread_mutex_lock(&cluster->mutex);
    if (bytes_done > member->bytes)
        bytes_done = member->bytes;
    if (bytes_done != member->bytes_done)
        member->since_ns = clock_now_ns();
    member->bytes_done = bytes_done;
    member->bytes_given = bytes_given < bytes_done ? bytes_given : bytes_done;
    for (uint32_t i = 0; i < cluster->count; i++) {
        loading.bytes_done += cluster->members[i].bytes_done;
        loading.bytes_given += cluster->members[i].bytes_given;
    }
    loading.worker_bytes_done = member->bytes_done;
    loading.worker_bytes_total = member->bytes;
    /* Under the mutex: once cluster_load has returned, its context is gone. */
    if (!cluster->is_loaded && cluster->load.progress)
        cluster->load.progress(cluster->load.context, &loading);
    pthread_mutex_unlock(&cluster->mutex);
}

/* The worker is ready. */
static void note_sources(struct member *member) {
    uint32_t given = sources_note_ready(member->cluster->sources, member_index(member));
    if (given > 0)
        log_info("worker %s got %" PRIu32 " of its %" PRIu32 " shards from other workers",
                 member->info.address, given, member->assigned);
}

static enum status handle_ready(struct member *member, const Control__Ready *ready) {
    if (ready->slots != member->assigned) {
        fail(member, STATUS_PROTOCOL,
             "is ready with %" PRIu32 " shards, it was given %" PRIu32
             "; install the same release on both machines",
             ready->slots, member->assigned);
        return STATUS_PROTOCOL;
    }
    report_progress(member, UINT64_MAX, member->bytes_given);
    shipment_end(member->shipment);
    member->shipment = NULL;
    note_sources(member);
    if (member->state == MEMBER_EXTENDING) {
        begin_serving(member, -1);
        return STATUS_OK;
    }
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
    info->figures.spill_bytes = info->spill_bytes;
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
    if (member->session == 0) { /* others may read it from now on */
        copy_plain(welcome->node_name, sizeof info->name, info->name);
        copy_plain(welcome->isa, sizeof info->isa, info->isa);
        info->cores = welcome->cores;
        info->memory_bytes = welcome->memory_bytes;
        info->spill_bytes = welcome->spill_bytes;
        info->has_model = welcome->has_model;
    }
    member->session_id = welcome->session_id;
    channel_trust(member->channel);
    set_state(member, MEMBER_GREETED);
    member_advance(member);
    return STATUS_OK;
}

static void handle_drain(struct member *member) {
    pthread_mutex_lock(&member->cluster->mutex);
    member->leaving = true;
    member_note_change(member->cluster);
    pthread_mutex_unlock(&member->cluster->mutex);
}

static bool is_loading(const struct member *member) {
    return member->state == MEMBER_LOADING || member->state == MEMBER_EXTENDING;
}

static enum status on_message(void *context, const Control__Message *message) {
    struct member *member = context;
    switch (message->kind_case) {
    case CONTROL__MESSAGE__KIND_ERROR:
        fail(member, STATUS_REFUSED, "%.300s", message->error->text);
        return STATUS_REFUSED;
    case CONTROL__MESSAGE__KIND_WELCOME:
        if (member->state == MEMBER_GREETING)
            return handle_welcome(member, message->welcome);
        break;
    case CONTROL__MESSAGE__KIND_FIGURES:
        if (member->state == MEMBER_MEASURING)
            return handle_figures(member, message->figures);
        break;
    case CONTROL__MESSAGE__KIND_NEED:
        if (is_loading(member))
            return handle_need(member, message->need);
        break;
    case CONTROL__MESSAGE__KIND_PROGRESS:
        if (is_loading(member)) {
            report_progress(member, message->progress->bytes_done,
                            message->progress->bytes_from_workers);
            return STATUS_OK;
        }
        break;
    case CONTROL__MESSAGE__KIND_READY:
        if (is_loading(member))
            return handle_ready(member, message->ready);
        break;
    case CONTROL__MESSAGE__KIND_DRAIN:
        if (member->state >= MEMBER_GREETED) {
            handle_drain(member);
            return STATUS_OK;
        }
        break;
    default:
        break;
    }
    fail(member, STATUS_PROTOCOL, "sent %s while it was %s; is it a skein-worker of this release?",
         control_kind_name(message), STATE_NAMES[member->state]);
    return STATUS_PROTOCOL;
}

static void on_written(void *context) {
    struct member *member = context;
    if (member->shipment)
        shipment_continue(member->shipment);
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
    struct sockaddr_storage name = {0};
    socklen_t length = sizeof name;
    getpeername(fd, (struct sockaddr *)&name, &length);
    address_format((struct sockaddr *)&name, member->peer);
    member->is_local = address_is_loopback((struct sockaddr *)&name);
    enum status status = channel_open(&member->cluster->loop, fd, member->info.address, &HANDLERS,
                                      member, &member->channel);
    if (status) {
        lose(member, status);
        return;
    }
    set_state(member, MEMBER_GREETING);
    say_hello(member);
}

/* A lost worker is tried again, once nothing is left of the last time. */
static void reconnect(struct member *member) {
    if (member->channel || elapsed_ms(member->since_ns) < member->reconnect_ms)
        return;
    pthread_mutex_lock(&member->cluster->mutex);
    bool wanted =
        member->listed && member->cluster->may_load && may_return(member, STATUS_CONNECTION);
    member->bytes_done = member->bytes_given = 0;
    member->asked = member->assigned = 0;
    for (uint32_t slot = 0; slot < member->count; slot++)
        member->slots[slot].is_assigned = false;
    pthread_mutex_unlock(&member->cluster->mutex);
    if (!wanted)
        return;
    set_state(member, MEMBER_CONNECTING);
    if (dial_start(&member->cluster->loop, &member->address, on_connected, member, &member->dial))
        lose(member, STATUS_NO_MEMORY);
}

static void watch_silence(struct member *member) {
    struct cluster *cluster = member->cluster;
    bool silent = channel_is_silent(member->channel);
    pthread_mutex_lock(&cluster->mutex);
    if (member->silent != silent)
        member_note_change(cluster);
    member->silent = silent;
    pthread_mutex_unlock(&cluster->mutex);
}

static void check_deadline(struct member *member) {
    uint64_t ms = elapsed_ms(member->since_ns);
    switch (member->state) {
    case MEMBER_CONNECTING:
        if (ms >= CONNECT_TIMEOUT_MS)
            fail(member, STATUS_CONNECTION,
                 "no connection within %d s; is the machine up, and does a firewall let us in?",
                 CONNECT_TIMEOUT_MS / 1000);
        break;
    case MEMBER_GREETING:
        if (ms >= CONNECT_TIMEOUT_MS)
            fail(member, STATUS_CONNECTION, "no answer within %d s; is it a skein-worker?",
                 CONNECT_TIMEOUT_MS / 1000);
        break;
    case MEMBER_MEASURING:
        if (ms >= MEASURE_TIMEOUT_MS)
            fail(member, STATUS_TIMEOUT,
                 "has not measured its machine within %d s; is that busy with other programs?",
                 MEASURE_TIMEOUT_MS / 1000);
        break;
    case MEMBER_LINKING:
    case MEMBER_OPENING:
        if (ms >= CONNECT_TIMEOUT_MS)
            fail(member, STATUS_CONNECTION,
                 "no data connection within %d s; does a firewall allow only one?",
                 CONNECT_TIMEOUT_MS / 1000);
        break;
    case MEMBER_LOADING:
    case MEMBER_EXTENDING:
        if (ms >= (member->releases ? RELEASE_STALL_MS : LOAD_STALL_MS))
            fail(member, STATUS_TIMEOUT,
                 "loaded nothing for %" PRIu64 " s; is a disk or file server stuck, there or here?",
                 ms / 1000);
        break;
    case MEMBER_LOST:
        reconnect(member);
        break;
    default:
        break;
    }
}

void member_tick(struct member *member) {
    check_deadline(member);
    if (member->channel && member->state != MEMBER_LOST)
        watch_silence(member);
    note_health(member);
    if (member->shipment)
        shipment_continue(member->shipment); /* what it waits for may be within reach now */
}

void member_close(struct member *member) {
    if (member->dial)
        dial_cancel(member->dial);
    member->dial = NULL;
    shipment_end(member->shipment);
    member->shipment = NULL;
    if (member->channel)
        say_goodbye(member);
}

enum status member_start(struct member *member, struct cluster *cluster, const char *address) {
    *member = (struct member){.cluster = cluster, .data_fd = -1, .listed = address != NULL};
    atomic_init(&member->alive, member->listed);
    if (!address) {
        member->state = MEMBER_LOST;
        return STATUS_OK;
    }
    if (!address_parse(address, &member->address)) {
        log_error("worker %s: not an address; write HOST:PORT, for example 192.168.0.2:7717",
                  address);
        return STATUS_USAGE;
    }
    member->info.address = strdup(address);
    member->since_ns = clock_now_ns();
    if (!member->info.address ||
        dial_start(&cluster->loop, &member->address, on_connected, member, &member->dial)) {
        log_error("worker %s: no resources to connect; end other programs", address);
        return STATUS_NO_MEMORY;
    }
    return STATUS_OK;
}

enum status member_enlist(struct member *member, const char *address) {
    struct cluster *cluster = member->cluster;
    const char *copy = member->info.address ? member->info.address : strdup(address);
    if (!copy) {
        log_error("worker %s: no memory to call it; end other programs", address);
        return STATUS_NO_MEMORY;
    }
    address_parse(copy, &member->address);
    if (member->state == MEMBER_LOST) {
        /* It is called at once, and told why if it does not come, like those of the first list. */
        member->since_ns = 0;
        member->refusal[0] = '\0';
        atomic_store(&member->alive, true);
    }
    pthread_mutex_lock(&cluster->mutex);
    member->info.address = copy;
    member->listed = true;
    if (member->state == MEMBER_LOST)
        member->reconnect_ms = RECONNECT_MIN_MS;
    member_note_change(cluster);
    pthread_mutex_unlock(&cluster->mutex);
    return STATUS_OK;
}

void member_delist(struct member *member) {
    struct cluster *cluster = member->cluster;
    pthread_mutex_lock(&cluster->mutex);
    member->listed = false;
    bool breaks_off = !member->serves && member->state != MEMBER_LOST;
    member->dismissed |= breaks_off;
    member_note_change(cluster);
    pthread_mutex_unlock(&cluster->mutex);
    if (breaks_off)
        lose(member, STATUS_CONNECTION);
}
