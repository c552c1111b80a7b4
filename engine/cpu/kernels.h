/* The hot loops of the CPU device, one table an instruction set. kernels.c is compiled once for each and
 * exports nothing but its table. Kernels know rows and panels, no plans and no threads: every output element
 * is computed whole by one call, in one order of additions, so where a caller cuts the work cannot change a
 * bit. */
#ifndef NOC_CPU_KERNELS_H
#define NOC_CPU_KERNELS_H

#include "engine/device.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* out = activation((in * weights + bias) * norm + residual) for the column panels [first, last). `tail`
 * columns stand in panels of their own after the others and give norm = 1 / sqrt(tail_constant + sum of their
 * squares); without tail, norm = 1. */
typedef struct noc_cpu_product {
    const float *in;
    size_t in_step; /* floats from row to row */
    int rows, depth;
    const float *panels, *bias; /* bias: a value for each packed column */
    int columns, tail;
    float tail_constant;
    int first, last;
    const float *residual; /* laid out as out; may be out; NULL: none */
    float *out;
    size_t out_step;
    noc_activation activation;
} noc_cpu_product;

/* A convolution with zero padding; a run of its weights is the kw * channels values of a line. */
typedef struct noc_cpu_conv {
    const float *in; /* [D][H][W][channels], or [channels][D][H][W] */
    bool is_planar;
    int grid[3], out_grid[3], channels, columns;
    int kernel[3], stride[3], padding[3];
    const float *panels, *bias; /* bias: a value for each packed column */
    float *out;                 /* [D'][H'][W'][columns] */
    float *lines; /* the filled input: [plane % planes][ring_lines] lines of conv_line_floats, the first of
                     which is line first_line of a plane */
    int planes, ring_lines, first_line;
} noc_cpu_conv;

/* Heads of an attention op, and what rows of kv hold: `channels` of keys, then of values, head h from h * dim
 * on, then (of one head, and where kv_columns says so) what is added to the key's scores. */
typedef struct noc_cpu_heads {
    int count, dim, keys, channels, kv_columns;
} noc_cpu_heads;

enum { NOC_CPU_HEAD_DIM = 512 /* that every kernel takes */ };

/* Softmax attention of one head. */
typedef struct noc_cpu_attention {
    const noc_cpu_heads *heads;
    const float *queries;
    size_t query_step;
    int rows;
    const float *packed;   /* keys, already times the scale, and values of this head */
    float *scores;         /* score_floats of room */
    const float *residual; /* laid out as out; NULL: none */
    float *out;
    size_t out_step;
} noc_cpu_attention;

/* Depthwise 3x3x3, padding 1. weight: [channel group][27][lanes]. */
typedef struct noc_cpu_depthwise {
    const float *in;
    float *out;
    int grid[3], channels;
    const float *weight, *bias;
    noc_activation activation;
} noc_cpu_depthwise;

/* A MixFFN block on a ring of three planes of its hidden tensor: [slot][group][line][token][lanes] in f32, or
 * [slot][panel][line][token][columns] in f16. */
typedef struct noc_cpu_mixffn {
    int width, lines;            /* tokens of a line, lines of a slot */
    int channels;                /* of in and out */
    int groups;                  /* of `lanes` hidden channels; even, zeros behind the last channel */
    const float *fc1, *fc1_bias; /* panels of the hidden channels */
    const float *dw, *dw_bias;   /* [group][27][lanes] */
    const float *fc2, *fc2_bias; /* panels of channels, groups * lanes deep */
    noc_activation activation;
    void *ring;
    void *activated; /* room for groups * lanes hidden values of each token of a strip */
    void *room;      /* 32 rows of channels, in bf16 */
} noc_cpu_mixffn;

/* Lines [from, to) of the ring's lines, of which `filled` hold something. slot[a]: of plane d + a - 1; -1:
 * outside. */
typedef struct noc_cpu_strip {
    int slot[3], filled, from, to;
} noc_cpu_strip;

/* Positions of a resized axis: value = (1 - fraction) * in[low] + fraction * in[high]. */
typedef struct noc_cpu_axis {
    int *low, *high;
    float *fraction;
} noc_cpu_axis;

/* Tokens [from, to) of a line: out = activation(bias + sum over terms of the line, resized along W where
 * there is an axis). */
typedef struct noc_cpu_mix {
    int count, from, to, channels;
    const float *lines[NOC_OP_INPUTS];       /* whole where there is an axis, else of token `from` on */
    const noc_cpu_axis *axes[NOC_OP_INPUTS]; /* NULL: as wide as the output */
    const float *bias;                       /* NULL: none */
    noc_activation activation;
    float *out;
    size_t out_step;
} noc_cpu_mix;

/* A term of a decoder's sum on a grid of its own; axes (of D, H and W) NULL: the fine map's term. */
typedef struct noc_cpu_term {
    const float *in; /* [D][H][W][channels] */
    int grid[3];
    const noc_cpu_axis *axes;
} noc_cpu_term;

/* The end of a decoder: classes(activation(bias + fine(in) + sum of the other terms resized to the fine
 * grid)). */
typedef struct noc_cpu_decoder {
    int grid[3], channels; /* of the sum */
    int lines;             /* that a call takes at the most */
    noc_cpu_product fine;  /* of the whole map to `channels`, without activation; out is not used */
    noc_cpu_term terms[NOC_OP_INPUTS];
    int count;
    const float *bias; /* NULL: none */
    noc_activation activation;
    noc_cpu_product classes; /* to the whole output, without tail; in is not used */
} noc_cpu_decoder;

/* One row of one window's logits, added to sums, or written there when it is the only one: without weights.
 * Columns count from the window's start. */
typedef struct noc_cpu_spread {
    const float *lines; /* [class][line_step], `lanes` floats more than a line readable */
    size_t line_step;
    int classes;
    const int *base;       /* of each block of `lanes` columns */
    const int *low, *high; /* of each column, from its block's base */
    const float *fraction;
    const float *weight; /* of each column; NULL: 1 */
    int from, to;        /* from: a multiple of `lanes` */
    float *sums;         /* [class][sum_step], of column `from` */
    size_t sum_step;
    float *weights; /* of column `from`; NULL: none */
} noc_cpu_spread;

typedef struct noc_cpu_kernels {
    const char *name;
    int lanes;               /* floats of a vector */
    int rows;                /* of a tile of products */
    int columns;             /* of a panel */
    noc_precision precision; /* of products: F32, or BF16 with sums in f32 */
    int depth_step;          /* runs of packed weights are filled up to it */
    int hidden_bytes;        /* of a hidden value of a MixFFN block */
    /* Around the pieces of a thread; NULL: nothing to do. */
    void (*enter)(void);
    void (*leave)(void);
    /* weight [columns][runs][run] -> panels of `columns` columns, each run filled up with zeros to
     * padded_run, the last panel with zero columns (the panels are zeros before). */
    size_t (*packed_floats)(int columns, int runs, int padded_run);
    void (*pack)(const double *weight, int columns, int runs, int run, int padded_run, float *panels);
    /* Of one head: its packed keys and values, and the room that attention needs. */
    size_t (*head_floats)(const noc_cpu_heads *heads);
    size_t (*score_floats)(const noc_cpu_heads *heads);
    /* Rows [first, first + rows) of kv into all heads (zeros before), head_floats apart. */
    void (*pack_keys)(const noc_cpu_heads *heads, const float *kv, int first, int rows, float scale,
                      float *packed);
    size_t (*conv_line_floats)(const noc_cpu_conv *conv);
    /* The line (d, h) of the input into lines. */
    void (*conv_fill)(const noc_cpu_conv *conv, int d, int h);
    void (*product)(const noc_cpu_product *product);
    /* The line `line` = d * H' + h of the output, columns of the panels [first, last). */
    void (*conv)(const noc_cpu_conv *conv, int line, int first, int last);
    void (*layer_norm)(const float *in, float *out, int rows, int channels, const float *scale,
                       const float *shift, float eps);
    void (*affine)(const float *in, float *out, int rows, int channels, const float *scale,
                   const float *shift);
    void (*activate)(const float *in, float *out, size_t count, noc_activation activation);
    void (*attention)(const noc_cpu_attention *attention);
    /* Lines [h_from, h_to) of plane d. */
    void (*depthwise)(const noc_cpu_depthwise *depthwise, int d, int h_from, int h_to);
    /* fc1: `rows` tokens into a slot of the ring, from `token` on. */
    void (*expand)(const noc_cpu_mixffn *mixffn, const float *in, int rows, int slot, int token);
    /* The rest of the block for a strip: out = fc2(...) + residual (or NULL), [token][channels] from the
     * strip's first on. */
    void (*mix_strip)(const noc_cpu_mixffn *mixffn, const noc_cpu_strip *strip, const float *residual,
                      float *out);
    /* out = sum of weight[i] * rows[i] */
    void (*blend)(const float *const rows[4], const float weight[4], size_t count, float *out);
    void (*mix)(const noc_cpu_mix *mix);
    /* Lines [h_from, h_to) of plane d of the output; room: decoder_floats of it. */
    size_t (*decoder_floats)(const noc_cpu_decoder *decoder);
    void (*decode)(const noc_cpu_decoder *decoder, int d, int h_from, int h_to, float *room);
    void (*spread)(const noc_cpu_spread *spread);
    /* sums /= weights, in place */
    void (*divide)(float *sums, size_t step, const float *weights, int classes, int count);
    void (*argmax)(const float *sums, size_t step, int classes, int count, uint32_t *labels, float *best);
    void (*threshold)(const float *sums, size_t step, int classes, int count, float threshold,
                      uint32_t *bits);
    /* Nothing but the arithmetic of products, and of all else, in registers, from *sink into *sink. Returns
     * the FLOP of one round. */
    double (*peak_products)(int rounds, float *sink);
    double (*peak_vectors)(int rounds, float *sink);
} noc_cpu_kernels;

extern const noc_cpu_kernels noc_cpu_portable_kernels;
#if defined(__x86_64__)
extern const noc_cpu_kernels noc_cpu_avx2_kernels, noc_cpu_avx512_kernels, noc_cpu_amx_kernels;
#endif

#endif
