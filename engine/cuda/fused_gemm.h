/* Products of half precision matrices, with what comes before and after them. */
#ifndef NOC_CUDA_GEMM_H
#define NOC_CUDA_GEMM_H

#include "engine/cuda/fused.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out = activation((norm(in) * weight^T + bias) * tail + residual)
 *
 * norm: identity, or with is_normed (x - mean) / sqrt(variance + eps) of each row of in.
 * tail: 1, or with tail > 0: 1 / sqrt(tail_constant + sum of squares of the last `tail` columns), which are
 * not stored. */
typedef struct noc_cuda_gemm {
    const void *in;       /* [rows][depth] */
    const void *weight;   /* [columns, then one of score, then tail][depth] */
    const float *bias;    /* of each row of weight; NULL: 0 */
    const void *residual; /* [rows][columns]; may be out; NULL: none */
    void *out;            /* [rows][columns] */
    float *score;         /* [rows]: the column behind the stored ones, not rounded; NULL: there is none */
    float eps, tail_constant;
    int rows, columns, depth, tail;
    bool is_normed;
    noc_cuda_activation activation;
} noc_cuda_gemm;

/* Columns and depth are multiples of 8; a normed depth is at most 512. */
bool noc_cuda_gemm_fits(const noc_cuda_gemm *gemm);
cudaError_t noc_cuda_gemm_launch(const noc_cuda_gemm *gemm, noc_cuda_type type, cudaStream_t stream);

/* Two products, neither of which reads what the other writes, in one launch: the same bits. They pair if both
 * fit, both or none are normed, and both are such as take small tiles: deeper than 64, or of up to 64
 * columns.
 */
bool noc_cuda_gemm_pairs(const noc_cuda_gemm *a, const noc_cuda_gemm *b);
cudaError_t noc_cuda_gemm_launch_pair(const noc_cuda_gemm *a, const noc_cuda_gemm *b, noc_cuda_type type,
                                      cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
