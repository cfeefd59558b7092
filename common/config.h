/* The one way to read configuration: a table of options, filled from the command line and, where
 * the program has --config, from a YAML file with the same names. Help and shell completion are
 * printed from the same table, so they cannot drift apart. Used by main of either binary, before
 * any thread starts.
 *
 * Precedence: command line over file over the defaults that stand in the target variables. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/status.h"

enum option_type {
    OPTION_FLAG,   /* bool: --name */
    OPTION_STRING, /* const char *: --name TEXT, --name=TEXT; points into argv or the config's
                      memory */
    OPTION_PATH,   /* as OPTION_STRING; completes to file names */
    OPTION_CHOICE, /* const char *: one of `choices`, separated by '|' */
    OPTION_COUNT,  /* uint32_t within [minimum, maximum] */
    OPTION_SEED,   /* uint64_t */
    OPTION_REAL,   /* float within [minimum, maximum] */
    OPTION_SIZE,   /* uint64_t bytes: 512M, 1.5G, 64KiB, 1000000 (K, M, G, T are powers of 1024) */
    OPTION_LIST    /* struct option_list: may be given several times */
};

struct option_list {
    const char **items;
    size_t count;
};

struct option {
    const char *name; /* without dashes */
    char letter;      /* short form, 0 if none */
    enum option_type type;
    void *target;            /* variable of the type's C type */
    const char *argument;    /* name of the value in the help, e.g. "HOST:PORT"; NULL for flags */
    const char *choices;     /* OPTION_CHOICE */
    double minimum, maximum; /* OPTION_COUNT, OPTION_REAL; a maximum of 0 is no bound */
    const char *help;        /* one sentence; the help wraps it and adds the default */
};

/* An argument without dashes, found by its place. */
struct operand {
    const char *name; /* "OUT.gguf" */
    const char **target;
};

/* One command: a sub-command of skein, or skein-worker itself. */
struct command {
    const char *program; /* what it is a sub-command of: "skein"; NULL for a program without any */
    const char *name;    /* "run"; for a program without sub-commands the program's name */
    const char *summary; /* one line for the list of commands */
    const char *usage;   /* what follows the name, e.g. "--model PATH [options]" */
    const char *details; /* paragraphs behind the options, with examples; may be NULL */
    const struct option *options; /* (option_count) */
    size_t option_count;
    const struct operand *operands; /* (operand_count), in their order; all are paths */
    size_t operand_count;
};

/* What the strings point into; freed at the end of main. NULL when memory is out. */
struct config;
struct config *config_create(void);
void config_destroy(struct config *config);

/* Parses argv[1..argc) (argv[0] is the command's name) into the targets. "--" ends options;
 * other arguments become the command's operands in their order, more than it has are an error, and
 * fewer are the caller's to refuse. --help prints the help on standard output and sets *done.
 * Errors: STATUS_USAGE with one line that names the option, what it takes and, for a misspelt one,
 * the nearest name. */
enum status config_parse_arguments(struct config *config, const struct command *command, int argc,
                                   char **argv, bool *done);

/* Reads `path`, a YAML mapping of option names to scalars (or sequences for OPTION_LIST), into the
 * targets of options that the command line did not set. Call after config_parse_arguments. Errors:
 * STATUS_NOT_FOUND, STATUS_FORMAT (names file, line and key), STATUS_USAGE (unknown key, bad
 * value). */
enum status config_parse_file(struct config *config, const struct command *command,
                              const char *path);

/* Whether the command line or the file set the option. */
bool config_is_set(const struct config *config, const char *name);

/* Usage, summary, every option with its default (the target's value now), details. */
void config_print_help(const struct command *command, FILE *stream);

/* A bash completion script for `program` with these sub-commands (a single one named like the
 * program: no sub-commands). */
void config_print_completion(const struct command *const *commands, size_t count,
                             const char *program, FILE *stream);

/* Of `count` names the one most like `word`, for "did you mean"; NULL when none is close. */
const char *config_nearest_name(const char *word, const char *const *names, size_t count);

/* "1536M", "2 GiB" and so on; false if malformed. */
bool config_parse_size(const char *text, uint64_t *out);

/* Writes `bytes` as people read them ("1.5 GiB", "312 B") into `text`, which is returned. */
#define CONFIG_SIZE_TEXT 16
const char *config_format_size(uint64_t bytes, char text[CONFIG_SIZE_TEXT]);

/* Where `program` may keep state of its user: $XDG_STATE_HOME/program, else ~/.local/state/program.
 * In the config's memory; NULL when the environment names neither. The directory need not exist. */
const char *config_state_directory(struct config *config, const char *program);

/* Where `program` may keep what it can make again: the directory that systemd gives a service
 * ($CACHE_DIRECTORY), else $XDG_CACHE_HOME/program, else ~/.cache/program. As above. */
const char *config_cache_directory(struct config *config, const char *program);

/* Whether standard error is the system's journal ($JOURNAL_STREAM names its device and inode). */
bool config_logs_to_journal(void);
