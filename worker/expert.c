/* Two loops over the thread pool for any number of experts: first all tasks of all gate and up
 * projections, then all of the hidden dimension, each adding up the down projections of every
 * expert in a fixed order. So a decode step with eight experts costs two barriers, not sixteen, no
 * two threads write the same value, and the result does not depend on the number of threads.
 *
 * Tasks are worked off in waves of whole experts, so that scratch stays in proportion to the batch
 * and not to the batch times the experts per token. Each row is brought into the form that products
 * take once, however many experts it visits. */
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
    bool is_projected;         /* gate and up are done */
    uint32_t first_task;       /* of gate and up in the loop at hand */
    struct matmul_input input; /* of gate and up */
    struct matmul_input inner; /* of down */
};

struct expert_workspace {
    struct threads *threads;
    struct arena *arena;
    uint32_t hidden, inner_max, wave_rows;
    struct group *groups; /* (wave_rows) */
    size_t group_count;
    struct group **listed; /* (wave_rows) the groups of the gate/up loop at hand */
    size_t listed_count;
    uint32_t task_rows;              /* of the loop at hand */
    struct expert_arrivals arrivals; /* of no functions: all weights are here */
    float *gathered; /* (wave_rows, hidden) inputs of experts whose rows are scattered */
    float *inner;    /* (wave_rows, inner_max) silu(gate) * up * weight */
    /* The same, and the caller's rows, in the forms that products take, rows of so many bytes at
     * most. */
    uint8_t *gathered_prepared, *inner_prepared, *prepared[ACTIVATION_FORMS];
    size_t hidden_bytes, inner_bytes;
    float *scratch; /* (threads, scratch_floats) */
    size_t scratch_floats;
    const float *x; /* the caller's */
    float *out;
};

static uint32_t smaller(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* Tasks of a loop over the rows of one matrix. */
static uint32_t tasks_of(const struct expert_workspace *workspace, uint32_t rows) {
    return (rows + workspace->task_rows - 1) / workspace->task_rows;
}

/* The most rows that an expert meets. */
static uint32_t batch_max(const struct expert_workspace *workspace) {
    uint32_t most = 0;
    for (size_t g = 0; g < workspace->group_count; g++)
        most = workspace->groups[g].count > most ? workspace->groups[g].count : most;
    return most;
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
    /* Expansion scratch, and a task's results of the up or down projection. */
    workspace->scratch_floats = matmul_scratch_floats() + (size_t)rows * MATMUL_TILE_ROWS;
    workspace->arena = arena_create(0);
    if (workspace->arena) {
        workspace->groups = arena_take(workspace->arena, rows, sizeof *workspace->groups);
        workspace->listed = arena_take(workspace->arena, rows, sizeof *workspace->listed);
        workspace->gathered = arena_take(workspace->arena, (size_t)rows * hidden, sizeof(float));
        workspace->inner = arena_take(workspace->arena, (size_t)rows * inner_max, sizeof(float));
        workspace->hidden_bytes = matmul_row_bytes(hidden);
        workspace->inner_bytes = matmul_row_bytes(inner_max);
        workspace->gathered_prepared = arena_take(workspace->arena, rows, workspace->hidden_bytes);
        for (int form = ACTIVATION_F32 + 1; form < ACTIVATION_FORMS; form++)
            workspace->prepared[form] = arena_take(workspace->arena, rows, workspace->hidden_bytes);
        workspace->inner_prepared = arena_take(workspace->arena, rows, workspace->inner_bytes);
        workspace->scratch = arena_take(
            workspace->arena, threads_count(threads) * workspace->scratch_floats, sizeof(float));
    }
    if (!workspace->arena || !workspace->groups || !workspace->listed || !workspace->gathered ||
        !workspace->inner || !workspace->gathered_prepared ||
        !workspace->prepared[ACTIVATION_BF16] || !workspace->prepared[ACTIVATION_Q8] ||
        !workspace->inner_prepared || !workspace->scratch) {
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

void expert_workspace_set_arrivals(struct expert_workspace *workspace,
                                   const struct expert_arrivals *arrivals) {
    workspace->arrivals = *arrivals;
}

/* Rows that lie one behind another in the input need no copy. */
static bool is_contiguous(const struct group *group) {
    return group->tasks[group->count - 1].row - group->tasks[0].row == group->count - 1;
}

/* The form in which `count` rows meet gate and up. */
static enum activation_form input_form(const struct expert *expert, size_t count) {
    enum activation_form gate = matmul_form(&expert->gate, count);
    enum activation_form up = matmul_form(&expert->up, count);
    return gate > up ? gate : up;
}

/* Whether some rows of the matrix meet the group's input in f32. */
static bool takes_f32(const struct group *group, const struct matrix *matrix) {
    return group->input.form == ACTIVATION_F32 || matrix->rows % PANEL_ROWS != 0 ||
           matmul_form(matrix, group->count) != group->input.form;
}

/* Bytes between prepared rows. */
static size_t prepared_bytes(const struct expert_workspace *workspace, enum activation_form form) {
    return matmul_row_blocks(workspace->hidden) * matmul_block_bytes(form);
}

/* Copies scattered rows together, in the forms that the group's matrices take. */
static void gather_group(void *context, size_t task, unsigned thread) {
    (void)thread;
    struct expert_workspace *workspace = context;
    const struct group *group = &workspace->groups[task];
    const uint8_t *prepared = workspace->prepared[group->input.form];
    size_t hidden = workspace->hidden, bytes = prepared_bytes(workspace, group->input.form);
    uint8_t *gathered = workspace->gathered_prepared + group->position * workspace->hidden_bytes;
    if (is_contiguous(group))
        return;
    bool in_f32 = takes_f32(group, &group->expert->gate) || takes_f32(group, &group->expert->up);
    for (uint32_t i = 0; i < group->count; i++) {
        size_t row = group->tasks[i].row;
        if (in_f32)
            memcpy(workspace->gathered + (group->position + i) * hidden,
                   workspace->x + row * hidden, hidden * sizeof(float));
        if (prepared)
            memcpy(gathered + i * bytes, prepared + row * bytes, bytes);
    }
}

/* Some rows of gate and up of one expert, for all rows that it meets. */
static void project_up(void *context, size_t task, unsigned thread) {
    struct expert_workspace *workspace = context;
    size_t low = 0, high = workspace->listed_count;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (workspace->listed[middle]->first_task <= task)
            low = middle;
        else
            high = middle;
    }
    const struct group *group = workspace->listed[low];
    const struct expert *expert = group->expert;
    uint32_t row = ((uint32_t)task - group->first_task) * workspace->task_rows;
    uint32_t rows = smaller(workspace->task_rows, expert->gate.rows - row);
    float *scratch = workspace->scratch + thread * workspace->scratch_floats;
    float *up = scratch + matmul_scratch_floats();
    size_t stride = workspace->inner_max;
    float *gate = workspace->inner + group->position * stride + row;
    matmul_tile(&expert->gate, row, rows, &group->input, gate, stride, scratch);
    matmul_tile(&expert->up, row, rows, &group->input, up, workspace->task_rows, scratch);
    for (uint32_t i = 0; i < group->count; i++) {
        kernel_get()->swiglu(gate + i * stride, up + i * workspace->task_rows, rows,
                             group->tasks[i].weight);
        matmul_prepare(&group->inner, i, row, rows);
    }
}

/* Some of the hidden dimension: the down projections of all experts of the wave. */
static void project_down(void *context, size_t task, unsigned thread) {
    struct expert_workspace *workspace = context;
    size_t hidden = workspace->hidden;
    uint32_t row = (uint32_t)task * workspace->task_rows;
    uint32_t rows = smaller(workspace->task_rows, workspace->hidden - row);
    float *scratch = workspace->scratch + thread * workspace->scratch_floats;
    float *sums = scratch + matmul_scratch_floats();
    for (size_t g = 0; g < workspace->group_count; g++) {
        const struct group *group = &workspace->groups[g];
        matmul_tile(&group->expert->down, row, rows, &group->inner, sums, workspace->task_rows,
                    scratch);
        for (uint32_t i = 0; i < group->count; i++)
            kernel_get()->add_scaled(1.0f, sums + i * workspace->task_rows, rows,
                                     workspace->out + group->tasks[i].row * hidden + row);
    }
}

/* Forms groups from the front of `tasks` until the wave is full; returns how many tasks it took. */
static size_t form_wave(struct expert_workspace *workspace, const struct expert_task *tasks,
                        size_t count) {
    size_t taken = 0;
    workspace->group_count = 0;
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
        };
        taken = end;
    }
    return taken;
}

/* Where the group's inputs and inner activations lie, and in which form. */
static void place_group(const struct expert_workspace *workspace, struct group *group) {
    size_t position = group->position, row = group->tasks[0].row;
    enum activation_form form = input_form(group->expert, group->count);
    group->input = (struct matmul_input){
        .x = workspace->gathered + position * workspace->hidden,
        .x_stride = workspace->hidden,
        .form = form,
        .prepared = workspace->gathered_prepared + position * workspace->hidden_bytes,
        .prepared_stride = matmul_row_blocks(workspace->hidden),
        .batch = group->count,
    };
    if (is_contiguous(group)) {
        group->input.x = workspace->x + row * workspace->hidden;
        if (form != ACTIVATION_F32)
            group->input.prepared =
                workspace->prepared[form] + row * prepared_bytes(workspace, form);
    }
    form = matmul_form(&group->expert->down, group->count);
    group->inner = (struct matmul_input){
        .x = workspace->inner + position * workspace->inner_max,
        .x_stride = workspace->inner_max,
        .form = form,
        .prepared = workspace->inner_prepared + position * workspace->inner_bytes,
        .prepared_stride = matmul_row_blocks(workspace->inner_max),
        .batch = group->count,
    };
}

/* Makes every group's input ready: in place, or gathered. */
static void gather(struct expert_workspace *workspace) {
    size_t scattered = 0;
    for (size_t g = 0; g < workspace->group_count; g++) {
        place_group(workspace, &workspace->groups[g]);
        scattered += !is_contiguous(&workspace->groups[g]);
    }
    if (scattered)
        threads_run(workspace->threads, workspace->group_count, gather_group, workspace);
}

/* One expert_forward's rows on their way into one form. */
struct preparation {
    struct matmul_input input;
    uint32_t columns;
};

static void prepare_row(void *context, size_t row, unsigned thread) {
    (void)thread;
    const struct preparation *preparation = context;
    matmul_prepare(&preparation->input, row, 0, preparation->columns);
}

/* Brings all rows into every form that an expert of `tasks` takes. */
static void prepare(struct expert_workspace *workspace, const struct expert_task *tasks,
                    size_t count) {
    bool is_taken[ACTIVATION_FORMS] = {false};
    uint32_t rows = 0;
    for (size_t first = 0, end; first < count; first = end) {
        for (end = first + 1; end < count && tasks[end].expert == tasks[first].expert;)
            end++;
        is_taken[input_form(tasks[first].expert, end - first)] = true;
        rows = tasks[end - 1].row + 1 > rows ? tasks[end - 1].row + 1 : rows;
    }
    assert(rows <= workspace->wave_rows);
    for (int form = ACTIVATION_F32 + 1; form < ACTIVATION_FORMS; form++) {
        struct preparation preparation = {
            .input = {.x = workspace->x,
                      .x_stride = workspace->hidden,
                      .form = (enum activation_form)form,
                      .prepared = workspace->prepared[form],
                      .prepared_stride = matmul_row_blocks(workspace->hidden)},
            .columns = workspace->hidden,
        };
        if (is_taken[form])
            threads_run(workspace->threads, rows, prepare_row, &preparation);
    }
}

/* Gate and up of those groups whose weights are here by now; returns one that still waits for them,
 * NULL if none does. */
static const struct group *project_arrived(struct expert_workspace *workspace) {
    const struct expert_arrivals *arrivals = &workspace->arrivals;
    const struct group *waiting = NULL;
    size_t rows = 0;
    uint32_t tasks = 0;
    workspace->listed_count = 0;
    for (size_t g = 0; g < workspace->group_count; g++) {
        struct group *group = &workspace->groups[g];
        if (group->is_projected)
            continue;
        if (arrivals->is_here && !arrivals->is_here(arrivals->context, group->expert)) {
            waiting = waiting ? waiting : group;
            continue;
        }
        group->is_projected = true;
        rows += group->expert->gate.rows;
        workspace->listed[workspace->listed_count++] = group;
    }
    workspace->task_rows = matmul_task_rows(rows, batch_max(workspace), workspace->threads);
    for (size_t g = 0; g < workspace->listed_count; g++) {
        workspace->listed[g]->first_task = tasks;
        tasks += tasks_of(workspace, workspace->listed[g]->expert->gate.rows);
    }
    if (tasks)
        threads_run(workspace->threads, tasks, project_up, workspace);
    return waiting;
}

void expert_forward(struct expert_workspace *workspace, const float *x,
                    const struct expert_task *tasks, size_t count, float *out) {
    workspace->x = x;
    workspace->out = out;
    prepare(workspace, tasks, count);
    while (count) {
        size_t taken = form_wave(workspace, tasks, count);
        gather(workspace);
        for (const struct group *waiting; (waiting = project_arrived(workspace));)
            workspace->arrivals.await(workspace->arrivals.context, waiting->expert);
        workspace->task_rows =
            matmul_task_rows(workspace->hidden, batch_max(workspace), workspace->threads);
        threads_run(workspace->threads, tasks_of(workspace, workspace->hidden), project_down,
                    workspace);
        tasks += taken;
        count -= taken;
    }
}
