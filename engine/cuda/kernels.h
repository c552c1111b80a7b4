/* Launchers of the CUDA kernels, one struct an op. Plain C without the engine's headers, so that the .cu
 * files see numbers and pointers only. All pointers are device memory. Elements are stored as `type`;
 * arithmetic and sums are f32, in an order that depends on the shapes of one window alone. Sizes are checked
 * by the caller. */
#ifndef NOC_CUDA_KERNELS_H
#define NOC_CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The numbers of noc_precision, noc_activation, noc_number_kind, noc_pointwise_kind and noc_gather_kind. */
typedef enum noc_cuda_type { NOC_CUDA_F32, NOC_CUDA_BF16, NOC_CUDA_F16 } noc_cuda_type;
typedef enum noc_cuda_activation { NOC_CUDA_IDENTITY, NOC_CUDA_GELU, NOC_CUDA_RELU } noc_cuda_activation;
typedef enum noc_cuda_number_kind { NOC_CUDA_UNSIGNED, NOC_CUDA_SIGNED, NOC_CUDA_FLOAT } noc_cuda_number_kind;
typedef enum noc_cuda_pointwise_kind {
    NOC_CUDA_SLICES,
    NOC_CUDA_SHIFT_DIVIDE,
    NOC_CUDA_SHIFT_DIVIDE_NONZERO,
    NOC_CUDA_CLIP
} noc_cuda_pointwise_kind;
typedef enum noc_cuda_gather_kind { NOC_CUDA_LABELS, NOC_CUDA_REGIONS, NOC_CUDA_LOGITS } noc_cuda_gather_kind;

enum {
    NOC_CUDA_INPUTS = 4,
    NOC_CUDA_HEAD_DIM_MOST = 512,
    NOC_CUDA_POINTWISE_MOST = 32,
    NOC_CUDA_CUTS_MOST = 64
};

/* out[row][column] = activation(scale[row] * (in * weight + bias) + residual). A row is a place of the
 * output's grid, windows of a batch after each other; its inputs are the box `kernel` at place * stride -
 * padding, zeros outside. A product of matrices has grids {1, 1, rows} and a kernel of 1. */
typedef struct noc_cuda_product {
    noc_cuda_type type;
    int out_is_f32;          /* whatever the type is */
    const void *in, *weight; /* weight: [columns + tail][depth], depth = kernel * in_channels */
    const float *bias;       /* [columns + tail], or NULL */
    const void *residual;    /* like out, or NULL */
    float *scale;            /* [rows]: of the tail, or NULL without one */
    void *out;
    int in_grid[3], out_grid[3], kernel[3], stride[3], padding[3];
    int batch, in_channels, depth, columns, tail;
    float tail_constant;
    noc_cuda_activation activation;
} noc_cuda_product;
/* With a tail its launch comes first: scale = 1 / sqrt(tail_constant + sum of squares of the tail's columns).
 */
cudaError_t noc_cuda_product_run(cudaStream_t stream, const noc_cuda_product *p);

/* Rows of channels. */
typedef struct noc_cuda_tokens {
    noc_cuda_type type;
    const void *in;
    const float *weight, *bias; /* [channels], or NULL */
    void *out;
    int64_t rows;
    int channels;
    float eps;
    noc_cuda_activation activation;
} noc_cuda_tokens;
cudaError_t noc_cuda_layer_norm_run(cudaStream_t stream, const noc_cuda_tokens *t);
/* activation(in * weight + bias) */
cudaError_t noc_cuda_pointwise_run(cudaStream_t stream, const noc_cuda_tokens *t);

/* A batch of windows of f32, [channels][rows] each (is_planar) or [rows][channels], to elements
 * [rows][channels]. */
cudaError_t noc_cuda_take_run(cudaStream_t stream, noc_cuda_type type, const float *in, int is_planar,
                              void *out, int batch, int64_t rows, int channels);
/* [grid][channels] of one window to planar f32, axes turned back by the bits of `flips`; added to what is
 * there, then divided by mean_of (above 1). */
typedef struct noc_cuda_giving {
    noc_cuda_type type;
    const void *in;
    float *out;
    int grid[3], channels;
    unsigned flips;
    int is_added, mean_of;
} noc_cuda_giving;
cudaError_t noc_cuda_give_run(cudaStream_t stream, const noc_cuda_giving *g);

/* Stored voxels of one channel to elements of a volume [size][channels], by noc_volume_source's rules, in
 * double without contraction: the bits are noc_prepared_cut's. */
typedef struct noc_cuda_pointwise {
    noc_cuda_pointwise_kind kind;
    double shift, divisor, low, high; /* of this channel */
    const double *factor, *addend;    /* of this channel, one a slice */
} noc_cuda_pointwise;

typedef struct noc_cuda_conversion {
    noc_cuda_type type;
    const void *in; /* voxels [from, from + count) of the channel as stored */
    noc_cuda_number_kind kind;
    int bytes;
    int64_t from, count;
    double slope, inter;
    noc_cuda_pointwise steps[NOC_CUDA_POINTWISE_MOST];
    int step_count;
    void *out;
    int channels, channel;
    int stored_size[3], size[3], axis[3], direction[3], first[3];
} noc_cuda_conversion;
cudaError_t noc_cuda_convert_run(cudaStream_t stream, const noc_cuda_conversion *c);

/* Windows of volumes to their places in a batch. Elements are copied in the largest pieces of 2 to 16 bytes
 * that a voxel consists of, whatever they are. */
typedef struct noc_cuda_cut {
    const void *voxels;    /* [size][channels] elements */
    const void *pad;       /* one voxel: what lies beyond them */
    int size[3], start[3]; /* of the volume, of the window in it */
    unsigned flips;        /* bit a: axis a of the window is reversed */
    int window;            /* number in the batch */
} noc_cuda_cut;
cudaError_t noc_cuda_cut_run(cudaStream_t stream, const noc_cuda_cut *cuts, int count, int voxel_bytes,
                             const int window[3], void *out);

/* q, out, residual: [batch][queries][heads * dim]; kv: [batch][keys][2 * heads * dim + has_scores], keys,
 * then values, then what is added to the key's scores. */
typedef struct noc_cuda_attention {
    noc_cuda_type type;
    const void *q, *kv, *residual;
    void *out;
    int batch, queries, keys, heads, dim, has_scores;
    float scale;
} noc_cuda_attention;
cudaError_t noc_cuda_attention_run(cudaStream_t stream, const noc_cuda_attention *a);

/* 3x3x3, stride 1, padding 1; weight [27][channels]. */
typedef struct noc_cuda_depthwise {
    noc_cuda_type type;
    const void *in;
    const float *weight, *bias;
    void *out;
    int batch, grid[3], channels;
    noc_cuda_activation activation;
} noc_cuda_depthwise;
cudaError_t noc_cuda_depthwise_run(cudaStream_t stream, const noc_cuda_depthwise *d);

/* Inputs resized trilinearly to `grid`, then added (activation(bias + sum)) or put side by side. */
typedef struct noc_cuda_mix {
    noc_cuda_type type;
    const void *in[NOC_CUDA_INPUTS];
    int in_grid[NOC_CUDA_INPUTS][3], in_channels[NOC_CUDA_INPUTS], inputs, is_concat;
    const float *bias; /* or NULL */
    void *out;
    int batch, grid[3], channels;
    noc_cuda_activation activation;
} noc_cuda_mix;
cudaError_t noc_cuda_mix_run(cudaStream_t stream, const noc_cuda_mix *m);

typedef struct noc_cuda_gather_window {
    const float *logits; /* [classes][grid] */
    int start[3];
} noc_cuda_gather_window;

/* Rows [first_row, first_row + rows) of a box of `height` rows a plane to out: [classes or 1][rows][width].
 */
typedef struct noc_cuda_gathering {
    noc_cuda_gather_kind kind;
    const noc_cuda_gather_window *windows;
    const float *importance; /* [window], or NULL: 1 */
    void *out;
    int window_count, classes, grid[3], upsample[3], window[3], from[3];
    int height, width, rows, element_bytes;
    int64_t first_row;
    float threshold;
} noc_cuda_gathering;
cudaError_t noc_cuda_gather_run(cudaStream_t stream, const noc_cuda_gathering *g);

/* `rounds` rounds of arithmetic in registers by `blocks` blocks: fused multiply-adds in f32, products of
 * matrices in half precision. Returns the FLOP of it in *flop. */
cudaError_t noc_cuda_peak_run(cudaStream_t stream, noc_cuda_type type, int blocks, int rounds, float *sink,
                              double *flop);

#ifdef __cplusplus
}
#endif
#endif
