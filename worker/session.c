/* Every control connection is a client. One of them at most is the coordinator; the states below
 * are its progress. A client that greets while another coordinator is served is told so; one that
 * greets in the moment in which the previous session still winds down waits for that.
 *
 * Measuring, loading (with the assignment, which may have to give back much memory) and the end of
 * the service may take long, so they run as jobs on libuv's threads. While one of them runs the
 * loop's thread leaves store and pool alone; session_end() therefore only asks it to hurry, and the
 * session is over when none is left. Answering probes needs none of these and may go on beside
 * them.
 *
 * A session that is ready may be given more to hold, or told to release something. It then loads
 * and receives a second time with the service at work; that one has the pool, so the job reads with
 * its own thread alone. What is to be released nobody looks up any more before the job begins: not
 * the service, not a giver, and not the keeper, whose job has to end first.
 *
 * What is missing comes from the coordinator and, where that names them, from other workers
 * (fetcher), mixed; what those do not give the coordinator is asked for again.
 *
 * What has come is written to the cache beside all that (keeper), and other workers may be given it
 * (giver). */
#include "worker/session.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "common/address.h"
#include "common/clock.h"
#include "common/cluster_limits.h"
#include "common/config.h"
#include "common/log.h"
#include "common/machine_record.h"
#include "proto/channel.h"
#include "worker/fetcher.h"
#include "worker/giver.h"
#include "worker/keeper.h"
#include "worker/load_job.h"
#include "worker/notify.h"
#include "worker/probe.h"
#include "worker/service.h"
#include "worker/spill.h"
#include "worker/store_loading.h"

#define PROGRESS_INTERVAL_MS 250

enum session_state {
    SESSION_IDLE,      /* no coordinator */
    SESSION_GREETED,   /* Welcome was sent; a wish to measure or the assignment comes next */
    SESSION_MEASURING, /* a job finds out what this machine can do */
    SESSION_LOADING,   /* a job takes memory and reads the worker's own copy */
    SESSION_RECEIVING, /* the coordinator and other workers send what is missing */
    SESSION_READY,     /* the service answers frames */
    SESSION_ENDING,    /* the coordinator is gone; jobs have to finish first */
    SESSION_CLOSED,    /* session_close was called; nothing begins any more */
    SESSION_STATE_COUNT
};

static const char *const STATE_NAMES[SESSION_STATE_COUNT] = {
    "idle", "greeted", "measuring", "loading", "receiving", "ready", "ending", "closed"};

#define TO(state) (1u << (state))

/* The states that may follow each state. */
static const unsigned NEXT_STATES[SESSION_STATE_COUNT] = {
    [SESSION_IDLE] = TO(SESSION_GREETED) | TO(SESSION_CLOSED),
    [SESSION_GREETED] = TO(SESSION_MEASURING) | TO(SESSION_LOADING) | TO(SESSION_ENDING),
    [SESSION_MEASURING] = TO(SESSION_GREETED) | TO(SESSION_ENDING),
    [SESSION_LOADING] = TO(SESSION_RECEIVING) | TO(SESSION_READY) | TO(SESSION_ENDING),
    [SESSION_RECEIVING] = TO(SESSION_READY) | TO(SESSION_ENDING),
    [SESSION_READY] = TO(SESSION_LOADING) | TO(SESSION_ENDING),
    [SESSION_ENDING] = TO(SESSION_IDLE),
};

struct client {
    struct session *session;
    struct client *next;
    struct channel *channel;
    struct giver *giver; /* of another worker that asks for shards; else NULL */
    bool said_hello;
    bool waiting; /* greeted while the previous session was winding down */
    uint64_t fingerprint;
    char name[64]; /* node name and address, for messages */
};

/* What the coordinator wants to know, as long as it is being measured. */
struct measure_job {
    uv_work_t work;
    struct session *session;
    struct machine_work products;
    struct machine_figures figures;
    enum status status;
};

struct session {
    struct session_options options;
    enum session_state state;
    bool closing;
    struct client *clients;
    unsigned client_count;
    struct givers *givers;      /* shards to other workers */
    struct client *coordinator; /* NULL when idle or ending */
    bool draining;
    uint64_t id; /* of this session; 0 when idle */
    uv_timer_t progress;
    struct measure_job *measure_job; /* while measuring */
    struct probe *probe;             /* while a coordinator measures its link */
    struct load_job *job;            /* while loading */
    struct fetcher *fetcher;         /* while receiving, from the first time a peer is named */
    uint64_t bytes_filled;           /* while receiving */
    uint64_t bytes_fetched;          /* of these, from other workers */
    uint32_t slots_missing;
    struct shard_cache *cache; /* from the first assignment until the end; NULL: none */
    struct keeper *keeper;     /* to that cache */
    bool keeps;                /* what was shipped */
    struct service *service;   /* from the first time it is ready until the end */
    struct spill *spill;       /* as long as that; NULL: nothing is spilled */
    bool distrusts_disk;       /* something spilled could not be read since all was verified */
    struct service_options service_options;
    uv_work_t stop_work;
};

/* What is said to coordinators that come too late. */
#define DRAINING "it is being drained; use another worker"

/* What is said to one whose shards find no place on the disk. */
#define CANNOT_WRITE                                                                               \
    "it cannot write spilled shards to its disk; make room there or lower its --spill"

/* What `systemctl status` shows. */
static void tell_manager(const struct session *session) {
    const char *name = session->coordinator ? session->coordinator->name : "";
    if (session->state == SESSION_IDLE)
        notify_status("waiting for a coordinator");
    else if (session->state == SESSION_LOADING || session->state == SESSION_RECEIVING)
        notify_status("loading shards for %s", name);
    else if (session->state == SESSION_READY)
        notify_status("%" PRIu32 " shards loaded, serving %s",
                      expert_store_held(session->options.store), name);
}

static void set_state(struct session *session, enum session_state state) {
    assert(NEXT_STATES[session->state] & TO(state));
    log_debug("session: %s -> %s", STATE_NAMES[session->state], STATE_NAMES[state]);
    session->state = state;
    tell_manager(session);
}

static void say_drain(struct client *client) {
    Control__Drain drain = CONTROL__DRAIN__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    message.kind_case = CONTROL__MESSAGE__KIND_DRAIN;
    message.drain = &drain;
    channel_send(client->channel, &message);
}

static void say_error(struct client *client, const char *text) {
    Control__Error error = CONTROL__ERROR__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    error.text = (char *)text;
    message.kind_case = CONTROL__MESSAGE__KIND_ERROR;
    message.error = &error;
    channel_send(client->channel, &message);
    channel_finish(client->channel);
}

/* What may lie on the disk: as much as that has room for. */
static uint64_t spill_bytes(const struct session_options *options) {
    uint64_t bytes =
        options->spill_bytes > 0 ? shard_cache_disk_bytes(options->cache_directory) : 0;
    return bytes < options->spill_bytes ? bytes : options->spill_bytes;
}

static void say_welcome(struct session *session) {
    const struct session_options *options = &session->options;
    char name[64] = "";
    gethostname(name, sizeof name - 1);
    Control__Welcome welcome = CONTROL__WELCOME__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    welcome.protocol_version = CONTROL_VERSION;
    welcome.software_version = SKEIN_VERSION;
    welcome.node_name = name;
    welcome.isa = (char *)options->isa;
    welcome.cores = threads_count(options->threads);
    welcome.memory_bytes = options->memory_bytes;
    welcome.spill_bytes = spill_bytes(options);
    welcome.has_model =
        options->weights && options->fingerprint == session->coordinator->fingerprint;
    welcome.session_id = session->id;
    message.kind_case = CONTROL__MESSAGE__KIND_WELCOME;
    message.welcome = &welcome;
    channel_send(session->coordinator->channel, &message);
}

static void say_progress(struct session *session, uint64_t bytes_done, uint64_t bytes_total) {
    Control__Progress progress = CONTROL__PROGRESS__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    progress.bytes_done = bytes_done;
    progress.bytes_total = bytes_total;
    progress.bytes_from_workers = session->bytes_fetched;
    message.kind_case = CONTROL__MESSAGE__KIND_PROGRESS;
    message.progress = &progress;
    channel_send(session->coordinator->channel, &message);
}

static void say_ready(struct session *session) {
    Control__Ready ready = CONTROL__READY__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    ready.slots = expert_store_held(session->options.store);
    message.kind_case = CONTROL__MESSAGE__KIND_READY;
    message.ready = &ready;
    channel_send(session->coordinator->channel, &message);
}

/* Asks for the slots (count) that are marked, in ranges. */
static enum status say_need(struct session *session, const bool *marks, uint32_t count) {
    uint32_t *begin = calloc((size_t)count + 1, sizeof *begin);
    uint32_t *end = calloc((size_t)count + 1, sizeof *end);
    enum status status = begin && end ? STATUS_OK : STATUS_NO_MEMORY;
    if (!status) {
        Control__Need need = CONTROL__NEED__INIT;
        Control__Message message = CONTROL__MESSAGE__INIT;
        for (uint32_t slot = 0; slot < count; slot++) {
            if (!marks[slot])
                continue;
            if (need.n_end == 0 || end[need.n_end - 1] != slot)
                begin[need.n_end++] = slot;
            end[need.n_end - 1] = slot + 1;
        }
        need.begin = begin;
        need.end = end;
        need.n_begin = need.n_end;
        message.kind_case = CONTROL__MESSAGE__KIND_NEED;
        message.need = &need;
        channel_send(session->coordinator->channel, &message);
    }
    free(begin);
    free(end);
    return status;
}

/* Asks for the slots that are not filled. */
static enum status say_missing(struct session *session) {
    const struct expert_store *store = session->options.store;
    uint32_t count = expert_store_count(store);
    bool *marks = calloc((size_t)count + 1, sizeof *marks);
    for (uint32_t slot = 0; marks && slot < count; slot++)
        marks[slot] = !expert_store_is_filled(store, slot);
    enum status status = marks ? say_need(session, marks, count) : STATUS_NO_MEMORY;
    free(marks);
    return status;
}

static void greet(struct session *session, struct client *client) {
    session->coordinator = client;
    while (session->id == 0)
        if (getrandom(&session->id, sizeof session->id, 0) < 0)
            session->id = uv_hrtime(); /* early in boot: still differs from the last session's */
    set_state(session, SESSION_GREETED);
    channel_trust(client->channel);
    log_info("serving coordinator %s", client->name);
    say_welcome(session);
}

static void become_idle(struct session *session) {
    set_state(session, SESSION_IDLE);
    shard_cache_close(session->cache);
    session->cache = NULL;
    keeper_reset(session->keeper);
    session->id = 0;
    if (session->closing) {
        set_state(session, SESSION_CLOSED);
        return;
    }
    if (session->draining) {
        session->options.drained(session->options.context);
        return;
    }
    for (struct client *client = session->clients; client; client = client->next) {
        if (!client->waiting)
            continue;
        client->waiting = false;
        if (session->state == SESSION_IDLE)
            greet(session, client);
        else
            say_error(client, "busy with another coordinator that came at the same time");
    }
}

/* Of an ending session: whether it is over. */
static void end_when_quiet(struct session *session) {
    if (session->state == SESSION_ENDING && !session->measure_job && !session->probe &&
        !session->job && !keeper_is_writing(session->keeper) && !session->service)
        become_idle(session);
}

static void stop_service(uv_work_t *work) {
    struct session *session = work->data;
    service_destroy(session->service);
    session->distrusts_disk |= session->spill && spill_fault(session->spill);
    spill_destroy(session->spill);
}

static void on_service_stopped(uv_work_t *work, int error) {
    (void)error;
    struct session *session = work->data;
    session->service = NULL;
    session->spill = NULL;
    end_when_quiet(session);
}

/* The coordinator is gone or is being sent away; its channel ends by itself. Its shards are written
 * to the cache to the end, unless somebody waits for that. */
static void session_end(struct session *session) {
    session->coordinator = NULL;
    uv_timer_stop(&session->progress);
    fetcher_destroy(session->fetcher);
    session->fetcher = NULL;
    givers_stop(session->givers);
    set_state(session, SESSION_ENDING);
    if (session->job) {
        atomic_store(&session->job->cancelled, true);
        expert_store_cancel_load(session->options.store);
    }
    if (session->closing || session->draining)
        keeper_stop(session->keeper);
    if (session->service) {
        session->stop_work.data = session;
        uv_queue_work(session->options.loop, &session->stop_work, stop_service, on_service_stopped);
    }
    if (session->probe)
        probe_stop(session->probe);
    end_when_quiet(session);
}

/* Sends the coordinator away with a sentence. */
static void dismiss(struct session *session, const char *text) {
    struct client *coordinator = session->coordinator;
    log_error("sending coordinator %s away: %s", coordinator->name, text);
    say_error(coordinator, text);
    session_end(session);
}

static void on_progress(uv_timer_t *timer) {
    struct session *session = timer->data;
    if (session->state == SESSION_LOADING)
        say_progress(session, atomic_load(&session->job->bytes_done),
                     atomic_load(&session->job->bytes_total));
    else
        say_progress(session,
                     session->bytes_filled +
                         (session->fetcher ? fetcher_bytes_under_way(session->fetcher) : 0),
                     expert_store_bytes(session->options.store));
}

/* Has what has come written to the cache. */
static void keep_shards(struct session *session) {
    if (session->keeps && session->cache)
        keeper_continue(session->keeper, session->cache);
}

static void start_job(struct session *session);

static void on_kept(void *context) {
    struct session *session = context;
    if (session->job && session->job->waits)
        start_job(session);
    else if (!session->job && !keeper_was_stopped(session->keeper))
        keep_shards(session);
    end_when_quiet(session);
}

/* Whether files are to be read by io_uring, where the system allows that. */
static bool uses_uring(const struct session_options *options) {
    return !options->transport || strcmp(options->transport, "sockets") != 0;
}

/* The service, and what reads its spilled shards. */
static enum status start_service(struct session *session) {
    const struct session_options *options = &session->options;
    struct service_options *service = &session->service_options;
    enum status status = STATUS_OK;
    if (expert_store_spilled_bytes(options->store)) {
        const struct spill_options spill = {options->store, session->cache, options->threads,
                                            uses_uring(options)};
        status = spill_create(&spill, &session->spill);
    }
    service->spill = session->spill;
    if (!status)
        status = service_create(service, &session->service);
    if (status) {
        spill_destroy(session->spill);
        session->spill = NULL;
    }
    return status;
}

/* All shards are there. */
static void become_ready(struct session *session) {
    struct expert_store *store = session->options.store;
    uv_timer_stop(&session->progress);
    fetcher_destroy(session->fetcher);
    session->fetcher = NULL;
    expert_store_serve(store);
    enum status status = STATUS_OK;
    if (!session->service)
        status = start_service(session);
    if (status) {
        dismiss(session, status == STATUS_NO_MEMORY
                             ? "no memory left for the buffers of its frames; lower its --memory"
                             : "cannot serve this assignment; its log says why");
        return;
    }
    set_state(session, SESSION_READY);
    uint64_t bytes = expert_store_bytes(store);
    char held[CONFIG_SIZE_TEXT];
    log_info("ready with %" PRIu32 " shards, %s (%" PRIu64 " bytes), for coordinator %s",
             expert_store_held(store), config_format_size(bytes, held), bytes,
             session->coordinator->name);
    say_progress(session, bytes, bytes);
    say_ready(session);
    keep_shards(session);
}

static void run_measure_job(uv_work_t *work) {
    struct measure_job *job = work->data;
    const struct session_options *options = &job->session->options;
    job->status = machine_record_complete(options->cache_directory, options->threads,
                                          &job->products, MACHINE_MEASURE_BYTES, &job->figures);
    if (!job->status && options->spill_bytes > 0)
        machine_record_complete_disk(options->cache_directory, &job->figures);
}

static void say_figures(struct session *session, const struct measure_job *job) {
    uint32_t formats[WEIGHT_FORMAT_COUNT];
    double decode[WEIGHT_FORMAT_COUNT], batch[WEIGHT_FORMAT_COUNT];
    size_t count = 0;
    for (uint32_t format = 0; format < WEIGHT_FORMAT_COUNT; format++) {
        if (!(job->products.formats >> format & 1))
            continue;
        formats[count] = format;
        decode[count] = job->figures.formats[format].decode_bytes_per_s;
        batch[count++] = job->figures.formats[format].batch_macs_per_s;
    }
    Control__Figures figures = CONTROL__FIGURES__INIT;
    Control__Message message = CONTROL__MESSAGE__INIT;
    figures.read_bytes_per_s = job->figures.read_bytes_per_s;
    figures.disk_bytes_per_s = job->figures.disk_bytes_per_s;
    figures.n_format = figures.n_decode_bytes_per_s = figures.n_batch_macs_per_s = count;
    figures.format = formats;
    figures.decode_bytes_per_s = decode;
    figures.batch_macs_per_s = batch;
    message.kind_case = CONTROL__MESSAGE__KIND_FIGURES;
    message.figures = &figures;
    channel_send(session->coordinator->channel, &message);
}

static void on_measured(uv_work_t *work, int error) {
    (void)error;
    struct measure_job *job = work->data;
    struct session *session = job->session;
    session->measure_job = NULL;
    if (session->state == SESSION_ENDING) {
        end_when_quiet(session);
    } else if (job->status) {
        dismiss(session, "no memory left to measure its machine with; lower its --memory");
    } else {
        set_state(session, SESSION_GREETED);
        say_figures(session, job);
    }
    free(job);
}

static void handle_measure(struct session *session, const Control__Measure *measure) {
    const struct session_options *options = &session->options;
    uint32_t formats = 0;
    for (size_t i = 0; i < measure->n_format; i++) {
        if (measure->format[i] >= WEIGHT_FORMAT_COUNT) {
            dismiss(session, "it cannot measure a weight format that it does not know; install the "
                             "same release on both machines");
            return;
        }
        formats |= 1u << measure->format[i];
    }
    struct measure_job *job = calloc(1, sizeof *job);
    if (!job) {
        dismiss(session, "no memory left; lower its --memory");
        return;
    }
    job->session = session;
    job->products = (struct machine_work){formats, measure->exact_activations};
    job->figures.threads = threads_count(options->threads);
    snprintf(job->figures.isa, sizeof job->figures.isa, "%s", options->isa);
    job->work.data = job;
    session->measure_job = job;
    set_state(session, SESSION_MEASURING);
    uv_queue_work(options->loop, &job->work, run_measure_job, on_measured);
}

static void run_load_job(uv_work_t *work) {
    load_job_run(work->data);
}

static const char *assign_error_text(enum status status) {
    if (status == STATUS_NO_MEMORY)
        return "the assignment does not fit its memory; raise its --memory or add workers";
    if (status == STATUS_REFUSED)
        return "it cannot keep so many shards on its disk, or has too little memory to read them; "
               "raise its --spill or --memory, as its log says";
    if (status == STATUS_IO)
        return CANNOT_WRITE;
    return "it refuses the assignment as out of bounds; install the same release on both machines";
}

static void on_loaded(uv_work_t *work, int error) {
    (void)error;
    struct load_job *job = work->data;
    struct session *session = job->context;
    struct expert_store *store = session->options.store;
    enum status status = job->status;
    session->job = NULL;
    session->cache = job->cache;
    if (job->extends)
        keeper_renew(session->keeper, job->slots, job->assignment.shard_count);
    if (job->verifies && !status && !atomic_load(&job->cancelled))
        session->distrusts_disk = false;
    load_job_destroy(job);
    if (session->state == SESSION_ENDING) {
        end_when_quiet(session);
        return;
    }
    if (status) {
        dismiss(session, assign_error_text(status));
        return;
    }
    session->bytes_filled = expert_store_bytes_filled(store);
    session->bytes_fetched = 0;
    session->slots_missing = 0;
    for (uint32_t slot = 0; slot < expert_store_count(store); slot++)
        session->slots_missing += !expert_store_is_filled(store, slot);
    if (session->slots_missing == 0) {
        become_ready(session);
        return;
    }
    set_state(session, SESSION_RECEIVING);
    if (say_missing(session))
        dismiss(session, "no memory left; lower its --memory");
}

static void start_job(struct session *session) {
    session->job->waits = false;
    uv_queue_work(session->options.loop, &session->job->work, run_load_job, on_loaded);
}

/* What the job is to release is nobody's any more; only then may it begin. */
static void release_slots(struct session *session, struct load_job *job) {
    expert_store_withdraw(session->options.store, job->released, job->released_count);
    givers_release(session->givers);
    job->waits = job->released_count > 0 && keeper_is_writing(session->keeper);
    if (job->waits)
        keeper_stop(session->keeper);
}

static void handle_assign(struct session *session, const Control__Assign *assign) {
    const struct session_options *options = &session->options;
    bool extends = session->state == SESSION_READY;
    const char *fault = load_job_find_fault(assign, extends ? options->store : NULL);
    struct load_job *job = fault ? NULL : load_job_create(assign);
    if (!job) {
        dismiss(session, fault ? fault : "no memory left for the assignment; lower its --memory");
        return;
    }
    if (session->state == SESSION_GREETED)
        session->service_options =
            (struct service_options){.threads = options->threads,
                                     .store = options->store,
                                     .hidden = assign->hidden,
                                     .inner_max = load_job_inner_max(assign),
                                     .batch_rows = assign->batch_rows,
                                     .entries_per_row = assign->experts_per_token,
                                     .head_rows = load_job_head_rows(assign),
                                     .tells_spans = assign->wants_spans,
                                     .transport = options->transport};
    if (options->weights && options->fingerprint == assign->fingerprint)
        job->weights = options->weights;
    session->keeps = !job->weights && options->cache_bytes_max > 0;
    job->context = session;
    job->store = options->store;
    job->threads = options->threads;
    job->cache_directory = options->cache_directory;
    job->cache_bytes_max = options->cache_bytes_max;
    job->uses_uring = uses_uring(options);
    job->cache = session->cache;
    job->extends = extends;
    job->verifies = session->distrusts_disk;
    job->work.data = job;
    session->job = job;
    set_state(session, SESSION_LOADING);
    release_slots(session, job);
    if (!job->waits)
        start_job(session);
    uv_timer_start(&session->progress, on_progress, PROGRESS_INTERVAL_MS, PROGRESS_INTERVAL_MS);
}

/* A slot is filled: whoever waits for it gets it, and if it was the last one, all are there. */
static void slot_filled(struct session *session) {
    givers_continue(session->givers);
    if (--session->slots_missing == 0)
        become_ready(session);
    else if (!expert_store_spilled_bytes(
                 session->options.store)) /* whose files one writes at a time */
        keep_shards(session);
}

static const char *fill_error_text(enum status status) {
    if (status == STATUS_PROTOCOL)
        return "shipped bytes came out of order";
    return status == STATUS_IO ? CANNOT_WRITE : "no memory left for a shard; lower its --memory";
}

static void handle_shard_data(struct session *session, const Control__ShardData *data) {
    struct expert_store *store = session->options.store;
    enum status status =
        expert_store_fill(store, data->slot, data->offset, data->data.data, data->data.len);
    if (!status && expert_store_is_filled(store, data->slot) &&
        expert_store_is_spilled(store, data->slot))
        status = store_spill(store, data->slot, session->cache);
    if (status) {
        dismiss(session, fill_error_text(status));
        return;
    }
    session->bytes_filled += data->data.len;
    if (expert_store_is_filled(store, data->slot))
        slot_filled(session);
}

static void on_fetched(void *context, uint32_t slot) {
    struct session *session = context;
    session->bytes_filled += expert_store_slot_bytes(session->options.store, slot);
    session->bytes_fetched += expert_store_slot_bytes(session->options.store, slot);
    slot_filled(session);
}

static void on_fetch_failed(void *context, const uint32_t *slots, size_t count) {
    struct session *session = context;
    uint32_t end = expert_store_count(session->options.store);
    bool *marks = calloc((size_t)end + 1, sizeof *marks);
    for (size_t i = 0; marks && i < count; i++)
        marks[slots[i]] = true;
    if (!marks || say_need(session, marks, end))
        dismiss(session, "no memory left; lower its --memory");
    free(marks);
}

/* Another worker has a slot's shard. */
static void handle_source(struct session *session, const Control__Source *source) {
    const struct fetcher_options options = {session->options.loop, session->options.store,
                                            on_fetched, on_fetch_failed, session};
    enum status status = STATUS_OK;
    if (!session->fetcher)
        status = fetcher_create(&options, &session->fetcher);
    if (!status)
        status = fetcher_add(session->fetcher, source->peer, source->slot);
    if (status == STATUS_REFUSED)
        on_fetch_failed(session, &source->slot, 1);
    else if (status == STATUS_NO_MEMORY)
        dismiss(session, "no memory left; lower its --memory");
    else if (status)
        dismiss(session,
                "it cannot ask for a shard that it has, or at such an address; install the "
                "same release on both machines");
}

/* How many slots other workers may be given. A job that assigns anew changes the store; one that
 * extends it leaves the slots that are served alone, and only those. */
static uint32_t givable_slots(const struct session *session, bool *served) {
    const struct expert_store *store = session->options.store;
    *served = session->state == SESSION_LOADING;
    if (session->state == SESSION_RECEIVING || session->state == SESSION_READY)
        return expert_store_count(store);
    return *served && session->job->extends ? expert_store_served_end(store) : 0;
}

void session_drain(struct session *session) {
    if (session->draining)
        return;
    session->draining = true;
    if (session->state == SESSION_ENDING)
        keeper_stop(session->keeper);
    for (struct client *client = session->clients; client; client = client->next) {
        if (client->waiting)
            say_error(client, DRAINING);
        client->waiting = false;
    }
    if (session->coordinator)
        say_drain(session->coordinator);
    else if (session->state == SESSION_IDLE)
        session->options.drained(session->options.context);
}

/* Somebody wants this worker to end. */
static void handle_drain(struct client *client) {
    log_info("%s has this worker drained", channel_peer(client->channel));
    client->said_hello = true;
    say_drain(client);
    session_drain(client->session);
}

static void handle_hello(struct client *client, const Control__Hello *hello) {
    struct session *session = client->session;
    char text[256];
    client->said_hello = true;
    client->fingerprint = hello->fingerprint;
    snprintf(client->name, sizeof client->name, "%.30s (%s)", hello->node_name,
             channel_peer(client->channel));
    if (hello->protocol_version != CONTROL_VERSION) {
        snprintf(
            text, sizeof text,
            "it speaks control protocol %u (skein-worker %s), the coordinator %u (skein %.20s); "
            "upgrade the %s",
            CONTROL_VERSION, SKEIN_VERSION, hello->protocol_version, hello->software_version,
            hello->protocol_version > CONTROL_VERSION ? "worker" : "coordinator");
        log_error("coordinator %s: %s", client->name, text);
        say_error(client, text);
    } else if (session->draining) {
        say_error(client, DRAINING);
    } else if (session->coordinator) {
        snprintf(text, sizeof text,
                 "it is busy with coordinator %s; end that one, or use another worker",
                 session->coordinator->name);
        log_warning("coordinator %s was sent away: busy with %s", client->name,
                    session->coordinator->name);
        say_error(client, text);
    } else if (session->state == SESSION_IDLE) {
        greet(session, client);
    } else {
        client->waiting = true;
        keeper_stop(session->keeper);
    }
}

static enum status refuse_message(const struct client *client, const Control__Message *message) {
    log_error("%s sent %s when the session was %s; closing its control connection",
              channel_peer(client->channel), control_kind_name(message),
              STATE_NAMES[client->session->state]);
    return STATUS_PROTOCOL;
}

static enum status on_message(void *context, const Control__Message *message) {
    struct client *client = context;
    struct session *session = client->session;
    if (message->kind_case == CONTROL__MESSAGE__KIND_HELLO && !client->said_hello) {
        handle_hello(client, message->hello);
        return STATUS_OK;
    }
    if (message->kind_case == CONTROL__MESSAGE__KIND_DRAIN && !client->said_hello) {
        handle_drain(client);
        return STATUS_OK;
    }
    if (message->kind_case == CONTROL__MESSAGE__KIND_FETCH &&
        (!client->said_hello || client->giver)) {
        bool served;
        uint32_t slots = givable_slots(session, &served);
        client->said_hello = true;
        return givers_take(session->givers, client->channel, message->fetch, slots, served,
                           &client->giver);
    }
    if (client != session->coordinator)
        return refuse_message(client, message);
    if (message->kind_case == CONTROL__MESSAGE__KIND_MEASURE && session->state == SESSION_GREETED) {
        handle_measure(session, message->measure);
    } else if (message->kind_case == CONTROL__MESSAGE__KIND_ASSIGN &&
               (session->state == SESSION_GREETED || session->state == SESSION_READY)) {
        handle_assign(session, message->assign);
    } else if (message->kind_case == CONTROL__MESSAGE__KIND_SHARD_DATA &&
               session->state == SESSION_RECEIVING) {
        handle_shard_data(session, message->shard_data);
    } else if (message->kind_case == CONTROL__MESSAGE__KIND_SOURCE &&
               session->state == SESSION_RECEIVING) {
        handle_source(session, message->source);
    } else if (message->kind_case == CONTROL__MESSAGE__KIND_GOODBYE) {
        log_info("coordinator %s says goodbye", client->name);
        channel_finish(client->channel);
        session_end(session);
    } else {
        return refuse_message(client, message);
    }
    return STATUS_OK;
}

/* A message has left. */
static void on_written(void *context) {
    struct client *client = context;
    if (client->giver)
        giver_continue(client->giver);
}

static void on_end(void *context, enum status status) {
    struct client *client = context;
    struct session *session = client->session;
    giver_destroy(client->giver);
    struct client **link = &session->clients;
    while (*link != client)
        link = &(*link)->next;
    *link = client->next;
    session->client_count--;
    if (session->coordinator == client) {
        log_warning("coordinator %s is gone (%s); free for the next one", client->name,
                    status_name(status));
        session_end(session);
    } else if (status != STATUS_OK) {
        log_info("control connection of %s ended (%s)", client->name, status_name(status));
    }
    free(client);
}

static const struct channel_handlers HANDLERS = {on_message, on_written, on_end};

enum status session_create(const struct session_options *options, struct session **out) {
    struct session *session = calloc(1, sizeof *session);
    if (!session || givers_create(options->store, &session->givers) ||
        keeper_create(options->loop, options->store, on_kept, session, &session->keeper)) {
        log_error("no memory for a session; end other programs");
        givers_destroy(session ? session->givers : NULL);
        free(session);
        return STATUS_NO_MEMORY;
    }
    session->options = *options;
    session->state = SESSION_IDLE;
    uv_timer_init(options->loop, &session->progress);
    session->progress.data = session;
    *out = session;
    return STATUS_OK;
}

void session_accept_control(struct session *session, int fd, const char *peer) {
    struct client *client = NULL;
    if (session->client_count < CONTROL_CONNECTIONS_MAX)
        client = calloc(1, sizeof *client);
    if (!client) {
        log_warning("%s was sent away: %u control connections are open", peer,
                    session->client_count);
        close(fd);
        return;
    }
    client->session = session;
    snprintf(client->name, sizeof client->name, "%s", peer);
    if (channel_open(session->options.loop, fd, peer, &HANDLERS, client, &client->channel)) {
        free(client);
        return;
    }
    client->next = session->clients;
    session->clients = client;
    session->client_count++;
}

static void on_probe_done(void *context) {
    struct session *session = context;
    session->probe = NULL;
    end_when_quiet(session);
}

void session_accept_data(struct session *session, int fd, uint64_t session_id, const char *peer) {
    bool is_known = session_id == session->id && session->coordinator;
    if (is_known && session->service) {
        service_attach(session->service, fd, peer);
    } else if (is_known && session->state == SESSION_GREETED && !session->probe) {
        probe_start(session->options.loop, fd, peer, session->options.transport, on_probe_done,
                    session, &session->probe);
    } else {
        log_error("%s opened a data connection for a session that does not exist, or not now; "
                  "closing it",
                  peer);
        close(fd);
    }
}

void session_close(struct session *session) {
    session->closing = true;
    for (struct client *client = session->clients; client; client = client->next) {
        client->waiting = false;
        channel_close(client->channel);
    }
    if (session->coordinator)
        session_end(session);
    else
        keeper_stop(session->keeper);
    if (session->state == SESSION_IDLE)
        set_state(session, SESSION_CLOSED);
    uv_close((uv_handle_t *)&session->progress, NULL);
}

void session_destroy(struct session *session) {
    if (!session)
        return;
    assert(session->state == SESSION_CLOSED && !session->clients);
    keeper_destroy(session->keeper);
    givers_destroy(session->givers);
    free(session);
}
