/* Inside of the CUDA device: what its C files share. The twin of engine/cpu/cpu.h.
 *
 * A network is a list of steps, each an op of the plan or several. The windows of a batch lie behind each
 * other in every value, so a value is one matrix of batch * tokens rows; kernels compute each row in an order
 * of its own, so that no bit depends on the batch. All work is on one stream, but what makes volumes, which
 * has its own and is called by other threads; a call of the table returns when it is done. */
#ifndef NOC_CUDA_CUDA_H
#define NOC_CUDA_CUDA_H

#include "engine/base/pool.h"
#include "engine/cuda/fused_gemm.h"
#include "engine/cuda/kernels.h"
#include "engine/device.h"

#include <pthread.h>

/* Memory that gathers need, kept by the device. */
typedef struct noc_cuda_gather_room {
    void *out, *staging; /* a piece of the box: of the device, of the host */
    size_t bytes;
    noc_cuda_gather_window *windows, *window_staging;
    int window_count;
    float *importance; /* a copy of the map at importance_of, of importance_floats */
    size_t importance_floats;
    const float *importance_of;
} noc_cuda_gather_room;

/* What volumes need, kept by the device: the way to it, which one thread at a time uses, and blocks that no
 * study uses at present. */
typedef struct noc_cuda_volume_room {
    pthread_mutex_t sending, keeping;
    cudaStream_t stream;
    void *staging[2]; /* pinned: one is filled while the other is copied */
    cudaEvent_t copied[2];
    int turn;
    void *piece; /* on the device: stored voxels before they are converted */
    noc_volume *idle;
} noc_cuda_volume_room;

struct noc_device {
    int index;
    int sharers; /* processes of this node that use it, as far as is known */
    noc_cuda_type type;
    bool is_counted; /* among the open ones */
    cudaStream_t stream;
    noc_pool *pool;
    noc_cuda_gather_room room;
    noc_cuda_volume_room volumes;
    struct cudaDeviceProp properties;
};

struct noc_buffer {
    noc_device *device;
    float *data;
    size_t bytes;
};

/* A study on the device: elements [D][H][W][C] behind one voxel of padding, in a block that may be larger. */
struct noc_volume {
    noc_volume *next; /* of the idle */
    noc_device *device;
    unsigned char *block;
    size_t block_bytes;
    const unsigned char *voxels;
    int size[3];
};

typedef struct noc_cuda_step noc_cuda_step;

typedef struct noc_cuda_step_kind {
    /* How many ops, from op number `first` on, one step of this kind computes; 0: none. */
    int (*match)(const noc_network *network, int first);
    /* Puts weights on the device and says what it needs while it runs (noc_cuda_want). */
    noc_status (*prepare)(noc_network *network, noc_cuda_step *step, noc_error *err);
    /* Launches it for the first `batch` windows. */
    cudaError_t (*run)(noc_network *network, const noc_cuda_step *step, int batch);
    /* That a step of this kind computes `reader` from what `norm` reads, if nobody else needs its output.
     * NULL: never. */
    bool (*takes_norm)(const noc_network *network, const noc_op *reader, const noc_op *norm);
} noc_cuda_step_kind;

/* Those of several ops in half precision, then one for each op in any. */
extern const noc_cuda_step_kind noc_cuda_fused_attention_step, noc_cuda_mixffn_step, noc_cuda_decoder_step,
    noc_cuda_conv_step, noc_cuda_gemm_step, noc_cuda_product_step, noc_cuda_tokens_step,
    noc_cuda_attention_step, noc_cuda_depthwise_step, noc_cuda_mix_step;

/* All, in the order of their turns; NULL behind the last. */
extern const noc_cuda_step_kind *const noc_cuda_step_kinds[];

/* What computes ops from this one on, and how many: the first kind that matches; NULL: none. */
const noc_cuda_step_kind *noc_cuda_kind_at(const noc_network *network, int first, int *count);

/* Of an op, on the device. */
typedef struct noc_cuda_weights {
    void *weight; /* of a product: elements; else f32 */
    float *bias;
} noc_cuda_weights;

enum { NOC_CUDA_STEP_WEIGHTS = 3 };

struct noc_cuda_step {
    const noc_cuda_step_kind *kind;
    const noc_op *ops;
    int op_count;
    const noc_op *norm; /* through which the step reads its input, see noc_cuda_norm_before */
    noc_cuda_weights weights[NOC_CUDA_STEP_WEIGHTS]; /* of its ops that have any, in their order */
};

typedef struct noc_cuda_block noc_cuda_block; /* of device memory kept for the network */

/* The steps for one batch size. */
typedef struct noc_cuda_graph {
    bool has_run;         /* launched one by one */
    cudaGraphExec_t exec; /* NULL: not captured yet */
} noc_cuda_graph;

struct noc_network {
    noc_device *device;
    const noc_plan *plan;
    int max_batch;
    noc_cuda_step *steps;
    int step_count;
    noc_cuda_block *blocks;
    unsigned char *arena; /* the values of max_batch windows that more than one step knows, but the input */
    void *input;          /* value 0, elements */
    float *logits;        /* in f32, where the last product can write them so; else NULL: in the arena */
    float *upload;        /* windows as the host has them, */
    float *staging;       /* and their copy in pinned memory; also what network_read brings back */
    float *planar;        /* a value as network_read gives it */
    float *scratch;       /* of the step that runs, scratch_floats */
    size_t *offsets;      /* of the values in the arena of one window, in elements */
    size_t arena_elements, scratch_floats, kept_bytes, arena_bytes, staging_bytes;
    noc_cuda_graph *graphs; /* [max_batch + 1] */
    bool has_no_graphs;     /* the driver did not make one */
    bool is_borrower;       /* arena, input, logits, upload, staging, planar, scratch are another network's */
    bool is_timed;          /* each step for itself, instead of in a graph */
    cudaEvent_t *events;    /* before the first step and behind the last; while timed, behind each */
    double *seconds;        /* of each op while timed */
    double batch_seconds;   /* of the last batch, all steps */
};

/* NOC_OK for cudaSuccess; NOC_ENOMEMORY for memory that is not there; else NOC_EDEVICE: what failed, and why.
 */
noc_status noc_cuda_status(cudaError_t error, const char *what, noc_error *err);
/* To the device, done on return. Not cudaMemcpy: its stream and ours do not wait for each other, and from
 * pageable memory it returns before the data have arrived. */
cudaError_t noc_cuda_upload(const noc_device *device, void *to, const void *from, size_t bytes);
/* Before any other call, by whatever thread. */
noc_status noc_cuda_enter(const noc_device *device, noc_error *err);

/* ---- network.c ---- */

/* Device memory that lives as long as the network. */
noc_status noc_cuda_keep(noc_network *network, size_t bytes, void **kept, noc_error *err);
/* Floats that a step needs while it runs. */
void noc_cuda_want(noc_network *network, size_t floats);
/* Copies of weights; *copy stays NULL where there are none. */
noc_status noc_cuda_copy_floats(noc_network *network, const noc_weights *weights, float **copy,
                                noc_error *err);
noc_status noc_cuda_copy_elements(noc_network *network, const noc_weights *weights, void **copy,
                                  noc_error *err);
/* The op's weight and bias as floats, or the weight of a product as elements. */
noc_status noc_cuda_copy_op(noc_network *network, const noc_op *op, noc_cuda_weights *copy, noc_error *err);
noc_status noc_cuda_copy_product(noc_network *network, const noc_op *op, noc_cuda_weights *copy,
                                 noc_error *err);
/* A step's whole preparation where its op has a weight and a bias for each channel. */
noc_status noc_cuda_copy_weights(noc_network *network, noc_cuda_step *step, noc_error *err);

int64_t noc_cuda_tokens_of(const noc_value *value);
const noc_value *noc_cuda_value_of(const noc_network *network, int value);
/* Where a value lies: elements, the logits f32 where network->logits is set. */
void *noc_cuda_value(const noc_network *network, int value);
/* What op adds to its output, or NULL. */
void *noc_cuda_residual(const noc_network *network, const noc_op *op);

/* ---- fused.c: LAYER_NORMs that never are in memory ---- */

/* That the network is in half precision and op `at` of the plan is there and of that kind. */
bool noc_cuda_is_fusible(const noc_network *network, int at, noc_op_kind kind);
/* That op[1] alone reads what op writes. */
bool noc_cuda_is_followed(const noc_network *network, const noc_op *op);
/* The LAYER_NORM whose output `op` reads first, where all who read it compute it for themselves from its
 * input, which then is still there; else NULL. It is no step, but the first op of the one behind it. */
const noc_op *noc_cuda_norm_before(const noc_network *network, const noc_op *op);
/* Behind such a norm, or `first`: where a step that begins there has its own first op. */
int noc_cuda_skip_norm(const noc_network *network, int first);
/* The same of a step that is there. */
const noc_op *noc_cuda_own_ops(const noc_cuda_step *step);
/* What op reads first: the norm's input, or NULL, its own. */
void *noc_cuda_input(const noc_network *network, const noc_op *op, const noc_op *norm);

/* ---- step_gemm.c ---- */

/* A LINEAR, as a product of one window but where its values and weights lie. */
noc_cuda_gemm noc_cuda_gemm_of(const noc_network *network, const noc_op *op, const noc_op *norm);
/* These, but for its output, and for a batch. */
void noc_cuda_gemm_fill(const noc_network *network, noc_cuda_gemm *gemm, const noc_op *op, const noc_op *norm,
                        const noc_cuda_weights *weights, int batch);

/* ---- step_conv.c ---- */

/* That a step computes the CONV and the LAYER_NORM right behind it. */
bool noc_cuda_conv_takes_next(const noc_network *network, const noc_op *conv);

/* ---- step_mixffn.c ---- */

/* That a step ends with the LINEAR and the LAYER_NORM right behind it. */
bool noc_cuda_mixffn_takes_next(const noc_network *network, const noc_op *linear);

noc_status noc_cuda_network_create(noc_device *device, const noc_plan *plan, int max_batch,
                                   const noc_network *lender, noc_network **network, noc_error *err);
void noc_cuda_network_free(noc_network *network);
void noc_cuda_network_memory(const noc_network *network, noc_network_memory *memory);
noc_status noc_cuda_network_run(noc_network *network, int batch, const noc_window_input input[],
                                bool is_planar, noc_buffer *const output[], const size_t offset[],
                                noc_error *err);
noc_status noc_cuda_network_read(noc_network *network, int value, float *out, noc_error *err);

/* ---- graph.c ---- */

/* Launches the steps for the first `batch` windows. */
cudaError_t noc_cuda_run_steps(noc_network *network, int batch);
/* When that batch is done. */
cudaError_t noc_cuda_count_seconds(noc_network *network);
/* Each step of its batches is timed from now on. */
const double *noc_cuda_network_seconds(noc_network *network);
double noc_cuda_batch_seconds(const noc_network *network);
void noc_cuda_graphs_free(noc_network *network);
/* Once the steps are known. */
noc_status noc_cuda_timing_create(noc_network *network, noc_error *err);
void noc_cuda_timing_free(noc_network *network);

/* ---- limits.c ---- */

noc_status noc_cuda_limits(noc_device *device, noc_device_limits *limits, noc_error *err);

/* ---- volume.c ---- */

void noc_cuda_volumes_init(noc_device *device);
void noc_cuda_volumes_free(noc_device *device);
noc_status noc_cuda_volume_create(noc_device *device, const noc_volume_source *source, noc_volume **volume,
                                  noc_error *err);
void noc_cuda_volume_free(noc_volume *volume);
/* The window, number `window` of a batch, of its volume. */
noc_cuda_cut noc_cuda_cut_of(const noc_window_input *input, int window);

/* ---- gather.c ---- */

noc_status noc_cuda_gather(noc_device *device, const noc_gather *gather, noc_error *err);
noc_status noc_cuda_gather_reserve(noc_device *device, const noc_gather *widest, noc_error *err);
void noc_cuda_gather_room_free(noc_cuda_gather_room *room);

#endif
