/* The first SIGINT is noted, the second ends the process; waits are woken, and what is being
 * written goes on. */
#include "coordinator/interrupt.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static void test_first_is_noted(void **state) {
    (void)state;
    interrupt_arm();
    assert_false(interrupt_is_requested());
    raise(SIGINT);
    assert_true(interrupt_is_requested());
    interrupt_arm();
    assert_false(interrupt_is_requested());
    raise(SIGINT);
    assert_true(interrupt_is_requested());
    interrupt_disarm();
}

/* Runs `child` in a process of its own; returns the signal that ended it, 0 if it exited. */
static int run_child(void (*child)(void)) {
    pid_t pid = fork();
    if (pid == 0) {
        child();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void press_twice(void) {
    interrupt_arm();
    raise(SIGINT);
    raise(SIGINT);
}

static void press_once(void) {
    interrupt_arm();
    raise(SIGINT);
}

static void press_disarmed(void) {
    interrupt_arm();
    interrupt_disarm();
    raise(SIGINT);
}

static void test_second_ends_the_process(void **state) {
    (void)state;
    assert_int_equal(run_child(press_twice), SIGINT);
    assert_int_equal(run_child(press_once), 0);
    assert_int_equal(run_child(press_disarmed), SIGINT);
}

/* A process that presses Ctrl-C in a moment, and, a moment later, reads everything from `fd`. */
static pid_t press_soon(int fd) {
    char bytes[4096];
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        alarm(10);
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
        kill(parent, SIGINT);
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
        while (read(fd, bytes, sizeof bytes) > 0)
            continue;
        _exit(0);
    }
    return pid;
}

static void test_waits_are_woken(void **state) {
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    interrupt_arm();
    pid_t pid = press_soon(-1);
    struct pollfd wanted = {.fd = ends[0], .events = POLLIN};
    assert_false(interrupt_wait_ready(&wanted, 1));
    assert_true(interrupt_is_requested());
    interrupt_disarm();
    waitpid(pid, NULL, 0);
    close(ends[0]);
    close(ends[1]);
}

static void test_writing_goes_on(void **state) {
    (void)state;
    const char bytes[1024] = {0};
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    FILE *stream = fdopen(ends[1], "w");
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    while (write(ends[1], bytes, sizeof bytes) > 0)
        continue;
    fcntl(ends[1], F_SETFL, 0);
    interrupt_arm();
    pid_t pid = press_soon(ends[0]);
    assert_int_equal(fwrite(bytes, 1, sizeof bytes, stream), sizeof bytes);
    assert_int_equal(fflush(stream), 0);
    assert_true(interrupt_is_requested());
    interrupt_disarm();
    kill(pid, SIGKILL); /* it has the pipe's other end, too */
    waitpid(pid, NULL, 0);
    fclose(stream);
    close(ends[0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_is_noted),
        cmocka_unit_test(test_second_ends_the_process),
        cmocka_unit_test(test_waits_are_woken),
        cmocka_unit_test(test_writing_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
