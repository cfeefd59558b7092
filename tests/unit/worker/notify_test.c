/* What arrives at the socket of a service manager, and that nothing happens without one. */
#include "worker/notify.h"

#include <sys/socket.h>
#include <sys/un.h>

#include "common/limits.h"
#include "tests/unit/files.h"

struct manager {
    char directory[64];
    int fd;
};

static int setup(void **state) {
    struct manager *manager = calloc(1, sizeof *manager);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    test_directory_make(manager->directory);
    snprintf(address.sun_path, sizeof address.sun_path, "%s/notify", manager->directory);
    manager->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(manager->fd, (struct sockaddr *)&address, sizeof address), 0);
    setenv("NOTIFY_SOCKET", address.sun_path, 1);
    *state = manager;
    return 0;
}

static int teardown(void **state) {
    struct manager *manager = *state;
    unsetenv("NOTIFY_SOCKET");
    close(manager->fd);
    test_directory_remove(manager->directory);
    free(manager);
    return 0;
}

static void expect(const struct manager *manager, const char *wanted) {
    char message[2 * NOTIFY_STATUS_BYTES_MAX];
    ssize_t bytes = recv(manager->fd, message, sizeof message - 1, 0);
    assert_true(bytes > 0);
    message[bytes] = '\0';
    assert_string_equal(message, wanted);
}

static void test_messages(void **state) {
    notify_ready();
    expect(*state, "READY=1\nSTATUS=waiting for a coordinator");
    notify_status("%d shards loaded, serving %s", 12, "mini (10.0.0.1:4000)");
    expect(*state, "STATUS=12 shards loaded, serving mini (10.0.0.1:4000)");
    notify_stopping();
    expect(*state, "STOPPING=1");
}

static void test_a_name_cannot_add_a_line(void **state) {
    notify_status("serving %s", "x\nMAINPID=1\xff");
    expect(*state, "STATUS=serving x?MAINPID=1?");
}

static void test_long_text_is_cut(void **state) {
    char text[2 * NOTIFY_STATUS_BYTES_MAX], wanted[NOTIFY_STATUS_BYTES_MAX + 8];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    notify_status("%s", text);
    snprintf(wanted, sizeof wanted, "STATUS=%.*s", NOTIFY_STATUS_BYTES_MAX - 1, text);
    expect(*state, wanted);
}

static void test_nobody_listens(void **state) {
    (void)state;
    unsetenv("NOTIFY_SOCKET");
    notify_ready();
    notify_status("waiting");
    setenv("NOTIFY_SOCKET", "/nowhere/notify", 1);
    notify_stopping();
    unsetenv("NOTIFY_SOCKET");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_messages, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_name_cannot_add_a_line, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_text_is_cut, setup, teardown),
        cmocka_unit_test(test_nobody_listens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
