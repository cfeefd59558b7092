/* One file with an object for each address. When it is full it starts afresh: the links that are in
 * use are soon in it again. */
#include "coordinator/link_record.h"

#include <jansson.h>
#include <stdbool.h>

#include "common/cache_dir.h"
#include "common/limits.h"

#define FILE_NAME "links.json"

/* False for what no link can be. */
static bool take_record(const json_t *record, struct link_figures *out) {
    *out = (struct link_figures){
        .round_trip_s = json_number_value(json_object_get(record, "round_trip_s")),
        .to_bytes_per_s = json_number_value(json_object_get(record, "to_bytes_per_s")),
        .from_bytes_per_s = json_number_value(json_object_get(record, "from_bytes_per_s"))};
    return out->round_trip_s > 0 && machine_rate_is_plausible(1 / out->round_trip_s) &&
           machine_rate_is_plausible(out->to_bytes_per_s) &&
           machine_rate_is_plausible(out->from_bytes_per_s);
}

static bool agree(double a, double b) {
    return a <= LINK_TOLERANCE * b && b <= LINK_TOLERANCE * a;
}

static void put_record(const char *directory, json_t *records, const char *address,
                       const struct link_figures *link) {
    if (json_object_size(records) >= LINK_RECORDS_MAX)
        json_object_clear(records);
    json_t *record =
        json_pack("{s:f, s:f, s:f}", "round_trip_s", link->round_trip_s, "to_bytes_per_s",
                  link->to_bytes_per_s, "from_bytes_per_s", link->from_bytes_per_s);
    if (json_object_set_new(records, address, record) == 0)
        cache_dir_write_object(directory, FILE_NAME, records);
}

void link_record_settle(const char *directory, const char *address, struct link_figures *link) {
    struct link_figures known;
    json_t *records =
        directory ? cache_dir_read_object(directory, FILE_NAME, LINK_RECORDS_BYTES_MAX) : NULL;
    if (!records)
        return;
    if (take_record(json_object_get(records, address), &known) &&
        agree(known.round_trip_s, link->round_trip_s) &&
        agree(known.to_bytes_per_s, link->to_bytes_per_s) &&
        agree(known.from_bytes_per_s, link->from_bytes_per_s))
        *link = known;
    else
        put_record(directory, records, address, link);
    json_decref(records);
}
