/* The answer as it is written and kept, over a scheduler that hands out given tokens. */
#include "coordinator/answer.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/log.h"
#include "coordinator/interrupt.h"

/* What the scheduler below hands out. */
struct scheduler {
    const struct token_list *tokens;
    size_t interrupt_at; /* Ctrl-C is pressed before this token; SIZE_MAX: never */
    enum status status;
};

enum status scheduler_run(struct scheduler *scheduler, const struct request_options *options,
                          struct request_result *out) {
    size_t given = 0;
    enum finish_reason finish = FINISH_LENGTH;
    for (; given < scheduler->tokens->count && given < options->tokens_max; given++) {
        if (given == scheduler->interrupt_at)
            raise(SIGINT);
        if (options->is_cancelled(options->context) ||
            !options->on_token(options->context, scheduler->tokens->ids[given])) {
            finish = FINISH_STOPPED;
            break;
        }
    }
    if (scheduler->status == STATUS_OK)
        *out = (struct request_result){.answer_tokens = given, .finish = finish};
    return scheduler->status;
}

struct fixture {
    struct tokenizer *tokenizer;
    struct token_list tokens;
    struct scheduler scheduler;
    struct answer_options options;
    char *written;
    size_t written_bytes;
    struct answer answer;
};

static const struct token_list PROMPT = {.ids = (uint32_t[]){1}, .count = 1};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    static const char TEXT[] = "The answer is 95. It is Z\xc3\xbcrich.";
    if (tokenizer_load(DEMO_MODEL_DIR, 1024, &f->tokenizer) ||
        tokenizer_encode(f->tokenizer, TEXT, strlen(TEXT), false, &f->tokens))
        return -1;
    f->scheduler = (struct scheduler){.tokens = &f->tokens, .interrupt_at = SIZE_MAX};
    f->options = (struct answer_options){
        .tokenizer = f->tokenizer,
        .eos_id = UINT32_MAX,
        .stream = open_memstream(&f->written, &f->written_bytes),
    };
    interrupt_arm();
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    interrupt_disarm();
    answer_cleanup(&f->answer);
    if (f->options.stream)
        fclose(f->options.stream);
    free(f->written);
    free(f->tokens.ids);
    tokenizer_destroy(f->tokenizer);
    free(f);
    return 0;
}

static enum status generate(struct fixture *f) {
    return answer_generate(&f->scheduler, &f->options, &PROMPT, &f->answer);
}

static void test_whole_answer(void **state) {
    struct fixture *f = *state;
    assert_int_equal(generate(f), STATUS_OK);
    assert_string_equal(f->answer.text, "The answer is 95. It is Z\xc3\xbcrich.");
    assert_string_equal(f->written, f->answer.text);
    assert_int_equal(f->answer.tokens.count, f->tokens.count);
    assert_memory_equal(f->answer.tokens.ids, f->tokens.ids,
                        f->tokens.count * sizeof *f->tokens.ids);
    assert_false(f->answer.interrupted);
}

static void test_nothing_is_written_without_a_stream(void **state) {
    struct fixture *f = *state;
    FILE *stream = f->options.stream;
    f->options.stream = NULL;
    assert_int_equal(generate(f), STATUS_OK);
    assert_string_equal(f->answer.text, "The answer is 95. It is Z\xc3\xbcrich.");
    f->options.stream = stream;
}

static void test_length(void **state) {
    struct fixture *f = *state;
    f->options.tokens_max = 2;
    assert_int_equal(generate(f), STATUS_OK);
    assert_int_equal(f->answer.tokens.count, 2);
}

static void test_stop_string(void **state) {
    struct fixture *f = *state;
    const char *const stops[] = {"nothing", "95. I"};
    f->options.stops = stops;
    f->options.stop_count = 2;
    assert_int_equal(generate(f), STATUS_OK);
    assert_string_equal(f->answer.text, "The answer is ");
    assert_string_equal(f->written, "The answer is ");
    assert_true(f->answer.tokens.count < f->tokens.count);
    assert_int_equal(f->answer.result.finish, FINISH_STOPPED);
    assert_false(f->answer.interrupted);
}

static void test_interrupt(void **state) {
    struct fixture *f = *state;
    f->scheduler.interrupt_at = 3;
    assert_int_equal(generate(f), STATUS_OK);
    assert_int_equal(f->answer.tokens.count, 3);
    assert_true(f->answer.interrupted);
    assert_string_equal(f->written, f->answer.text);
}

static void test_ids_without_tokenizer(void **state) {
    struct fixture *f = *state;
    static uint32_t ids[] = {17, 0, 319};
    struct token_list tokens = {.ids = ids, .count = 3};
    f->options.tokenizer = NULL;
    f->scheduler.tokens = &tokens;
    assert_int_equal(generate(f), STATUS_OK);
    assert_string_equal(f->written, "17 0 319");
    assert_string_equal(f->answer.text, "");
    assert_int_equal(f->answer.tokens.count, 3);
}

static void test_write_error_ends_the_answer(void **state) {
    struct fixture *f = *state;
    char *text;
    size_t bytes;
    FILE *log = open_memstream(&text, &bytes), *stream = f->options.stream;
    log_init("test", LOG_DEBUG, log);
    f->options.stream = fopen("/dev/full", "w");
    assert_int_equal(generate(f), STATUS_IO);
    fclose(f->options.stream);
    f->options.stream = stream;
    log_init("test", LOG_WARNING, NULL);
    fclose(log);
    assert_non_null(strstr(text, "cannot write the answer to standard output: No space left"));
    assert_ptr_equal(strchr(text, '\n'), text + bytes - 1);
    assert_null(f->answer.text);
    free(text);
}

static void test_scheduler_error_is_passed_on(void **state) {
    struct fixture *f = *state;
    f->scheduler.status = STATUS_CONNECTION;
    assert_int_equal(generate(f), STATUS_CONNECTION);
    assert_null(f->answer.text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_whole_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_is_written_without_a_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(test_length, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_string, setup, teardown),
        cmocka_unit_test_setup_teardown(test_interrupt, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ids_without_tokenizer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_write_error_ends_the_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_scheduler_error_is_passed_on, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
