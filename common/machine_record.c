/* One file for all machines, because home directories are shared and one machine computes with
 * various numbers of threads: an object with one record for each description of a machine. Reading
 * and writing are not one step, so of two programs that measure at the same time one may be
 * forgotten, and measures again at its next start. A file that has grown beyond its bound is
 * treated as a damaged one: it starts afresh. */
#include "common/machine_record.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cache_dir.h"
#include "common/disk.h"
#include "common/limits.h"
#include "common/log.h"

#define FILE_NAME         "machines.json"
#define DESCRIPTION_BYTES 256

/* Adds the values of those keys of /proc/cpuinfo that tell processors apart, of the first one. */
static void describe_processor(char *out, size_t capacity) {
    static const char *const KEYS[] = {"model name\t", "cpu family\t", "model\t",
                                       "CPU implementer\t", "CPU part\t"};
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[4096];
    size_t used = 0;
    while (file && fgets(line, sizeof line, file) && line[0] != '\n')
        for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++) {
            const char *colon = strstr(line, ": ");
            if (!colon || strncmp(line, KEYS[i], strlen(KEYS[i])) != 0 || used + 1 >= capacity)
                continue;
            int length = (int)strcspn(colon + 2, "\n");
            used += (size_t)snprintf(out + used, capacity - used, "%s%.*s", used ? "/" : "", length,
                                     colon + 2);
        }
    if (file)
        fclose(file);
    if (used == 0)
        snprintf(out, capacity, "unknown processor");
}

/* Everything that rates depend on, as people can read it. Memory is rounded, because kernels keep
 * varying amounts for themselves. */
static void describe(const struct machine_figures *figures, char out[DESCRIPTION_BYTES]) {
    char processor[DESCRIPTION_BYTES / 2];
    double memory_bytes = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    describe_processor(processor, sizeof processor);
    snprintf(out, DESCRIPTION_BYTES, "%s, %.0f GiB, %s, %u threads, skein %s", processor,
             memory_bytes / (1 << 30), figures->isa, figures->threads, SKEIN_VERSION);
}

/* The key of a format's figures: exact products run other code. */
static const char *format_key(int format, bool exact, char out[32]) {
    snprintf(out, 32, "%s%s", weight_format_name((enum weight_format)format),
             exact ? " exact" : "");
    return out;
}

/* A rate that is not there is 0; false for one that cannot be. */
static bool take_rate(const json_t *object, const char *key, double *out) {
    const json_t *value = json_object_get(object, key);
    double rate = json_number_value(value);
    if (value && !machine_rate_is_plausible(rate))
        return false;
    *out = rate;
    return true;
}

/* Reads what `record` has of `work`; false, and nothing changed, where it is damaged. */
static bool take_record(const json_t *record, const struct machine_work *work,
                        struct machine_figures *figures) {
    struct machine_figures found = *figures;
    const json_t *formats = json_object_get(record, "formats");
    bool valid = json_is_object(record) && json_is_object(formats) &&
                 take_rate(record, "read_bytes_per_s", &found.read_bytes_per_s);
    for (int f = 0; f < WEIGHT_FORMAT_COUNT && valid; f++) {
        char key[32];
        const json_t *format = json_object_get(formats, format_key(f, work->exact, key));
        if (work->formats >> f & 1)
            valid = take_rate(format, "decode_bytes_per_s", &found.formats[f].decode_bytes_per_s) &&
                    take_rate(format, "batch_macs_per_s", &found.formats[f].batch_macs_per_s);
    }
    if (valid)
        *figures = found;
    return valid;
}

/* Adds the figures of `work` to `record`; false when memory is out. */
static bool put_record(json_t *record, const struct machine_work *work,
                       const struct machine_figures *figures) {
    json_t *formats = json_object_get(record, "formats");
    bool put =
        json_object_set_new(record, "read_bytes_per_s", json_real(figures->read_bytes_per_s)) == 0;
    for (int f = 0; f < WEIGHT_FORMAT_COUNT && put; f++) {
        char key[32];
        const struct format_figures *found = &figures->formats[f];
        if (work->formats >> f & 1)
            put = json_object_set_new(formats, format_key(f, work->exact, key),
                                      json_pack("{s:f, s:f}", "decode_bytes_per_s",
                                                found->decode_bytes_per_s, "batch_macs_per_s",
                                                found->batch_macs_per_s)) == 0;
    }
    return put;
}

/* A record without figures; NULL when memory is out. */
static json_t *add_record(json_t *records, const char *description) {
    json_t *record = json_pack("{s:{}}", "formats");
    return json_object_set_new(records, description, record) ? NULL : record;
}

enum status machine_record_complete(const char *directory, struct threads *threads,
                                    const struct machine_work *work, size_t bytes,
                                    struct machine_figures *figures) {
    char description[DESCRIPTION_BYTES];
    describe(figures, description);
    json_t *records = cache_dir_read_object(directory, FILE_NAME, MACHINE_RECORDS_BYTES_MAX),
           *record = json_object_get(records, description);
    if (record && !take_record(record, work, figures)) {
        log_warning("%s/" FILE_NAME ": the record of this machine is damaged; measuring again",
                    directory);
        record = NULL;
    }
    enum status status = STATUS_OK;
    if (!machine_has_figures(figures, work)) {
        status = machine_measure_figures(threads, work, bytes, figures);
        if (!record)
            record = add_record(records, description);
        if (!status && record && put_record(record, work, figures))
            cache_dir_write_object(directory, FILE_NAME, records);
    }
    json_decref(records);
    return status;
}

void machine_record_complete_disk(const char *directory, struct machine_figures *figures) {
    char description[DESCRIPTION_BYTES];
    describe(figures, description);
    json_t *records = cache_dir_read_object(directory, FILE_NAME, MACHINE_RECORDS_BYTES_MAX),
           *record = json_object_get(records, description);
    bool is_known = json_is_object(record) &&
                    take_rate(record, "disk_bytes_per_s", &figures->disk_bytes_per_s) &&
                    figures->disk_bytes_per_s > 0;
    cache_dir_make(directory);
    if (!is_known && !disk_measure_read(directory, &figures->disk_bytes_per_s)) {
        if (!json_is_object(record))
            record = add_record(records, description);
        if (record &&
            !json_object_set_new(record, "disk_bytes_per_s", json_real(figures->disk_bytes_per_s)))
            cache_dir_write_object(directory, FILE_NAME, records);
    }
    json_decref(records);
}
