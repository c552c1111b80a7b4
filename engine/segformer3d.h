/* The network family segformer3d: which tensors a configuration needs, which windows it takes, and its plan
 * in the plain published form (noc_plan_rewrite makes it fast). Grids D x H x W are carried from each patch
 * convolution, so windows need not be cubes. */
#ifndef NOC_SEGFORMER3D_H
#define NOC_SEGFORMER3D_H

#include "engine/manifest.h"
#include "engine/plan.h"
#include "engine/safetensors.h"

/* Parts that some variants of the network lack; present as a whole or not at all. */
typedef enum noc_tensor_group {
    NOC_GROUP_REQUIRED,
    NOC_GROUP_DWCONV_NORM,  /* BatchNorm behind the depthwise convolutions */
    NOC_GROUP_QKV_BIAS,     /* bias of query and key_value */
    NOC_GROUP_DECODER_NORM, /* LayerNorm behind linear_c1..linear_c4, named bn */
    NOC_GROUP_COUNT,
} noc_tensor_group;

typedef struct noc_expected_tensor {
    char name[80];
    int axes;
    int64_t shape[5];
    noc_tensor_group group;
} noc_expected_tensor;

/* The state dict of a configuration without num_batches_tracked, in its order; released by free(). */
noc_status noc_segformer3d_tensors(const noc_network_config *network, noc_expected_tensor **tensors,
                                   size_t *count, noc_error *err);

/* What stands before the names of all tensors: "module." or "". */
const char *noc_segformer3d_prefix(const noc_safetensors *weights);

/* Are the weights those of that network? Every tensor of it with its shape, floating-point and finite, and no
 * other (but num_batches_tracked). One leading "module." on all names is taken off. NOC_EDATA names what is
 * wrong; `path` is for the sentence. parameters: elements that are trained (BatchNorm's running statistics
 * are not). groups: bits 1 << noc_tensor_group of those that are there. */
noc_status noc_segformer3d_check(const noc_network_config *network, const noc_safetensors *weights,
                                 const char *path, uint64_t *parameters, unsigned *groups, noc_error *err);

/* NOC_ECONFIG when the network cannot take that window (D,H,W), with the smallest it can. */
noc_status noc_segformer3d_check_window(const noc_network_config *network, const int64_t window[3],
                                        noc_error *err);

/* Weights that passed the check, a window that passed too. */
noc_status noc_segformer3d_build(const noc_network_config *network, const noc_safetensors *weights,
                                 const int64_t window[3], noc_plan **plan, noc_error *err);

#endif
