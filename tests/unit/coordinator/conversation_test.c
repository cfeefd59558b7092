/* Messages stay in order and are copies; clearing leaves the system's. */
#include "coordinator/conversation.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void test_order_and_copies(void **state) {
    (void)state;
    struct conversation *conversation;
    char text[32];
    size_t count;
    assert_int_equal(conversation_create(NULL, &conversation), STATUS_OK);
    for (int i = 0; i < 100; i++) {
        snprintf(text, sizeof text, "message %d", i);
        assert_int_equal(conversation_add(conversation, i % 2 ? CHAT_ASSISTANT : CHAT_USER, text),
                         STATUS_OK);
    }
    const struct chat_message *messages = conversation_messages(conversation, &count);
    assert_int_equal(count, 100);
    for (int i = 0; i < 100; i++) {
        snprintf(text, sizeof text, "message %d", i);
        assert_string_equal(messages[i].text, text);
        assert_int_equal(messages[i].role, i % 2 ? CHAT_ASSISTANT : CHAT_USER);
    }
    conversation_drop_last(conversation);
    conversation_messages(conversation, &count);
    assert_int_equal(count, 99);
    conversation_destroy(conversation);
    conversation_destroy(NULL);
}

static void test_clear(void **state) {
    (void)state;
    struct conversation *conversation;
    size_t count;
    assert_int_equal(conversation_create("be brief", &conversation), STATUS_OK);
    assert_int_equal(conversation_add(conversation, CHAT_USER, "hello"), STATUS_OK);
    conversation_clear(conversation);
    const struct chat_message *messages = conversation_messages(conversation, &count);
    assert_int_equal(count, 1);
    assert_int_equal(messages[0].role, CHAT_SYSTEM);
    assert_string_equal(messages[0].text, "be brief");
    conversation_destroy(conversation);

    assert_int_equal(conversation_create(NULL, &conversation), STATUS_OK);
    assert_int_equal(conversation_add(conversation, CHAT_USER, "hello"), STATUS_OK);
    conversation_clear(conversation);
    conversation_messages(conversation, &count);
    assert_int_equal(count, 0);
    conversation_destroy(conversation);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_and_copies),
        cmocka_unit_test(test_clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
