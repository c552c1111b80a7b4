/* Softmax attention in half precision. */
#ifndef NOC_CUDA_ATTENTION_H
#define NOC_CUDA_ATTENTION_H

#include "engine/cuda/fused.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out[n] = softmax(scale * norm(q[n]) k^T + score) v (+ residual[n]), head by head: head h owns the columns
 * [h * dim, (h + 1) * dim) of q, of out, and of each half of kv. With is_normed each query of a head is
 * (q - mean) / sqrt(variance + eps) first: the norm before the block, where there is one head. */
typedef struct noc_cuda_fused_attention {
    const void *queries;  /* [batch][rows][heads * dim] */
    const void *kv;       /* [batch][keys][2 * heads * dim]: keys, then values */
    const float *score;   /* [batch][keys]; NULL: 0 */
    const void *residual; /* laid out as out, may be queries; NULL: none */
    void *out;            /* [batch][rows][heads * dim]; neither queries nor residual */
    int batch, heads, dim, rows, keys;
    float scale; /* > 0 */
    float eps;
    bool is_normed;
} noc_cuda_fused_attention;

/* dim: a multiple of 8 up to 64; heads and batch at most 65535 */
bool noc_cuda_fused_attention_fits(const noc_cuda_fused_attention *attention);
cudaError_t noc_cuda_fused_attention_launch(const noc_cuda_fused_attention *attention, noc_cuda_type type,
                                            cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
