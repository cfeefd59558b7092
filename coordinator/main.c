/* Finds the sub-command and hands over; everything else is in command_*.c. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "coordinator/command.h"
#include "coordinator/options.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} COMMANDS[] = {
    {"run", command_run},           {"logits", command_logits}, {"inspect", command_inspect},
    {"plan", command_plan},         {"bench", command_bench},   {"perplexity", command_perplexity},
    {"quantize", command_quantize}, {"drain", command_drain},   {"completion", command_completion},
};

#define COMMAND_COUNT (sizeof COMMANDS / sizeof *COMMANDS)
_Static_assert(COMMAND_COUNT == OPTION_TABLES, "each command has its table of options");

static int print_help(void) {
    struct option_catalogue *catalogue = calloc(1, sizeof *catalogue);
    if (!catalogue)
        return status_exit_code(STATUS_NO_MEMORY);
    options_describe_all(catalogue);
    puts("Usage: skein COMMAND [options]\n\n"
         "Runs mixture-of-experts language models on one machine or several.\n\nCommands:");
    for (size_t i = 0; i < OPTION_TABLES; i++)
        printf("  %-12s%s\n", catalogue->commands[i]->name, catalogue->commands[i]->summary);
    puts("\nskein COMMAND --help explains a command; skein --version prints the version.");
    free(catalogue);
    return 0;
}

static int refuse_command(const char *name) {
    const char *names[COMMAND_COUNT];
    char list[128] = "";
    for (size_t i = 0, used = 0; i < COMMAND_COUNT; i++) {
        names[i] = COMMANDS[i].name;
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    }
    const char *nearest = name ? config_nearest_name(name, names, COMMAND_COUNT) : NULL;
    if (!name)
        log_error("no command; it must be one of %s; see skein --help", list);
    else if (nearest)
        log_error("unknown command %s; did you mean %s? Commands are %s", name, nearest, list);
    else
        log_error("unknown command %s; commands are %s", name, list);
    return status_exit_code(STATUS_USAGE);
}

int main(int argc, char **argv) {
    /* A reader that went away, of our output or of a socket, is an error code and not a death. */
    signal(SIGPIPE, SIG_IGN);
    log_set_journal(config_logs_to_journal());
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name)
        return refuse_command(NULL);
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        return print_help();
    if (strcmp(name, "--version") == 0) {
        puts("skein " SKEIN_VERSION);
        return 0;
    }
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(name, COMMANDS[i].name) == 0)
            return COMMANDS[i].run(argc - 1, argv + 1);
    return refuse_command(name);
}
