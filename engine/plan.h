/* A plan: a flat list of ops with inferred shapes for one window size, that every device walks alike.
 *
 *   noc_plan_create -> a family's builder (noc_segformer3d_build) -> noc_plan_rewrite -> noc_plan_arrange
 *
 * Feature maps are NDHWC, so a map of grid D x H x W with C channels is its token matrix [D*H*W][C]. A plan
 * describes one window (batch 1); devices repeat it for a batch. Weights are doubles until a device packs
 * them. */
#ifndef NOC_PLAN_H
#define NOC_PLAN_H

#include "engine/base/error.h"
#include "engine/manifest.h"

#include <stddef.h>
#include <stdint.h>

typedef enum noc_op_kind {
    /* out[o] = bias + sum w[o][kd][kh][kw][c] in[...][c]; zero padding. weight: [out][kd][kh][kw][in] */
    NOC_OP_CONV,
    /* out = in * weight^T + bias (+ residual); weight [out+tail][in]. With tail > 0: the last `tail` columns
     * y_t are not stored; out = y / sqrt(tail_constant + sum y_t^2) (rewrite c of the decoder's LayerNorm) */
    NOC_OP_LINEAR,
    /* per token over channels, biased variance; weight = scale, bias = shift, both NULL after rewrite e */
    NOC_OP_LAYER_NORM,
    /* out = in*weight + bias per channel (BatchNorm at inference before rewrite b) */
    NOC_OP_AFFINE,
    NOC_OP_ACTIVATION,
    /* inputs q [N][C], kv [M][2C] (K then V; head h owns columns [h*C/heads, (h+1)*C/heads) of each);
     * out[n] = concat over heads of softmax(scale * q k^T) v (+ residual). One head may have kv [M][2C+1]:
     * the last column is added to the key's scores, after the scale (rewrite d) */
    NOC_OP_ATTENTION,
    /* depthwise, kernel 3x3x3, stride 1, padding 1: weight [kd][kh][kw][C], bias, then activation */
    NOC_OP_DWCONV,
    /* out = activation(bias + sum of inputs, each resized trilinearly (align_corners false) to its grid) */
    NOC_OP_SUM,
    /* channels of the inputs one after another, each resized to the output's grid */
    NOC_OP_CONCAT,
} noc_op_kind;

typedef enum noc_activation { NOC_ACTIVATION_NONE, NOC_ACTIVATION_GELU, NOC_ACTIVATION_RELU } noc_activation;

enum { NOC_OP_INPUTS = 4, NOC_VALUE_NAME = 48 };

/* values[0] is the network's input (grid = window, channels = in_channels). */
typedef struct noc_value {
    char name[NOC_VALUE_NAME]; /* "c1", "stage1.0.attention", ... */
    int grid[3];               /* D, H, W */
    int channels;
    int first, last; /* op that writes it, last op that reads it (op_count: kept to the end) */
    size_t offset;   /* in the arena of one window, in floats; multiple of 16. The input has no place there */
} noc_value;

typedef struct noc_weights {
    double *data; /* owned by the plan; NULL: none */
    size_t count;
} noc_weights;

typedef struct noc_op {
    noc_op_kind kind;
    int input[NOC_OP_INPUTS]; /* values */
    int input_count;
    int residual; /* value added to the output (LINEAR, ATTENTION), or -1 */
    int output;   /* value */
    noc_weights weight, bias;
    int kernel[3], stride[3], padding[3]; /* CONV */
    int heads;                            /* ATTENTION */
    double scale;                         /* ATTENTION; 1 after rewrite e */
    double eps;                           /* LAYER_NORM */
    int tail;                             /* LINEAR */
    double tail_constant;                 /* LINEAR: eps + r_end^2 */
    noc_activation activation;            /* ACTIVATION, DWCONV, SUM, LINEAR */
} noc_op;

/* Exact rewrites of the network, by the letters of the specification; bits of a set. */
enum {
    NOC_REWRITE_FUSE_BEFORE_UPSAMPLING = 1, /* a */
    NOC_REWRITE_FOLD_BATCH_NORM = 2,        /* b */
    NOC_REWRITE_FOLD_DECODER_NORM = 4,      /* c, needs a */
    NOC_REWRITE_FOLD_AFFINES = 8,           /* e */
    NOC_REWRITE_ABSORB_SINGLE_HEADS = 16,   /* d */
    NOC_REWRITE_ALL = 31,
};

typedef struct noc_plan {
    noc_op *ops;
    int op_count;
    noc_value *values;
    int value_count;
    int logits;             /* value: class scores on the decoder's grid, channels = classes */
    int stages[NOC_STAGES]; /* values c1..c4 (after the stage norm); -1 after arrange unless kept */
    int upsample[3];        /* network output size = decoder grid * upsample, cropped to the window */
    size_t arena_floats;    /* for one window */
    char family[32];
} noc_plan;

typedef struct noc_plan_stats {
    uint64_t macs;         /* multiply-adds of one window */
    uint64_t weight_bytes; /* f32 */
    size_t arena_bytes;
} noc_plan_stats;

/* A plan without ops; value 0 is the input. */
noc_status noc_plan_create(const char *family, const int64_t window[3], int channels, noc_plan **plan,
                           noc_error *err);
/* An op with one input (and no residual, scale 1), to be completed by the caller. */
noc_op noc_op_make(noc_op_kind kind, int input);
/* Adds op and the value it writes (op->output is set to it). The op's weights pass to the plan; on failure
 * they are freed. */
noc_status noc_plan_append(noc_plan *plan, const noc_op *op, const char *name, const int grid[3],
                           int channels, int *value, noc_error *err);
noc_status noc_weights_create(size_t count, noc_weights *weights, noc_error *err); /* zeros */
void noc_weights_free(noc_weights *weights);

void noc_plan_free(noc_plan *plan);
void noc_plan_stats_of(const noc_plan *plan, noc_plan_stats *stats);
uint64_t noc_op_macs(const noc_plan *plan, const noc_op *op);
const char *noc_op_name(noc_op_kind kind);

bool noc_op_reads(const noc_op *op, int value);
/* True for the logits and the stages: they must keep their meaning. */
bool noc_plan_is_result(const noc_plan *plan, int value);
/* The only op that reads a value; -1 when there are none or several, or the value is a result. */
int noc_plan_only_reader(const noc_plan *plan, int value);
/* True for a LINEAR that does nothing after its product and bias. */
bool noc_op_is_product(const noc_op *op);
/* The LINEAR that makes `value` for one reader alone and does nothing after its product, else NULL. */
noc_op *noc_plan_own_linear(const noc_plan *plan, int value);

/* Applies the chosen rewrites in place. */
noc_status noc_plan_rewrite(noc_plan *plan, unsigned rewrites, noc_error *err);
/* Lifetimes and arena offsets; keep_stages keeps c1..c4 to the end. */
noc_status noc_plan_arrange(noc_plan *plan, bool keep_stages, noc_error *err);
/* The same for a device that computes ops in groups: group[i] is the number of op i's, ascending with i.
 * Everything that a group reads and writes lives as long as the whole group; a value that only its own group
 * knows has no place. offsets[value_count] in floats (SIZE_MAX: no place), multiples of 16; *floats is the
 * arena's size. */
noc_status noc_plan_place(const noc_plan *plan, const int *group, size_t *offsets, size_t *floats,
                          noc_error *err);

#endif
