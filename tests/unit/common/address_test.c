/* HOST:PORT in and out. */
#include "tests/unit/test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>

#include "common/address.h"

static void expect_parsed(const char *text, const char *host, const char *port) {
    struct address address;
    if (!address_parse(text, &address))
        fail_msg("%s was refused", text);
    assert_string_equal(address.host, host);
    assert_string_equal(address.port, port);
}

static void test_parses(void **state) {
    (void)state;
    expect_parsed("127.0.0.1:7717", "127.0.0.1", "7717");
    expect_parsed("host-1.lan:0", "host-1.lan", "0");
    expect_parsed("[::1]:65535", "::1", "65535");
    expect_parsed("[fe80::1%eth0]:80", "fe80::1%eth0", "80");
}

static void test_refuses(void **state) {
    (void)state;
    const char *const wrong[] = {"",         "host",    "host:",   ":80",     "::1:80",
                                 "[::1]",    "[::1]80", "[::1]:",  "[]:80",   "[::1:80",
                                 "host:x",   "host:8x", "host:-1", "h:65536", "h:99999999",
                                 "h:000080", "a:80:90", "h: 80"};
    struct address address;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (address_parse(wrong[i], &address))
            fail_msg("\"%s\" was taken", wrong[i]);
    char text[ADDRESS_HOST_BYTES_MAX + 8];
    memset(text, 'h', ADDRESS_HOST_BYTES_MAX - 1);
    strcpy(text + ADDRESS_HOST_BYTES_MAX - 1, ":80");
    assert_true(address_parse(text, &address));
    text[ADDRESS_HOST_BYTES_MAX - 1] = 'h';
    strcpy(text + ADDRESS_HOST_BYTES_MAX, ":80");
    assert_false(address_parse(text, &address));
}

static void test_socket_addresses(void **state) {
    (void)state;
    char text[ADDRESS_TEXT_BYTES_MAX];
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(7717)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(80)};
    const struct sockaddr unknown = {.sa_family = AF_UNSPEC};
    const struct {
        const char *host, *text;
        bool loopback;
    } v4_cases[] = {{"127.0.0.1", "127.0.0.1:7717", true},
                    {"127.9.8.7", "127.9.8.7:7717", true},
                    {"128.0.0.1", "128.0.0.1:7717", false},
                    {"0.0.0.0", "0.0.0.0:7717", false}};
    for (size_t i = 0; i < sizeof v4_cases / sizeof *v4_cases; i++) {
        assert_int_equal(inet_pton(AF_INET, v4_cases[i].host, &v4.sin_addr), 1);
        address_format((struct sockaddr *)&v4, text);
        assert_string_equal(text, v4_cases[i].text);
        assert_int_equal(address_is_loopback((struct sockaddr *)&v4), v4_cases[i].loopback);
    }
    assert_false(address_is_loopback((struct sockaddr *)&v6));
    v6.sin6_addr = in6addr_loopback;
    address_format((struct sockaddr *)&v6, text);
    assert_string_equal(text, "[::1]:80");
    assert_true(address_is_loopback((struct sockaddr *)&v6));
    address_format(&unknown, text);
    assert_string_equal(text, "unknown address");
    assert_false(address_is_loopback(&unknown));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parses),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_socket_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
