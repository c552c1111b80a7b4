/* Which device a text means. */
#include "engine/device.h"

#include <stdlib.h>
#include <string.h>

const char *noc_precision_name(noc_precision precision)
{
    return precision == NOC_PRECISION_BF16 ? "bf16" : precision == NOC_PRECISION_F16 ? "f16" : "f32";
}

static bool cuda_opens(void)
{
    noc_device *device = NULL;
    if (noc_cuda_ops.open(&(noc_device_options){.index = 0}, &device, NULL) != NOC_OK)
        return false;
    noc_cuda_ops.close(device);
    return true;
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
    int number = 0;
    if (strcmp(text, "cpu") == 0)
        *ops = &noc_cpu_ops;
    else if (strcmp(text, "cuda") == 0 || (strncmp(text, "cuda:", 5) == 0 && read_index(text + 5, &number)))
        *ops = &noc_cuda_ops;
    else if (strcmp(text, "auto") == 0)
        *ops = cuda_opens() ? &noc_cuda_ops : &noc_cpu_ops;
    else
        return noc_fail(err, NOC_EUSAGE, "unknown device \"%s\": cpu, cuda, cuda:N and auto are known", text);
    *index = number;
    return NOC_OK;
}
