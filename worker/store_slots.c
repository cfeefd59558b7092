/* Each shard has an allocation of its own, so that dropping one gives its memory back. Large ones
 * are anonymous mappings, because the heap keeps what is freed; small ones come from the heap,
 * because a mapping is rounded up to pages. */
#include "worker/store_slots.h"

#include <inttypes.h>
#include <stdlib.h>

#include "common/cluster_limits.h"
#include "common/kernel/panel.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/nodes.h"

/* From here on rounding up to pages costs under 2 %. */
#define MAPPING_BYTES_MIN ((size_t)256 << 10)

const struct shard_layout *slot_layout(const struct expert_store *store, const struct slot *slot) {
    return shard_layout(store->layouts, store->layer_count, &slot->shard);
}

static uint8_t *storage_take(size_t bytes) {
    if (bytes < MAPPING_BYTES_MIN)
        return aligned_alloc(64, bytes); /* shard_bytes is a multiple of 64 */
    return memory_map(bytes);
}

static void storage_free(uint8_t *storage, size_t bytes) {
    if (bytes < MAPPING_BYTES_MIN)
        free(storage);
    else if (storage)
        memory_unmap(storage, bytes);
}

enum status slot_take_storage(const struct expert_store *store, struct slot *slot) {
    slot->storage = storage_take(slot->bytes);
    if (!slot->storage) {
        log_error("the system refuses %zu bytes for slot %zu of %" PRIu32 "; lower --memory",
                  slot->bytes, (size_t)(slot - store->slots), store->count);
        return STATUS_NO_MEMORY;
    }
    slot->expert = shard_view(slot_layout(store, slot), &slot->shard, slot->storage);
    return STATUS_OK;
}

void slot_drop_storage(struct slot *slot) {
    storage_free(slot->storage, slot->bytes);
    slot->storage = NULL;
}

size_t slot_room_bytes(const struct slot *slot) {
    return slot->bytes < MAPPING_BYTES_MIN ? slot->bytes : (size_t)SPILL_BUFFER_BYTES(slot->bytes);
}

static void place_matrix(const struct matrix *matrix) {
    nodes_place((void *)matrix->data, matrix_bytes(matrix->format, matrix->rows, matrix->columns));
}

void slot_place(const struct slot *slot) {
    place_matrix(&slot->expert.gate);
    place_matrix(&slot->expert.up);
    place_matrix(&slot->expert.down);
}

enum status slot_pack(const struct expert_store *store, struct slot *slot) {
    enum status status = panel_pack_matrix(&slot->expert.gate, store->exact);
    if (status == STATUS_OK)
        status = panel_pack_matrix(&slot->expert.up, store->exact);
    return status ? status : panel_pack_matrix(&slot->expert.down, store->exact);
}

void slot_adopt_expert(const struct expert_store *store, struct expert *expert) {
    panel_adopt_matrix(&expert->gate, store->exact);
    panel_adopt_matrix(&expert->up, store->exact);
    panel_adopt_matrix(&expert->down, store->exact);
}
