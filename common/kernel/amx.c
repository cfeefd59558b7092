/* AMX: the functions of AVX-512, and batches through tiles.
 *
 * A tile register holds 16 rows of 64 bytes. One instruction multiplies 16 rows of 32 activations
 * with 32 columns of 16 rows of weights, both bf16, and adds to 16 x 16 sums in f32; the weights'
 * tile has a pair of columns in each row, which is how panels of BF16 lie in memory. Of a block of
 * columns all weights are first written as such tiles to scratch, dequantised where needed, once
 * for the whole batch; then two panels by 32 rows of activations are multiplied at a time: four
 * tiles of sums for four of operands. The sums stay in registers for the block and in y between
 * blocks.
 *
 * A thread needs its tiles configured before it uses them. Each call does that and releases them at
 * its end, which costs little beside the work and leaves nothing for a context switch to save. */
#include "common/kernel/avx512.h"

#define TILE_BYTES   1024u
#define TILE_ROWS    16u
#define TILE_COLUMNS 32u

/* The tile registers. Numbers, because the intrinsics paste them into instructions. */
#define SUMS_00   0 /* first 16 rows of activations, first panel */
#define SUMS_01   1
#define SUMS_10   2
#define SUMS_11   3
#define INPUT_0   4
#define INPUT_1   5
#define WEIGHTS_0 6
#define WEIGHTS_1 7

/* As ldtilecfg reads it. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
static_assert(sizeof(struct tile_config) == 64, "the layout is the processor's");

/* gcc's tile intrinsics do not tell the compiler what memory they read. */
static inline void finish_writes(const void *memory) {
    __asm__ volatile("" : : "r"(memory) : "memory");
}

/* Two columns of sixteen rows as bf16, side by side in 32-bit lanes. */
PANEL_INLINE __m512i join_columns(__m512 even, __m512 odd) {
    const __m512i places = _mm512_set_epi32(
        0x1f000f, 0x1e000e, 0x1d000d, 0x1c000c, 0x1b000b, 0x1a000a, 0x190009, 0x180008, 0x170007,
        0x160006, 0x150005, 0x140004, 0x130003, 0x120002, 0x110001, 0x100000);
    return _mm512_permutexvar_epi16(places, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

/* Each of these writes `columns` columns of a panel, from `column` on, as rows of tiles to `high`;
 * what bf16 leaves out of them to `low` where a format has that. */

static void tiles_bf16(const uint8_t *panel, uint32_t column, uint32_t columns, uint8_t *high,
                       uint8_t *low) {
    (void)low;
    for (uint32_t at = 0; at < columns / 2 * 64; at += 64) {
        const uint8_t *pair = panel + column / 2 * 64 + at;
        __builtin_prefetch(pair + PREFETCH_BYTES);
        _mm512_storeu_si512(high + at, ILOAD(pair));
    }
}

#define DEFINE_FLOAT_TILES(NAME, PAIR_BYTES, WITH_LOW)                                             \
    static void tiles_##NAME(const uint8_t *panel, uint32_t column, uint32_t columns,              \
                             uint8_t *high, uint8_t *low) {                                        \
        (void)low;                                                                                 \
        for (uint32_t pair = 0; pair < columns / 2; pair++) {                                      \
            const uint8_t *p = panel + (column / 2 + pair) * (PAIR_BYTES);                         \
            VEC w[1][2];                                                                           \
            __builtin_prefetch(p + PREFETCH_BYTES);                                                \
            LOAD_PAIR_##NAME(p, w);                                                                \
            __m512i joined = join_columns(w[0][0], w[0][1]);                                       \
            _mm512_storeu_si512(high + 64 * pair, joined);                                         \
            if (WITH_LOW)                                                                          \
                _mm512_storeu_si512(low + 64 * pair,                                               \
                                    join_columns(_mm512_sub_ps(w[0][0], EVEN_BF16(joined)),        \
                                                 _mm512_sub_ps(w[0][1], ODD_BF16(joined))));       \
        }                                                                                          \
    }

/* Tiles take subnormal numbers for zero, so FP8 is converted to f32's normal ones here; the sums
 * lack FP8_FACTOR. First the high bytes of 16-bit lanes. */
PANEL_INLINE __m512 high_fp8(__m256i lanes) {
    return _mm512_cvtph_ps(
        _mm256_and_si256(_mm256_srai_epi16(lanes, 1), _mm256_set1_epi16((short)0xbf80)));
}

PANEL_INLINE void LOAD_PAIR_fp8(const uint8_t *p, __m512 (*w)[2]) {
    __m256i lanes = _mm256_loadu_si256((const __m256i *)(const void *)p);
    w[0][0] = high_fp8(_mm256_slli_epi16(lanes, 8));
    w[0][1] = high_fp8(lanes);
}

DEFINE_FLOAT_TILES(f16, 4 * PANEL_ROWS, true)
DEFINE_FLOAT_TILES(fp8, 2 * PANEL_ROWS, false)

/* Byte `shift` / 8 of each lane as a weight. */
PANEL_INLINE __m512 dequantise(__m512i group, unsigned shift, __m512 scale, __m512 offset) {
    __m512i q = IAND(_mm512_srli_epi32(group, shift), ISET(255));
    return FMA(FLOATS(q), scale, offset);
}

/* A sub-block as panel_unpack.h unpacks it: byte c of a lane of groups[g] is q of one row's column
 * 4 g + c, whose weight is q * scale + offset. */
PANEL_INLINE void write_sub_block(const IVEC groups[8], const VEC scales[2], const VEC offsets[2],
                                  uint8_t *tile) {
    for (int g = 0; g < 8; g++) {
        __m512 scale = scales[g / 4], offset = offsets[g / 4];
        for (unsigned pair = 0; pair < 2; pair++)
            _mm512_storeu_si512(tile + (2 * g + pair) * 64,
                                join_columns(dequantise(groups[g], 16 * pair, scale, offset),
                                             dequantise(groups[g], 16 * pair + 8, scale, offset)));
    }
}

#define DEFINE_TILES(NAME, TYPE, BLOCK_VALUES, BITS, HALVES, ZERO_POINT)                           \
    static void tiles_##NAME(const uint8_t *panel, uint32_t column, uint32_t columns,              \
                             uint8_t *high, uint8_t *low) {                                        \
        const uint32_t parts = (BLOCK_VALUES) / TILE_COLUMNS;                                      \
        (void)low;                                                                                 \
        for (uint32_t end = column + columns; column < end; column += TILE_COLUMNS) {              \
            const struct TYPE *block = (const struct TYPE *)panel + column / (BLOCK_VALUES);       \
            uint32_t s = column % (BLOCK_VALUES) / TILE_COLUMNS;                                   \
            IVEC groups[8];                                                                        \
            VEC scales[2], offsets[2];                                                             \
            prefetch_part(block, sizeof *block, s, parts);                                         \
            unpack_##NAME(block, s, 0, groups, scales, offsets);                                   \
            write_sub_block(groups, scales, offsets, high);                                        \
            high += TILE_BYTES;                                                                    \
        }                                                                                          \
    }

PANEL_LIST(DEFINE_TILES)

typedef void (*tiles_writer)(const uint8_t *panel, uint32_t column, uint32_t columns, uint8_t *high,
                             uint8_t *low);

/* How a format goes through tiles. */
struct tile_format {
    tiles_writer write;
    size_t panel_bytes;     /* of all columns */
    int input_parts;        /* of each activation that count */
    bool has_low;           /* a weight is two bf16 */
    uint32_t block_columns; /* written and summed up at a time */
    float factor;           /* of all weights */
};

/* Up to two panels and 32 rows of activations, for a block of columns. */
struct tile_pair {
    const uint8_t *weights[2]; /* tiles of each panel */
    size_t low_bytes;          /* from there to those of the low parts */
    const struct bf16_block *x;
    size_t x_bytes; /* between rows */
    uint32_t steps;
    bool has_panels, has_rows; /* a second panel, more than 16 rows */
};

/* Two panels' tiles times two tiles of rows. */
PANEL_INLINE void multiply_tiles(const struct tile_pair *pair, const uint8_t *w0, const uint8_t *w1,
                                 const uint16_t *x) {
    _tile_loadd(INPUT_0, x, pair->x_bytes);
    _tile_loadd(WEIGHTS_0, w0, 64);
    _tile_dpbf16ps(SUMS_00, INPUT_0, WEIGHTS_0);
    if (pair->has_panels) {
        _tile_loadd(WEIGHTS_1, w1, 64);
        _tile_dpbf16ps(SUMS_01, INPUT_0, WEIGHTS_1);
    }
    if (!pair->has_rows)
        return;
    _tile_loadd(INPUT_1, (const uint8_t *)x + TILE_ROWS * pair->x_bytes, pair->x_bytes);
    _tile_dpbf16ps(SUMS_10, INPUT_1, WEIGHTS_0);
    if (pair->has_panels)
        _tile_dpbf16ps(SUMS_11, INPUT_1, WEIGHTS_1);
}

/* The product of a weight's low part and an activation's last part is below what f32 sums keep. */
static void multiply_steps(const struct tile_pair *pair, const struct tile_format *format) {
    const uint8_t *w0 = pair->weights[0], *w1 = pair->weights[1];
    for (uint32_t s = 0; s < pair->steps; s++, w0 += TILE_BYTES, w1 += TILE_BYTES) {
        for (int part = 0; part < format->input_parts; part++)
            multiply_tiles(pair, w0, w1, pair->x[s].parts[part]);
        for (int part = 0; format->has_low && part + 1 < format->input_parts; part++)
            multiply_tiles(pair, w0 + pair->low_bytes, w1 + pair->low_bytes,
                           pair->x[s].parts[part]);
    }
}

/* Sums start from 0, or from what stands at `y`, y_bytes between rows. */
static void start_sums(const struct tile_pair *pair, const float *y, size_t y_bytes,
                       bool from_zero) {
    const uint8_t *rows = (const uint8_t *)y, *more = rows + TILE_ROWS * y_bytes;
    if (from_zero) {
        _tile_zero(SUMS_00);
        _tile_zero(SUMS_01);
        _tile_zero(SUMS_10);
        _tile_zero(SUMS_11);
        return;
    }
    _tile_loadd(SUMS_00, rows, y_bytes);
    if (pair->has_panels)
        _tile_loadd(SUMS_01, rows + 64, y_bytes);
    if (pair->has_rows)
        _tile_loadd(SUMS_10, more, y_bytes);
    if (pair->has_rows && pair->has_panels)
        _tile_loadd(SUMS_11, more + 64, y_bytes);
}

static void store_sums(const struct tile_pair *pair, float *y, size_t y_bytes) {
    uint8_t *rows = (uint8_t *)y, *more = rows + TILE_ROWS * y_bytes;
    _tile_stored(SUMS_00, rows, y_bytes);
    if (pair->has_panels)
        _tile_stored(SUMS_01, rows + 64, y_bytes);
    if (pair->has_rows)
        _tile_stored(SUMS_10, more, y_bytes);
    if (pair->has_rows && pair->has_panels)
        _tile_stored(SUMS_11, more + 64, y_bytes);
}

/* y = or += scale * sums, for `rows` rows of `panels` panels; sums (32, 2 * PANEL_ROWS). */
static void add_sums(const float *sums, float scale, bool from_zero, size_t rows, size_t panels,
                     float *y, size_t y_stride) {
    for (size_t r = 0; r < rows; r++)
        for (size_t p = 0; p < panels * PANEL_ROWS; p += PANEL_ROWS) {
            float *out = y + r * y_stride + p;
            STORE(out, FMA(SET(scale), LOAD(sums + r * 2 * PANEL_ROWS + p),
                           from_zero ? ZERO() : LOAD(out)));
        }
}

/* Tiles for `rows` rows of activations (1 to 32). */
static void configure_tiles(size_t rows) {
    uint8_t first = (uint8_t)(rows < TILE_ROWS ? rows : TILE_ROWS);
    uint8_t second = (uint8_t)(rows > TILE_ROWS ? rows - TILE_ROWS : 1);
    _Alignas(64) struct tile_config config = {
        .palette = 1,
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {first, first, second, second, first, second, TILE_ROWS, TILE_ROWS},
    };
    finish_writes(&config);
    _tile_loadconfig(&config);
}

/* Writes columns [start, start + columns) of all panels to scratch, in whole tiles; low parts lie
 * behind the high ones. Returns the tiles of a panel. */
static uint32_t write_block(const struct tile_product *p, const struct tile_format *format,
                            uint32_t start, uint32_t columns) {
    uint32_t steps = (columns + TILE_COLUMNS - 1) / TILE_COLUMNS;
    size_t low_bytes = p->count * steps * TILE_BYTES, used = columns / 2 * 64;
    for (size_t i = 0; i < p->count; i++) {
        uint8_t *high = p->scratch + i * steps * TILE_BYTES, *low = high + low_bytes;
        format->write(p->panels + i * format->panel_bytes, start, columns, high, low);
        memset(high + used, 0, steps * TILE_BYTES - used);
        if (format->has_low)
            memset(low + used, 0, steps * TILE_BYTES - used);
    }
    finish_writes(p->scratch);
    return steps;
}

/* The block of columns that write_block() wrote, times rows [row, row + rows) of activations. */
static void multiply_block(const struct tile_product *p, const struct tile_format *format,
                           uint32_t start, uint32_t steps, size_t row, size_t rows) {
    float *sums = (float *)(p->scratch + TILE_SCRATCH_BYTES(p->count) - 4096);
    bool has_scale = p->scales || format->factor != 1;
    float scale = format->factor * (p->scales ? p->scales[start / FP8_BLOCK] : 1);
    for (size_t panel = 0; panel < p->count; panel += 2) {
        const uint8_t *weights = p->scratch + panel * steps * TILE_BYTES;
        struct tile_pair pair = {
            .weights = {weights, weights + steps * TILE_BYTES},
            .low_bytes = p->count * steps * TILE_BYTES,
            .x = p->x + row * p->x_stride + start / TILE_COLUMNS,
            .x_bytes = p->x_stride * sizeof *p->x,
            .steps = steps,
            .has_panels = panel + 1 < p->count,
            .has_rows = rows > TILE_ROWS,
        };
        float *y = p->y + row * p->y_stride + panel * PANEL_ROWS;
        size_t y_bytes = p->y_stride * sizeof *y;
        start_sums(&pair, y, y_bytes, has_scale || start == 0);
        multiply_steps(&pair, format);
        if (!has_scale) {
            store_sums(&pair, y, y_bytes);
            continue;
        }
        store_sums(&pair, sums, 2 * PANEL_ROWS * sizeof *sums);
        add_sums(sums, scale, start == 0, rows, pair.has_panels ? 2 : 1, y, p->y_stride);
    }
}

static void multiply_product(const struct tile_product *p, const struct tile_format *format) {
    size_t configured = 0;
    for (uint32_t start = 0; start < p->columns; start += format->block_columns) {
        uint32_t left = p->columns - start;
        uint32_t steps = write_block(p, format, start,
                                     left < format->block_columns ? left : format->block_columns);
        for (size_t row = 0; row < p->batch; row += 2 * TILE_ROWS) {
            size_t rows = p->batch - row < 2 * TILE_ROWS ? p->batch - row : 2 * TILE_ROWS;
            if (rows != configured)
                configure_tiles(rows);
            configured = rows;
            multiply_block(p, format, start, steps, row, rows);
        }
    }
    _tile_release();
}

#define DEFINE_TILE_DOT(FORMAT, NAME, INPUT_PARTS, HAS_LOW, BLOCK_COLUMNS, FACTOR)                 \
    static void tile_dot_##NAME(const struct tile_product *p) {                                    \
        const struct tile_format format = {                                                        \
            tiles_##NAME,  panel_bytes(WEIGHT_##FORMAT, p->columns),                               \
            INPUT_PARTS,   HAS_LOW,                                                                \
            BLOCK_COLUMNS, FACTOR};                                                                \
        multiply_product(p, &format);                                                              \
    }
#define DEFINE_QUANTISED_DOT(FORMAT, NAME)                                                         \
    DEFINE_TILE_DOT(FORMAT, NAME, 1, false, TILE_BLOCK_COLUMNS, 1)

DEFINE_TILE_DOT(F16, f16, BF16_PARTS, true, TILE_BLOCK_COLUMNS, 1)
DEFINE_TILE_DOT(BF16, bf16, BF16_PARTS, false, TILE_BLOCK_COLUMNS, 1)
DEFINE_TILE_DOT(FP8_E4M3, fp8, BF16_PARTS, false, FP8_BLOCK, FP8_FACTOR)
BLOCK_FORMATS(DEFINE_QUANTISED_DOT)

#define TILE_DOT_ENTRY(FORMAT, NAME) [WEIGHT_##FORMAT] = tile_dot_##NAME,

/* Sixteen values, less what is rounded of them. */
PANEL_INLINE __m512 subtract_rounded(__m512 x, __m256i rounded) {
    return _mm512_sub_ps(
        x, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16)));
}

static void split_block(const float *x, struct bf16_block *out) {
    __m512 first = LOAD(x), last = LOAD(x + LANES);
    for (int part = 0; part < BF16_PARTS; part++) {
        __m512i rounded = (__m512i)_mm512_cvtne2ps_pbh(last, first);
        _mm512_storeu_si512(out->parts[part], rounded);
        first = subtract_rounded(first, _mm512_castsi512_si256(rounded));
        last = subtract_rounded(last, _mm512_extracti64x4_epi64(rounded, 1));
    }
}

static void split(const float *x, size_t count, struct bf16_block *out) {
    for (; count >= ACTIVATION_BLOCK_VALUES; count -= ACTIVATION_BLOCK_VALUES) {
        split_block(x, out++);
        x += ACTIVATION_BLOCK_VALUES;
    }
    if (count) {
        float filled[ACTIVATION_BLOCK_VALUES] = {0};
        memcpy(filled, x, count * sizeof *x);
        split_block(filled, out);
    }
}

/* Counted in instructions, not measured: to write a tile of quantised weights costs about as much
 * as the products of sixteen rows of activations. */
#define TILE_BATCH_MIN 16

const struct kernel KERNEL_AMX = TABLE("amx", PEAK_AMX, .split = split,
                                       .tile_dot = {[WEIGHT_F16] = tile_dot_f16,
                                                    [WEIGHT_BF16] = tile_dot_bf16,
                                                    [WEIGHT_FP8_E4M3] = tile_dot_fp8,
                                                    BLOCK_FORMATS(TILE_DOT_ENTRY)},
                                       .tile_batch_min = TILE_BATCH_MIN);
