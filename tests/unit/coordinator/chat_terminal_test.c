/* A pseudo-terminal takes the user's place: lines, editing, pasting, history, Ctrl-C and Ctrl-D. */
#include "coordinator/chat_terminal.h"

#include <pty.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/log.h"
#include "coordinator/interrupt.h"

struct fixture {
    int master;
    pid_t screen; /* the process that takes what is drawn */
    FILE *input, *output;
    char directory[32];
    char history[64]; /* a directory in it that does not exist yet, and the file */
    struct chat_terminal *terminal;
};

static void open_terminal(struct fixture *f, const char *directory) {
    const struct chat_terminal_options options = {
        .input = f->input, .output = f->output, .directory = directory};
    assert_int_equal(chat_terminal_open(&options, &f->terminal), STATUS_OK);
}

/* libtinfo keeps what it read of the terminal's description until the process ends. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libtinfo";
}

/* Reads what the editor draws, or it would wait once the pseudo-terminal's buffer is full. */
static pid_t show_screen(int master) {
    char drawn[4096];
    fflush(NULL);
    pid_t pid = fork();
    while (pid == 0)
        if (read(master, drawn, sizeof drawn) <= 0)
            _exit(0);
    return pid;
}

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    int slave;
    setenv("TERM", "xterm", 1);
    unsetenv("HOME"); /* no ~/.editrc of whoever runs the tests */
    if (openpty(&f->master, &slave, NULL, NULL, NULL))
        return -1;
    f->input = fdopen(slave, "r");
    f->output = fdopen(dup(slave), "w");
    f->screen = show_screen(f->master);
    strcpy(f->directory, "/tmp/chat_test_XXXXXX");
    if (!mkdtemp(f->directory))
        return -1;
    snprintf(f->history, sizeof f->history, "%s/state/skein", f->directory);
    interrupt_arm();
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    char command[64];
    kill(f->screen, SIGKILL);
    while (wait(NULL) > 0)
        ;
    chat_terminal_close(f->terminal);
    interrupt_disarm();
    fclose(f->input);
    fclose(f->output);
    close(f->master);
    snprintf(command, sizeof command, "rm -rf %s", f->directory);
    int failed = system(command);
    free(f);
    return failed;
}

/* Types in a process of its own, once the editor has taken the terminal over: before, the kernel
 * would edit the line itself. */
static void type(struct fixture *f, const char *bytes) {
    fflush(NULL);
    if (fork() != 0)
        return;
    struct termios settings = {.c_lflag = ICANON};
    for (int i = 0; i < 5000 && settings.c_lflag & ICANON; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        tcgetattr(fileno(f->input), &settings);
    }
    size_t count = strlen(bytes);
    _exit(write(f->master, bytes, count) != (ssize_t)count);
}

static void assert_reads(struct fixture *f, const char *expected) {
    const char *text = NULL;
    assert_int_equal(chat_terminal_read(f->terminal, &text), CHAT_INPUT_MESSAGE);
    assert_string_equal(text, expected);
}

static void test_lines(void **state) {
    struct fixture *f = *state;
    open_terminal(f, NULL);
    type(f, "hello\nZ\xc3\xbcrich \xe6\x9d\xb1\xe4\xba\xac\r\n");
    assert_reads(f, "hello");
    assert_reads(f, "Z\xc3\xbcrich \xe6\x9d\xb1\xe4\xba\xac");
    assert_reads(f, "");
}

static void test_editing(void **state) {
    struct fixture *f = *state;
    open_terminal(f, NULL);
    type(f, "wrld\001hello \033[Co\005!\002\033[D?\n"); /* home, right, end, back, left */
    assert_reads(f, "hello worl?d!");
    type(f, "\xc3\xa9\xc3\xa8\177x\n"); /* erase takes a character, not a byte */
    assert_reads(f, "\xc3\xa9x");
}

static void test_invalid_bytes(void **state) {
    struct fixture *f = *state;
    open_terminal(f, NULL);
    type(f, "a\xff\x62\n");
    assert_reads(f, "a\xef\xbf\xbd"
                    "b");
}

static void test_paste_is_one_message(void **state) {
    struct fixture *f = *state;
    open_terminal(f, NULL);
    type(f, "see \033[200~one\rtwo\nthree\033[201~ end\n\033[200~\033[201~x\n");
    assert_reads(f, "see one\ntwo\nthree end");
    assert_reads(f, "x");
}

static void test_large_paste(void **state) {
    struct fixture *f = *state;
    char text[3002] = "", input[3100];
    open_terminal(f, NULL);
    for (int i = 0; i < 100; i++)
        strcat(text, "a line of thirty characters..\n");
    snprintf(input, sizeof input, "\033[200~%s\033[201~.\n", text);
    type(f, input);
    strcpy(text + strlen(text), ".");
    assert_reads(f, text);
}

static void test_history_is_kept(void **state) {
    struct fixture *f = *state;
    char path[80];
    struct stat file;
    open_terminal(f, f->history);
    type(f, "first\nsecond\n\n");
    assert_reads(f, "first");
    assert_reads(f, "second");
    assert_reads(f, "");
    chat_terminal_close(f->terminal);
    snprintf(path, sizeof path, "%s/history", f->history);
    assert_int_equal(stat(path, &file), 0);
    assert_int_equal(file.st_mode & 077, 0);
    open_terminal(f, f->history);
    type(f, "\033[A\033[A\n\033[A\n");
    assert_reads(f, "first");
    assert_reads(f, "first");
}

static void test_history_that_cannot_be_kept(void **state) {
    struct fixture *f = *state;
    char *text;
    size_t bytes;
    FILE *log = open_memstream(&text, &bytes);
    log_init("test", LOG_DEBUG, log);
    open_terminal(f, "/proc/nowhere");
    type(f, "one\ntwo\n");
    assert_reads(f, "one");
    assert_reads(f, "two");
    log_init("test", LOG_WARNING, NULL);
    fclose(log);
    const char *line = strstr(text, "cannot keep the chat's history in /proc/nowhere/history");
    assert_non_null(line);
    assert_null(strstr(line + 1, "cannot keep"));
    free(text);
}

static void test_end(void **state) {
    struct fixture *f = *state;
    const char *text;
    open_terminal(f, NULL);
    type(f, "\004");
    assert_int_equal(chat_terminal_read(f->terminal, &text), CHAT_INPUT_END);
}

static void test_interrupt_drops_the_line(void **state) {
    struct fixture *f = *state;
    const char *text;
    open_terminal(f, NULL);
    type(f, "half a li");
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        kill(parent, SIGINT);
        _exit(0);
    }
    assert_int_equal(chat_terminal_read(f->terminal, &text), CHAT_INPUT_INTERRUPTED);
    waitpid(pid, NULL, 0);
    interrupt_arm();
    type(f, "whole\n");
    assert_reads(f, "whole");
}

/* Something else that happens while nobody types: here it is what types. */
struct happening {
    int wake_fd, keys_fd;
    uint32_t seen;
};

static void on_wake(void *context) {
    static const char *const KEYS[] = {"wo", "rd\n"};
    struct happening *happening = context;
    const char *keys = KEYS[happening->seen++];
    eventfd_t count;
    assert_int_equal(eventfd_read(happening->wake_fd, &count), 0);
    assert_int_equal(write(happening->keys_fd, keys, strlen(keys)), strlen(keys));
    if (happening->seen < 2)
        eventfd_write(happening->wake_fd, 1);
}

static void expect_woken(struct fixture *f, FILE *input, int keys_fd) {
    struct happening happening = {eventfd(1, 0), keys_fd, 0};
    const struct chat_terminal_options options = {.input = input,
                                                  .output = f->output,
                                                  .on_wake = on_wake,
                                                  .context = &happening,
                                                  .wake_fd = happening.wake_fd};
    assert_int_equal(chat_terminal_open(&options, &f->terminal), STATUS_OK);
    assert_reads(f, "word");
    assert_int_equal(happening.seen, 2);
    close(happening.wake_fd);
}

static void test_does_something_else_meanwhile(void **state) {
    struct fixture *f = *state;
    expect_woken(f, f->input, f->master);
}

/* Who talks to it may be a program as well. */
static void test_does_something_else_on_a_pipe(void **state) {
    struct fixture *f = *state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    FILE *input = fdopen(ends[0], "r");
    expect_woken(f, input, ends[1]);
    close(ends[1]);
    chat_terminal_close(f->terminal);
    f->terminal = NULL;
    fclose(input);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_lines, setup, teardown),
        cmocka_unit_test_setup_teardown(test_editing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_invalid_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_paste_is_one_message, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_paste, setup, teardown),
        cmocka_unit_test_setup_teardown(test_history_is_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(test_history_that_cannot_be_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(test_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_interrupt_drops_the_line, setup, teardown),
        cmocka_unit_test_setup_teardown(test_does_something_else_meanwhile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_does_something_else_on_a_pipe, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
