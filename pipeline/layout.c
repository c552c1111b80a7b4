#include "pipeline/layout.h"

enum { DEFAULT_WRITERS_PER_PART = 4 };

noc_status noc_layout_make(int ranks, int writers, int writers_per_part, noc_layout *layout, noc_error *err)
{
    noc_layout l = {.ranks = ranks};
    if (writers > 1 && ranks < writers + 2)
        return noc_fail(
            err, NOC_EUSAGE,
            "%d writers need at least %d ranks (a coordinator and a worker beside them), there are %d",
            writers, writers + 2, ranks);
    l.first_writer = ranks >= 3 ? 1 : 0;
    l.writers = ranks >= 3 && writers > 0 ? writers : 1;
    l.first_worker = ranks >= 3 ? l.first_writer + l.writers : ranks - 1;
    l.workers = ranks - l.first_worker;
    l.writers_per_part = writers_per_part > 0 ? writers_per_part : DEFAULT_WRITERS_PER_PART;
    if (l.writers_per_part > l.writers)
        l.writers_per_part = l.writers;
    *layout = l;
    return NOC_OK;
}

int noc_layout_groups(const noc_layout *layout)
{
    return (layout->writers + layout->writers_per_part - 1) / layout->writers_per_part;
}

void noc_layout_group(const noc_layout *layout, int group, int *first, int *count)
{
    int offset = group * layout->writers_per_part;
    int left = layout->writers - offset;
    *first = layout->first_writer + offset;
    *count = left < layout->writers_per_part ? left : layout->writers_per_part;
}

int noc_layout_group_of(const noc_layout *layout, int rank)
{
    int offset = rank - layout->first_writer;
    return offset < 0 || offset >= layout->writers ? -1 : offset / layout->writers_per_part;
}

int noc_layout_is_worker(const noc_layout *layout, int rank)
{
    return rank >= layout->first_worker && rank < layout->ranks;
}
