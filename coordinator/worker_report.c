/* Operations are counted as everywhere in what users read: a multiplication and an addition are
 * two. */
#include "coordinator/worker_report.h"

#include <string.h>

#include "common/config.h"
#include "common/log.h"

#define LINE_BYTES 256

static bool has_format(const struct worker_info *worker, int format) {
    return worker->is_measured && worker->figures.formats[format].decode_bytes_per_s > 0;
}

static const char *describe_machine(const struct worker_info *worker, char line[LINE_BYTES]) {
    char size[CONFIG_SIZE_TEXT];
    int used = snprintf(line, LINE_BYTES, "%.80s, %s, %u threads", worker->address, worker->isa,
                        worker->cores);
    const struct link_figures *link = &worker->link;
    if (worker->is_measured)
        snprintf(line + used, (size_t)(LINE_BYTES - used),
                 "; reads %.1f GB/s; link %.3g Gbit/s there, %.3g back, round trip %.0f us",
                 worker->figures.read_bytes_per_s / 1e9, link->to_bytes_per_s * 8 / 1e9,
                 link->from_bytes_per_s * 8 / 1e9, link->round_trip_s * 1e6);
    used = (int)strlen(line);
    if (worker->is_measured && worker->spill_bytes > 0)
        snprintf(line + used, (size_t)(LINE_BYTES - used), "; spills %s to a disk of %.2f GB/s",
                 config_format_size(worker->spill_bytes, size),
                 worker->figures.disk_bytes_per_s / 1e9);
    return line;
}

static const char *describe_format(const struct worker_info *worker, int format,
                                   char line[LINE_BYTES]) {
    const struct format_figures *rates = &worker->figures.formats[format];
    snprintf(line, LINE_BYTES, "%s weights: %.1f GB/s for one row, %.1f GOP/s in batches",
             weight_format_name((enum weight_format)format), rates->decode_bytes_per_s / 1e9,
             2 * rates->batch_macs_per_s / 1e9);
    return line;
}

void worker_report_print(const struct worker_info *worker, FILE *stream) {
    char line[LINE_BYTES];
    fprintf(stream, "worker    %s\n", describe_machine(worker, line));
    for (int f = 0; f < WEIGHT_FORMAT_COUNT; f++)
        if (has_format(worker, f))
            fprintf(stream, "          %s\n", describe_format(worker, f, line));
}

void worker_report_log(const struct worker_info *worker) {
    char line[LINE_BYTES];
    log_debug("worker %s", describe_machine(worker, line));
    for (int f = 0; f < WEIGHT_FORMAT_COUNT; f++)
        if (has_format(worker, f))
            log_debug("worker %s: %s", worker->address, describe_format(worker, f, line));
}

static json_t *formats_to_json(const struct worker_info *worker) {
    json_t *formats = json_object();
    for (int f = 0; f < WEIGHT_FORMAT_COUNT; f++) {
        const struct format_figures *rates = &worker->figures.formats[f];
        if (has_format(worker, f))
            json_object_set_new(formats, weight_format_name((enum weight_format)f),
                                json_pack("{s:f, s:f}", "read_gb_per_s",
                                          rates->decode_bytes_per_s / 1e9, "gops",
                                          2 * rates->batch_macs_per_s / 1e9));
    }
    return formats;
}

json_t *worker_report_to_json(const struct worker_info *worker) {
    const struct link_figures *link = &worker->link;
    json_t *object =
        json_pack("{s:s, s:s, s:s, s:I, s:I}", "address", worker->address, "name", worker->name,
                  "isa", worker->isa, "threads", (json_int_t)worker->cores, "memory_bytes",
                  (json_int_t)worker->memory_bytes);
    if (!object || !worker->is_measured)
        return object;
    json_object_set_new(object, "read_gb_per_s", json_real(worker->figures.read_bytes_per_s / 1e9));
    json_object_set_new(object, "formats", formats_to_json(worker));
    if (worker->spill_bytes > 0)
        json_object_set_new(object, "spill",
                            json_pack("{s:I, s:f}", "bytes", (json_int_t)worker->spill_bytes,
                                      "disk_gb_per_s", worker->figures.disk_bytes_per_s / 1e9));
    json_object_set_new(object, "link",
                        json_pack("{s:f, s:f, s:f}", "round_trip_us", link->round_trip_s * 1e6,
                                  "to_gbit_per_s", link->to_bytes_per_s * 8 / 1e9,
                                  "from_gbit_per_s", link->from_bytes_per_s * 8 / 1e9));
    return object;
}
