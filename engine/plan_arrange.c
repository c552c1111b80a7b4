/* Where the values of a plan live: one arena a window, each value at an offset that no other value uses while
 * it is alive. Values are placed from the largest to the smallest at the lowest free offset. An op's output
 * never overlaps its inputs. */
#include "engine/base/memory.h"
#include "engine/plan.h"
#include "engine/plan_edit.h"

#include <stdlib.h>

enum { ARENA_STEP = 16 }; /* floats: 64 bytes */

typedef struct placement {
    int value, first, last; /* groups of ops */
    size_t floats;          /* rounded up to the step */
    size_t offset;
} placement;

static noc_status size_of(const noc_value *value, size_t *floats, noc_error *err)
{
    size_t size = (size_t)value->channels;
    for (int axis = 0; axis < 3; axis++)
        size = noc_size_product(size, (size_t)value->grid[axis]);
    if (size > SIZE_MAX / 64)
        return noc_fail(err, NOC_ETOOLARGE, "%s: %d x %d x %d tokens of %d channels do not fit in memory",
                        value->name, value->grid[0], value->grid[1], value->grid[2], value->channels);
    *floats = (size + ARENA_STEP - 1) / ARENA_STEP * ARENA_STEP;
    return NOC_OK;
}

/* The groups that know a value; last: the number of ops when it is kept to the end. */
static void find_lifetime(const noc_plan *plan, const int *group, int value, int *first, int *last)
{
    *first = *last = group[noc_plan_writer(plan, value)];
    for (int i = 0; i < plan->op_count; i++)
        if (noc_op_reads(&plan->ops[i], value))
            *last = group[i];
    if (noc_plan_is_result(plan, value))
        *last = plan->op_count;
}

static int by_size(const void *a, const void *b)
{
    const placement *left = a, *right = b;
    if (left->floats != right->floats)
        return left->floats < right->floats ? 1 : -1;
    return left->value - right->value;
}

/* The lowest offset for items[n] beside the items before it. Each move passes one of them, so it ends. */
static size_t lowest_offset(const placement *items, int n)
{
    const placement *item = &items[n];
    size_t offset = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (int i = 0; i < n; i++) {
            const placement *other = &items[i];
            bool together = other->first <= item->last && item->first <= other->last;
            if (!together || other->offset >= offset + item->floats ||
                offset >= other->offset + other->floats)
                continue;
            offset = other->offset + other->floats;
            moved = true;
        }
    }
    return offset;
}

/* Values that a device computes alone have a place even if nobody reads them. */
static bool is_inside(const noc_plan *plan, const int *group, const placement *item)
{
    int writer = noc_plan_writer(plan, item->value);
    bool is_alone = (writer == 0 || group[writer - 1] != group[writer]) &&
                    (writer + 1 == plan->op_count || group[writer + 1] != group[writer]);
    return !is_alone && item->first == item->last;
}

noc_status noc_plan_place(const noc_plan *plan, const int *group, size_t *offsets, size_t *floats,
                          noc_error *err)
{
    placement *items = noc_alloc((size_t)plan->value_count, sizeof(*items), err);
    if (!items)
        return NOC_ENOMEMORY;
    noc_status status = NOC_OK;
    int count = 0;
    for (int v = 0; v < plan->value_count && status == NOC_OK; v++) {
        placement *item = &items[count];
        item->value = v;
        offsets[v] = SIZE_MAX;
        if (v == 0)
            continue;
        find_lifetime(plan, group, v, &item->first, &item->last);
        if (!is_inside(plan, group, item)) {
            status = size_of(&plan->values[v], &item->floats, err);
            count++;
        }
    }
    qsort(items, (size_t)count, sizeof(*items), by_size);
    *floats = 0;
    for (int i = 0; i < count && status == NOC_OK; i++) {
        items[i].offset = offsets[items[i].value] = lowest_offset(items, i);
        if (items[i].offset + items[i].floats > *floats)
            *floats = items[i].offset + items[i].floats;
    }
    free(items);
    return status;
}

noc_status noc_plan_arrange(noc_plan *plan, bool keep_stages, noc_error *err)
{
    int *group = noc_alloc((size_t)plan->op_count, sizeof *group, err);
    size_t *offsets = noc_alloc((size_t)plan->value_count, sizeof *offsets, err);
    noc_status status = group && offsets ? NOC_OK : NOC_ENOMEMORY;
    for (int i = 0; i < NOC_STAGES && !keep_stages; i++)
        plan->stages[i] = -1;
    for (int i = 0; group && i < plan->op_count; i++)
        group[i] = i;
    if (status == NOC_OK)
        status = noc_plan_place(plan, group, offsets, &plan->arena_floats, err);
    for (int v = 1; status == NOC_OK && v < plan->value_count; v++) {
        plan->values[v].offset = offsets[v];
        find_lifetime(plan, group, v, &plan->values[v].first, &plan->values[v].last);
    }
    free(group);
    free(offsets);
    return status;
}
