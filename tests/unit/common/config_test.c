/* The option table: values and their bounds, precedence, every error line, help, completion, sizes.
 */
#include "common/config.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/limits.h"
#include "common/log.h"

struct targets {
    bool verbose;
    const char *model, *text, *isa;
    uint32_t threads;
    uint64_t seed, memory;
    float temperature;
    struct option_list stops;
};

struct fixture {
    struct targets targets;
    struct option options[9];
    struct command command;
    struct config *config;
    FILE *log;
    char *log_text;
    size_t log_bytes;
    char file[64];
};

static void fill_options(struct targets *t, struct option *out) {
    const struct option options[] = {
        {.name = "verbose",
         .letter = 'v',
         .type = OPTION_FLAG,
         .target = &t->verbose,
         .help = "Say more."},
        {.name = "model",
         .letter = 'm',
         .type = OPTION_PATH,
         .target = &t->model,
         .argument = "PATH",
         .help = "The checkpoint."},
        {.name = "prompt",
         .type = OPTION_STRING,
         .target = &t->text,
         .argument = "TEXT",
         .help = "The question."},
        {.name = "isa",
         .type = OPTION_CHOICE,
         .target = &t->isa,
         .choices = "auto|avx2|avx512",
         .argument = "NAME",
         .help = "Instruction set."},
        {.name = "threads",
         .letter = 't',
         .type = OPTION_COUNT,
         .target = &t->threads,
         .argument = "N",
         .minimum = 1,
         .maximum = 512,
         .help = "Threads that compute; this sentence is long enough that the help has to break it "
                 "into two lines."},
        {.name = "seed", .type = OPTION_SEED, .target = &t->seed, .argument = "N", .help = "Seed."},
        {.name = "temperature",
         .type = OPTION_REAL,
         .target = &t->temperature,
         .argument = "T",
         .minimum = 0,
         .maximum = 10,
         .help = "Randomness."},
        {.name = "memory",
         .type = OPTION_SIZE,
         .target = &t->memory,
         .argument = "SIZE",
         .help = "Memory."},
        {.name = "stop",
         .type = OPTION_LIST,
         .target = &t->stops,
         .argument = "TEXT",
         .help = "Stop."},
    };
    memcpy(out, options, sizeof options);
}

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    f->targets = (struct targets){.isa = "auto", .threads = 7, .temperature = 0.5f};
    fill_options(&f->targets, f->options);
    f->command = (struct command){.program = "prog",
                                  .name = "run",
                                  .summary = "Runs it.",
                                  .usage = "--model PATH",
                                  .details = "Example: run it.\n",
                                  .options = f->options,
                                  .option_count = 9};
    f->config = config_create();
    assert_non_null(f->config);
    f->log = open_memstream(&f->log_text, &f->log_bytes);
    log_init("test", LOG_DEBUG, f->log);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    log_init("test", LOG_WARNING, NULL);
    fclose(f->log);
    free(f->log_text);
    if (f->file[0])
        unlink(f->file);
    config_destroy(f->config);
    free(f);
    return 0;
}

#define PARSE(f, ...) parse(f, (char *[]){"run", __VA_ARGS__, NULL})

static enum status parse(struct fixture *f, char **argv) {
    int argc = 0;
    while (argv[argc])
        argc++;
    bool done = true;
    enum status status = config_parse_arguments(f->config, &f->command, argc, argv, &done);
    if (status == STATUS_OK)
        assert_false(done);
    return status;
}

static enum status parse_file(struct fixture *f, const char *text, size_t bytes) {
    strcpy(f->file, "/tmp/config_test_XXXXXX");
    int file = mkstemp(f->file);
    assert_true(file >= 0);
    assert_int_equal(write(file, text, bytes), bytes);
    close(file);
    return config_parse_file(f->config, &f->command, f->file);
}

static void assert_logged(struct fixture *f, const char *expected) {
    if (!strstr(f->log_text, expected))
        fail_msg("the log lacks \"%s\": %s", expected, f->log_text);
    assert_ptr_equal(strchr(f->log_text, '\n'), f->log_text + f->log_bytes - 1);
}

static void test_every_type(void **state) {
    struct fixture *f = *state;
    assert_int_equal(PARSE(f, "-v", "--model", "/m", "--prompt=a=b", "--isa", "avx2", "-t4",
                           "--seed", "18446744073709551615", "--temperature", "0.25", "--memory",
                           "1.5G", "--stop", "x", "--stop=", "--"),
                     STATUS_OK);
    assert_true(f->targets.verbose);
    assert_string_equal(f->targets.model, "/m");
    assert_string_equal(f->targets.text, "a=b");
    assert_string_equal(f->targets.isa, "avx2");
    assert_int_equal(f->targets.threads, 4);
    assert_true(f->targets.seed == UINT64_MAX);
    assert_true(f->targets.temperature == 0.25f);
    assert_int_equal(f->targets.memory, 3u << 29);
    assert_int_equal(f->targets.stops.count, 2);
    assert_string_equal(f->targets.stops.items[0], "x");
    assert_string_equal(f->targets.stops.items[1], "");
    assert_true(config_is_set(f->config, "stop"));
    assert_false(config_is_set(f->config, "nothing"));
}

static void test_defaults_stay(void **state) {
    struct fixture *f = *state;
    assert_int_equal(PARSE(f, "-m", "--strange"), STATUS_OK);
    assert_string_equal(f->targets.model, "--strange");
    assert_string_equal(f->targets.isa, "auto");
    assert_int_equal(f->targets.threads, 7);
    assert_false(config_is_set(f->config, "threads"));
}

static void test_bad_arguments(void **state) {
    (void)state;
    static const struct {
        char *arguments[3];
        const char *expected;
    } CASES[] = {
        {{"--modle", "x"}, "unknown option --modle; did you mean --model? See prog run --help"},
        {{"--zzzzzzzz"}, "unknown option --zzzzzzzz; see prog run --help"},
        {{"--thraeds=3"}, "unknown option --thraeds; did you mean --threads?"},
        {{"-x"}, "unknown option -x; see"},
        {{"word"}, "unexpected argument \"word\""},
        {{"-"}, "unexpected argument \"-\""},
        {{"--", "word"}, "unexpected argument \"word\" behind --"},
        {{"--model"}, "option --model needs a value: --model PATH"},
        {{"-t"}, "option --threads needs a value: --threads N"},
        {{"--verbose=1"}, "option --verbose takes no value"},
        {{"--threads", "0"}, "option --threads takes a whole number from 1 to 512, not \"0\""},
        {{"--threads", "513"}, "from 1 to 512"},
        {{"--threads", "-1"}, "not \"-1\""},
        {{"--threads", "4x"}, "not \"4x\""},
        {{"--threads", "99999999999999999999"}, "whole number"},
        {{"--seed", "18446744073709551616"}, "option --seed takes a whole number below 2^64"},
        {{"--temperature", "nan"}, "option --temperature takes a number from 0 to 10"},
        {{"--temperature", "11"}, "not \"11\""},
        {{"--temperature", ""}, "not \"\""},
        {{"--memory", "12Q"}, "option --memory takes a size such as 512M or 1.5G, not \"12Q\""},
        {{"--isa", "avx"}, "option --isa takes one of auto, avx2, avx512, not \"avx\""},
        {{"--isa", ""}, "one of auto"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        void *inner;
        setup(&inner);
        struct fixture *f = inner;
        assert_int_equal(
            PARSE(f, CASES[i].arguments[0], CASES[i].arguments[1], CASES[i].arguments[2]),
            STATUS_USAGE);
        assert_logged(f, CASES[i].expected);
        teardown(&inner);
    }
}

/* Between options and behind "--", in their order. */
static void test_operands(void **state) {
    struct fixture *f = *state;
    const char *in = NULL, *out = NULL;
    const struct operand operands[] = {{"IN", &in}, {"OUT", &out}};
    f->command.operands = operands;
    f->command.operand_count = 2;
    assert_int_equal(PARSE(f, "a", "-v", "b"), STATUS_OK);
    assert_string_equal(in, "a");
    assert_string_equal(out, "b");
    assert_true(f->targets.verbose);
    assert_int_equal(PARSE(f, "c", "--", "--model"), STATUS_OK);
    assert_string_equal(in, "c");
    assert_string_equal(out, "--model");
    assert_int_equal(PARSE(f, "a", "b", "c"), STATUS_USAGE);
    assert_logged(f, "unexpected argument \"c\"");
}

static void test_too_many_operands_behind_dashes(void **state) {
    struct fixture *f = *state;
    const char *in = NULL;
    const struct operand operands[] = {{"IN", &in}};
    f->command.operands = operands;
    f->command.operand_count = 1;
    assert_int_equal(PARSE(f, "--", "a", "-b"), STATUS_USAGE);
    assert_logged(f, "unexpected argument \"-b\" behind --");
}

static void test_too_many_items(void **state) {
    struct fixture *f = *state;
    static char *argv[2 * (OPTION_ITEMS_MAX + 1) + 2];
    int argc = 0;
    argv[argc++] = "run";
    for (int i = 0; i <= OPTION_ITEMS_MAX; i++) {
        argv[argc++] = "--stop";
        argv[argc++] = "s";
    }
    assert_int_equal(parse(f, argv), STATUS_USAGE);
    assert_logged(f, "option --stop may be given at most 256 times");
}

static void test_file(void **state) {
    struct fixture *f = *state;
    assert_int_equal(PARSE(f, "--threads", "3"), STATUS_OK);
    static const char TEXT[] = "# settings\nthreads: 9\nmodel: /from/file\nverbose: yes\n"
                               "stop: [one, \"two three\"]\nmemory: 64KiB\n";
    assert_int_equal(parse_file(f, TEXT, strlen(TEXT)), STATUS_OK);
    assert_int_equal(f->targets.threads, 3);
    assert_string_equal(f->targets.model, "/from/file");
    assert_true(f->targets.verbose);
    assert_int_equal(f->targets.stops.count, 2);
    assert_string_equal(f->targets.stops.items[1], "two three");
    assert_int_equal(f->targets.memory, 65536);
    assert_true(config_is_set(f->config, "model"));
}

static void test_file_list_of_one_and_empty(void **state) {
    struct fixture *f = *state;
    assert_int_equal(parse_file(f, "", 0), STATUS_OK);
    unlink(f->file);
    assert_int_equal(parse_file(f, "stop: one\n", 10), STATUS_OK);
    assert_int_equal(f->targets.stops.count, 1);
}

static void test_bad_files(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t bytes; /* 0: strlen */
        enum status status;
        const char *expected;
    } CASES[] = {
        {"threads: 4\nmodell: x\n", 0, STATUS_USAGE, ":2: unknown key modell; did you mean model"},
        {"qqqqqqqqq: x\n", 0, STATUS_USAGE, ":1: unknown key qqqqqqqqq; keys are"},
        {"\nthreads: many\n", 0, STATUS_USAGE,
         ":2: threads takes a whole number from 1 to 512, not \"many\""},
        {"verbose: maybe\n", 0, STATUS_USAGE, ":1: verbose takes true or false"},
        {"threads: [1]\n", 0, STATUS_USAGE, ":1: threads takes a single value"},
        {"stop: [[1]]\n", 0, STATUS_USAGE, ":1: stop takes a single value or a list"},
        {"stop: {a: b}\n", 0, STATUS_USAGE, "or a list"},
        {"model:\n", 0, STATUS_USAGE, ":1: model has an empty value"},
        {"model: \"a\\0b\"\n", 0, STATUS_USAGE, "zero byte"},
        {"model: a\nmodel: b\n", 0, STATUS_FORMAT, ":2: model stands here a second time"},
        {"[1, 2]: a\n", 0, STATUS_FORMAT, ":1: a key must be the name"},
        {"- a\n- b\n", 0, STATUS_FORMAT, ":1: expected lines of the form"},
        {"a: b: c\n", 0, STATUS_FORMAT, ":1: not valid YAML"},
        {"model: 'open\n", 0, STATUS_FORMAT, "not valid YAML"},
        {"\xff\xfe\x00\xd8", 4, STATUS_FORMAT, "not valid YAML"},
        {"&a [*a]\n", 0, STATUS_FORMAT, "expected lines"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        void *inner;
        setup(&inner);
        struct fixture *f = inner;
        size_t bytes = CASES[i].bytes ? CASES[i].bytes : strlen(CASES[i].text);
        assert_int_equal(parse_file(f, CASES[i].text, bytes), CASES[i].status);
        assert_logged(f, CASES[i].expected);
        assert_logged(f, f->file);
        teardown(&inner);
    }
}

static void test_unreadable_files(void **state) {
    struct fixture *f = *state;
    assert_int_equal(config_parse_file(f->config, &f->command, "/nowhere/c.yaml"),
                     STATUS_NOT_FOUND);
    assert_logged(f, "cannot open configuration file /nowhere/c.yaml");
    rewind(f->log);
    assert_int_equal(config_parse_file(f->config, &f->command, "/tmp"), STATUS_IO);
    fflush(f->log);
    assert_non_null(strstr(f->log_text, "cannot read configuration file /tmp"));
    rewind(f->log);
    char *large = malloc(CONFIG_FILE_BYTES_MAX + 1);
    memset(large, '\n', CONFIG_FILE_BYTES_MAX + 1);
    assert_int_equal(parse_file(f, large, CONFIG_FILE_BYTES_MAX + 1), STATUS_FORMAT);
    fflush(f->log);
    assert_non_null(strstr(f->log_text, "is over 1048576 bytes"));
    free(large);
}

static void test_sizes(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool valid;
        uint64_t bytes;
    } CASES[] = {
        {"0", true, 0},
        {"1000000", true, 1000000},
        {"1536M", true, 1536ull << 20},
        {"2 GiB", true, 2ull << 30},
        {"64KiB", true, 65536},
        {"1.5k", true, 1536},
        {"3TB", true, 3ull << 40},
        {"7B", true, 7},
        {"", false, 0},
        {"M", false, 0},
        {"-1", false, 0},
        {"+1", false, 0},
        {"1e9", false, 0},
        {"0x10", false, 0},
        {"1.2.3", false, 0},
        {"5 Gi", false, 0},
        {"5GG", false, 0},
        {" 5", false, 0},
        {"99999999999999G", false, 0},
        {"inf", false, 0},
        {".5G", false, 0},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        uint64_t bytes = 42;
        if (config_parse_size(CASES[i].text, &bytes) != CASES[i].valid)
            fail_msg("\"%s\" is read wrongly", CASES[i].text);
        assert_true(bytes == (CASES[i].valid ? CASES[i].bytes : 42));
    }
    char text[CONFIG_SIZE_TEXT];
    assert_string_equal(config_format_size(0, text), "0 B");
    assert_string_equal(config_format_size(1023, text), "1023 B");
    assert_string_equal(config_format_size(1024, text), "1.0 KiB");
    assert_string_equal(config_format_size(3ull << 29, text), "1.5 GiB");
    assert_string_equal(config_format_size((1ull << 20) - 1, text), "1.0 MiB");
    assert_string_equal(config_format_size(UINT64_MAX, text), "16.0 EiB");
}

static void test_help(void **state) {
    struct fixture *f = *state;
    char *text;
    size_t bytes;
    FILE *stream = open_memstream(&text, &bytes);
    config_print_help(&f->command, stream);
    fclose(stream);
    assert_ptr_equal(strstr(text, "Usage: prog run --model PATH\n"), text);
    assert_non_null(strstr(text, "  -m, --model PATH"));
    assert_non_null(strstr(text, "--isa auto|avx2|avx512"));
    assert_non_null(strstr(text, "(default: 7)"));
    assert_non_null(strstr(text, "(default: 0.5)"));
    assert_non_null(strstr(text, "-h, --help"));
    assert_non_null(strstr(text, "Example: run it.\n"));
    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        assert_true(strcspn(line, "\n") <= 96);
    free(text);
}

/* --help wins over mistakes behind it, and prints defaults although --threads stands before it. */
static void test_help_argument(void **state) {
    struct fixture *f = *state;
    char name[] = "/tmp/config_help_XXXXXX";
    int file = mkstemp(name), saved = dup(STDOUT_FILENO);
    fflush(stdout);
    dup2(file, STDOUT_FILENO);
    bool done = false;
    enum status status = config_parse_arguments(
        f->config, &f->command, 5,
        (char *[]){"run", "--threads", "5", "--help", "--nonsense", NULL}, &done);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    char text[4096] = "";
    assert_true(pread(file, text, sizeof text - 1, 0) > 0);
    close(file);
    unlink(name);
    assert_int_equal(status, STATUS_OK);
    assert_true(done);
    assert_non_null(strstr(text, "(default: 7)"));
    assert_int_equal(f->log_bytes, 0);
}

/* Loads the script into bash and completes the line in `words`; the answers come one a line. */
static void complete(const char *script, const char *words, size_t position, char *out,
                     size_t bytes) {
    char command[256];
    snprintf(command, sizeof command,
             "bash -c 'source %s; COMP_WORDS=(%s); COMP_CWORD=%zu; _prog; printf \"%%s\\n\" "
             "\"${COMPREPLY[@]}\"'",
             script, words, position);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t used = fread(out, 1, bytes - 1, pipe);
    out[used] = '\0';
    assert_int_equal(pclose(pipe), 0);
}

static void test_completion(void **state) {
    struct fixture *f = *state;
    strcpy(f->file, "/tmp/config_test_XXXXXX");
    FILE *script = fdopen(mkstemp(f->file), "w");
    const struct operand operands[] = {{"IN", NULL}};
    const struct command other = {
        .program = "prog", .name = "inspect", .operands = operands, .operand_count = 1};
    const struct command *commands[] = {&f->command, &other};
    config_print_completion(commands, 2, "prog", script);
    fclose(script);
    char answer[1024];
    complete(f->file, "prog \"\"", 1, answer, sizeof answer);
    assert_string_equal(answer, "run\ninspect\n--help\n--version\n");
    complete(f->file, "prog ru", 1, answer, sizeof answer);
    assert_string_equal(answer, "run\n");
    complete(f->file, "prog run --te", 2, answer, sizeof answer);
    assert_string_equal(answer, "--temperature\n");
    complete(f->file, "prog run --isa avx", 3, answer, sizeof answer);
    assert_string_equal(answer, "avx2\navx512\n");
    complete(f->file, "prog run --isa = avx5", 4, answer, sizeof answer);
    assert_string_equal(answer, "avx512\n");
    complete(f->file, "prog run --isa =", 3, answer, sizeof answer);
    assert_string_equal(answer, "auto\navx2\navx512\n");
    complete(f->file, "prog run --threads \"\"", 3, answer, sizeof answer);
    assert_string_equal(answer, "\n");
    complete(f->file, "prog run -m /etc/host", 3, answer, sizeof answer);
    assert_non_null(strstr(answer, "/etc/hosts\n"));
    complete(f->file, "prog inspect /etc/host", 2, answer, sizeof answer);
    assert_non_null(strstr(answer, "/etc/hosts\n"));
    complete(f->file, "prog inspect --", 2, answer, sizeof answer);
    assert_string_equal(answer, "--help\n");
}

static void test_completion_without_sub_commands(void **state) {
    struct fixture *f = *state;
    strcpy(f->file, "/tmp/config_test_XXXXXX");
    FILE *script = fdopen(mkstemp(f->file), "w");
    f->command.name = "prog";
    const struct command *commands[] = {&f->command};
    config_print_completion(commands, 1, "prog", script);
    fclose(script);
    char answer[1024];
    complete(f->file, "prog --th", 1, answer, sizeof answer);
    assert_string_equal(answer, "--threads\n");
}

static void test_nearest_name(void **state) {
    (void)state;
    static const char *const NAMES[] = {"run", "logits", "inspect"};
    assert_string_equal(config_nearest_name("rnu", NAMES, 3), "run");
    assert_string_equal(config_nearest_name("logit", NAMES, 3), "logits");
    assert_null(config_nearest_name("abcdefgh", NAMES, 3));
    assert_null(config_nearest_name("", NAMES, 3));
    char large[1000];
    memset(large, 'x', sizeof large - 1);
    large[sizeof large - 1] = '\0';
    assert_null(config_nearest_name(large, NAMES, 3));
}

static void test_state_directory(void **state) {
    struct fixture *f = *state;
    setenv("HOME", "/home/someone", 1);
    setenv("XDG_STATE_HOME", "/var/state", 1);
    assert_string_equal(config_state_directory(f->config, "prog"), "/var/state/prog");
    setenv("XDG_STATE_HOME", "relative", 1);
    assert_string_equal(config_state_directory(f->config, "prog"),
                        "/home/someone/.local/state/prog");
    unsetenv("XDG_STATE_HOME");
    unsetenv("HOME");
    assert_null(config_state_directory(f->config, "prog"));
}

static void test_cache_directory(void **state) {
    struct fixture *f = *state;
    setenv("HOME", "/home/someone", 1);
    setenv("XDG_CACHE_HOME", "/fast", 1);
    unsetenv("CACHE_DIRECTORY");
    assert_string_equal(config_cache_directory(f->config, "prog"), "/fast/prog");
    setenv("CACHE_DIRECTORY", "/var/cache/mine", 1);
    assert_string_equal(config_cache_directory(f->config, "prog"), "/var/cache/mine");
    setenv("CACHE_DIRECTORY", "/var/cache/mine:/var/cache/other", 1);
    assert_string_equal(config_cache_directory(f->config, "prog"), "/var/cache/mine");
    unsetenv("CACHE_DIRECTORY");
    setenv("XDG_CACHE_HOME", "relative", 1);
    assert_string_equal(config_cache_directory(f->config, "prog"), "/home/someone/.cache/prog");
    unsetenv("XDG_CACHE_HOME");
    unsetenv("HOME");
    assert_null(config_cache_directory(f->config, "prog"));
}

static void test_journal_is_known_by_its_stream(void **state) {
    (void)state;
    struct stat stream;
    char identity[64];
    assert_int_equal(fstat(STDERR_FILENO, &stream), 0);
    unsetenv("JOURNAL_STREAM");
    assert_false(config_logs_to_journal());
    snprintf(identity, sizeof identity, "%ju:%ju", (uintmax_t)stream.st_dev,
             (uintmax_t)stream.st_ino);
    setenv("JOURNAL_STREAM", identity, 1);
    assert_true(config_logs_to_journal());
    strcat(identity, "0"); /* another stream */
    setenv("JOURNAL_STREAM", identity, 1);
    assert_false(config_logs_to_journal());
    unsetenv("JOURNAL_STREAM");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_type, setup, teardown),
        cmocka_unit_test_setup_teardown(test_defaults_stay, setup, teardown),
        cmocka_unit_test(test_bad_arguments),
        cmocka_unit_test_setup_teardown(test_operands, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_many_operands_behind_dashes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_many_items, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_file_list_of_one_and_empty, setup, teardown),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test_setup_teardown(test_unreadable_files, setup, teardown),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test_setup_teardown(test_help, setup, teardown),
        cmocka_unit_test_setup_teardown(test_help_argument, setup, teardown),
        cmocka_unit_test_setup_teardown(test_completion, setup, teardown),
        cmocka_unit_test_setup_teardown(test_completion_without_sub_commands, setup, teardown),
        cmocka_unit_test(test_nearest_name),
        cmocka_unit_test_setup_teardown(test_state_directory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cache_directory, setup, teardown),
        cmocka_unit_test(test_journal_is_known_by_its_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
