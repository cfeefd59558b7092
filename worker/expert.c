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
    uint32_t position;         /* of its first row in `gathered` and `inner` */
    uint32_t tile;             /* number of its first gate/up tile in the wave */
    struct matmul_input input; /* of gate and up */
    struct matmul_input inner; /* of down */
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
    /* The same in the form that products take, rows of so many bytes at most. */
    uint8_t *gathered_prepared, *inner_prepared;
    size_t gathered_bytes, inner_bytes;
    float *scratch; /* (threads, scratch_floats) */
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
        workspace->gathered_bytes = matmul_row_bytes(hidden);
        workspace->inner_bytes = matmul_row_bytes(inner_max);
        workspace->gathered_prepared =
            arena_take(workspace->arena, rows, workspace->gathered_bytes);
        workspace->inner_prepared = arena_take(workspace->arena, rows, workspace->inner_bytes);
        workspace->scratch = arena_take(
            workspace->arena, threads_count(threads) * workspace->scratch_floats, sizeof(float));
    }
    if (!workspace->arena || !workspace->groups || !workspace->gathered || !workspace->inner ||
        !workspace->gathered_prepared || !workspace->inner_prepared || !workspace->scratch) {
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

/* Copies scattered rows together, and prepares rows for the products that want that. */
static void gather_group(void *context, size_t task, unsigned thread) {
    (void)thread;
    struct expert_workspace *workspace = context;
    const struct group *group = &workspace->groups[task];
    size_t hidden = workspace->hidden;
    for (uint32_t i = 0; i < group->count; i++) {
        if (!is_contiguous(group))
            memcpy(workspace->gathered + (group->position + i) * hidden,
                   workspace->x + group->tasks[i].row * hidden, hidden * sizeof(float));
        matmul_prepare(&group->input, i, 0, workspace->hidden);
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
        matmul_prepare(&group->inner, i, row, rows);
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
        matmul_tile(&group->expert->down, row, rows, &group->inner, sums, MATMUL_TILE_ROWS,
                    scratch);
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

static enum activation_form larger_form(enum activation_form a, enum activation_form b) {
    return a > b ? a : b;
}

/* Where the group's inputs and inner activations lie, and in which form. */
static void place_group(const struct expert_workspace *workspace, struct group *group) {
    const struct expert *expert = group->expert;
    size_t hidden = workspace->hidden, position = group->position;
    group->input = (struct matmul_input){
        .x = is_contiguous(group) ? workspace->x + group->tasks[0].row * hidden
                                  : workspace->gathered + position * hidden,
        .x_stride = hidden,
        .form = larger_form(matmul_form(&expert->gate, group->count),
                            matmul_form(&expert->up, group->count)),
        .prepared = workspace->gathered_prepared + position * workspace->gathered_bytes,
        .prepared_stride = matmul_row_blocks(workspace->hidden),
        .batch = group->count,
    };
    group->inner = (struct matmul_input){
        .x = workspace->inner + position * workspace->inner_max,
        .x_stride = workspace->inner_max,
        .form = matmul_form(&expert->down, group->count),
        .prepared = workspace->inner_prepared + position * workspace->inner_bytes,
        .prepared_stride = matmul_row_blocks(workspace->inner_max),
        .batch = group->count,
    };
}

/* Makes every group's input ready: in place, or gathered; and in the form that its matrices want.
 */
static void gather(struct expert_workspace *workspace) {
    size_t needed = 0;
    for (size_t g = 0; g < workspace->group_count; g++) {
        struct group *group = &workspace->groups[g];
        place_group(workspace, group);
        needed += !is_contiguous(group) || group->input.form != ACTIVATION_F32;
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
