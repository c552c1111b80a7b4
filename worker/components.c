/* Runs of voxels along i are joined with those that touch them in the rows before. Each run counts as one
 * component, each join of two takes one away. Where two are joined the later run becomes the root: then the
 * root of every run of a plane lies in that plane, and the plane before it can be forgotten.
 *
 * Who has to know the component of each voxel keeps a number a run, in their order, and goes over the runs
 * again: there the earlier run becomes the root, so that what a run's number leads to is known before it. */
#include "worker/components.h"

#include "engine/base/memory.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef struct run {
    int64_t first, end; /* i */
    size_t parent;      /* a place in runs: this one or a later one */
} run;

typedef struct counter {
    void *voxels; /* only written where the largest is kept */
    int voxel_bytes;
    int64_t width;
    uint32_t bits, wanted;
    run *runs; /* of the plane before, then of this one */
    size_t run_count, capacity;
    size_t *before, *now; /* [rows + 1] where the runs of each row begin, in both planes */
    int64_t components;
    uint32_t *numbers;         /* of each run of all planes: an earlier run of its component or itself; later
                                  its component. NULL: only counted */
    size_t forgotten, visited; /* runs of planes before, runs */
    int64_t *voxel_counts;     /* of each component */
    uint32_t largest, cleared; /* the component that is kept; bits of the others' voxels */
    uint32_t *component_of;    /* of each voxel */
} counter;

#define SKIP(c_type)                                                                                         \
    while (i < end && ((((const c_type *)c->voxels)[i] & c->bits) == c->wanted) == is_member)                \
    i++

/* Eight that are alike at once. */
static int64_t skip_bytes(const counter *c, int64_t i, int64_t end, bool is_member)
{
    const uint8_t *voxels = c->voxels;
    uint64_t eight = 0;

    while (i < end && ((voxels[i] & c->bits) == c->wanted) == is_member) {
        if (i + 8 <= end)
            memcpy(&eight, voxels + i, sizeof eight);
        i += i + 8 <= end && eight == 0x0101010101010101 * (uint64_t)voxels[i] ? 8 : 1;
    }
    return i;
}

/* The end of the stretch of members, or of others, that begins at voxel i. */
static int64_t skip(const counter *c, int64_t i, int64_t end, bool is_member)
{
    if (c->voxel_bytes == 1)
        return skip_bytes(c, i, end, is_member);
    if (c->voxel_bytes == 2)
        SKIP(uint16_t);
    else
        SKIP(uint32_t);
    return i;
}

/* What is done with a run of the row that begins at voxel `start`. */
typedef noc_status visit_run(counter *c, int64_t start, int64_t first, int64_t end, noc_error *err);

static noc_status visit_row(counter *c, int64_t row, visit_run *visit, noc_error *err)
{
    int64_t start = row * c->width, end = start + c->width;
    noc_status status = NOC_OK;

    for (int64_t i = skip(c, start, end, false), next; i < end && status == NOC_OK;
         i = skip(c, next, end, false)) {
        next = skip(c, i, end, true);
        status = visit(c, start, i - start, next - start, err);
    }
    return status;
}

static noc_status add_run(counter *c, int64_t start, int64_t first, int64_t end, noc_error *err)
{
    (void)start;
    if (c->run_count == c->capacity) {
        size_t capacity = 2 * c->capacity + 64;
        run *grown = reallocarray(c->runs, capacity, sizeof *grown);
        if (!grown)
            return noc_fail(err, NOC_ENOMEMORY, "no memory for the components of a mask");
        c->runs = grown;
        c->capacity = capacity;
    }
    c->runs[c->run_count] = (run){first, end, c->run_count};
    if (c->numbers)
        c->numbers[c->forgotten + c->run_count] = (uint32_t)(c->forgotten + c->run_count);
    c->run_count++;
    c->components++;
    return NOC_OK;
}

static size_t find_root(run *runs, size_t at)
{
    while (runs[at].parent != at)
        at = runs[at].parent = runs[runs[at].parent].parent;
    return at;
}

static uint32_t find_earliest(uint32_t *numbers, size_t number)
{
    uint32_t at = (uint32_t)number;

    while (numbers[at] != at)
        at = numbers[at] = numbers[numbers[at]];
    return at;
}

static void join(counter *c, size_t a, size_t b)
{
    if (c->numbers) {
        uint32_t of_a = find_earliest(c->numbers, c->forgotten + a);
        uint32_t of_b = find_earliest(c->numbers, c->forgotten + b);
        c->numbers[of_a < of_b ? of_b : of_a] = of_a < of_b ? of_a : of_b;
        return;
    }
    a = find_root(c->runs, a);
    b = find_root(c->runs, b);
    if (a == b)
        return;
    c->runs[a < b ? a : b].parent = a < b ? b : a;
    c->components--;
}

/* The runs of two rows, in step. */
static void join_rows(counter *c, size_t a, size_t a_end, size_t b, size_t b_end)
{
    while (a < a_end && b < b_end) {
        const run *of_a = &c->runs[a], *of_b = &c->runs[b];
        /* NOLINTNEXTLINE: runs from a to a_end were added, so there are runs */
        if (of_a->first <= of_b->end && of_b->first <= of_a->end)
            join(c, a, b);
        if (of_a->end < of_b->end)
            a++;
        else
            b++;
    }
}

/* Row j of this plane with its neighbours that came before it. */
static void join_neighbours(counter *c, int64_t j, int64_t rows)
{
    for (int64_t other = j > 0 ? j - 1 : 0; other <= j + 1 && other < rows; other++)
        join_rows(c, c->now[j], c->now[j + 1], c->before[other], c->before[other + 1]);
    if (j > 0)
        join_rows(c, c->now[j], c->now[j + 1], c->now[j - 1], c->now[j]);
}

/* This plane becomes the one before. */
static void forget_plane(counter *c, int64_t rows)
{
    size_t gone = c->now[0], *before = c->before;

    for (size_t r = gone; r < c->run_count; r++)
        c->runs[r].parent = find_root(c->runs, r);
    c->run_count -= gone;
    c->forgotten += gone;
    for (size_t r = 0; r < c->run_count; r++) {
        c->runs[r] = c->runs[gone + r];
        c->runs[r].parent -= gone;
    }
    for (int64_t j = 0; j <= rows; j++)
        c->now[j] -= gone;
    c->before = c->now;
    c->now = before;
}

static noc_status count_plane(counter *c, int64_t k, int64_t rows, noc_error *err)
{
    noc_status status = NOC_OK;

    c->now[0] = c->run_count;
    for (int64_t j = 0; status == NOC_OK && j < rows; j++) {
        status = visit_row(c, k * rows + j, add_run, err);
        c->now[j + 1] = c->run_count;
        if (status == NOC_OK)
            join_neighbours(c, j, rows);
    }
    if (status == NOC_OK)
        forget_plane(c, rows);
    return status;
}

size_t noc_components_bytes(const int64_t size[3])
{
    size_t rows = (size_t)size[1] + 1;
    size_t runs = noc_size_product(rows, (size_t)size[0] + 1); /* every other voxel, in two planes */

    /* Room doubles, and while it does the old is there too. */
    return noc_size_sum(noc_size_product(runs, 3 * sizeof(run)),
                        192 * sizeof(run) + 2 * rows * sizeof(size_t));
}

/* All planes. */
static noc_status find_components(counter *c, const int64_t size[3], noc_error *err)
{
    size_t places = (size_t)size[1] + 1;
    size_t *rows = noc_alloc_zeroed(2 * places, sizeof *rows, err);
    noc_status status = rows ? NOC_OK : NOC_ENOMEMORY;

    c->before = rows;
    c->now = rows ? rows + places : NULL;
    for (int64_t k = 0; status == NOC_OK && k < size[2]; k++)
        status = count_plane(c, k, size[1], err);
    free(c->runs);
    free(rows);
    return status;
}

noc_status noc_components_count(const void *voxels, int voxel_bytes, const int64_t size[3], uint32_t bits,
                                uint32_t wanted, int64_t *count, noc_error *err)
{
    counter c = {.voxels = (void *)voxels,
                 .voxel_bytes = voxel_bytes,
                 .width = size[0],
                 .bits = bits,
                 .wanted = wanted};
    noc_status status = find_components(&c, size, err);

    if (status == NOC_OK)
        *count = c.components;
    return status;
}

/* ---- the largest ---- */

static noc_status count_run(counter *c, int64_t start, int64_t first, int64_t end, noc_error *err)
{
    (void)start, (void)first, (void)end, (void)err;
    c->visited++;
    return NOC_OK;
}

static noc_status measure_run(counter *c, int64_t start, int64_t first, int64_t end, noc_error *err)
{
    (void)start, (void)err;
    c->voxel_counts[c->numbers[c->visited++]] += end - first;
    return NOC_OK;
}

#define CLEAR(c_type)                                                                                        \
    for (int64_t i = first; i < end; i++)                                                                    \
    ((c_type *)c->voxels)[start + i] &= (c_type)~c->cleared

static noc_status clear_run(counter *c, int64_t start, int64_t first, int64_t end, noc_error *err)
{
    (void)err;
    if (c->numbers[c->visited++] == c->largest)
        return NOC_OK;
    if (c->voxel_bytes == 1)
        CLEAR(uint8_t);
    else if (c->voxel_bytes == 2)
        CLEAR(uint16_t);
    else
        CLEAR(uint32_t);
    return NOC_OK;
}

static void visit_all(counter *c, int64_t rows, visit_run *visit)
{
    c->visited = 0;
    for (int64_t row = 0; row < rows; row++)
        visit_row(c, row, visit, NULL);
}

/* Components in the order of their first voxels: a root's number is the next, those of the runs behind it in
 * its component become the same. */
static size_t number_components(uint32_t *numbers, size_t run_count)
{
    uint32_t count = 0;

    for (size_t r = 0; r < run_count; r++)
        numbers[r] = numbers[r] == r ? count++ : numbers[numbers[r]];
    return count;
}

static void find_largest(counter *c, size_t count)
{
    c->largest = 0;
    for (size_t n = 1; n < count; n++)
        if (c->voxel_counts[n] > c->voxel_counts[c->largest])
            c->largest = (uint32_t)n;
}

size_t noc_components_keep_bytes(const int64_t size[3])
{
    size_t half[3];

    for (int axis = 0; axis < 3; axis++)
        half[axis] = (size_t)size[axis] / 2 + 1;
    size_t row_runs = noc_size_product(noc_size_product((size_t)size[1], (size_t)size[2]), half[0]);
    size_t components = noc_size_product(noc_size_product(half[1], half[2]), half[0]);
    return noc_size_sum(noc_components_bytes(size),
                        noc_size_sum(noc_size_product(row_runs, sizeof(uint32_t)),
                                     noc_size_product(components, sizeof(int64_t))));
}

/* Gives each run its component's number. */
static noc_status number_runs(counter *c, const int64_t size[3], size_t *count, noc_error *err)
{
    visit_all(c, size[1] * size[2], count_run);
    const size_t run_count = c->visited;
    if (run_count > UINT32_MAX)
        return noc_fail(err, NOC_ETOOLARGE, "a mask of %zu stretches of voxels, %lu are joined", run_count,
                        (unsigned long)UINT32_MAX);
    c->numbers = noc_alloc(run_count, sizeof *c->numbers, err);
    noc_status status = c->numbers ? find_components(c, size, err) : NOC_ENOMEMORY;
    if (status == NOC_OK)
        *count = number_components(c->numbers, run_count);
    return status;
}

noc_status noc_components_keep_largest(void *voxels, int voxel_bytes, const int64_t size[3], uint32_t bits,
                                       uint32_t wanted, uint32_t cleared, noc_error *err)
{
    counter c = {.voxels = voxels,
                 .voxel_bytes = voxel_bytes,
                 .width = size[0],
                 .bits = bits,
                 .wanted = wanted,
                 .cleared = cleared};
    size_t count = 0;
    noc_status status = number_runs(&c, size, &count, err);

    if (status == NOC_OK) {
        c.voxel_counts = noc_alloc_zeroed(count, sizeof *c.voxel_counts, err);
        status = c.voxel_counts ? NOC_OK : NOC_ENOMEMORY;
    }
    if (status == NOC_OK && count > 1) {
        visit_all(&c, size[1] * size[2], measure_run);
        find_largest(&c, count);
        visit_all(&c, size[1] * size[2], clear_run);
    }
    free(c.voxel_counts);
    free(c.numbers);
    return status;
}

static noc_status write_run(counter *c, int64_t start, int64_t first, int64_t end, noc_error *err)
{
    const uint32_t number = c->numbers[c->visited++] + 1;

    (void)err;
    for (int64_t i = first; i < end; i++)
        c->component_of[start + i] = number;
    return NOC_OK;
}

noc_status noc_components_number(const void *voxels, int voxel_bytes, const int64_t size[3], uint32_t bits,
                                 uint32_t wanted, uint32_t *component_of, size_t *count, noc_error *err)
{
    counter c = {.voxels = (void *)voxels,
                 .voxel_bytes = voxel_bytes,
                 .width = size[0],
                 .bits = bits,
                 .wanted = wanted,
                 .component_of = component_of};
    noc_status status = number_runs(&c, size, count, err);

    if (status == NOC_OK)
        visit_all(&c, size[1] * size[2], write_run);
    free(c.numbers);
    return status;
}
