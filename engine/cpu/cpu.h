/* Inside of the CPU device: what its files share.
 *
 * A network is a list of steps. A step computes one op of the plan, or several that follow each other and
 * whose values between them nobody else reads: those then live in a thread's scratch, a few rows or planes at
 * a time, and never reach memory. step_*.c: one file a kind of step, how it is cut into pieces for the
 * threads; kernels*.c: what a piece does, once for each instruction set. */
#ifndef NOC_CPU_CPU_H
#define NOC_CPU_CPU_H

#include "engine/base/pool.h"
#include "engine/cpu/kernels.h"
#include "engine/device.h"

struct noc_device {
    noc_pool *pool;
    const noc_cpu_kernels *kernels;
    float *gather_room; /* tables and scratch of a gather */
    size_t gather_floats;
    char name[96];
};

struct noc_buffer {
    float *data;
    size_t bytes;
};

typedef struct noc_cpu_step noc_cpu_step;

typedef struct noc_cpu_step_kind {
    /* How many ops, from op number `first` on, one step of this kind computes; 0: none. */
    int (*match)(const noc_network *network, int first);
    /* Packs weights (noc_cpu_keep) and says what it needs while it runs (noc_cpu_want). */
    noc_status (*prepare)(noc_network *network, noc_cpu_step *step, noc_error *err);
    void (*run)(noc_network *network, const noc_cpu_step *step);
} noc_cpu_step_kind;

/* Several ops first. */
extern const noc_cpu_step_kind noc_cpu_attention_block_step, noc_cpu_mixffn_step, noc_cpu_decoder_step,
    noc_cpu_conv_step, noc_cpu_product_step, noc_cpu_tokens_step, noc_cpu_attention_step,
    noc_cpu_depthwise_step, noc_cpu_mix_step;

/* Weights of one product as the kernels have packed them, and its bias. */
typedef struct noc_cpu_panels {
    float *weight, *bias;
    int columns, depth, count; /* count: panels without those of the tail */
} noc_cpu_panels;

enum { NOC_CPU_STEP_PANELS = 6 };

struct noc_cpu_step {
    const noc_cpu_step_kind *kind;
    const noc_op *ops;
    int op_count;
    noc_cpu_panels panels[NOC_CPU_STEP_PANELS]; /* of its products, in the order of the ops */
    float *weight, *bias;                       /* of LAYER_NORM, AFFINE, DWCONV, SUM */
    noc_cpu_axis axes[NOC_OP_INPUTS][3];        /* SUM, CONCAT: of inputs on another grid */
};

typedef struct noc_cpu_block noc_cpu_block; /* of memory kept for the network */

struct noc_network {
    noc_device *device;
    const noc_plan *plan;
    noc_cpu_step *steps;
    int step_count;
    noc_cpu_block *blocks;
    float *arena;    /* the values of one window that more than one step knows, but the input */
    size_t *offsets; /* of the values in the arena */
    float *shared;   /* shared_floats, of the step that runs */
    float *scratch;  /* scratch_floats for each thread */
    size_t arena_floats, scratch_floats, shared_floats, bytes;
    const float *input; /* of the window that runs, */
    bool is_planar;     /* [channels][tokens]: only convolutions may read it then */
    bool is_borrower;   /* arena, shared, scratch and interleaved are another network's */
    float *interleaved; /* [tokens][channels] of a planar one, where other ops read it; else NULL */
    double *seconds;    /* of each op so far */
    double batch_seconds;
};

/* noc_pool_run with denormals flushed to zero inside of the pieces. */
void noc_cpu_run(noc_device *device, int count, void (*piece)(void *argument, int i, int thread),
                 void *argument);

/* ---- network.c ---- */

/* Zeroed memory that lives as long as the network, aligned to a cache line. */
void *noc_cpu_keep(noc_network *network, size_t count, size_t size, noc_error *err);
/* Floats a step needs of each thread's scratch and of the shared block. */
void noc_cpu_want(noc_network *network, size_t scratch, size_t shared);
float *noc_cpu_scratch(const noc_network *network, int thread);

/* Positions of `out` samples on an axis of `in` samples (trilinear, align_corners false). */
void noc_cpu_axis_fill(int in, int out, noc_cpu_axis *axis);

/* Tokens of a value, its description, and where it lies while a window runs. */
int64_t noc_cpu_tokens(const noc_value *value);
const noc_value *noc_cpu_value_of(const noc_network *network, int value);
float *noc_cpu_value(const noc_network *network, int value);
/* That ops[i] of a possible step reads only what ops[i - 1] writes, and nobody else does. */
bool noc_cpu_follows(const noc_network *network, const noc_op *op, const noc_op *before);
/* A LAYER_NORM without scale and shift, which a step may compute on its way. */
bool noc_cpu_is_plain_norm(const noc_op *op);

/* filled_depth 0: as the op is, a convolution by its lines. Else the op is a product of rows of its whole
 * depth, filled up with zeros to that. */
noc_status noc_cpu_pack(noc_network *network, const noc_op *op, int filled_depth, noc_cpu_panels *panels,
                        noc_error *err);
noc_status noc_cpu_copy(noc_network *network, const noc_weights *weights, float **copy, noc_error *err);
/* Positions of the inputs of SUM and CONCAT that have another grid. */
noc_status noc_cpu_fill_axes(noc_network *network, const noc_op *op, noc_cpu_axis axes[NOC_OP_INPUTS][3],
                             noc_error *err);

noc_status noc_cpu_network_create(noc_device *device, const noc_plan *plan, int max_batch,
                                  const noc_network *lender, noc_network **network, noc_error *err);
void noc_cpu_network_free(noc_network *network);
void noc_cpu_network_memory(const noc_network *network, noc_network_memory *memory);
noc_status noc_cpu_network_run(noc_network *network, int batch, const noc_window_input input[],
                               bool is_planar, noc_buffer *const output[], const size_t offset[],
                               noc_error *err);
const double *noc_cpu_network_seconds(noc_network *network);
double noc_cpu_batch_seconds(const noc_network *network);
noc_status noc_cpu_network_read(noc_network *network, int value, float *out, noc_error *err);

/* ---- limits.c ---- */

noc_status noc_cpu_limits(noc_device *device, noc_device_limits *limits, noc_error *err);

/* ---- gather.c ---- */

noc_status noc_cpu_gather(noc_device *device, const noc_gather *gather, noc_error *err);
noc_status noc_cpu_gather_reserve(noc_device *device, const noc_gather *widest, noc_error *err);

/* ---- between steps ---- */

/* [group][27][lanes] and the bias, zeros behind the last channel; an even number of groups. */
noc_status noc_cpu_pack_depthwise(noc_network *network, const noc_op *op, float **weight, float **bias,
                                  noc_error *err);
/* A product of `rows` rows from `in` with packed weights. */
noc_cpu_product noc_cpu_product_of(const noc_op *op, const noc_cpu_panels *panels, const float *in,
                                   size_t in_step, int rows, float *out, size_t out_step);
/* Floats of a line of input number `input` of a SUM or CONCAT. */
size_t noc_cpu_line_floats(const noc_network *network, const noc_op *op, int input);

static inline int noc_cpu_parts(int64_t n, int size)
{
    return (int)((n + size - 1) / size);
}

static inline int noc_cpu_min(int a, int b)
{
    return a < b ? a : b;
}

#endif
