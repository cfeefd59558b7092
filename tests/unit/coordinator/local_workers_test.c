/* Starting and ending local workers. The program next to the test is a shell script that plays the
 * worker's part, so that every way of failing can be had. */
#include "tests/unit/test.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/cluster_limits.h"
#include "coordinator/local_workers.h"

static char program[4200], traces[] = "/tmp/local_workers_XXXXXX";

/* Writes the script; $TRACES is where it may leave files. */
static void write_program(const char *body) {
    unlink(program);
    FILE *file = fopen(program, "w");
    assert_non_null(file);
    fprintf(file, "#!/bin/sh\nTRACES=%s\necho $$ > $TRACES/$$.pid\n%s\n", traces, body);
    fclose(file);
    assert_int_equal(chmod(program, 0755), 0);
}

/* How many processes that left a .pid file are alive; forgets them when `forget`. */
static unsigned count_alive(bool forget) {
    char command[256], line[32];
    unsigned alive = 0;
    snprintf(command, sizeof command, "cat %s/*.pid 2>/dev/null", traces);
    FILE *pipe = popen(command, "r");
    while (fgets(line, sizeof line, pipe))
        alive += kill((pid_t)atoi(line), 0) == 0;
    pclose(pipe);
    snprintf(command, sizeof command, "rm -f %s/*.pid", traces);
    if (forget)
        assert_int_equal(system(command), 0);
    return alive;
}

#define LISTEN "echo listening 127.0.0.1:$$; exec sleep 60"

static void test_starts_and_ends(void **state) {
    (void)state;
    write_program("echo \"$@\" > $TRACES/arguments\n" LISTEN);
    struct local_workers *workers;
    assert_int_equal(local_workers_start(3, 2, "/models/a b", "avx2", "sockets", &workers),
                     STATUS_OK);
    const char *const *addresses = local_workers_addresses(workers);
    for (int i = 0; i < 3; i++) {
        int pid = 0;
        assert_int_equal(sscanf(addresses[i], "127.0.0.1:%d", &pid), 1);
        assert_int_equal(kill((pid_t)pid, 0), 0);
    }
    assert_string_not_equal(addresses[0], addresses[1]);
    local_workers_stop(workers);
    assert_int_equal(count_alive(true), 0);

    char path[64], arguments[512] = "";
    snprintf(path, sizeof path, "%s/arguments", traces);
    FILE *file = fopen(path, "r");
    assert_non_null(fgets(arguments, sizeof arguments, file));
    fclose(file);
    unlink(path);
    assert_non_null(strstr(arguments, "--listen 127.0.0.1:0 --threads 2 --memory "));
    assert_non_null(strstr(arguments, "--model /models/a b --isa avx2 --transport sockets"));
    local_workers_stop(NULL);
}

static void expect_failure(uint32_t count, enum status wanted, const char *part) {
    struct local_workers *workers;
    struct log_capture capture;
    log_capture_begin(&capture);
    assert_int_equal(local_workers_start(count, 1, "/m", "auto", "auto", &workers), wanted);
    log_capture_expect(&capture, part, NULL);
    assert_int_equal(count_alive(true), 0);
}

static void test_failures(void **state) {
    (void)state;
    unlink(program);
    expect_failure(1, STATUS_NOT_FOUND, "skein-worker: No such file");
    write_program("exit 1");
    expect_failure(2, STATUS_IO, "ended at its start");
    write_program("echo hello there; exec sleep 60");
    expect_failure(2, STATUS_IO, "says \"hello there");
    write_program(
        "i=0; while [ $i -lt 200 ]; do printf xxxxxxxxxx; i=$((i+1)); done; exec sleep 60");
    expect_failure(1, STATUS_IO, "instead of its address");
    expect_failure(0, STATUS_USAGE, "from 1 to");
    expect_failure(WORKERS_MAX + 1, STATUS_USAGE, "from 1 to");
    /* The first comes up, the second does not. */
    write_program("if mkdir $TRACES/first 2>/dev/null; then " LISTEN "; fi; exit 1");
    expect_failure(2, STATUS_IO, "ended at its start");
    char path[64];
    snprintf(path, sizeof path, "%s/first", traces);
    rmdir(path);
}

/* The line may come in pieces. */
static void test_slow_line(void **state) {
    (void)state;
    write_program("printf 'listening 127.'; sleep 0.1; printf '0.0.1:99\\n'; exec sleep 60");
    struct local_workers *workers;
    assert_int_equal(local_workers_start(1, 1, "/m", "auto", "auto", &workers), STATUS_OK);
    assert_string_equal(local_workers_addresses(workers)[0], "127.0.0.1:99");
    local_workers_stop(workers);
    assert_int_equal(count_alive(true), 0);
}

static void test_kills_what_does_not_end(void **state) {
    (void)state;
    write_program("trap '' TERM; echo listening 127.0.0.1:5; while :; do sleep 0.2; done");
    struct local_workers *workers;
    struct log_capture capture;
    assert_int_equal(local_workers_start(1, 1, "/m", "auto", "auto", &workers), STATUS_OK);
    log_capture_begin(&capture);
    log_error("the capture wants one error line");
    local_workers_stop(workers);
    log_capture_expect(&capture, "does not end; killing it", NULL);
    assert_int_equal(count_alive(true), 0);
}

static void test_end_with_their_coordinator(void **state) {
    (void)state;
    write_program(LISTEN);
    pid_t pid = fork();
    if (pid == 0) {
        struct local_workers *workers;
        if (local_workers_start(2, 1, "/m", "auto", "auto", &workers))
            _exit(1);
        raise(SIGKILL);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    for (int i = 0; i < 500 && count_alive(false) > 0; i++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    assert_int_equal(count_alive(true), 0);
}

static int start(void **state) {
    (void)state;
    ssize_t length = readlink("/proc/self/exe", program, 4096);
    assert_true(length > 0);
    program[length] = '\0';
    strcpy(strrchr(program, '/') + 1, "skein-worker");
    assert_non_null(mkdtemp(traces));
    return 0;
}

static int stop(void **state) {
    (void)state;
    unlink(program);
    return rmdir(traces);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_starts_and_ends),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_slow_line),
        cmocka_unit_test(test_kills_what_does_not_end),
        cmocka_unit_test(test_end_with_their_coordinator),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
