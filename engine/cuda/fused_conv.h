/* Convolutions in half precision, with the layer norm behind them. */
#ifndef NOC_CUDA_CONV_H
#define NOC_CUDA_CONV_H

#include "engine/cuda/fused.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out = norm(bias + sum of weight * in), zero padding. norm: identity, or with is_normed, over a token's
 * columns, (y - mean) / sqrt(variance + eps) * scale + shift. With is_in_normed each token of in is
 * (x - mean) / sqrt(variance + in_eps) over its channels first: the norm before a reduction, not in memory.
 */
typedef struct noc_cuda_conv {
    const void *in;             /* [batch][D][H][W][channels] */
    const void *weight;         /* [columns][kernel D][H][W][channels] */
    const float *bias;          /* [columns]; NULL: 0 */
    const float *scale, *shift; /* [columns]; NULL: 1 and 0 */
    void *out;                  /* [batch][D'][H'][W'][columns] */
    float *sums;                /* noc_cuda_conv_sums floats for a while; a stem needs none */
    int batch, grid[3], out_grid[3], channels, columns;
    int kernel[3], stride[3], padding[3];
    bool is_normed, is_in_normed;
    float eps, in_eps;
} noc_cuda_conv;

/* Channels and columns are multiples of 8; normed columns at most 256. With a normed
 * input columns are at most 64, channels 8, 16, 32, or 64 where columns are more than 32; padding is none. */
bool noc_cuda_conv_fits(const noc_cuda_conv *conv);
size_t noc_cuda_conv_sums(const noc_cuda_conv *conv);
cudaError_t noc_cuda_conv_launch(const noc_cuda_conv *conv, noc_cuda_type type, cudaStream_t stream);

/* The same for maps of few channels, without the gathering: a stem. The depth of a run of weights, along W,
 * is filled up to 32: weight is [columns][kernel D][H][32], element (lead + w) * channels + c of a run its
 * tap w, zeros elsewhere, where lead = noc_cuda_stem_lead(conv).
 *
 * Channels are 1, 2, 4 or 8, such that 8 divides those of a line and of a stride along W; lead + kernel W
 * taps fit into a run; columns are a multiple of 8 and at most 64; what 2 x 4 x 8 outputs read fits into 128
 * KiB; the input is not normed. */
bool noc_cuda_stem_fits(const noc_cuda_conv *conv);
int noc_cuda_stem_lead(const noc_cuda_conv *conv);
cudaError_t noc_cuda_stem_launch(const noc_cuda_conv *conv, noc_cuda_type type, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
