/* The first SIGINT is noted, the second ends the process, and a waiting system call is woken. */
#include "coordinator/interrupt.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
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

static void test_waiting_calls_are_woken(void **state) {
    (void)state;
    int ends[2];
    char byte;
    assert_int_equal(pipe(ends), 0);
    interrupt_arm();
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
        kill(parent, SIGINT);
        _exit(0);
    }
    assert_int_equal(read(ends[0], &byte, 1), -1);
    assert_int_equal(errno, EINTR);
    assert_true(interrupt_is_requested());
    interrupt_disarm();
    waitpid(pid, NULL, 0);
    close(ends[0]);
    close(ends[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_is_noted),
        cmocka_unit_test(test_second_ends_the_process),
        cmocka_unit_test(test_waiting_calls_are_woken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
