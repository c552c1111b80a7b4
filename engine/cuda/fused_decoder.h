/* The end of a decoder in half precision: from the finest stage to the logits, without its wide sum in
 * memory. */
#ifndef NOC_CUDA_FUSED_DECODER_H
#define NOC_CUDA_FUSED_DECODER_H

#include "engine/cuda/fused.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { NOC_CUDA_DECODER_TERMS = 3 };

/* out = class_weight * activation((weight * in + bias) * tail + sum_bias + terms) + class_bias, where the
 * terms are resized trilinearly (align_corners false) to the grid of in, and tail is as in noc_cuda_gemm. */
typedef struct noc_cuda_decoder {
    const void *in;                            /* [batch][D][H][W][depth] */
    const void *weight;                        /* [columns + tail][depth] */
    const float *bias, *sum_bias;              /* [columns + tail], [columns]; NULL: 0 */
    const void *terms[NOC_CUDA_DECODER_TERMS]; /* [batch][D'][H'][W'][columns] */
    int term_grids[NOC_CUDA_DECODER_TERMS][3];
    const float *class_weight, *class_bias; /* [classes][columns]; [classes], NULL: 0 */
    float *out;                             /* [batch][D][H][W][classes], f32 */
    int batch, grid[3], depth, columns, tail, classes, term_count;
    float tail_constant;
    noc_cuda_activation activation;
} noc_cuda_decoder;

/* Depth is a multiple of 8 up to 256, so are columns; at most NOC_CUDA_DECODER_TERMS, along no axis more
 * than twice as fine as the grid; no activation or ReLU. */
bool noc_cuda_decoder_fits(const noc_cuda_decoder *decoder);
cudaError_t noc_cuda_decoder_launch(const noc_cuda_decoder *decoder, noc_cuda_type type, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
