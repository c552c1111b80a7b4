/* Stands in for the CUDA device where it was not built. Every other member stays NULL: nothing opens, so
 * nothing else can be called. */
#include "engine/device.h"

static noc_status cuda_open(const noc_device_options *options, noc_device **device, noc_error *err)
{
    (void)options;
    (void)device;
    return noc_fail(err, NOC_EUNAVAILABLE, "built without CUDA");
}

static int cuda_count(void)
{
    return 0;
}

const noc_device_ops noc_cuda_ops = {
    .kind = "cuda", .build = "built without CUDA", .count = cuda_count, .open = cuda_open};
