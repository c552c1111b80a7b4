/* Runs of voxels along i are joined with those that touch them in the rows before. Each run counts as one
 * component, each join of two takes one away. Where two are joined the later run becomes the root: then the
 * root of every run of a plane lies in that plane, and the plane before it can be forgotten. */
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
    const void *voxels;
    int voxel_bytes;
    int64_t width;
    uint32_t bits, wanted;
    run *runs; /* of the plane before, then of this one */
    size_t run_count, capacity;
    size_t *before, *now; /* [rows + 1] where the runs of each row begin, in both planes */
    int64_t components;
} counter;

#define SKIP(c_type)                                                                                         \
    while (i < end && ((((const c_type *)c->voxels)[i] & c->bits) == c->wanted) == is_member)                \
    i++

/* The end of the stretch of members, or of others, that begins at voxel i. */
static int64_t skip(const counter *c, int64_t i, int64_t end, bool is_member)
{
    if (c->voxel_bytes == 1)
        SKIP(uint8_t);
    else if (c->voxel_bytes == 2)
        SKIP(uint16_t);
    else
        SKIP(uint32_t);
    return i;
}

static noc_status add_run(counter *c, int64_t first, int64_t end, noc_error *err)
{
    if (c->run_count == c->capacity) {
        size_t capacity = 2 * c->capacity + 64;
        run *grown = reallocarray(c->runs, capacity, sizeof *grown);
        if (!grown)
            return noc_fail(err, NOC_ENOMEMORY, "no memory for the components of a mask");
        c->runs = grown;
        c->capacity = capacity;
    }
    c->runs[c->run_count] = (run){first, end, c->run_count};
    c->run_count++;
    c->components++;
    return NOC_OK;
}

static noc_status find_runs(counter *c, int64_t row, noc_error *err)
{
    int64_t start = row * c->width, end = start + c->width;

    for (int64_t i = skip(c, start, end, false), next; i < end; i = skip(c, next, end, false)) {
        next = skip(c, i, end, true);
        if (add_run(c, i - start, next - start, err) != NOC_OK)
            return NOC_ENOMEMORY;
    }
    return NOC_OK;
}

static size_t find_root(run *runs, size_t at)
{
    while (runs[at].parent != at)
        at = runs[at].parent = runs[runs[at].parent].parent;
    return at;
}

static void join(counter *c, size_t a, size_t b)
{
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
        status = find_runs(c, k * rows + j, err);
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

noc_status noc_components_count(const void *voxels, int voxel_bytes, const int64_t size[3], uint32_t bits,
                                uint32_t wanted, int64_t *count, noc_error *err)
{
    size_t places = (size_t)size[1] + 1;
    counter c = {
        .voxels = voxels, .voxel_bytes = voxel_bytes, .width = size[0], .bits = bits, .wanted = wanted};
    size_t *rows = noc_alloc_zeroed(2 * places, sizeof *rows, err);
    noc_status status = rows ? NOC_OK : NOC_ENOMEMORY;

    c.before = rows;
    c.now = rows ? rows + places : NULL;
    for (int64_t k = 0; status == NOC_OK && k < size[2]; k++)
        status = count_plane(&c, k, size[1], err);
    if (status == NOC_OK)
        *count = c.components;
    free(c.runs);
    free(rows);
    return status;
}
