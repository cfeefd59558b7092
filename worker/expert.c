/* Two loops over the thread pool for any number of experts: first all tiles of all gate and up
 * projections, then all tiles of the hidden dimension, each adding up the down projections of every
 * expert in a fixed order. So a decode step with eight experts costs two barriers, not sixteen, no
 * two threads write the same value, and the result does not depend on the number of threads.
 *
 * Tasks are worked off in waves of whole experts, so that scratch stays in proportion to the batch
 * and not to the batch times the experts per token. */
#include "worker/expert.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/arena.h"
#include "common/kernel/kernel.h"
#include "common/kernel/matmul.h"
#include "common/log.h"

/* A wave takes at least this many rows, so that a batch of one token is a single wave. */
#define WAVE_ROWS_MIN 64u

/* The tasks of one expert. */
struct group {
    const struct expert *expert;
    const struct expert_task *tasks; /* (count) */
    uint32_t count;
    uint32_t position; /* of its first row in `gathered` and `inner` */
    uint32_t tile;     /* number of its first gate/up tile in the wave */
    struct matmul_input input;
};

struct expert_workspace {
    struct threads *threads;
    struct arena *arena;
    uint32_t hidden, inner_max, wave_rows;
    struct group *groups; /* (wave_rows) */
    size_t group_count;
    uint32_t tiles;  /* gate/up tiles of the wave */
    float *gathered; /* (wave_rows, hidden) inputs of experts whose rows are scattered */
    float *inner;    /* (wave_rows, inner_max) silu(gate) * up * weight */
    struct q8_block *gathered_q8, *inner_q8; /* the same in 8 bits, for packed matrices */
    size_t gathered_blocks, inner_blocks;    /* of one row */
    float *scratch;                          /* (threads, scratch_floats) */
    size_t scratch_floats;
    const float *x; /* the caller's */
    float *out;
};

static uint32_t smaller(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

static uint32_t tiles_of(uint32_t rows) {
    return (rows + MATMUL_TILE_ROWS - 1) / MATMUL_TILE_ROWS;
}

enum status expert_workspace_create(struct threads *threads, uint32_t hidden, uint32_t inner_max,
                                    uint32_t rows_max, struct expert_workspace **out) {
    struct expert_workspace *workspace = calloc(1, sizeof *workspace);
    if (!workspace)
        return STATUS_NO_MEMORY;
    uint32_t rows = rows_max > WAVE_ROWS_MIN ? rows_max : WAVE_ROWS_MIN;
    workspace->threads = threads;
    workspace->hidden = hidden;
    workspace->inner_max = inner_max;
    workspace->wave_rows = rows;
    /* Expansion scratch, and a tile of results for the up or down projection. */
    workspace->scratch_floats = matmul_scratch_floats() + (size_t)rows * MATMUL_TILE_ROWS;
    workspace->arena = arena_create(0);
    if (workspace->arena) {
        workspace->groups = arena_take(workspace->arena, rows, sizeof *workspace->groups);
        workspace->gathered = arena_take(workspace->arena, (size_t)rows * hidden, sizeof(float));
        workspace->inner = arena_take(workspace->arena, (size_t)rows * inner_max, sizeof(float));
        workspace->gathered_blocks = hidden / Q8_BLOCK_VALUES + 1;
        workspace->inner_blocks = inner_max / Q8_BLOCK_VALUES + 1;
        workspace->gathered_q8 = arena_take(workspace->arena, rows * workspace->gathered_blocks,
                                            sizeof *workspace->gathered_q8);
        workspace->inner_q8 = arena_take(workspace->arena, rows * workspace->inner_blocks,
                                         sizeof *workspace->inner_q8);
        workspace->scratch = arena_take(
            workspace->arena, threads_count(threads) * workspace->scratch_floats, sizeof(float));
    }
    if (!workspace->arena || !workspace->groups || !workspace->gathered || !workspace->inner ||
        !workspace->gathered_q8 || !workspace->inner_q8 || !workspace->scratch) {
        log_error("not enough memory to compute %u rows of %u values; lower --batch-tokens",
                  rows_max, hidden);
        expert_workspace_destroy(workspace);
        return STATUS_NO_MEMORY;
    }
    *out = workspace;
    return STATUS_OK;
}

void expert_workspace_destroy(struct expert_workspace *workspace) {
    if (!workspace)
        return;
    arena_destroy(workspace->arena);
    free(workspace);
}

/* Rows that lie one behind another in the input need no copy. */
static bool is_contiguous(const struct group *group) {
    return group->tasks[group->count - 1].row - group->tasks[0].row == group->count - 1;
}

static bool takes_q8(const struct group *group) {
    return panel_takes_q8(&group->expert->gate) || panel_takes_q8(&group->expert->up);
}

/* Copies scattered rows together, and quantises rows for packed matrices. */
static void gather_group(void *context, size_t task, unsigned thread) {
    (void)thread;
    struct expert_workspace *workspace = context;
    const struct group *group = &workspace->groups[task];
    size_t hidden = workspace->hidden, stride = workspace->gathered_blocks;
    for (uint32_t i = 0; i < group->count; i++) {
        const float *row = workspace->x + group->tasks[i].row * hidden;
        if (!is_contiguous(group))
            memcpy(workspace->gathered + (group->position + i) * hidden, row,
                   hidden * sizeof(float));
        if (takes_q8(group))
            kernel_get()->quantise(row, hidden,
                                   workspace->gathered_q8 + (group->position + i) * stride);
    }
}

/* One tile of gate and up of one expert, for all its rows. */
static void project_up(void *context, size_t task, unsigned thread) {
    struct expert_workspace *workspace = context;
    size_t low = 0, high = workspace->group_count;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (workspace->groups[middle].tile <= task)
            low = middle;
        else
            high = middle;
    }
    const struct group *group = &workspace->groups[low];
    const struct expert *expert = group->expert;
    uint32_t row = ((uint32_t)task - group->tile) * MATMUL_TILE_ROWS;
    uint32_t rows = smaller(MATMUL_TILE_ROWS, expert->gate.rows - row);
    float *scratch = workspace->scratch + thread * workspace->scratch_floats;
    float *up = scratch + matmul_scratch_floats();
    size_t stride = workspace->inner_max;
    float *gate = workspace->inner + group->position * stride + row;
    matmul_tile(&expert->gate, row, rows, &group->input, gate, stride, scratch);
    matmul_tile(&expert->up, row, rows, &group->input, up, MATMUL_TILE_ROWS, scratch);
    for (uint32_t i = 0; i < group->count; i++) {
        kernel_get()->swiglu(gate + i * stride, up + i * MATMUL_TILE_ROWS, rows,
                             group->tasks[i].weight);
        if (panel_takes_q8(&expert->down))
            kernel_get()->quantise(gate + i * stride, rows,
                                   workspace->inner_q8 +
                                       (group->position + i) * workspace->inner_blocks +
                                       row / Q8_BLOCK_VALUES);
    }
}

/* One tile of the hidden dimension: the down projections of all experts of the wave. */
static void project_down(void *context, size_t task, unsigned thread) {
    struct expert_workspace *workspace = context;
    size_t hidden = workspace->hidden;
    uint32_t row = (uint32_t)task * MATMUL_TILE_ROWS;
    uint32_t rows = smaller(MATMUL_TILE_ROWS, workspace->hidden - row);
    float *scratch = workspace->scratch + thread * workspace->scratch_floats;
    float *sums = scratch + matmul_scratch_floats();
    for (size_t g = 0; g < workspace->group_count; g++) {
        const struct group *group = &workspace->groups[g];
        const struct matmul_input input = {
            .x = workspace->inner + group->position * (size_t)workspace->inner_max,
            .x_stride = workspace->inner_max,
            .q8 = workspace->inner_q8 + group->position * workspace->inner_blocks,
            .q8_stride = workspace->inner_blocks,
            .batch = group->count,
        };
        matmul_tile(&group->expert->down, row, rows, &input, sums, MATMUL_TILE_ROWS, scratch);
        for (uint32_t i = 0; i < group->count; i++)
            kernel_get()->add_scaled(1.0f, sums + i * MATMUL_TILE_ROWS, rows,
                                     workspace->out + group->tasks[i].row * hidden + row);
    }
}

/* Forms groups from the front of `tasks` until the wave is full; returns how many tasks it took. */
static size_t form_wave(struct expert_workspace *workspace, const struct expert_task *tasks,
                        size_t count) {
    size_t taken = 0;
    workspace->group_count = 0;
    workspace->tiles = 0;
    while (taken < count) {
        size_t end = taken + 1;
        while (end < count && tasks[end].expert == tasks[taken].expert)
            end++;
        assert(end - taken <= workspace->wave_rows);
        if (end > workspace->wave_rows)
            break;
        struct group *group = &workspace->groups[workspace->group_count++];
        *group = (struct group){
            .expert = tasks[taken].expert,
            .tasks = tasks + taken,
            .count = (uint32_t)(end - taken),
            .position = (uint32_t)taken,
            .tile = workspace->tiles,
        };
        workspace->tiles += tiles_of(group->expert->gate.rows);
        taken = end;
    }
    return taken;
}

/* Makes every group's input ready: in place, or gathered; in 8 bits too where a matrix wants it. */
static void gather(struct expert_workspace *workspace) {
    size_t hidden = workspace->hidden, needed = 0;
    for (size_t g = 0; g < workspace->group_count; g++) {
        struct group *group = &workspace->groups[g];
        needed += !is_contiguous(group) || takes_q8(group);
        group->input = (struct matmul_input){
            .x = is_contiguous(group) ? workspace->x + group->tasks[0].row * hidden
                                      : workspace->gathered + group->position * hidden,
            .x_stride = hidden,
            .q8 = workspace->gathered_q8 + group->position * workspace->gathered_blocks,
            .q8_stride = workspace->gathered_blocks,
            .batch = group->count,
        };
    }
    if (needed)
        threads_run(workspace->threads, workspace->group_count, gather_group, workspace);
}

void expert_forward(struct expert_workspace *workspace, const float *x,
                    const struct expert_task *tasks, size_t count, float *out) {
    workspace->x = x;
    workspace->out = out;
    while (count) {
        size_t taken = form_wave(workspace, tasks, count);
        gather(workspace);
        threads_run(workspace->threads, workspace->tiles, project_up, workspace);
        threads_run(workspace->threads, tiles_of(workspace->hidden), project_down, workspace);
        tasks += taken;
        count -= taken;
    }
}
