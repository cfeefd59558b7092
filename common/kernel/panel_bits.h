/* How a panel's bytes become vectors of values, for panel_unpack.h: nibbles, pairs and bits, spread
 * over the groups that they belong to. Over the macros of panel_simd.h. */
#include "common/kernel/panel_formats.h"

#define PANEL_INLINE  static inline __attribute__((always_inline))
#define PANEL_VECTORS (PANEL_ROWS / LANES)

/* How far ahead weights are asked for: memory's latency at full bandwidth, in bytes. Those of
 * blocks go to the second cache from farther away, since the first one can wait for few lines at a
 * time: streams that go from matrix to matrix then read a tenth faster where memory is slow. */
#define PREFETCH_BYTES       3072
#define BLOCK_PREFETCH_BYTES 6144

/* Vector `v` of a group. */
PANEL_INLINE IVEC load_group(const uint8_t group[64], size_t v) {
    return ILOAD(group + 4 * LANES * v);
}

/* Asks for what lies ahead of the s-th of `parts` equal parts of a block. */
PANEL_INLINE void prefetch_part(const void *block, size_t block_bytes, uint32_t s, uint32_t parts) {
    const char *part = (const char *)block + s * (block_bytes / parts) + BLOCK_PREFETCH_BYTES;
    for (size_t at = 0; at < block_bytes / parts; at += 64)
        __builtin_prefetch(part + at, 0, 2);
}

PANEL_INLINE void unpack_nibbles(const uint8_t nibbles[4][64], size_t v, IVEC groups[8]) {
    for (int g = 0; g < 4; g++) {
        IVEC bytes = load_group(nibbles[g], v);
        groups[g] = IAND(bytes, ISET8(15));
        groups[g + 4] = IAND(SHIFT_RIGHT(bytes, 4), ISET8(15));
    }
}

PANEL_INLINE void unpack_pairs(const uint8_t pairs[2][64], size_t v, IVEC groups[8]) {
    for (int h = 0; h < 2; h++) {
        IVEC bytes = load_group(pairs[h], v);
        groups[4 * h] = IAND(bytes, ISET8(3));
        groups[4 * h + 1] = IAND(SHIFT_RIGHT(bytes, 2), ISET8(3));
        groups[4 * h + 2] = IAND(SHIFT_RIGHT(bytes, 4), ISET8(3));
        groups[4 * h + 3] = IAND(SHIFT_RIGHT(bytes, 6), ISET8(3));
    }
}

/* The pairs become bits 4 and 5. */
PANEL_INLINE void add_pairs(const uint8_t pairs[2][64], size_t v, IVEC groups[8]) {
    for (int h = 0; h < 2; h++) {
        IVEC bytes = load_group(pairs[h], v);
        groups[4 * h] = IOR(groups[4 * h], IAND(SHIFT_LEFT(bytes, 4), ISET8(0x30)));
        groups[4 * h + 1] = IOR(groups[4 * h + 1], IAND(SHIFT_LEFT(bytes, 2), ISET8(0x30)));
        groups[4 * h + 2] = IOR(groups[4 * h + 2], IAND(bytes, ISET8(0x30)));
        groups[4 * h + 3] = IOR(groups[4 * h + 3], IAND(SHIFT_RIGHT(bytes, 2), ISET8(0x30)));
    }
}

/* The bits become bit 4. */
PANEL_INLINE void add_fifth_bits(const uint8_t bits[64], size_t v, IVEC groups[8]) {
    IVEC bytes = load_group(bits, v), bit = ISET8(0x10);
    groups[0] = IOR(groups[0], IAND(SHIFT_LEFT(bytes, 4), bit));
    groups[1] = IOR(groups[1], IAND(SHIFT_LEFT(bytes, 3), bit));
    groups[2] = IOR(groups[2], IAND(SHIFT_LEFT(bytes, 2), bit));
    groups[3] = IOR(groups[3], IAND(SHIFT_LEFT(bytes, 1), bit));
    groups[4] = IOR(groups[4], IAND(bytes, bit));
    groups[5] = IOR(groups[5], IAND(SHIFT_RIGHT(bytes, 1), bit));
    groups[6] = IOR(groups[6], IAND(SHIFT_RIGHT(bytes, 2), bit));
    groups[7] = IOR(groups[7], IAND(SHIFT_RIGHT(bytes, 3), bit));
}

/* The bits become bit 2. */
PANEL_INLINE void add_third_bits(const uint8_t bits[64], size_t v, IVEC groups[8]) {
    IVEC bytes = load_group(bits, v), bit = ISET8(4);
    groups[0] = IOR(groups[0], IAND(SHIFT_LEFT(bytes, 2), bit));
    groups[1] = IOR(groups[1], IAND(SHIFT_LEFT(bytes, 1), bit));
    groups[2] = IOR(groups[2], IAND(bytes, bit));
    groups[3] = IOR(groups[3], IAND(SHIFT_RIGHT(bytes, 1), bit));
    groups[4] = IOR(groups[4], IAND(SHIFT_RIGHT(bytes, 2), bit));
    groups[5] = IOR(groups[5], IAND(SHIFT_RIGHT(bytes, 3), bit));
    groups[6] = IOR(groups[6], IAND(SHIFT_RIGHT(bytes, 4), bit));
    groups[7] = IOR(groups[7], IAND(SHIFT_RIGHT(bytes, 5), bit));
}

PANEL_INLINE void look_up_levels(IVEC groups[8]) {
    for (int g = 0; g < 8; g++)
        groups[g] = ILOOKUP(LEVELS_OFFSET, groups[g]);
}
