/* What the line of progress says on a terminal, and that it stays one line. */
#include "tests/unit/test.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "coordinator/progress.h"

#define WAIT_MS 20000

/* A terminal in place of standard error. */
struct screen {
    int terminal, saved;
    size_t length;
    char text[1 << 16]; /* what it was sent */
};

static void screen_open(struct screen *screen, unsigned short columns) {
    int end;
    const struct winsize size = {.ws_row = 24, .ws_col = columns};
    memset(screen, 0, sizeof *screen);
    assert_int_equal(openpty(&screen->terminal, &end, NULL, NULL, &size), 0);
    screen->saved = dup(STDERR_FILENO);
    dup2(end, STDERR_FILENO);
    close(end);
}

static void screen_close(struct screen *screen) {
    dup2(screen->saved, STDERR_FILENO);
    close(screen->saved);
    close(screen->terminal);
}

static void screen_expect(struct screen *screen, const char *words) {
    while (!strstr(screen->text, words)) {
        struct pollfd waiting = {.fd = screen->terminal, .events = POLLIN};
        size_t room = sizeof screen->text - 1 - screen->length;
        if (room == 0 || poll(&waiting, 1, WAIT_MS) != 1)
            fail_msg("%s is not in %s", words, screen->text);
        ssize_t length = read(screen->terminal, screen->text + screen->length, room);
        assert_true(length > 0);
        screen->length += (size_t)length;
    }
}

/* Of 200 MiB, on a new terminal. */
static struct progress *begin(struct screen *screen, unsigned short columns) {
    screen_open(screen, columns);
    struct progress *progress = progress_start("loading", 200 << 20, true);
    assert_non_null(progress);
    return progress;
}

static void test_says_all(void **state) {
    (void)state;
    static struct screen screen;
    struct progress *progress = begin(&screen, 120);
    screen_expect(&screen, "loading    0%  0.0 of 200.0 MiB\033[K");
    atomic_store(progress_counter(progress), 50 << 20);
    progress_set_source(progress, "from others", 20 << 20);
    progress_set_source(progress, "from nowhere", 0);
    progress_set_part(progress, 0, "a:1", 40);
    progress_set_part(progress, PROGRESS_PARTS_MAX - 1, "b:2", 7);
    screen_expect(&screen,
                  "\rloading   25%  50.0 of 200.0 MiB (20.0 from others)  a:1 40%  b:2 7%\033[K");
    progress_set_part(progress, 0, "a:1", 100);
    screen_expect(&screen, "  a:1 100%  b:2 7%\033[K");
    progress_stop(progress);
    screen_expect(&screen, "\r\033[K");
    screen_close(&screen);
}

static void test_stays_one_line(void **state) {
    (void)state;
    static struct screen screen;
    struct progress *progress = begin(&screen, 40);
    for (uint32_t part = 0; part < PROGRESS_PARTS_MAX; part++)
        progress_set_part(progress, part, "worker", part % 100);
    /* 39 characters: a terminal goes on to the next line after the fortieth. */
    screen_expect(&screen, "\rloading    0%  0.0 of 200.0 MiB  worker\033[K");
    progress_stop(progress);
    screen_close(&screen);
}

/* Whoever loads goes on while the terminal takes nothing, as after Ctrl-S. */
static void test_stopped_terminal(void **state) {
    (void)state;
    static struct screen screen;
    struct progress *progress = begin(&screen, 120);
    assert_int_equal(tcflow(STDERR_FILENO, TCOOFF), 0);
    usleep(300000); /* in which it begins to write */
    progress_set_part(progress, 0, "a:1", 40);
    progress_set_source(progress, "from others", 20 << 20);
    assert_int_equal(tcflow(STDERR_FILENO, TCOON), 0);
    screen_expect(&screen, "(20.0 from others)  a:1 40%\033[K");
    progress_stop(progress);
    screen_close(&screen);
}

static void test_no_terminal(void **state) {
    (void)state;
    int saved = dup(STDERR_FILENO), nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, STDERR_FILENO);
    assert_null(progress_start("loading", 1, true));
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(nowhere);
    assert_null(progress_start("loading", 1, false));
    assert_null(progress_counter(NULL));
    progress_set_source(NULL, "from others", 1);
    progress_set_part(NULL, 0, "a:1", 1);
    progress_stop(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_says_all),
        cmocka_unit_test(test_stays_one_line),
        cmocka_unit_test(test_stopped_terminal),
        cmocka_unit_test(test_no_terminal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
