/* The second half of a MixFFN block in half precision. */
#ifndef NOC_CUDA_MIXFFN_H
#define NOC_CUDA_MIXFFN_H

#include "engine/cuda/fused_end.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out = norm(GELU(depthwise 3x3x3 of in, padding 1, + taps_bias) * weight^T + bias + residual), with the norm
 * of noc_cuda_end. */
typedef struct noc_cuda_mixffn {
    const void *in;             /* [batch][D][H][W][hidden] */
    const void *taps;           /* [3][3][3][hidden] */
    const float *taps_bias;     /* [hidden]; NULL: 0 */
    const void *weight;         /* [columns][hidden] */
    const float *bias;          /* [columns]; NULL: 0 */
    const void *residual;       /* [batch][D][H][W][columns]; may be out; NULL: none */
    const float *scale, *shift; /* [columns]; NULL: 1 and 0 */
    void *out;                  /* [batch][D][H][W][columns] */
    float *sums;                /* noc_cuda_mixffn_sums floats for a while */
    int batch, grid[3], hidden, columns;
    float eps;
    bool is_normed;
} noc_cuda_mixffn;

/* hidden and columns are multiples of 8, normed columns at most 256; batch at most 65535. Columns beyond 256
 * are computed 256 at a time, each time with the depthwise part anew. */
bool noc_cuda_mixffn_fits(const noc_cuda_mixffn *mixffn);
size_t noc_cuda_mixffn_sums(const noc_cuda_mixffn *mixffn);
cudaError_t noc_cuda_mixffn_launch(const noc_cuda_mixffn *mixffn, noc_cuda_type type, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
