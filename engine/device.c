/* Which device a text means. */
#include "engine/device.h"

#include <stdlib.h>
#include <string.h>

const char *noc_precision_name(noc_precision precision)
{
    return precision == NOC_PRECISION_BF16 ? "bf16" : precision == NOC_PRECISION_F16 ? "f16" : "f32";
}

static bool read_index(const char *text, int *index)
{
    char *end;
    if (text[0] < '0' || text[0] > '9')
        return false;
    long value = strtol(text, &end, 10);
    if (*end || value > 1023)
        return false;
    *index = (int)value;
    return true;
}

noc_status noc_device_find(const char *text, const noc_device_ops **ops, int *index, noc_error *err)
{
    int number = -1;
    if (strcmp(text, "cpu") == 0)
        *ops = &noc_cpu_ops;
    else if (strcmp(text, "cuda") == 0 || (strncmp(text, "cuda:", 5) == 0 && read_index(text + 5, &number)))
        *ops = &noc_cuda_ops;
    else if (strcmp(text, "auto") == 0)
        *ops = noc_cuda_ops.count() > 0 ? &noc_cuda_ops : &noc_cpu_ops;
    else
        return noc_fail(err, NOC_EUSAGE, "unknown device \"%s\": cpu, cuda, cuda:N and auto are known", text);
    *index = *ops == &noc_cpu_ops ? 0 : number;
    return NOC_OK;
}

noc_status noc_gather_check(const noc_gather *g, noc_error *err)
{
    int bits = 8 * g->element_bytes;
    bool is_sized = g->element_bytes == 1 || g->element_bytes == 2 || g->element_bytes == 4;
    if (!is_sized || (g->kind == NOC_GATHER_REGIONS && g->classes > bits) ||
        (g->kind == NOC_GATHER_LOGITS && bits != 32) ||
        (g->kind == NOC_GATHER_LABELS && bits < 32 && g->classes > 1 << bits))
        return noc_fail(err, NOC_EINTERNAL, "%d classes do not fit into elements of %d bytes", g->classes,
                        g->element_bytes);
    for (int a = 0; a < 3; a++)
        if (g->window[a] < 1 || g->window[a] > (int64_t)g->grid[a] * g->upsample[a])
            return noc_fail(err, NOC_EINTERNAL, "a window of %lld voxels from %d logits times %d",
                            (long long)g->window[a], g->grid[a], g->upsample[a]);
    return NOC_OK;
}
