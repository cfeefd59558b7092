/* The tables: well formed, complete for the runtime, and the rules that span several options. */
#include "tests/unit/test.h"

#include "coordinator/options.h"
#include "coordinator/planning.h"

static void test_tables_are_well_formed(void **state) {
    (void)state;
    struct option_catalogue *catalogue = calloc(1, sizeof *catalogue);
    options_describe_all(catalogue);
    for (size_t c = 0; c < OPTION_TABLES; c++) {
        const struct command *command = catalogue->commands[c];
        assert_string_equal(command->program, "skein");
        assert_non_null(command->summary);
        assert_non_null(command->usage);
        for (size_t i = 0; i < command->option_count; i++) {
            const struct option *option = &command->options[i];
            assert_non_null(option->target);
            assert_non_null(option->help);
            assert_int_equal(option->help[strlen(option->help) - 1], '.');
            assert_int_equal(option->argument == NULL, option->type == OPTION_FLAG);
            assert_int_equal(option->choices != NULL, option->type == OPTION_CHOICE);
            assert_string_not_equal(option->name, "help");
            assert_int_not_equal(option->letter, 'h');
            for (size_t j = 0; j < i; j++) {
                assert_string_not_equal(option->name, command->options[j].name);
                if (option->letter)
                    assert_int_not_equal(option->letter, command->options[j].letter);
            }
        }
    }
    free(catalogue);
}

static enum status parse_run(struct run_options *options, char **argv) {
    struct option_table *table = calloc(1, sizeof *table);
    struct config *config = config_create();
    int argc = 0;
    bool done;
    while (argv[argc])
        argc++;
    options_describe_run(options, table);
    enum status status = config_parse_arguments(config, &table->command, argc, argv, &done);
    if (status == STATUS_OK)
        status = options_check_run(options);
    config_destroy(config);
    free(table);
    return status;
}

static void test_values_reach_the_runtime(void **state) {
    (void)state;
    struct run_options options;
    char *argv[] = {"run",
                    "--model",
                    "/m",
                    "--workers",
                    "a:1,b:2",
                    "--threads",
                    "3",
                    "--isa",
                    "reference",
                    "--placement",
                    "slices",
                    "--batch-tokens",
                    "64",
                    "--context",
                    "100",
                    "--activations",
                    "f32",
                    "--kv-cache",
                    "q8",
                    "--quiet",
                    "--temperature",
                    "0.5",
                    "--top-k",
                    "40",
                    "--top-p",
                    "0.9",
                    "--min-p",
                    "0.1",
                    "--repetition-penalty",
                    "1.5",
                    "--seed",
                    "9",
                    "--max-tokens",
                    "7",
                    "--ignore-eos",
                    "--json",
                    NULL};
    assert_int_equal(parse_run(&options, argv), STATUS_OK);
    struct runtime_options runtime = options_for_runtime(&options.model);
    assert_string_equal(runtime.model_path, "/m");
    assert_string_equal(runtime.workers, "a:1,b:2");
    assert_int_equal(runtime.local_workers, 0);
    assert_int_equal(runtime.threads, 3);
    assert_string_equal(runtime.isa, "reference");
    assert_string_equal(runtime.placement, "slices");
    assert_int_equal(runtime.batch_rows, 64);
    assert_int_equal(runtime.context, 100);
    assert_string_equal(runtime.kv_cache, "q8");
    assert_false(runtime.with_draft);
    assert_false(runtime.show_progress);
    assert_true(options.sampling.temperature == 0.5f && options.sampling.top_p == 0.9f);
    assert_true(options.sampling.min_p == 0.1f && options.sampling.repetition_penalty == 1.5f);
    assert_int_equal(options.sampling.top_k, 40);
    assert_int_equal(options.sampling.seed, 9);
    assert_int_equal(options.tokens_max, 7);
    assert_true(options.ignore_eos && options.json);
}

static void test_defaults(void **state) {
    (void)state;
    struct run_options options;
    assert_int_equal(parse_run(&options, (char *[]){"run", "-m", "/m", NULL}), STATUS_OK);
    assert_true(options.sampling.temperature == 0 && options.sampling.top_p == 1);
    assert_true(options.sampling.repetition_penalty == 1);
    assert_string_equal(options.model.isa, "auto");
    assert_string_equal(options.model.placement, "auto");
    assert_string_equal(options.model.optimize, "balanced");
    assert_string_equal(options.model.replicas, "auto");
    assert_true(options.model.memory_bytes == PLANNING_MEMORY_AUTO);
    assert_int_equal(options.model.batch_tokens, 512);
    assert_null(options.chat_format);
    assert_null(options.model.workers);
}

static void test_plan(void **state) {
    (void)state;
    struct plan_options options;
    struct log_capture capture;
    options_describe_plan(&options, &(struct option_table){.command = {.name = ""}});
    log_capture_begin(&capture);
    assert_int_equal(options_check_plan(&options), STATUS_USAGE);
    log_capture_expect(&capture, "--model PATH is missing", NULL);
    options.path = "/m";
    log_capture_begin(&capture);
    assert_int_equal(options_check_plan(&options), STATUS_USAGE);
    log_capture_expect(&capture, "--cluster FILE.yaml is missing", NULL);
    options.cluster = "c.yaml";
    assert_int_equal(options_check_plan(&options), STATUS_OK);
}

struct rule {
    char *arguments[8];
    enum status status;
    const char *expected; /* part of the one line */
};

static const struct rule RULES[] = {
    {{"run"}, STATUS_USAGE, "--model PATH is missing"},
    {{"run", "--model", ""}, STATUS_USAGE, "--model PATH is missing"},
    {{"run", "-m", "x", "--prompt", "a", "--file", "b"}, STATUS_USAGE, "exclude each other"},
    {{"run", "-m", "x", "--prompt-ids", "a", "--file", "b"},
     STATUS_USAGE,
     "--prompt-ids and --file"},
    {{"run", "-m", "x", "--raw", "--think"}, STATUS_USAGE, "do nothing with --raw"},
    {{"run", "-m", "x", "--raw", "--system", "s"}, STATUS_USAGE, "--system"},
    {{"run", "-m", "x", "--prompt-ids", "a", "--chat-format", "v3"},
     STATUS_USAGE,
     "with --prompt-ids"},
    {{"run", "-m", "x", "--chat-format", "v9"}, STATUS_USAGE, "one of v2, v3, r1, v3.1"},
    {{"run", "-m", "x", "--stop", ""}, STATUS_USAGE, "--stop needs a text"},
    {{"run", "-m", "x", "-v", "-q"}, STATUS_USAGE, "--verbose and --quiet"},
    {{"run", "-m", "x", "--repetition-penalty", "0"}, STATUS_USAGE, "from 0.01 to 100"},
    {{"run", "-m", "x", "--batch-tokens", "0"}, STATUS_USAGE, "from 1 to 8192"},
    {{"run", "-m", "x", "--prompt", "a", "--think"}, STATUS_OK, ""},
};

static void test_rules(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof RULES / sizeof *RULES; i++) {
        struct run_options options;
        char *text;
        size_t bytes;
        FILE *log = open_memstream(&text, &bytes);
        log_init("test", LOG_DEBUG, log);
        enum status status = parse_run(&options, (char **)RULES[i].arguments);
        log_init("test", LOG_WARNING, NULL);
        fclose(log);
        assert_int_equal(status, RULES[i].status);
        if (!strstr(text, RULES[i].expected))
            fail_msg("the log lacks \"%s\": %s", RULES[i].expected, text);
        if (status != STATUS_OK)
            assert_ptr_equal(strchr(text, '\n'), text + bytes - 1);
        free(text);
    }
}

static void test_rules_of_other_commands(void **state) {
    (void)state;
    char *text;
    size_t bytes;
    FILE *log = open_memstream(&text, &bytes);
    log_init("test", LOG_DEBUG, log);
    struct logits_options logits = {.model = {.path = "x", .activations = "auto"}, .ids = "i"};
    assert_int_equal(options_check_logits(&logits), STATUS_USAGE);
    logits.out = "o";
    assert_int_equal(options_check_logits(&logits), STATUS_OK);
    logits.ids = NULL;
    assert_int_equal(options_check_logits(&logits), STATUS_USAGE);
    assert_int_equal(options_check_inspect(&(struct inspect_options){.json = true}), STATUS_USAGE);
    assert_int_equal(options_check_inspect(&(struct inspect_options){.path = "x"}), STATUS_OK);
    log_init("test", LOG_WARNING, NULL);
    fclose(log);
    assert_string_equal(text, "test: error: --out FILE.npy is missing\n"
                              "test: error: --ids FILE.json is missing\n"
                              "test: error: --model PATH is missing\n");
    free(text);
}

static enum status parse_bench(struct bench_options *options, char **argv) {
    struct option_table *table = calloc(1, sizeof *table);
    struct config *config = config_create();
    int argc = 0;
    bool done;
    while (argv[argc])
        argc++;
    options_describe_bench(options, table);
    enum status status = config_parse_arguments(config, &table->command, argc, argv, &done);
    if (status == STATUS_OK)
        status = options_check_bench(options);
    config_destroy(config);
    free(table);
    return status;
}

static void test_bench(void **state) {
    (void)state;
    struct bench_options options;
    assert_int_equal(parse_bench(&options, (char *[]){"bench", "-m", "/m", NULL}), STATUS_OK);
    assert_int_equal(options.prompt_tokens, 128);
    assert_int_equal(options.decode_tokens, 32);
    assert_int_equal(options.repetitions, 3);
    assert_int_equal(options.depth, 0);
    assert_false(options.json);
    char *all[] = {"bench", "-m", "/m", "-p",      "7",      "-n",        "8", "-r",
                   "9",     "-d", "5",  "--quiet", "--json", "--threads", "2", NULL};
    assert_int_equal(parse_bench(&options, all), STATUS_OK);
    assert_int_equal(options.prompt_tokens, 7);
    assert_int_equal(options.decode_tokens, 8);
    assert_int_equal(options.repetitions, 9);
    assert_int_equal(options.depth, 5);
    assert_int_equal(options.model.threads, 2);
    assert_true(options.json && options.model.quiet);
    struct log_capture capture;
    log_capture_begin(&capture);
    char *deep[] = {"bench", "-m", "/m", "-d", "16777100", "-p", "117", NULL};
    assert_int_equal(parse_bench(&options, deep), STATUS_USAGE);
    log_capture_expect(&capture, "--depth 16777100 and 117 tokens", "16777216", NULL);
    deep[6] = "116";
    assert_int_equal(parse_bench(&options, deep), STATUS_OK);
}

static void test_perplexity(void **state) {
    (void)state;
    struct perplexity_text_options options;
    struct option_table *table = calloc(1, sizeof *table);
    options_describe_perplexity(&options, table);
    free(table);
    assert_int_equal(options_for_runtime(&options.model).context, 512);
    options.model.path = "x";
    struct log_capture capture;
    log_capture_begin(&capture);
    assert_int_equal(options_check_perplexity(&options), STATUS_USAGE);
    log_capture_expect(&capture, "--file", "--ids", NULL);
    options.file = "f";
    assert_int_equal(options_check_perplexity(&options), STATUS_OK);
    options.ids = "i";
    log_capture_begin(&capture);
    assert_int_equal(options_check_perplexity(&options), STATUS_USAGE);
    log_capture_expect(&capture, "--file", "--ids", NULL);
    options.file = NULL;
    assert_int_equal(options_check_perplexity(&options), STATUS_OK);
}

static enum status parse_quantize(struct quantize_options *options, char **argv) {
    struct option_table *table = calloc(1, sizeof *table);
    struct config *config = config_create();
    int argc = 0;
    bool done;
    while (argv[argc])
        argc++;
    options_describe_quantize(options, table);
    enum status status = config_parse_arguments(config, &table->command, argc, argv, &done);
    if (status == STATUS_OK)
        status = options_check_quantize(options);
    config_destroy(config);
    free(table);
    return status;
}

static void test_quantize(void **state) {
    (void)state;
    struct quantize_options options;
    char *good[] = {"quantize", "in", "--type", "q4_k_m", "out.gguf", "-t3", NULL};
    assert_int_equal(parse_quantize(&options, good), STATUS_OK);
    assert_string_equal(options.in, "in");
    assert_string_equal(options.out, "out.gguf");
    assert_string_equal(options.type, "q4_k_m");
    assert_int_equal(options.threads, 3);
    static const struct {
        char *arguments[6];
        const char *expected;
    } CASES[] = {
        {{"quantize", "--type", "q8_0"}, "IN OUT.gguf"},
        {{"quantize", "in", "--type", "q8_0"}, "IN OUT.gguf"},
        {{"quantize", "in", "out.gguf"}, "--type"},
        {{"quantize", "in", "out", "--type", "q8_0"}, ".gguf"},
        {{"quantize", "in", "o-00001-of-00002.gguf", "--type", "q8_0"}, "part"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct log_capture capture;
        log_capture_begin(&capture);
        assert_int_equal(parse_quantize(&options, (char **)CASES[i].arguments), STATUS_USAGE);
        log_capture_expect(&capture, CASES[i].expected, NULL);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables_are_well_formed),
        cmocka_unit_test(test_values_reach_the_runtime),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_rules_of_other_commands),
        cmocka_unit_test(test_bench),
        cmocka_unit_test(test_perplexity),
        cmocka_unit_test(test_quantize),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
