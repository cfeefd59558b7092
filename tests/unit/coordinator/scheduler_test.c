/* Requests over a golden model: the same answer whether the prompt's beginning is in the cache or
 * not, and every way in which an answer ends. */
#include "tests/unit/test.h"

#include "coordinator/runtime.h"
#include "coordinator/scheduler.h"

#define ANSWER_MAX 64

struct answer {
    uint32_t ids[ANSWER_MAX];
    size_t count, stop_after; /* 0: never */
    bool cancelled;
};

static bool take_token(void *context, uint32_t id) {
    struct answer *answer = context;
    answer->ids[answer->count++] = id;
    return answer->count != answer->stop_after;
}

static bool is_cancelled(void *context) {
    return ((struct answer *)context)->cancelled;
}

static struct request_result run(struct scheduler *scheduler, const uint32_t *prompt, size_t count,
                                 uint32_t tokens_max, uint32_t eos_id, struct answer *answer) {
    const struct request_options options = {.prompt = prompt,
                                            .prompt_count = count,
                                            .sampling = {.top_p = 1, .repetition_penalty = 1},
                                            .tokens_max = tokens_max,
                                            .eos_id = eos_id,
                                            .on_token = take_token,
                                            .is_cancelled = is_cancelled,
                                            .context = answer};
    struct request_result result;
    answer->count = 0;
    assert_int_equal(scheduler_run(scheduler, &options, &result), STATUS_OK);
    assert_int_equal(result.answer_tokens, answer->count);
    return result;
}

struct fixture {
    struct runtime *runtime;
    struct scheduler *scheduler;
};

static int setup(void **state) {
    static struct fixture fixture;
    const struct runtime_options options = {.model_path = TEST_DATA_DIR "/golden/deepseek-v2-tiny",
                                            .kv_cache = "auto",
                                            .threads = 1,
                                            .isa = "auto",
                                            .placement = "experts",
                                            .batch_rows = 5,
                                            .context = 128};
    if (runtime_open(&options, &fixture.runtime) ||
        scheduler_create(runtime_engine(fixture.runtime), &fixture.scheduler))
        return -1;
    *state = &fixture;
    return 0;
}

static int teardown(void **state) {
    struct fixture *fixture = *state;
    scheduler_destroy(fixture->scheduler);
    runtime_close(fixture->runtime);
    return 0;
}

static const uint32_t PROMPT[] = {0, 17, 99, 250, 3, 8, 77, 120, 300, 41, 5, 6};
#define PROMPT_COUNT (sizeof PROMPT / sizeof *PROMPT)

static void test_prefix_is_reused(void **state) {
    struct fixture *f = *state;
    struct answer fresh = {0}, again = {0}, other = {0};
    struct request_result first = run(f->scheduler, PROMPT, PROMPT_COUNT, 20, UINT32_MAX, &fresh);
    assert_int_equal(first.reused_tokens, 0);
    assert_int_equal(first.finish, FINISH_LENGTH);
    /* The same prompt: all but its last token is there. */
    struct request_result second = run(f->scheduler, PROMPT, PROMPT_COUNT, 20, UINT32_MAX, &again);
    assert_int_equal(second.reused_tokens, PROMPT_COUNT - 1);
    assert_memory_equal(fresh.ids, again.ids, 20 * sizeof(uint32_t));
    /* A prompt that leaves the common path after five tokens, and back. */
    uint32_t changed[PROMPT_COUNT];
    memcpy(changed, PROMPT, sizeof PROMPT);
    changed[5] = 9;
    assert_int_equal(run(f->scheduler, changed, PROMPT_COUNT, 20, UINT32_MAX, &other).reused_tokens,
                     5);
    run(f->scheduler, PROMPT, PROMPT_COUNT, 20, UINT32_MAX, &again);
    assert_memory_equal(fresh.ids, again.ids, 20 * sizeof(uint32_t));
}

static void test_ends(void **state) {
    struct fixture *f = *state;
    struct answer answer = {0}, stopped = {.stop_after = 4}, cancelled = {.cancelled = true};
    run(f->scheduler, PROMPT, PROMPT_COUNT, 20, UINT32_MAX, &answer);
    uint32_t third = answer.ids[2];
    struct answer until = {0};
    struct request_result result = run(f->scheduler, PROMPT, PROMPT_COUNT, 20, third, &until);
    assert_int_equal(result.finish, FINISH_EOS);
    assert_true(until.count <= 2);
    result = run(f->scheduler, PROMPT, PROMPT_COUNT, 20, UINT32_MAX, &stopped);
    assert_int_equal(result.finish, FINISH_STOPPED);
    assert_int_equal(stopped.count, 4);
    result = run(f->scheduler, PROMPT, PROMPT_COUNT, 20, UINT32_MAX, &cancelled);
    assert_int_equal(result.finish, FINISH_STOPPED);
    assert_int_equal(cancelled.count, 0);
    run(f->scheduler, PROMPT, PROMPT_COUNT, 20, UINT32_MAX, &until);
    assert_memory_equal(answer.ids, until.ids, 20 * sizeof(uint32_t));
}

static void test_context_bounds(void **state) {
    struct fixture *f = *state;
    uint32_t prompt[200] = {0};
    struct answer answer = {0};
    struct request_result result;
    struct log_capture capture;
    /* 128 positions: a prompt of 120 leaves room for 8 more, and the ninth token needs none. */
    log_capture_begin(&capture);
    result = run(f->scheduler, prompt, 120, 60, UINT32_MAX, &answer);
    fclose(capture.stream);
    assert_non_null(strstr(capture.text, "context of 128 positions is full"));
    free(capture.text);
    assert_int_equal(result.finish, FINISH_LENGTH);
    assert_int_equal(result.answer_tokens, 9);
    const struct request_options options = {
        .prompt = prompt, .prompt_count = 200, .on_token = take_token, .context = &answer};
    log_capture_begin(&capture);
    assert_int_equal(scheduler_run(f->scheduler, &options, &result), STATUS_NO_MEMORY);
    log_capture_expect(&capture, "200 tokens", "--context", NULL);
    log_capture_begin(&capture);
    const struct request_options empty = {
        .prompt = prompt, .on_token = take_token, .context = &answer};
    assert_int_equal(scheduler_run(f->scheduler, &empty, &result), STATUS_USAGE);
    log_capture_expect(&capture, "prompt is empty", NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefix_is_reused),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_context_bounds),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
