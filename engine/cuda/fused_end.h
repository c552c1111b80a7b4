/* What becomes of a token's sums in half precision, and sums of which several blocks have parts. */
#ifndef NOC_CUDA_END_H
#define NOC_CUDA_END_H

#include "engine/cuda/fused.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out = norm(sums + bias + residual). norm: identity, or with is_normed, over a token's columns,
 * (y - mean) / sqrt(variance + eps) * scale + shift. */
typedef struct noc_cuda_end {
    const float *bias;          /* [columns]; NULL: 0 */
    const void *residual;       /* [tokens][columns]; may be out; NULL: none */
    const float *scale, *shift; /* [columns]; NULL: 1 and 0 */
    void *out;                  /* [tokens][columns] */
    int columns;                /* a multiple of 8; normed ones at most 256 */
    float eps;
    bool is_normed;
} noc_cuda_end;

/* sums: [parts][tokens][columns], added in their order. */
cudaError_t noc_cuda_end_launch(const noc_cuda_end *end, const float *sums, int tokens, int parts,
                                noc_cuda_type type, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
