/* A mapping is read through a table of its keys, each with a function that reads the value; errors
 * name the line of the value. Figures that a data sheet gives are turned into those that the
 * planner reckons with here and nowhere else. */
#include "coordinator/cluster_file.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cluster_limits.h"
#include "common/config.h"
#include "common/log.h"
#include "common/yaml_file.h"

/* Of what memory delivers, products of kernels with one row reach so much; of what a link's bits
 * carry, so much is payload of TCP. */
#define DECODE_FRACTION  0.95
#define PAYLOAD_FRACTION 0.94
/* A switched gigabit network, with a worker that has to wake up. */
#define LINK_GBIT_PER_S 1.0
#define ROUND_TRIP_US   150.0
/* Beyond any machine; keeps sums of seconds finite. */
#define FIGURE_MAX 1e9

/* What a mapping of a machine, or the defaults of links, may say. */
struct entry {
    const char *name, *address;
    uint64_t memory_bytes, spill_bytes;
    double read_gb_per_s, disk_gb_per_s, link_gbit_per_s, round_trip_us;
    double count, threads;
    double gops[WEIGHT_FORMAT_COUNT];
    bool has_gops;
};

struct reader {
    struct cluster_file *file;
    const char *path;
    yaml_document_t *document;
    double link_gbit_per_s, round_trip_us; /* where a machine does not say */
};

static size_t line_of(const yaml_node_t *node) {
    return node->start_mark.line + 1;
}

static enum status refuse(const struct reader *reader, const yaml_node_t *node, const char *key,
                          const char *right) {
    log_error("%s:%zu: %s must be %s", reader->path, line_of(node), key, right);
    return STATUS_USAGE;
}

/* ---- Single values. */

/* NULL where it is no text of at least one character without zero bytes. */
static const char *text_of(const yaml_node_t *node) {
    if (node->type != YAML_SCALAR_NODE || node->data.scalar.length == 0 ||
        strlen((const char *)node->data.scalar.value) != node->data.scalar.length)
        return NULL;
    return (const char *)node->data.scalar.value;
}

static enum status read_text(const struct reader *reader, const yaml_node_t *node, const char *key,
                             const char **out) {
    const char *text = text_of(node);
    for (const char *c = text; c && *c; c++)
        if (iscntrl((unsigned char)*c))
            text = NULL;
    if (!text)
        return refuse(reader, node, key, "text on one line");
    char *copy = arena_take(reader->file->arena, strlen(text) + 1, 1);
    if (!copy)
        return STATUS_NO_MEMORY;
    strcpy(copy, text);
    *out = copy;
    return STATUS_OK;
}

static enum status read_number(const struct reader *reader, const yaml_node_t *node,
                               const char *key, double *out) {
    const char *text = text_of(node);
    char *end = NULL;
    double number = text ? strtod(text, &end) : 0;
    if (!text || isspace((unsigned char)*text) || *end || !(number > 0) || number > FIGURE_MAX)
        return refuse(reader, node, key, "a number above 0 and up to 1e9");
    *out = number;
    return STATUS_OK;
}

static enum status read_count(const struct reader *reader, const yaml_node_t *node, const char *key,
                              double maximum, double *out) {
    double number;
    enum status status = read_number(reader, node, key, &number);
    if (status)
        return status;
    if (number != floor(number) || number > maximum) {
        char right[64];
        snprintf(right, sizeof right, "a whole number from 1 to %.0f", maximum);
        return refuse(reader, node, key, right);
    }
    *out = number;
    return STATUS_OK;
}

static enum status read_memory(const struct reader *reader, const yaml_node_t *node,
                               const char *key, uint64_t *out) {
    const char *text = text_of(node);
    uint64_t bytes;
    if (!text || !config_parse_size(text, &bytes) || bytes == 0)
        return refuse(reader, node, key, "a size such as 512M or 16G");
    *out = bytes;
    return STATUS_OK;
}

static size_t find_format(const char *name) {
    size_t format = 0;
    while (format < WEIGHT_FORMAT_COUNT &&
           strcasecmp(name, weight_format_name((enum weight_format)format)) != 0)
        format++;
    return format;
}

/* One number for all formats, or a mapping of formats to numbers. */
static enum status read_gops(const struct reader *reader, const yaml_node_t *node, const char *key,
                             double gops[WEIGHT_FORMAT_COUNT]) {
    enum status status = STATUS_OK;
    if (node->type != YAML_MAPPING_NODE) {
        double number;
        status = read_number(reader, node, key, &number);
        for (size_t f = 0; !status && f < WEIGHT_FORMAT_COUNT; f++)
            gops[f] = number;
        return status;
    }
    for (const yaml_node_pair_t *pair = node->data.mapping.pairs.start;
         !status && pair < node->data.mapping.pairs.top; pair++) {
        const yaml_node_t *name = yaml_document_get_node(reader->document, pair->key);
        const char *text = text_of(name);
        size_t format = text ? find_format(text) : WEIGHT_FORMAT_COUNT;
        if (format == WEIGHT_FORMAT_COUNT)
            return refuse(reader, name, key,
                          "a number or a mapping of formats, such as q4_k or bf16, to numbers");
        status = read_number(reader, yaml_document_get_node(reader->document, pair->value), text,
                             &gops[format]);
    }
    return status;
}

/* ---- Mappings. */

enum key {
    KEY_NAME,
    KEY_ADDRESS,
    KEY_COUNT,
    KEY_MEMORY,
    KEY_READ,
    KEY_GOPS,
    KEY_LINK,
    KEY_ROUND_TRIP,
    KEY_THREADS,
    KEY_SPILL,
    KEY_DISK,
    KEYS
};

static const char *const MACHINE_KEYS[KEYS] = {
    "name",          "address", "count",           "memory",
    "read_gb_per_s", "gops",    "link_gbit_per_s", "round_trip_us",
    "threads",       "spill",   "disk_gb_per_s",
};

static const char *const LINK_KEYS[KEYS] = {
    [KEY_LINK] = "gbit_per_s", [KEY_ROUND_TRIP] = "round_trip_us"};

static enum status read_value(const struct reader *reader, enum key which, const char *key,
                              const yaml_node_t *node, struct entry *entry) {
    switch (which) {
    case KEY_NAME:
        return read_text(reader, node, key, &entry->name);
    case KEY_ADDRESS:
        return read_text(reader, node, key, &entry->address);
    case KEY_COUNT:
        return read_count(reader, node, key, WORKERS_MAX, &entry->count);
    case KEY_MEMORY:
        return read_memory(reader, node, key, &entry->memory_bytes);
    case KEY_READ:
        return read_number(reader, node, key, &entry->read_gb_per_s);
    case KEY_GOPS:
        entry->has_gops = true;
        return read_gops(reader, node, key, entry->gops);
    case KEY_LINK:
        return read_number(reader, node, key, &entry->link_gbit_per_s);
    case KEY_ROUND_TRIP:
        return read_number(reader, node, key, &entry->round_trip_us);
    case KEY_SPILL:
        return read_memory(reader, node, key, &entry->spill_bytes);
    case KEY_DISK:
        return read_number(reader, node, key, &entry->disk_gb_per_s);
    default:
        return read_count(reader, node, key, THREADS_MAX, &entry->threads);
    }
}

static enum status refuse_key(const struct reader *reader, const yaml_node_t *node,
                              const char *const keys[], size_t count) {
    const char *names[KEYS];
    char list[200] = "";
    size_t found = 0;
    for (size_t i = 0; i < count; i++)
        if (keys[i])
            names[found++] = keys[i];
    for (size_t i = 0, used = 0; i < found; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    const char *text = text_of(node);
    const char *nearest = text ? config_nearest_name(text, names, found) : NULL;
    log_error("%s:%zu: unknown key %s%s%s; keys are %s", reader->path, line_of(node),
              text ? text : "that is no text", nearest ? "; did you mean " : "",
              nearest ? nearest : "", list);
    return STATUS_USAGE;
}

static size_t find_key(const char *text, const char *const keys[], size_t count) {
    size_t key = 0;
    while (key < count && !(keys[key] && text && strcmp(text, keys[key]) == 0))
        key++;
    return key;
}

static enum status read_entry(const struct reader *reader, const yaml_node_t *node,
                              const char *what, const char *const keys[KEYS], struct entry *entry) {
    bool seen[KEYS] = {false};
    if (node->type != YAML_MAPPING_NODE)
        return refuse(reader, node, what, "a mapping of keys to values");
    for (const yaml_node_pair_t *pair = node->data.mapping.pairs.start;
         pair < node->data.mapping.pairs.top; pair++) {
        const yaml_node_t *name = yaml_document_get_node(reader->document, pair->key);
        size_t key = find_key(text_of(name), keys, KEYS);
        if (key == KEYS)
            return refuse_key(reader, name, keys, KEYS);
        if (seen[key]) {
            log_error("%s:%zu: %s stands here a second time; keep one", reader->path, line_of(name),
                      keys[key]);
            return STATUS_FORMAT;
        }
        seen[key] = true;
        enum status status =
            read_value(reader, (enum key)key, keys[key],
                       yaml_document_get_node(reader->document, pair->value), entry);
        if (status)
            return status;
    }
    return STATUS_OK;
}

/* ---- Machines. */

static double link_rate(double gbit_per_s) {
    return gbit_per_s * 1e9 / 8 * PAYLOAD_FRACTION;
}

static void describe(const struct reader *reader, const struct entry *entry,
                     struct cluster_machine *machine) {
    struct machine_figures *figures = &machine->figures;
    machine->described = true;
    figures->memory_bytes = entry->memory_bytes;
    figures->spill_bytes = entry->spill_bytes;
    figures->disk_bytes_per_s = entry->disk_gb_per_s * 1e9;
    figures->threads = (uint32_t)entry->threads;
    figures->read_bytes_per_s = entry->read_gb_per_s * 1e9;
    for (size_t f = 0; f < WEIGHT_FORMAT_COUNT; f++) {
        figures->formats[f].decode_bytes_per_s = figures->read_bytes_per_s * DECODE_FRACTION;
        figures->formats[f].batch_macs_per_s = entry->gops[f] * 1e9 / 2;
    }
    double gbit = entry->link_gbit_per_s > 0 ? entry->link_gbit_per_s : reader->link_gbit_per_s;
    double trip_us = entry->round_trip_us > 0 ? entry->round_trip_us : reader->round_trip_us;
    machine->link = (struct link_figures){trip_us * 1e-6, link_rate(gbit), link_rate(gbit)};
}

/* Turns what was read into a machine. */
static enum status check_machine(const struct reader *reader, const yaml_node_t *node,
                                 const struct entry *entry, const char *what,
                                 struct cluster_machine *machine) {
    bool any = entry->memory_bytes > 0 || entry->read_gb_per_s > 0 || entry->has_gops;
    bool all = entry->memory_bytes > 0 && entry->read_gb_per_s > 0 && entry->has_gops;
    *machine = (struct cluster_machine){
        .name = entry->name, .kind = entry->name, .address = entry->address};
    if (any ? !all : !entry->address) {
        log_error("%s:%zu: %s needs memory, read_gb_per_s and gops%s; `skein bench` measures the "
                  "last two",
                  reader->path, line_of(node), what, entry->address ? " or none of them" : "");
        return STATUS_USAGE;
    }
    bool spills = entry->spill_bytes > 0, has_disk = entry->disk_gb_per_s > 0;
    if (spills != has_disk || (spills && !all)) {
        log_error("%s:%zu: %s that spills needs spill and disk_gb_per_s beside its other figures; "
                  "`skein-worker --spill` measures the disk",
                  reader->path, line_of(node), what);
        return STATUS_USAGE;
    }
    if (all)
        describe(reader, entry, machine);
    return STATUS_OK;
}

static enum status append(const struct reader *reader, const yaml_node_t *node,
                          const struct cluster_machine *machine, uint32_t count) {
    struct cluster_file *file = reader->file;
    if (count > WORKERS_MAX - file->count) {
        log_error("%s:%zu: more than %d workers", reader->path, line_of(node), WORKERS_MAX);
        return STATUS_USAGE;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct cluster_machine *worker = &file->workers[file->count++];
        *worker = *machine;
        if (count == 1 || !machine->name)
            continue;
        size_t bytes = strlen(machine->name) + 16;
        char *name = arena_take(file->arena, bytes, 1);
        if (!name)
            return STATUS_NO_MEMORY;
        snprintf(name, bytes, "%s %u", machine->name, i + 1);
        worker->name = name;
    }
    return STATUS_OK;
}

static enum status read_worker(const struct reader *reader, const yaml_node_t *node) {
    struct cluster_machine machine = {0};
    struct entry entry = {.count = 1};
    enum status status;
    if (node->type == YAML_SCALAR_NODE) {
        if ((status = read_text(reader, node, "a worker", &machine.address)))
            return status;
        return append(reader, node, &machine, 1);
    }
    if ((status = read_entry(reader, node, "a worker", MACHINE_KEYS, &entry)) ||
        (status = check_machine(reader, node, &entry, "a worker without address", &machine)))
        return status;
    if (entry.address && entry.count > 1)
        return refuse(reader, node, "count", "left out where there is an address");
    return append(reader, node, &machine, (uint32_t)entry.count);
}

static enum status read_workers(const struct reader *reader, const yaml_node_t *node) {
    if (node->type == YAML_SCALAR_NODE)
        return read_worker(reader, node);
    if (node->type != YAML_SEQUENCE_NODE)
        return refuse(reader, node, "workers", "a list");
    enum status status = STATUS_OK;
    for (const yaml_node_item_t *item = node->data.sequence.items.start;
         !status && item < node->data.sequence.items.top; item++)
        status = read_worker(reader, yaml_document_get_node(reader->document, *item));
    return status;
}

static enum status read_coordinator(const struct reader *reader, const yaml_node_t *node) {
    static const char *const KEYS_TAKEN[KEYS] = {
        [KEY_NAME] = "name", [KEY_MEMORY] = "memory",        [KEY_READ] = "read_gb_per_s",
        [KEY_GOPS] = "gops", [KEY_LINK] = "link_gbit_per_s", [KEY_THREADS] = "threads"};
    struct entry entry = {0};
    struct cluster_machine *machine = &reader->file->coordinator;
    enum status status = read_entry(reader, node, "coordinator", KEYS_TAKEN, &entry);
    if (status)
        return status;
    status = check_machine(reader, node, &entry, "the coordinator", machine);
    if (status == STATUS_OK && entry.link_gbit_per_s <= 0)
        machine->link.to_bytes_per_s = 0;
    return status;
}

static enum status read_link(struct reader *reader, const yaml_node_t *node) {
    struct entry entry = {0};
    enum status status = read_entry(reader, node, "link", LINK_KEYS, &entry);
    if (status)
        return status;
    if (entry.link_gbit_per_s > 0)
        reader->link_gbit_per_s = entry.link_gbit_per_s;
    if (entry.round_trip_us > 0)
        reader->round_trip_us = entry.round_trip_us;
    return STATUS_OK;
}

/* ---- The file. */

enum section { SECTION_LINK, SECTION_WORKERS, SECTION_COORDINATOR, SECTIONS };

/* Finds the nodes of all sections, so that they can be read in an order of ours. */
static enum status find_sections(const struct reader *reader,
                                 const yaml_node_t *sections[SECTIONS]) {
    static const char *const NAMES[SECTIONS] = {"link", "workers", "coordinator"};
    const yaml_node_t *root = yaml_document_get_root_node(reader->document);
    if (root && root->type != YAML_MAPPING_NODE)
        return refuse(reader, root, "a cluster file", "a mapping with the key workers");
    for (const yaml_node_pair_t *pair = root ? root->data.mapping.pairs.start : NULL;
         pair && pair < root->data.mapping.pairs.top; pair++) {
        const yaml_node_t *name = yaml_document_get_node(reader->document, pair->key);
        size_t section = find_key(text_of(name), NAMES, SECTIONS);
        if (section == SECTIONS)
            return refuse_key(reader, name, NAMES, SECTIONS);
        if (sections[section]) {
            log_error("%s:%zu: %s stands here a second time; keep one", reader->path, line_of(name),
                      NAMES[section]);
            return STATUS_FORMAT;
        }
        sections[section] = yaml_document_get_node(reader->document, pair->value);
    }
    return STATUS_OK;
}

static enum status check_workers(const struct reader *reader) {
    const struct cluster_file *file = reader->file;
    if (file->count == 0) {
        log_error("%s names no worker; write HOST:PORT for each under workers", reader->path);
        return STATUS_USAGE;
    }
    for (uint32_t i = 0; i < file->count; i++)
        for (uint32_t j = 0; j < i && file->workers[i].address; j++)
            if (file->workers[j].address &&
                strcmp(file->workers[i].address, file->workers[j].address) == 0) {
                log_error("%s names %s twice; name each worker once", reader->path,
                          file->workers[i].address);
                return STATUS_USAGE;
            }
    return STATUS_OK;
}

static enum status read_document(struct reader *reader) {
    const yaml_node_t *sections[SECTIONS] = {NULL};
    enum status status = find_sections(reader, sections);
    if (!status && sections[SECTION_LINK])
        status = read_link(reader, sections[SECTION_LINK]);
    if (!status && sections[SECTION_WORKERS])
        status = read_workers(reader, sections[SECTION_WORKERS]);
    if (!status && sections[SECTION_COORDINATOR])
        status = read_coordinator(reader, sections[SECTION_COORDINATOR]);
    return status ? status : check_workers(reader);
}

enum status cluster_file_read(const char *path, struct cluster_file *out) {
    struct cluster_file file = {.arena = arena_create(0)};
    yaml_document_t document;
    enum status status = file.arena ? STATUS_OK : STATUS_NO_MEMORY;
    if (status == STATUS_OK &&
        !(file.workers = arena_take(file.arena, WORKERS_MAX, sizeof *file.workers)))
        status = STATUS_NO_MEMORY;
    if (status == STATUS_OK)
        status = yaml_file_read(path, "cluster file", &document);
    if (status == STATUS_OK) {
        struct reader reader = {&file, path, &document, LINK_GBIT_PER_S, ROUND_TRIP_US};
        status = read_document(&reader);
        yaml_document_delete(&document);
    }
    if (status)
        cluster_file_cleanup(&file);
    else
        *out = file;
    return status;
}

void cluster_file_cleanup(struct cluster_file *file) {
    arena_destroy(file->arena);
    *file = (struct cluster_file){.arena = NULL};
}
