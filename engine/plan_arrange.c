/* Where the values of a plan live: one arena a window, each value at an offset that no other value uses while
 * it is alive. Values are placed from the largest to the smallest at the lowest free offset. An op's output
 * never overlaps its inputs. */
#include "engine/base/memory.h"
#include "engine/plan.h"
#include "engine/plan_edit.h"

#include <stdlib.h>

enum { ARENA_STEP = 16 }; /* floats: 64 bytes */

typedef struct placement {
    int value;
    size_t floats; /* rounded up to the step */
} placement;

static noc_status size_of(const noc_value *value, size_t *floats, noc_error *err)
{
    size_t size = (size_t)value->channels;
    for (int axis = 0; axis < 3; axis++)
        if (!noc_size_mul(size, (size_t)value->grid[axis], &size))
            size = SIZE_MAX;
    if (size > SIZE_MAX / 64)
        return noc_fail(err, NOC_ETOOLARGE, "%s: %d x %d x %d tokens of %d channels do not fit in memory",
                        value->name, value->grid[0], value->grid[1], value->grid[2], value->channels);
    *floats = (size + ARENA_STEP - 1) / ARENA_STEP * ARENA_STEP;
    return NOC_OK;
}

static void find_lifetimes(noc_plan *plan)
{
    for (int v = 0; v < plan->value_count; v++) {
        noc_value *value = &plan->values[v];
        value->first = value->last = noc_plan_writer(plan, v);
        for (int i = 0; i < plan->op_count; i++)
            if (noc_op_reads(&plan->ops[i], v))
                value->last = i;
        if (noc_plan_is_result(plan, v))
            value->last = plan->op_count;
    }
}

static int by_size(const void *a, const void *b)
{
    const placement *left = a, *right = b;
    if (left->floats != right->floats)
        return left->floats < right->floats ? 1 : -1;
    return left->value - right->value;
}

/* The lowest offset for items[n] beside the items before it. Each move passes one of them, so it ends. */
static size_t lowest_offset(const noc_plan *plan, const placement *items, int n)
{
    const noc_value *value = &plan->values[items[n].value];
    size_t offset = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (int i = 0; i < n; i++) {
            const noc_value *other = &plan->values[items[i].value];
            bool together = other->first <= value->last && value->first <= other->last;
            if (!together || other->offset >= offset + items[n].floats ||
                offset >= other->offset + items[i].floats)
                continue;
            offset = other->offset + items[i].floats;
            moved = true;
        }
    }
    return offset;
}

noc_status noc_plan_arrange(noc_plan *plan, bool keep_stages, noc_error *err)
{
    placement *items = noc_alloc((size_t)plan->value_count, sizeof(*items), err);
    if (!items)
        return NOC_ENOMEMORY;
    noc_status status = NOC_OK;
    int count = 0;
    for (int v = 1; v < plan->value_count && status == NOC_OK; v++) {
        items[count].value = v;
        status = size_of(&plan->values[v], &items[count++].floats, err);
    }
    if (status != NOC_OK)
        goto out;
    for (int i = 0; i < NOC_STAGES && !keep_stages; i++)
        plan->stages[i] = -1;
    find_lifetimes(plan);
    qsort(items, (size_t)count, sizeof(*items), by_size);
    plan->arena_floats = 0;
    for (int i = 0; i < count; i++) {
        noc_value *value = &plan->values[items[i].value];
        value->offset = lowest_offset(plan, items, i);
        if (value->offset + items[i].floats > plan->arena_floats)
            plan->arena_floats = value->offset + items[i].floats;
    }
out:
    free(items);
    return status;
}
