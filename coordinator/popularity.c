/* A file is of another model when a layer is none with experts or lists another number of them;
 * whatever else it says, counts are numbers of at least zero. */
#include "coordinator/popularity.h"

#include <jansson.h>
#include <stdlib.h>

#include "common/json.h"
#include "common/log.h"

static enum status refuse(const char *path, const char *key, const char *right) {
    log_error("%s: layer \"%s\": it must be %s; measure again with this model", path, key, right);
    return STATUS_FORMAT;
}

static enum status read_layer(const char *path, const char *key, const json_t *counts,
                              const struct model_shape *shape, struct popularity *popularity) {
    char *end;
    unsigned long layer = strtoul(key, &end, 10);
    if (*key < '0' || *key > '9' || *end || layer > shape->layers || !shape->is_expert_layer[layer])
        return refuse(path, key, "the number of a layer with experts");
    if (!json_is_array(counts) || json_array_size(counts) != shape->experts)
        return refuse(path, key, "a list with a count for each expert");
    double *out = popularity->counts + layer * shape->experts;
    for (uint32_t e = 0; e < shape->experts; e++) {
        const json_t *count = json_array_get(counts, e);
        if (!json_is_number(count) || !(json_number_value(count) >= 0) ||
            json_number_value(count) > 1e18)
            return refuse(path, key, "a list of counts of at least 0");
        out[e] = json_number_value(count);
    }
    return STATUS_OK;
}

enum status popularity_read(const char *path, const struct model_shape *shape,
                            struct popularity *out) {
    json_t *root;
    enum status status = json_read_file(path, false, &root);
    if (status)
        return status;
    struct popularity popularity = {
        calloc((shape->layers + 1u) * (size_t)shape->experts, sizeof(double))};
    json_t *layers = json_object_get(root, "layers");
    if (!popularity.counts) {
        status = STATUS_NO_MEMORY;
    } else if (!json_is_object(layers)) {
        log_error("%s: \"layers\" must be an object with a list of counts for each layer", path);
        status = STATUS_FORMAT;
    }
    for (void *at = status ? NULL : json_object_iter(layers); !status && at;
         at = json_object_iter_next(layers, at))
        status = read_layer(path, json_object_iter_key(at), json_object_iter_value(at), shape,
                            &popularity);
    json_decref(root);
    if (status)
        popularity_cleanup(&popularity);
    else
        *out = popularity;
    return status;
}

void popularity_cleanup(struct popularity *popularity) {
    free(popularity->counts);
    popularity->counts = NULL;
}
