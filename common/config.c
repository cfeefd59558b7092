/* One table drives everything: the parser, the file reader, the help and the completion script walk
 * the same `struct option` array. Arguments are walked twice: the first walk finds mistakes and
 * --help while the targets still hold their defaults (the help prints them), the second assigns.
 * getopt_long would do only the walking, and accepts abbreviations that would change meaning when
 * an option is added. */
#include "common/config.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/arena.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/yaml_file.h"

#define HELP_COLUMN  30 /* where the sentences of the help start */
#define HELP_WIDTH   96
#define NAME_MAX_LEN 64 /* longer words are not compared with names */

enum source { SOURCE_ARGUMENTS, SOURCE_FILE };

struct config {
    struct arena *arena;
    struct {
        const char *name;
        enum source source;
    } set[OPTIONS_MAX];
    size_t set_count;
};

/* One value on its way to a target. */
struct assignment_input {
    const struct option *option;
    const char *text; /* lives as long as the config */
    enum source source;
    const char *place; /* opens the error line: "--threads", or "file.yaml:3: threads" */
};

struct config *config_create(void) {
    struct config *config = calloc(1, sizeof *config);
    if (!config)
        return NULL;
    config->arena = arena_create(64u << 10);
    if (!config->arena) {
        free(config);
        return NULL;
    }
    return config;
}

void config_destroy(struct config *config) {
    if (!config)
        return;
    arena_destroy(config->arena);
    free(config);
}

bool config_parse_size(const char *text, uint64_t *out) {
    char *end;
    if (*text < '0' || *text > '9')
        return false;
    /* strtod would also take "0x10" and "1e9", which nobody means as a size. */
    size_t digits = strspn(text, "0123456789.");
    double number = strtod(text, &end);
    if (end != text + digits)
        return false;
    while (*end == ' ')
        end++;
    double unit = 1;
    const char *const letters = "KMGT";
    const char *letter = *end ? strchr(letters, *end == 'k' ? 'K' : *end) : NULL;
    if (letter) {
        unit = ldexp(1.0, 10 * (int)(letter - letters + 1));
        end++;
        if (*end == 'i' && end[1] == 'B')
            end++;
    }
    if (*end == 'B')
        end++;
    /* Above 2^63 a double has lost whole kilobytes, and no machine has that much. */
    if (*end || number * unit >= 0x1p63)
        return false;
    *out = (uint64_t)(number * unit);
    return true;
}

const char *config_format_size(uint64_t bytes, char text[CONFIG_SIZE_TEXT]) {
    static const char *const UNITS[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    size_t unit = 0;
    for (; value >= 1023.95 && unit + 1 < sizeof UNITS / sizeof *UNITS; unit++)
        value /= 1024;
    snprintf(text, CONFIG_SIZE_TEXT, unit ? "%.1f %s" : "%.0f %s", value, UNITS[unit]);
    return text;
}

static bool parse_unsigned(const char *text, uint64_t *out) {
    if (*text < '0' || *text > '9')
        return false;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (*end || errno)
        return false;
    *out = value;
    return true;
}

static bool parse_count(const struct option *option, const char *text, uint32_t *out) {
    uint64_t value;
    double maximum = option->maximum > 0 ? option->maximum : (double)UINT32_MAX;
    if (!parse_unsigned(text, &value) || (double)value < option->minimum || (double)value > maximum)
        return false;
    *out = (uint32_t)value;
    return true;
}

static bool parse_real(const struct option *option, const char *text, float *out) {
    char *end;
    float value = strtof(text, &end);
    if (end == text || *end || !isfinite(value) || value < (float)option->minimum)
        return false;
    if (option->maximum > 0 && value > (float)option->maximum)
        return false;
    *out = value;
    return true;
}

static bool parse_flag(const char *text, bool *out) {
    static const char *const WORDS[] = {"true", "yes", "on", "false", "no", "off"};
    for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++)
        if (strcmp(text, WORDS[i]) == 0) {
            *out = i < 3;
            return true;
        }
    return false;
}

static bool is_choice(const char *choices, const char *text) {
    size_t length = strlen(text);
    for (const char *choice = choices; length; choice++) {
        size_t choice_length = strcspn(choice, "|");
        if (choice_length == length && memcmp(choice, text, length) == 0)
            return true;
        choice += choice_length;
        if (!*choice)
            return false;
    }
    return false;
}

static enum status append_item(struct config *config, const struct assignment_input *input) {
    struct option_list *list = input->option->target;
    /* What stands there before the first value of this source is a default: it is replaced. */
    size_t count = config_is_set(config, input->option->name) ? list->count : 0;
    if (count >= OPTION_ITEMS_MAX) {
        log_error("%s may be given at most %d times", input->place, OPTION_ITEMS_MAX);
        return STATUS_USAGE;
    }
    const char **items = arena_take(config->arena, count + 1, sizeof *items);
    if (!items)
        return STATUS_NO_MEMORY;
    if (count)
        memcpy(items, list->items, count * sizeof *items);
    items[count] = input->text;
    *list = (struct option_list){items, count + 1};
    return STATUS_OK;
}

/* What the option takes, for error lines. */
static void describe_value(const struct option *option, char *out, size_t bytes) {
    size_t used = 0;
    switch (option->type) {
    case OPTION_FLAG:
        snprintf(out, bytes, "true or false");
        break;
    case OPTION_COUNT:
    case OPTION_REAL:
        used = (size_t)snprintf(out, bytes, "a %snumber ",
                                option->type == OPTION_COUNT ? "whole " : "");
        if (option->maximum > 0)
            snprintf(out + used, bytes - used, "from %.10g to %.10g", option->minimum,
                     option->maximum);
        else
            snprintf(out + used, bytes - used, "of at least %.10g", option->minimum);
        break;
    case OPTION_SEED:
        snprintf(out, bytes, "a whole number below 2^64");
        break;
    case OPTION_SIZE:
        snprintf(out, bytes, "a size such as 512M or 1.5G");
        break;
    case OPTION_CHOICE:
        used = (size_t)snprintf(out, bytes, "one of ");
        for (const char *c = option->choices; *c && used + 3 < bytes; c++) {
            out[used++] = *c == '|' ? ',' : *c;
            if (*c == '|')
                out[used++] = ' ';
        }
        out[used] = '\0';
        break;
    default:
        snprintf(out, bytes, "%s", option->argument);
    }
}

static void mark_set(struct config *config, const char *name, enum source source) {
    for (size_t i = 0; i < config->set_count; i++)
        if (strcmp(config->set[i].name, name) == 0)
            return;
    if (config->set_count < OPTIONS_MAX) {
        config->set[config->set_count].name = name;
        config->set[config->set_count++].source = source;
    }
}

static enum status assign_value(struct config *config, const struct assignment_input *input) {
    const struct option *option = input->option;
    enum status status = STATUS_OK;
    bool fits = true;
    switch (option->type) {
    case OPTION_FLAG:
        fits = parse_flag(input->text, option->target);
        break;
    case OPTION_CHOICE:
        fits = is_choice(option->choices, input->text);
        if (fits)
            *(const char **)option->target = input->text;
        break;
    case OPTION_STRING:
    case OPTION_PATH:
        *(const char **)option->target = input->text;
        break;
    case OPTION_COUNT:
        fits = parse_count(option, input->text, option->target);
        break;
    case OPTION_SEED:
        fits = parse_unsigned(input->text, option->target);
        break;
    case OPTION_REAL:
        fits = parse_real(option, input->text, option->target);
        break;
    case OPTION_SIZE:
        fits = config_parse_size(input->text, option->target);
        break;
    case OPTION_LIST:
        status = append_item(config, input);
        break;
    }
    if (!fits) {
        char wanted[256];
        describe_value(option, wanted, sizeof wanted);
        log_error("%s takes %s, not \"%s\"", input->place, wanted, input->text);
        return STATUS_USAGE;
    }
    if (status == STATUS_OK)
        mark_set(config, option->name, input->source);
    return status;
}

static const struct option *find_option(const struct command *command, const char *name,
                                        size_t length) {
    for (size_t i = 0; i < command->option_count; i++) {
        const char *candidate = command->options[i].name;
        if (strlen(candidate) == length && memcmp(candidate, name, length) == 0)
            return &command->options[i];
    }
    return NULL;
}

static const struct option *find_letter(const struct command *command, char letter) {
    for (size_t i = 0; i < command->option_count; i++)
        if (command->options[i].letter && command->options[i].letter == letter)
            return &command->options[i];
    return NULL;
}

/* Levenshtein's distance, one row at a time. */
static size_t edit_distance(const char *a, size_t a_length, const char *b, size_t b_length) {
    size_t row[NAME_MAX_LEN + 1];
    for (size_t j = 0; j <= b_length; j++)
        row[j] = j;
    for (size_t i = 1; i <= a_length; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[b_length];
}

const char *config_nearest_name(const char *word, const char *const *names, size_t count) {
    const char *nearest = NULL;
    size_t length = strlen(word), least = SIZE_MAX;
    if (length > NAME_MAX_LEN)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        size_t name_length = strlen(names[i]);
        if (name_length > NAME_MAX_LEN)
            continue;
        size_t distance = edit_distance(word, length, names[i], name_length);
        /* A third of the letters may be wrong; more is another word. */
        if (distance < least && distance <= 1 + name_length / 3 && distance < name_length) {
            least = distance;
            nearest = names[i];
        }
    }
    return nearest;
}

static const char *nearest_option(const struct command *command, const char *name, size_t length) {
    char word[NAME_MAX_LEN + 1];
    const char *names[OPTIONS_MAX];
    if (length > NAME_MAX_LEN)
        return NULL;
    memcpy(word, name, length);
    word[length] = '\0';
    size_t count = command->option_count < OPTIONS_MAX ? command->option_count : OPTIONS_MAX;
    for (size_t i = 0; i < count; i++)
        names[i] = command->options[i].name;
    return config_nearest_name(word, names, count);
}

bool config_is_set(const struct config *config, const char *name) {
    for (size_t i = 0; i < config->set_count; i++)
        if (strcmp(config->set[i].name, name) == 0)
            return true;
    return false;
}

static bool is_set_by(const struct config *config, const char *name, enum source source) {
    for (size_t i = 0; i < config->set_count; i++)
        if (strcmp(config->set[i].name, name) == 0)
            return config->set[i].source == source;
    return false;
}

/* The command as it is typed: "skein run". */
static void format_invocation(const struct command *command, char *out, size_t bytes) {
    snprintf(out, bytes, "%s%s%s", command->program ? command->program : "",
             command->program ? " " : "", command->name);
}

struct walk {
    int argc;
    char **argv;
    int next;
    bool options_ended; /* by "--" */
    size_t operands;    /* taken so far */
    /* The current one: an option, an operand, or --help when both are NULL. */
    const struct option *option;
    const struct operand *operand;
    const char *value; /* "true" for a flag */
};

static enum status refuse_unknown(const struct command *command, const char *argument,
                                  size_t length) {
    char invocation[128];
    format_invocation(command, invocation, sizeof invocation);
    const char *nearest =
        strncmp(argument, "--", 2) == 0 ? nearest_option(command, argument + 2, length - 2) : NULL;
    if (argument[0] != '-' || !argument[1])
        log_error("unexpected argument \"%s\"; options start with --, see %s --help", argument,
                  invocation);
    else if (nearest)
        log_error("unknown option %.*s; did you mean --%s? See %s --help", (int)length, argument,
                  nearest, invocation);
    else
        log_error("unknown option %.*s; see %s --help", (int)length, argument, invocation);
    return STATUS_USAGE;
}

/* Takes an argument that is no option. */
static enum status walk_operand(struct walk *walk, const struct command *command,
                                const char *argument) {
    if (walk->operands < command->operand_count) {
        walk->operand = &command->operands[walk->operands++];
        walk->value = argument;
        return STATUS_OK;
    }
    if (walk->options_ended) {
        log_error("unexpected argument \"%s\" behind --; %s takes %s", argument, command->name,
                  command->operand_count ? "fewer" : "options only");
        return STATUS_USAGE;
    }
    return refuse_unknown(command, argument, strlen(argument));
}

/* Takes the next option and its value, or the next operand, off the line. */
static enum status walk_step(struct walk *walk, const struct command *command) {
    char *argument = walk->argv[walk->next++];
    bool is_long = argument[0] == '-' && argument[1] == '-' && argument[2];
    bool is_short = argument[0] == '-' && argument[1] && argument[1] != '-';
    size_t length = strlen(argument);
    const char *attached = NULL;
    walk->option = NULL;
    walk->operand = NULL;
    if (walk->options_ended || (!is_long && !is_short))
        return walk_operand(walk, command, argument);
    if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0)
        return STATUS_OK;
    if (is_long) {
        length = strcspn(argument, "=");
        attached = argument[length] ? argument + length + 1 : NULL;
        walk->option = find_option(command, argument + 2, length - 2);
    } else if (is_short) {
        attached = argument[2] ? argument + 2 : NULL;
        walk->option = find_letter(command, argument[1]);
    }
    if (!walk->option)
        return refuse_unknown(command, argument, length);
    if (walk->option->type == OPTION_FLAG) {
        walk->value = "true";
        if (!attached)
            return STATUS_OK;
        log_error("option --%s takes no value, but was given \"%s\"", walk->option->name, attached);
        return STATUS_USAGE;
    }
    walk->value = attached;
    if (!attached && walk->next < walk->argc)
        walk->value = walk->argv[walk->next++];
    if (!walk->value) {
        log_error("option --%s needs a value: --%s %s", walk->option->name, walk->option->name,
                  walk->option->argument);
        return STATUS_USAGE;
    }
    return STATUS_OK;
}

/* False at the end. "--" is stepped over. */
static bool walk_more(struct walk *walk) {
    if (walk->next < walk->argc && !walk->options_ended &&
        strcmp(walk->argv[walk->next], "--") == 0) {
        walk->options_ended = true;
        walk->next++;
    }
    return walk->next < walk->argc;
}

/* Reports the first mistake; sets *help at --help, and looks no further. */
static enum status check_arguments(const struct command *command, int argc, char **argv,
                                   bool *help) {
    struct walk walk = {.argc = argc, .argv = argv, .next = 1};
    while (walk_more(&walk)) {
        enum status status = walk_step(&walk, command);
        if (status != STATUS_OK)
            return status;
        if (!walk.option && !walk.operand) {
            *help = true;
            return STATUS_OK;
        }
    }
    return STATUS_OK;
}

enum status config_parse_arguments(struct config *config, const struct command *command, int argc,
                                   char **argv, bool *done) {
    bool help = false;
    enum status status = check_arguments(command, argc, argv, &help);
    if (status != STATUS_OK)
        return status;
    if (help) {
        config_print_help(command, stdout);
        *done = true;
        return STATUS_OK;
    }
    struct walk walk = {.argc = argc, .argv = argv, .next = 1};
    while (walk_more(&walk)) {
        status = walk_step(&walk, command);
        if (status != STATUS_OK)
            return status;
        if (walk.operand) {
            *walk.operand->target = walk.value;
            continue;
        }
        char place[NAME_MAX_LEN + 16];
        snprintf(place, sizeof place, "option --%s", walk.option->name);
        status = assign_value(config, &(struct assignment_input){
                                          .option = walk.option,
                                          .text = walk.value,
                                          .source = SOURCE_ARGUMENTS,
                                          .place = place,
                                      });
        if (status != STATUS_OK)
            return status;
    }
    *done = false;
    return STATUS_OK;
}

struct file_reader {
    struct config *config;
    const struct command *command;
    const char *path;
    yaml_document_t *document;
};

static enum status assign_node(const struct file_reader *reader, const struct option *option,
                               const yaml_node_t *node) {
    struct config *config = reader->config;
    char place[LOG_LINE_BYTES_MAX / 2];
    snprintf(place, sizeof place, "%s:%zu: %s", reader->path, node->start_mark.line + 1,
             option->name);
    if (node->type != YAML_SCALAR_NODE) {
        log_error("%s takes a single value%s", place,
                  option->type == OPTION_LIST ? " or a list of them" : "");
        return STATUS_USAGE;
    }
    size_t length = node->data.scalar.length;
    if (length == 0 || strlen((const char *)node->data.scalar.value) != length) {
        log_error("%s has an empty value or one with a zero byte; it takes %s", place,
                  option->argument ? option->argument : "true or false");
        return STATUS_USAGE;
    }
    char *text = arena_take(config->arena, length + 1, 1);
    if (!text)
        return STATUS_NO_MEMORY;
    memcpy(text, node->data.scalar.value, length);
    return assign_value(config, &(struct assignment_input){
                                    .option = option,
                                    .text = text,
                                    .source = SOURCE_FILE,
                                    .place = place,
                                });
}

static enum status assign_pair(const struct file_reader *reader, const yaml_node_pair_t *pair) {
    const yaml_node_t *key = yaml_document_get_node(reader->document, pair->key);
    const yaml_node_t *value = yaml_document_get_node(reader->document, pair->value);
    size_t line = key->start_mark.line + 1;
    if (key->type != YAML_SCALAR_NODE) {
        log_error("%s:%zu: a key must be the name of an option", reader->path, line);
        return STATUS_FORMAT;
    }
    const char *name = (const char *)key->data.scalar.value;
    const struct option *option = find_option(reader->command, name, strlen(name));
    if (!option) {
        const char *nearest = nearest_option(reader->command, name, strlen(name));
        log_error("%s:%zu: unknown key %s%s%s", reader->path, line, name,
                  nearest ? "; did you mean " : "; keys are the long options without dashes",
                  nearest ? nearest : "");
        return STATUS_USAGE;
    }
    if (is_set_by(reader->config, option->name, SOURCE_ARGUMENTS))
        return STATUS_OK;
    if (is_set_by(reader->config, option->name, SOURCE_FILE)) {
        log_error("%s:%zu: %s stands here a second time; keep one", reader->path, line, name);
        return STATUS_FORMAT;
    }
    if (option->type != OPTION_LIST || value->type != YAML_SEQUENCE_NODE)
        return assign_node(reader, option, value);
    for (const yaml_node_item_t *item = value->data.sequence.items.start;
         item < value->data.sequence.items.top; item++) {
        enum status status =
            assign_node(reader, option, yaml_document_get_node(reader->document, *item));
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

static enum status assign_document(const struct file_reader *reader) {
    const yaml_node_t *root = yaml_document_get_root_node(reader->document);
    if (!root) /* an empty file */
        return STATUS_OK;
    if (root->type != YAML_MAPPING_NODE) {
        log_error("%s:%zu: expected lines of the form \"option: value\"", reader->path,
                  root->start_mark.line + 1);
        return STATUS_FORMAT;
    }
    for (const yaml_node_pair_t *pair = root->data.mapping.pairs.start;
         pair < root->data.mapping.pairs.top; pair++) {
        enum status status = assign_pair(reader, pair);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

enum status config_parse_file(struct config *config, const struct command *command,
                              const char *path) {
    yaml_document_t document;
    enum status status = yaml_file_read(path, "configuration file", &document);
    if (status != STATUS_OK)
        return status;
    struct file_reader reader = {config, command, path, &document};
    status = assign_document(&reader);
    yaml_document_delete(&document);
    return status;
}

/* $variable/program, else ~/fallback/program. The specification tells programs to ignore relative
 * paths here. */
static const char *user_directory(struct config *config, const char *variable, const char *fallback,
                                  const char *program) {
    const char *base = getenv(variable), *middle = "";
    if (!base || base[0] != '/') {
        base = getenv("HOME");
        middle = fallback;
    }
    if (!base || base[0] != '/')
        return NULL;
    size_t bytes = strlen(base) + strlen(middle) + strlen(program) + 2;
    char *path = arena_take(config->arena, bytes, 1);
    if (path)
        snprintf(path, bytes, "%s%s/%s", base, middle, program);
    return path;
}

const char *config_state_directory(struct config *config, const char *program) {
    return user_directory(config, "XDG_STATE_HOME", "/.local/state", program);
}

const char *config_cache_directory(struct config *config, const char *program) {
    /* A list where the unit names several; the first is meant for all that needs no other. */
    const char *given = getenv("CACHE_DIRECTORY");
    if (!given || given[0] != '/')
        return user_directory(config, "XDG_CACHE_HOME", "/.cache", program);
    size_t bytes = strcspn(given, ":");
    char *path = arena_take(config->arena, bytes + 1, 1);
    if (path)
        memcpy(path, given, bytes);
    return path;
}

bool config_logs_to_journal(void) {
    const char *given = getenv("JOURNAL_STREAM");
    struct stat stream;
    char identity[64];
    if (!given || fstat(STDERR_FILENO, &stream))
        return false;
    /* What was started from a service and got another standard error inherits the variable. */
    snprintf(identity, sizeof identity, "%ju:%ju", (uintmax_t)stream.st_dev,
             (uintmax_t)stream.st_ino);
    return strcmp(given, identity) == 0;
}

/* Prints `text` from column `column` on, broken at spaces, `indent` spaces before each further
 * line. */
static void print_wrapped(FILE *stream, const char *text, size_t column, size_t indent) {
    for (bool first = true; *text; first = false) {
        text += strspn(text, " ");
        size_t length = strcspn(text, " ");
        if (!first && column + 1 + length > HELP_WIDTH) {
            fprintf(stream, "\n%*s", (int)indent, "");
            column = indent;
        } else if (!first && length) {
            fputc(' ', stream);
            column++;
        }
        fprintf(stream, "%.*s", (int)length, text);
        column += length;
        text += length;
    }
    fputc('\n', stream);
}

/* " (default: 4)", or "" when there is nothing to say. */
static void format_default(const struct option *option, char *out, size_t bytes) {
    char size[CONFIG_SIZE_TEXT];
    const char *text;
    out[0] = '\0';
    switch (option->type) {
    case OPTION_STRING:
    case OPTION_PATH:
    case OPTION_CHOICE:
        text = *(const char *const *)option->target;
        if (text)
            snprintf(out, bytes, " (default: %s)", text);
        break;
    case OPTION_COUNT:
        snprintf(out, bytes, " (default: %u)", *(const uint32_t *)option->target);
        break;
    case OPTION_SEED:
        snprintf(out, bytes, " (default: %llu)",
                 (unsigned long long)*(const uint64_t *)option->target);
        break;
    case OPTION_REAL:
        snprintf(out, bytes, " (default: %g)", (double)*(const float *)option->target);
        break;
    case OPTION_SIZE:
        if (*(const uint64_t *)option->target && *(const uint64_t *)option->target != UINT64_MAX)
            snprintf(out, bytes, " (default: %s)",
                     config_format_size(*(const uint64_t *)option->target, size));
        break;
    case OPTION_FLAG:
    case OPTION_LIST:
        break;
    }
}

static void print_option(const struct option *option, FILE *stream) {
    char left[128], sentence[512], standard[128];
    int used = option->letter
                   ? snprintf(left, sizeof left, "  -%c, --%s", option->letter, option->name)
                   : snprintf(left, sizeof left, "      --%s", option->name);
    if (option->type == OPTION_CHOICE)
        snprintf(left + used, sizeof left - (size_t)used, " %s", option->choices);
    else if (option->argument)
        snprintf(left + used, sizeof left - (size_t)used, " %s", option->argument);
    format_default(option, standard, sizeof standard);
    snprintf(sentence, sizeof sentence, "%s%s", option->help, standard);
    size_t width = strlen(left);
    if (width + 2 > HELP_COLUMN)
        fprintf(stream, "%s\n%*s", left, HELP_COLUMN, "");
    else
        fprintf(stream, "%-*s", HELP_COLUMN, left);
    print_wrapped(stream, sentence, HELP_COLUMN, HELP_COLUMN);
}

void config_print_help(const struct command *command, FILE *stream) {
    char invocation[128];
    format_invocation(command, invocation, sizeof invocation);
    fprintf(stream, "Usage: %s %s\n\n", invocation, command->usage);
    print_wrapped(stream, command->summary, 0, 0);
    fprintf(stream, "\nOptions:\n");
    for (size_t i = 0; i < command->option_count; i++)
        print_option(&command->options[i], stream);
    print_option(&(struct option){.name = "help", .letter = 'h', .help = "Print this help."},
                 stream);
    if (command->details)
        fprintf(stream, "\n%s", command->details);
}

static void print_pattern(const struct option *option, FILE *stream) {
    fprintf(stream, "        --%s", option->name);
    if (option->letter)
        fprintf(stream, "|-%c", option->letter);
    fputs(") ", stream);
}

/* The branch of one command: what may stand behind each option that takes a value, then the
 * options. */
static void print_command_completion(const struct command *command, FILE *stream) {
    fputs("        case \"$previous\" in\n", stream);
    for (size_t i = 0; i < command->option_count; i++) {
        const struct option *option = &command->options[i];
        if (option->type == OPTION_FLAG)
            continue;
        print_pattern(option, stream);
        if (option->type == OPTION_PATH) {
            fputs("kind=file ;;\n", stream);
        } else if (option->type == OPTION_CHOICE) {
            fputs("kind=words words=\"", stream);
            for (const char *c = option->choices; *c; c++)
                fputc(*c == '|' ? ' ' : *c, stream);
            fputs("\" ;;\n", stream);
        } else {
            fputs("kind=none ;;\n", stream);
        }
    }
    fputs("        *) kind=words words=\"", stream);
    for (size_t i = 0; i < command->option_count; i++)
        fprintf(stream, "--%s ", command->options[i].name);
    fputs("--help\"", stream);
    if (command->operand_count)
        fputs("; [[ \"$current\" == -* ]] || kind=file", stream);
    fputs(" ;;\n        esac\n", stream);
}

/* bash splits words at "=", so that "--isa=a" arrives as three words. */
static const char COMPLETION_HEAD[] =
    "    local current=\"${COMP_WORDS[COMP_CWORD]}\" previous=\"\" kind=none words=\"\"\n"
    "    [ \"$COMP_CWORD\" -gt 0 ] && previous=\"${COMP_WORDS[COMP_CWORD-1]}\"\n"
    "    if [ \"$current\" = \"=\" ]; then\n"
    "        current=\"\"\n"
    "    elif [ \"$previous\" = \"=\" ]; then\n"
    "        previous=\"${COMP_WORDS[COMP_CWORD-2]}\"\n"
    "    fi\n"
    "    COMPREPLY=()\n";

static const char COMPLETION_TAIL[] =
    "    case \"$kind\" in\n"
    "    file)\n"
    "        compopt -o filenames 2>/dev/null\n"
    "        mapfile -t COMPREPLY < <(compgen -f -- \"$current\") ;;\n"
    "    words) mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\") ;;\n"
    "    esac\n"
    "}\n";

void config_print_completion(const struct command *const *commands, size_t count,
                             const char *program, FILE *stream) {
    char function[NAME_MAX_LEN];
    snprintf(function, sizeof function, "_%s", program);
    for (char *c = function; *c; c++)
        if (*c == '-')
            *c = '_';
    fprintf(stream, "# bash completion for %s; load it with: source <(%s completion)\n%s() {\n%s",
            program, program, function, COMPLETION_HEAD);
    if (count == 1 && strcmp(commands[0]->name, program) == 0) {
        print_command_completion(commands[0], stream);
    } else {
        fputs("    case \"${COMP_WORDS[1]}\" in\n", stream);
        for (size_t i = 0; i < count; i++) {
            fprintf(stream, "    %s)\n", commands[i]->name);
            print_command_completion(commands[i], stream);
            fputs("        ;;\n", stream);
        }
        fputs("    esac\n    [ \"$COMP_CWORD\" -eq 1 ] && kind=words words=\"", stream);
        for (size_t i = 0; i < count; i++)
            fprintf(stream, "%s ", commands[i]->name);
        fputs("--help --version\"\n", stream);
    }
    fprintf(stream, "%scomplete -F %s %s\n", COMPLETION_TAIL, function, program);
}
