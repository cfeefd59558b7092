/* Stores of three small shards, for tests of expert_store and store_loading. */
#pragma once

#include "tests/unit/worker/fixture.h"
#include "worker/expert_store.h"

#define MODEL TEST_DATA_DIR "/golden/deepseek-v2-lite-tiny"

static const struct shard_layout LAYOUT = {128, 32, WEIGHT_BF16, WEIGHT_BF16, WEIGHT_BF16};

/* Three layers with these experts, of which layer 0 has none. */
static const struct shard_layout LAYOUTS[SHARD_LAYOUTS(3)] = {
    {0},
    {128, 32, WEIGHT_BF16, WEIGHT_BF16, WEIGHT_BF16},
    {128, 32, WEIGHT_BF16, WEIGHT_BF16, WEIGHT_BF16}};

static const struct shard SHARDS[] = {{1, 0, 0, 32}, {1, 7, 8, 24}, {2, 15, 0, 32}};

static inline struct assignment assignment(const struct shard *shards, uint32_t count) {
    return (struct assignment){5, LAYOUTS, 3, shards, count, NULL, NULL, false};
}

static inline struct expert_store *create(uint64_t memory_bytes) {
    struct expert_store *store;
    assert_int_equal(expert_store_create(memory_bytes, &store), STATUS_OK);
    return store;
}

/* Fills the slot with `value` in two parts. */
static inline void fill(struct expert_store *store, uint32_t slot, uint8_t value) {
    size_t bytes = expert_store_slot_bytes(store, slot);
    uint8_t *data = malloc(bytes);
    memset(data, value, bytes);
    assert_int_equal(expert_store_fill(store, slot, 0, data, 100), STATUS_OK);
    assert_false(expert_store_is_filled(store, slot));
    assert_int_equal(expert_store_fill(store, slot, 100, data, bytes - 100), STATUS_OK);
    assert_true(expert_store_is_filled(store, slot));
    free(data);
}
