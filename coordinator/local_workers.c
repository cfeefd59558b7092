/* fork and exec by hand instead of uv_spawn, for PR_SET_PDEATHSIG: the child asks the kernel to be
 * ended with us before it becomes skein-worker, so that not even kill -9 leaves daemons behind.
 * Between fork and exec only async-signal-safe functions are called, for other threads may run. */
#include "coordinator/local_workers.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/address.h"
#include "common/clock.h"
#include "common/cluster_limits.h"
#include "common/log.h"
#include "common/memory.h"

/* A worker listens once it has read its model's headers, which may be on a sleeping disk. */
#define START_TIMEOUT_MS 30000
/* What a worker may take to finish the frame at hand and close. */
#define STOP_TIMEOUT_MS 5000

#define PATH_BYTES 4096

struct local_worker {
    pid_t pid;
    int output; /* its standard output, -1 when closed */
    char address[ADDRESS_TEXT_BYTES_MAX];
};

struct local_workers {
    uint32_t count; /* started */
    struct local_worker *items;
    const char **addresses;
};

/* The path of skein-worker in the directory of this program. */
static enum status find_program(char out[PATH_BYTES]) {
    static const char NAME[] = "skein-worker";
    ssize_t length = readlink("/proc/self/exe", out, PATH_BYTES - sizeof NAME);
    if (length < 0) {
        log_error("cannot read /proc/self/exe: %s; is /proc mounted?", strerror(errno));
        return STATUS_IO;
    }
    out[length] = '\0';
    memcpy(strrchr(out, '/') + 1, NAME, sizeof NAME);
    if (access(out, X_OK)) {
        log_error("%s: %s; local workers need it next to this program", out, strerror(errno));
        return STATUS_NOT_FOUND;
    }
    return STATUS_OK;
}

/* In the child: never returns. */
static void become_worker(pid_t parent, int output, char *const arguments[]) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* Ctrl-C on the terminal is for the coordinator; it ends its workers itself. */
    setpgid(0, 0);
    if (getppid() == parent && dup2(output, STDOUT_FILENO) >= 0)
        execv(arguments[0], arguments);
    _exit(127);
}

static enum status spawn(char *const arguments[], struct local_worker *out) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC)) {
        log_error("cannot start %s: %s", arguments[0], strerror(errno));
        return STATUS_IO;
    }
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        become_worker(parent, ends[1], arguments);
    close(ends[1]);
    if (pid < 0) {
        log_error("cannot start %s: %s; end other programs", arguments[0], strerror(errno));
        close(ends[0]);
        return STATUS_NO_MEMORY;
    }
    out->pid = pid;
    out->output = ends[0];
    return STATUS_OK;
}

/* Reads the line "listening HOST:PORT". */
static enum status read_address(struct local_worker *worker, uint64_t started_ns) {
    char line[ADDRESS_TEXT_BYTES_MAX + 16];
    size_t used = 0;
    while (used < sizeof line - 1 && !memchr(line, '\n', used)) {
        struct pollfd poll_fd = {.fd = worker->output, .events = POLLIN};
        double elapsed_ms = clock_elapsed_s(started_ns) * 1000;
        int ready = elapsed_ms < START_TIMEOUT_MS
                        ? poll(&poll_fd, 1, START_TIMEOUT_MS - (int)elapsed_ms)
                        : 0;
        if (ready < 0 && errno == EINTR)
            continue;
        ssize_t got = ready > 0 ? read(worker->output, line + used, sizeof line - 1 - used) : 0;
        if (got <= 0) {
            log_error("local worker (process %d) %s; its own line above says why", (int)worker->pid,
                      ready > 0 ? "ended at its start" : "does not come up");
            return STATUS_IO;
        }
        used += (size_t)got;
    }
    line[used] = '\0';
    if (sscanf(line, "listening %263s", worker->address) != 1) {
        log_error("local worker (process %d) says \"%.40s\" instead of its address; is the "
                  "skein-worker next to this program of another release?",
                  (int)worker->pid, line);
        return STATUS_IO;
    }
    close(worker->output);
    worker->output = -1;
    return STATUS_OK;
}

static enum status start_all(struct local_workers *workers, uint32_t count,
                             char *const arguments[]) {
    uint64_t started_ns = clock_now_ns();
    enum status status = STATUS_OK;
    for (; workers->count < count && !status; workers->count += !status)
        status = spawn(arguments, &workers->items[workers->count]);
    for (uint32_t i = 0; i < count && !status; i++) {
        status = read_address(&workers->items[i], started_ns);
        workers->addresses[i] = workers->items[i].address;
    }
    return status;
}

enum status local_workers_start(uint32_t count, unsigned threads_each, const char *model,
                                const char *isa, const char *transport,
                                struct local_workers **out) {
    char program[PATH_BYTES], threads[16], memory[24];
    uint64_t available;
    if (count == 0 || count > WORKERS_MAX) {
        log_error("%" PRIu32 " local workers; from 1 to %d are possible", count, WORKERS_MAX);
        return STATUS_USAGE;
    }
    enum status status = find_program(program);
    if (!status)
        status = memory_available(&available);
    if (status)
        return status;
    struct local_workers *workers = calloc(1, sizeof *workers);
    if (workers) {
        workers->items = calloc(count, sizeof *workers->items);
        workers->addresses = calloc(count, sizeof *workers->addresses);
    }
    if (!workers || !workers->items || !workers->addresses) {
        log_error("no memory for %" PRIu32 " local workers; end other programs", count);
        local_workers_stop(workers);
        return STATUS_NO_MEMORY;
    }
    snprintf(threads, sizeof threads, "%u", threads_each);
    snprintf(memory, sizeof memory, "%" PRIu64, available / 10 * 9 / count);
    char *const arguments[] = {program,           "--listen", "127.0.0.1:0", "--threads",
                               threads,           "--memory", memory,        "--model",
                               (char *)model,     "--isa",    (char *)isa,   "--transport",
                               (char *)transport, "--quiet",  NULL};
    status = start_all(workers, count, arguments);
    if (status) {
        local_workers_stop(workers);
        return status;
    }
    *out = workers;
    return STATUS_OK;
}

const char *const *local_workers_addresses(const struct local_workers *workers) {
    return workers->addresses;
}

/* Waits until the process has ended or the time is over. */
static bool reap(pid_t pid, uint64_t started_ns, unsigned timeout_ms) {
    for (;;) {
        pid_t ended = waitpid(pid, NULL, WNOHANG);
        if (ended == pid || (ended < 0 && errno == ECHILD))
            return true;
        if (clock_elapsed_s(started_ns) * 1000 > timeout_ms)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
}

void local_workers_stop(struct local_workers *workers) {
    if (!workers)
        return;
    uint64_t started_ns = clock_now_ns();
    for (uint32_t i = 0; i < workers->count; i++)
        kill(workers->items[i].pid, SIGTERM);
    for (uint32_t i = 0; i < workers->count; i++) {
        struct local_worker *worker = &workers->items[i];
        if (!reap(worker->pid, started_ns, STOP_TIMEOUT_MS)) {
            log_warning("local worker (process %d) does not end; killing it", (int)worker->pid);
            kill(worker->pid, SIGKILL);
            waitpid(worker->pid, NULL, 0);
        }
        if (worker->output >= 0)
            close(worker->output);
    }
    free(workers->items);
    free(workers->addresses);
    free(workers);
}
