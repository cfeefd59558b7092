/* What the network's part of a layer costs on one machine: the coordinator sends a DISPATCH frame
 * to each worker and waits for all COMBINE frames. Every way is timed beside a bare exchange of the
 * same bytes over blocking sockets between as many processes, so that the difference is what skein
 * adds to the kernel's round trip.
 *
 * Two comparisons: frames through the transport against the bare exchange; and dispatch_send and
 * combine_await with real worker daemons against a bare exchange whose peers compute the same small
 * expert. Ways take turns in short runs, so that other work on the machine meets all of them. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/config.h"
#include "common/kernel/kernel.h"
#include "common/limits.h"
#include "common/log.h"
#include "coordinator/cluster.h"
#include "coordinator/combine.h"
#include "coordinator/dispatch.h"
#include "proto/wire.h"
#include "worker/daemon.h"
#include "worker/store_loading.h"

#define INNER     8u /* of the expert */
#define PEERS_MAX 32u
#define RUNS      10u /* of each way */
#define WARM_UP   30u /* layers of a run that are not timed */

struct settings {
    uint32_t workers, hidden, rows, layers;
};

/* What all parts of the program share. */
struct bench {
    struct settings settings;
    size_t request_bytes, reply_bytes;
    uint8_t *requests[PEERS_MAX], *replies[PEERS_MAX];
    char model[64]; /* a checkpoint of one layer with an expert for each worker */
    struct weights *weights;
    struct shard_layout layouts[SHARD_LAYOUTS(1)]; /* of one layer */
    uint64_t fingerprint;
    pid_t children[6 * PEERS_MAX];
    uint32_t child_count;
};

/* One way of exchanging a layer's frames. */
struct way {
    const char *name;
    void (*exchange)(struct way *way);
    struct bench *bench;
    bool left_out;               /* the system refuses its backend */
    int fds[PEERS_MAX];          /* bare */
    struct transport *transport; /* frames through the transport */
    struct connection *connections[PEERS_MAX];
    struct holders *holders; /* the whole */
    struct failover *failover;
    struct dispatch *dispatch;
    struct cluster *cluster;
    struct dispatch_work work;
    float *sums;
    double *samples_us; /* (RUNS * layers) */
    uint32_t sample_count;
};

static _Noreturn void die(const char *what) {
    fprintf(stderr, "transport_bench: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void check(enum status status, const char *what) {
    if (status == STATUS_OK)
        return;
    fprintf(stderr, "transport_bench: %s: %s\n", what, status_name(status));
    exit(1);
}

/* ---- Peers: each is a process that ends with this one. */

/* Forks; returns 0 in the child. */
static pid_t spawn(struct bench *bench) {
    pid_t parent = getpid(), pid = fork();
    if (pid < 0)
        die("cannot start a process");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            exit(1);
        return 0;
    }
    bench->children[bench->child_count++] = pid;
    return pid;
}

/* Two ends of one TCP connection on loopback. */
static void connect_pair(int ends[2]) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1) ||
        getsockname(listener, (struct sockaddr *)&address, &length))
        die("cannot listen");
    ends[0] = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(ends[0], (struct sockaddr *)&address, length) ||
        (ends[1] = accept(listener, NULL, NULL)) < 0)
        die("cannot connect");
    close(listener);
    for (int i = 0; i < 2; i++)
        setsockopt(ends[i], IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

static void send_all(int fd, const uint8_t *data, size_t bytes) {
    for (ssize_t sent; bytes > 0; data += sent, bytes -= (size_t)sent)
        if ((sent = send(fd, data, bytes, 0)) <= 0)
            die("cannot send");
}

static void receive_all(int fd, uint8_t *data, size_t bytes) {
    for (ssize_t got; bytes > 0; data += got, bytes -= (size_t)got)
        if ((got = recv(fd, data, bytes, 0)) <= 0)
            die("cannot receive");
}

/* The worker's expert, held as a worker holds it. */
struct kept_expert {
    struct expert_store *store;
    struct threads *threads;
    struct expert_workspace *workspace;
};

static void load_expert(const struct bench *bench, struct kept_expert *kept) {
    const struct shard shard = {.end = INNER};
    const struct assignment assignment = {
        bench->fingerprint, bench->layouts, 1, &shard, 1, NULL, NULL, false};
    check(threads_create(1, &kept->threads), "threads");
    check(expert_store_create(UINT64_MAX, &kept->store), "store");
    check(expert_store_assign(kept->store, &assignment), "store");
    check(store_load(kept->store, bench->weights, kept->threads, NULL), "store");
    check(expert_workspace_create(kept->threads, bench->settings.hidden, INNER,
                                  bench->settings.rows, &kept->workspace),
          "workspace");
}

static void compute(const struct bench *bench, struct kept_expert *kept, uint8_t *request,
                    uint8_t *reply) {
    struct expert_task tasks[BATCH_ROWS_MAX];
    uint32_t rows = bench->settings.rows;
    float *sums = wire_combine_rows(reply);
    for (uint32_t row = 0; row < rows; row++)
        tasks[row] = (struct expert_task){expert_store_get(kept->store, 0), row, 1.0f};
    memset(sums, 0, (size_t)rows * bench->settings.hidden * sizeof *sums);
    expert_forward(kept->workspace, wire_dispatch_rows(request), tasks, rows, sums);
}

/* Receives a request, may compute, sends the reply, and so on. */
static _Noreturn void answer_bare(const struct bench *bench, int fd, bool computes) {
    struct kept_expert kept;
    if (computes)
        load_expert(bench, &kept);
    for (;;) {
        receive_all(fd, bench->requests[0], bench->request_bytes);
        if (computes)
            compute(bench, &kept, bench->requests[0], bench->replies[0]);
        send_all(fd, bench->replies[0], bench->reply_bytes);
    }
}

static struct transport *open_transport(const char *backend) {
    const struct transport_options options = {sizeof(struct wire_header), wire_message_bytes,
                                              backend};
    struct transport *transport;
    check(transport_create(&options, &transport), backend);
    return transport;
}

/* Whether the system allows io_uring; if not, the log says why. */
static bool has_uring(void) {
    const struct transport_options options = {sizeof(struct wire_header), wire_message_bytes,
                                              "uring"};
    struct transport *transport;
    if (transport_create(&options, &transport))
        return false;
    transport_destroy(transport);
    return true;
}

/* The same through the transport, in the order of worker/service.c. */
static _Noreturn void answer_transport(const struct bench *bench, int fd, const char *backend) {
    struct transport *transport = open_transport(backend);
    struct connection *connection;
    struct completion completion;
    uint8_t *request = bench->requests[0], *reply = bench->replies[0];
    transport_register(transport, request, bench->request_bytes);
    transport_register(transport, reply, bench->reply_bytes);
    check(transport_add(transport, fd, "coordinator", &connection), "connection");
    check(transport_post_receive(transport, connection, request, bench->request_bytes), "receive");
    for (;;) {
        if (transport_poll(transport, &completion, 1, -1) == 0)
            continue;
        if (completion.status)
            exit(0);
        if (completion.operation == TRANSPORT_RECEIVE) {
            check(transport_post_send(transport, connection, reply, bench->reply_bytes), "send");
            check(transport_post_receive(transport, connection, request, bench->request_bytes),
                  "receive");
        }
    }
}

/* A worker daemon; returns its address. */
static const char *start_daemon(struct bench *bench, const char *backend) {
    int ends[2];
    char address[64] = "";
    if (pipe(ends))
        die("cannot make a pipe");
    if (spawn(bench) == 0) {
        const struct daemon_options options = {.listen = "127.0.0.1:0",
                                               .threads = 1,
                                               .memory_bytes = 1ull << 30,
                                               .model = bench->model,
                                               .transport = backend};
        struct daemon *daemon;
        check(daemon_create(&options, &daemon), "worker");
        const char *text = daemon_address(daemon);
        if (write(ends[1], text, strlen(text) + 1) < 0)
            die("cannot say the address");
        daemon_run(daemon);
        exit(0);
    }
    if (read(ends[0], address, sizeof address - 1) <= 0)
        die("no worker");
    close(ends[0]);
    close(ends[1]);
    return strdup(address);
}

/* ---- The model: random numbers in BF16. */

static void write_matrices(FILE *file, size_t values) {
    uint32_t random = 1;
    for (size_t i = 0; i < values; i++) {
        random = random * 1664525u + 1013904223u;
        uint16_t bf16 = (uint16_t)(0x3c00u | (random >> 31) << 15 | (random >> 16 & 0xffu));
        fwrite(&bf16, sizeof bf16, 1, file);
    }
}

static void write_model(struct bench *bench) {
    static const char *const names[] = {"gate", "up", "down"};
    uint32_t hidden = bench->settings.hidden;
    size_t each = (size_t)hidden * INNER * 2, used = 0;
    static char header[PEERS_MAX * 3 * 160];
    for (uint32_t i = 0; i < 3 * bench->settings.workers; i++) {
        bool down = i % 3 == 2;
        used += (size_t)snprintf(
            header + used, sizeof header - used,
            "%c\"model.layers.0.mlp.experts.%u.%s_proj.weight\":{\"dtype\":\"BF16\","
            "\"shape\":[%u,%u],\"data_offsets\":[%zu,%zu]}",
            i ? ',' : '{', i / 3, names[i % 3], down ? hidden : INNER, down ? INNER : hidden,
            i * each, (i + 1) * each);
    }
    header[used++] = '}';
    strcpy(bench->model, "/tmp/transport_bench_XXXXXX.safetensors");
    int fd = mkstemps(bench->model, 12);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    if (!file)
        die("cannot write a model in /tmp");
    fwrite(&(uint64_t){used}, sizeof(uint64_t), 1, file);
    fwrite(header, 1, used, file);
    write_matrices(file, 3 * bench->settings.workers * each / 2);
    if (fclose(file))
        die("cannot write a model in /tmp");
    check(weights_open(bench->model, &bench->weights), "model");
    check(weights_fingerprint(bench->weights, &bench->fingerprint), "model");
    check(shard_find_layout(bench->weights, 0, bench->settings.workers, hidden, INNER,
                            bench->layouts),
          "model");
}

/* ---- Ways. */

static void exchange_bare(struct way *way) {
    struct bench *bench = way->bench;
    for (uint32_t i = 0; i < bench->settings.workers; i++)
        send_all(way->fds[i], bench->requests[i], bench->request_bytes);
    for (uint32_t i = 0; i < bench->settings.workers; i++)
        receive_all(way->fds[i], bench->replies[i], bench->reply_bytes);
}

/* Never sleeps: asks one socket after the other. */
static void exchange_spinning(struct way *way) {
    struct bench *bench = way->bench;
    size_t got[PEERS_MAX] = {0};
    for (uint32_t i = 0; i < bench->settings.workers; i++)
        send_all(way->fds[i], bench->requests[i], bench->request_bytes);
    for (uint32_t i = 0, done = 0; done < bench->settings.workers;
         i = (i + 1) % bench->settings.workers) {
        if (got[i] == bench->reply_bytes)
            continue;
        ssize_t moved = recv(way->fds[i], bench->replies[i] + got[i], bench->reply_bytes - got[i],
                             MSG_DONTWAIT);
        got[i] += moved > 0 ? (size_t)moved : 0;
        done += got[i] == bench->reply_bytes;
    }
}

static void exchange_transport(struct way *way) {
    struct bench *bench = way->bench;
    struct completion completions[2 * PEERS_MAX];
    for (uint32_t i = 0; i < bench->settings.workers; i++) {
        check(transport_post_receive(way->transport, way->connections[i], bench->replies[i],
                                     bench->reply_bytes),
              "receive");
        check(transport_post_send(way->transport, way->connections[i], bench->requests[i],
                                  bench->request_bytes),
              "send");
    }
    transport_flush(way->transport);
    for (size_t pending = 2 * bench->settings.workers; pending > 0;) {
        size_t count = transport_poll(way->transport, completions, 2 * PEERS_MAX, -1);
        for (size_t i = 0; i < count; i++)
            check(completions[i].status, "exchange");
        pending -= count;
    }
}

static void exchange_dispatch(struct way *way) {
    struct ticket *ticket;
    check(dispatch_send(way->dispatch, &way->work, &ticket), "dispatch");
    check(combine_await(way->dispatch, ticket, way->sums), "combine");
}

static void open_bare(struct way *way, bool computes) {
    for (uint32_t i = 0; i < way->bench->settings.workers; i++) {
        int ends[2];
        connect_pair(ends);
        if (spawn(way->bench) == 0)
            answer_bare(way->bench, ends[1], computes);
        close(ends[1]);
        way->fds[i] = ends[0];
    }
}

static void open_frames(struct way *way, const char *backend) {
    struct bench *bench = way->bench;
    int ends[PEERS_MAX][2];
    for (uint32_t i = 0; i < bench->settings.workers; i++) {
        connect_pair(ends[i]);
        if (spawn(bench) == 0)
            answer_transport(bench, ends[i][1], backend);
        close(ends[i][1]);
    }
    way->transport = open_transport(backend);
    for (uint32_t i = 0; i < bench->settings.workers; i++) {
        transport_register(way->transport, bench->requests[i], bench->request_bytes);
        transport_register(way->transport, bench->replies[i], bench->reply_bytes);
        check(transport_add(way->transport, ends[i][0], "worker", &way->connections[i]),
              "connection");
    }
}

/* Expert i on worker i; every row goes to all of them. */
static void open_dispatch(struct way *way, const char *backend, const char *const *addresses,
                          struct threads *threads) {
    struct bench *bench = way->bench;
    uint32_t workers = bench->settings.workers, rows = bench->settings.rows;
    struct placement *placement;
    check(placement_create(bench->layouts, 1, workers, workers, &placement), "placement");
    for (uint32_t i = 0; i < workers; i++)
        check(placement_add(placement, &(struct shard){0, i, 0, INNER}, i), "placement");
    check(cluster_connect(addresses, workers, bench->fingerprint, false, &way->cluster), "workers");
    const struct cluster_load_options load = {.placement = placement,
                                              .weights = bench->weights,
                                              .fingerprint = bench->fingerprint,
                                              .hidden = bench->settings.hidden,
                                              .batch_rows = rows,
                                              .entries_per_row = workers};
    check(cluster_load(way->cluster, &load), "workers");
    check(holders_create(way->cluster, NULL, backend, &way->holders), "holders");
    const struct failover_options none = {.placement = placement,
                                          .holders = way->holders,
                                          .weights = bench->weights,
                                          .threads = threads};
    check(failover_create(&none, &way->failover), "failover");
    double read_rates[PEERS_MAX];
    for (uint32_t i = 0; i < workers; i++)
        read_rates[i] = 1;
    const struct dispatch_options options = {.threads = threads,
                                             .placement = placement,
                                             .holders = way->holders,
                                             .failover = way->failover,
                                             .read_rates = read_rates,
                                             .hidden = bench->settings.hidden,
                                             .rows_max = rows,
                                             .experts_per_token = workers};
    check(dispatch_create(&options, &way->dispatch), "dispatch");
    uint32_t *experts = malloc(rows * workers * sizeof *experts);
    float *weights = malloc(rows * workers * sizeof *weights);
    for (uint32_t i = 0; i < rows * workers; i++) {
        experts[i] = i % workers;
        weights[i] = 1.0f;
    }
    way->sums = calloc((size_t)rows * bench->settings.hidden, sizeof *way->sums);
    way->work = (struct dispatch_work){.rows = rows,
                                       .x = wire_dispatch_rows(bench->requests[0]),
                                       .experts = experts,
                                       .weights = weights};
}

/* ---- Measuring. */

static void run(struct way *way) {
    if (way->left_out)
        return;
    for (uint32_t i = 0; i < WARM_UP; i++)
        way->exchange(way);
    for (uint32_t i = 0; i < way->bench->settings.layers; i++) {
        uint64_t started_ns = clock_now_ns();
        way->exchange(way);
        way->samples_us[way->sample_count++] = clock_elapsed_s(started_ns) * 1e6;
    }
}

static int compare(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double quantile(const struct way *way, double part) {
    return way->samples_us[(size_t)(part * (way->sample_count - 1))];
}

/* The first way is what the others are compared with. */
static void report(const char *title, struct way *ways, uint32_t count) {
    printf("%-36s %9s %9s %9s   %s\n", title, "p10", "median", "p90", "beyond bare");
    for (uint32_t i = 0; i < count; i++) {
        if (ways[i].left_out) {
            printf("  %-34s left out: the system refuses it\n", ways[i].name);
            continue;
        }
        qsort(ways[i].samples_us, ways[i].sample_count, sizeof(double), compare);
        printf("  %-34s %6.1f us %6.1f us %6.1f us", ways[i].name, quantile(&ways[i], 0.1),
               quantile(&ways[i], 0.5), quantile(&ways[i], 0.9));
        if (i)
            printf("   %+6.1f us", quantile(&ways[i], 0.5) - quantile(&ways[0], 0.5));
        printf("\n");
    }
}

static void make_frames(struct bench *bench) {
    uint32_t rows = bench->settings.rows, hidden = bench->settings.hidden;
    bench->request_bytes = wire_dispatch_bytes(rows, rows, hidden, WIRE_F32);
    bench->reply_bytes = wire_combine_bytes(rows, hidden, WIRE_F32, 0);
    for (uint32_t i = 0; i < bench->settings.workers; i++) {
        bench->requests[i] = aligned_alloc(64, (bench->request_bytes + 63) / 64 * 64);
        bench->replies[i] = aligned_alloc(64, (bench->reply_bytes + 63) / 64 * 64);
        if (!bench->requests[i] || !bench->replies[i])
            die("no memory");
        memset(bench->requests[i], 0, bench->request_bytes);
        memset(bench->replies[i], 0, bench->reply_bytes);
        wire_encode_header(
            &(struct wire_header){
                .type = WIRE_DISPATCH, .rows = rows, .entries = rows, .hidden = hidden},
            bench->requests[i]);
        wire_encode_header(
            &(struct wire_header){.type = WIRE_COMBINE, .rows = rows, .hidden = hidden},
            bench->replies[i]);
        for (size_t v = 0; v < (size_t)rows * hidden; v++)
            ((float *)wire_dispatch_rows(bench->requests[i]))[v] = (float)(v % 17) - 8;
    }
}

enum { BARE, SPINNING, FRAMES_SOCKETS, FRAMES_URING, BARE_EXPERT, SOCKETS, URING, WAYS };

static void open_ways(struct bench *bench, struct way ways[WAYS]) {
    static const struct way kinds[WAYS] = {
        [BARE] = {.name = "bare sockets", .exchange = exchange_bare},
        [SPINNING] = {.name = "bare sockets, never asleep", .exchange = exchange_spinning},
        [FRAMES_SOCKETS] = {.name = "transport: sockets", .exchange = exchange_transport},
        [FRAMES_URING] = {.name = "transport: uring", .exchange = exchange_transport},
        [BARE_EXPERT] = {.name = "bare sockets", .exchange = exchange_bare},
        [SOCKETS] = {.name = "dispatch to combine: sockets", .exchange = exchange_dispatch},
        [URING] = {.name = "dispatch to combine: uring", .exchange = exchange_dispatch},
    };
    const char *addresses[2][PEERS_MAX];
    for (uint32_t i = 0; i < WAYS; i++) {
        ways[i] = kinds[i];
        ways[i].bench = bench;
        ways[i].samples_us = malloc(RUNS * bench->settings.layers * sizeof(double));
    }
    bool uring = has_uring();
    ways[FRAMES_URING].left_out = ways[URING].left_out = !uring;
    /* All processes before any thread. */
    for (uint32_t i = 0; i < bench->settings.workers; i++) {
        addresses[0][i] = start_daemon(bench, "sockets");
        if (uring)
            addresses[1][i] = start_daemon(bench, "uring");
    }
    open_bare(&ways[BARE], false);
    memcpy(ways[SPINNING].fds, ways[BARE].fds, sizeof ways[BARE].fds);
    open_frames(&ways[FRAMES_SOCKETS], "sockets");
    if (uring)
        open_frames(&ways[FRAMES_URING], "uring");
    open_bare(&ways[BARE_EXPERT], true);
    struct threads *threads;
    check(threads_create(1, &threads), "threads");
    open_dispatch(&ways[SOCKETS], "sockets", addresses[0], threads);
    if (uring)
        open_dispatch(&ways[URING], "uring", addresses[1], threads);
}

static void measure(struct bench *bench) {
    static struct way ways[WAYS];
    write_model(bench);
    make_frames(bench);
    open_ways(bench, ways);
    for (uint32_t i = 0; i < RUNS * WAYS; i++)
        run(&ways[i % WAYS]);
    printf("%u workers, %u rows of %u: %zu bytes to each and %zu back, %u processors\n\n",
           bench->settings.workers, bench->settings.rows, bench->settings.hidden,
           bench->request_bytes, bench->reply_bytes, threads_processors());
    report("frames alone", ways, BARE_EXPERT);
    printf("\n");
    report("with a small expert on each worker", ways + BARE_EXPERT, WAYS - BARE_EXPERT);
    for (uint32_t i = SOCKETS; i <= URING; i++) {
        failover_destroy(ways[i].failover);
        holders_destroy(ways[i].holders);
        dispatch_destroy(ways[i].dispatch);
        cluster_destroy(ways[i].cluster);
    }
    for (uint32_t i = 0; i < bench->child_count; i++)
        kill(bench->children[i], SIGKILL);
    unlink(bench->model);
}

int main(int argc, char **argv) {
    struct bench bench = {.settings = {4, 7168, 1, 200}};
    const struct option options[] = {
        {.name = "workers",
         .type = OPTION_COUNT,
         .target = &bench.settings.workers,
         .argument = "N",
         .minimum = 1,
         .maximum = PEERS_MAX,
         .help = "Workers, each in a process of its own."},
        {.name = "hidden",
         .type = OPTION_COUNT,
         .target = &bench.settings.hidden,
         .argument = "N",
         .minimum = 32,
         .maximum = HIDDEN_MAX,
         .help = "Values in a row."},
        {.name = "rows",
         .type = OPTION_COUNT,
         .target = &bench.settings.rows,
         .argument = "N",
         .minimum = 1,
         .maximum = BATCH_ROWS_MAX,
         .help = "Rows of a layer; each goes to every worker."},
        {.name = "layers",
         .type = OPTION_COUNT,
         .target = &bench.settings.layers,
         .argument = "N",
         .minimum = 1,
         .maximum = 100000,
         .help = "Layers that are timed in each of the ten runs of a way."},
    };
    const struct command command = {.name = "transport_bench",
                                    .summary = "Time the network's part of a layer on loopback.",
                                    .usage = "[options]",
                                    .options = options,
                                    .option_count = sizeof options / sizeof *options};
    bool done = false;
    signal(SIGPIPE, SIG_IGN);
    log_init("transport_bench", LOG_WARNING, NULL);
    struct config *config = config_create();
    if (!config || config_parse_arguments(config, &command, argc, argv, &done))
        return 2;
    if (!done) {
        check(kernel_select("auto"), "kernels");
        measure(&bench);
    }
    config_destroy(config);
    return 0;
}
