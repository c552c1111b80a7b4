/* What a device can do. One const table a device kind; devices see buffers and numbers only. */
#ifndef NOC_DEVICE_H
#define NOC_DEVICE_H

#include "engine/base/error.h"
#include "engine/plan.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct noc_device noc_device;   /* an opened device */
typedef struct noc_network noc_network; /* a plan on a device: packed weights, arena */
typedef struct noc_buffer noc_buffer;   /* memory of a device */
typedef struct noc_volume noc_volume;   /* a study's voxels on a device, as a network takes them */

/* AUTO is the best choice of the device and instruction set, by a table that is a part of each device. */
typedef enum noc_precision {
    NOC_PRECISION_F32,
    NOC_PRECISION_BF16,
    NOC_PRECISION_F16,
    NOC_PRECISION_AUTO
} noc_precision;

typedef struct noc_device_options {
    int index; /* of several of that kind; negative: they are given to the processes of this node by turns */
    int process, processes; /* of this node that open such a device: which this is, and how many; 0: alone */
    int threads;            /* host threads; 0: all this process may use */
    noc_precision precision;
    const char *isa; /* "avx512", "avx2", "portable"; NULL: NOC_CPU_ISA from the environment, else the best */
} noc_device_options;

typedef struct noc_device_info {
    char kind[16];     /* "cpu", "cuda" */
    char name[96];     /* "AMD EPYC ..." */
    char isa[16];      /* "avx512", "sm_90" */
    char precision[8]; /* "f32" */
    char library[64];  /* what else decides the bits (kernel version, CUDA versions) */
    char uuid[48];     /* of a GPU, "GPU-...": two ranks with the same share it; else "" */
    int threads;
} noc_device_info;

/* Bytes that a network holds. */
typedef struct noc_network_memory {
    size_t weights; /* packed, with what else is kept from window to window */
    size_t arena;   /* values of a window that more than one step knows */
    size_t scratch; /* of the step that runs, for each thread and for all */
    size_t device;  /* of all these: in the device's own memory, no part of the host's */
} noc_network_memory;

/* The most that the device can do, as measured: what no network exceeds that computes as the device does. */
typedef struct noc_device_limits {
    double product_flops;    /* FLOP/s of matrix products (convolution, linear, attention) in its precision */
    double vector_flops;     /* FLOP/s of all other arithmetic, in f32 */
    double bytes_per_second; /* of a copy beyond all caches of a core, read and written bytes together */
} noc_device_limits;

/* A pointwise step of preparation; v is a value of a channel, all in double. */
typedef enum noc_pointwise_kind {
    NOC_POINTWISE_SLICES,               /* v * factor + addend */
    NOC_POINTWISE_SHIFT_DIVIDE,         /* (v - shift) / divisor */
    NOC_POINTWISE_SHIFT_DIVIDE_NONZERO, /* the same, where v is not 0 */
    NOC_POINTWISE_CLIP,                 /* low where v < low, else high where v > high */
} noc_pointwise_kind;

typedef struct noc_pointwise {
    noc_pointwise_kind kind;
    double *factor,
        *addend; /* SLICES: one a channel and slice of stored axis 2, [channels][stored_size[2]] */
    double shift[NOC_MAX_CHANNELS], divisor[NOC_MAX_CHANNELS];
    double low[NOC_MAX_CHANNELS], high[NOC_MAX_CHANNELS]; /* CLIP */
} noc_pointwise;

typedef enum noc_number_kind { NOC_NUMBER_UNSIGNED, NOC_NUMBER_SIGNED, NOC_NUMBER_FLOAT } noc_number_kind;

/* Voxels as they are stored, axis 0 fastest, native byte order: value = stored * slope + inter, in double. */
typedef struct noc_stored_channel {
    const void *voxels;
    noc_number_kind kind;
    int bytes; /* of a voxel: 1, 2, 4 or 8; 4 or 8 of FLOAT */
    double slope, inter;
} noc_stored_channel;

/* A volume in host memory. Voxel x along axis a (D, H, W) is first[a] + x * direction[a] along stored axis
 * axis[a]. The network's input is its channels' values after the steps in their order, rounded to f32 last.
 */
typedef struct noc_volume_source {
    noc_stored_channel channel[NOC_MAX_CHANNELS];
    int channels;
    int64_t stored_size[3];
    int64_t size[3]; /* D, H, W */
    int axis[3], direction[3];
    int64_t first[3];
    const noc_pointwise *steps;
    int step_count;
    float pad_value; /* what lies beyond it */
} noc_volume_source;

/* A window of a batch, and what becomes of its logits. */
typedef struct noc_window_input {
    const float *host; /* [tokens][channels], or [channels][tokens]; or NULL: */
    const noc_volume *volume;
    int64_t start[3]; /* of the window in the volume, may be negative or beyond it */
    /* Bits 1, 2, 4: the network sees D, H, W reversed. A window of the host is so already; one of a volume is
     * cut so. Its logits are turned back. */
    unsigned flips;
    bool is_added; /* to the logits that are there, instead of taking their place */
    int mean_of;   /* then divided by that many; 0 or 1: not */
} noc_window_input;

/* Gathering: logits of windows -> a box of labels, region bits or logits. For each voxel, in the order of
 * `windows`: sum += weight * (logits resized x upsample, trilinear, align_corners false, within the window),
 * then / sum of weights. */
typedef struct noc_gather_window {
    const noc_buffer *logits; /* [classes][grid D][grid H][grid W] f32 at offset */
    size_t offset;            /* in floats */
    int64_t start[3];         /* of the window, in the padded volume */
} noc_gather_window;

typedef enum noc_gather_kind {
    NOC_GATHER_LABELS,  /* lowest index of the largest; u8 or u16 */
    NOC_GATHER_REGIONS, /* bit c set where logit c >= threshold; u8, u16 or u32 */
    NOC_GATHER_LOGITS,  /* f32, classes planes out_class_step apart */
} noc_gather_kind;

typedef struct noc_gather {
    noc_gather_kind kind;
    int classes;
    int grid[3]; /* of one window's logits */
    int upsample[3];
    int64_t window[3]; /* voxels; at most grid*upsample */
    /* Weight of each window voxel [window D][H][W], or NULL: 1. One that gather_reserve was called with
     * stays as it is until the device is closed. */
    const float *importance;
    const noc_gather_window *windows;
    int window_count;       /* all that touch the box, in window order */
    int64_t from[3], to[3]; /* box, half-open, in the padded volume; every voxel is in a window */
    float threshold;        /* REGIONS: of the logit */
    int element_bytes;      /* of out: 1, 2 or 4 */
    void *out;              /* host memory: element of voxel `from` */
    int64_t out_step[3];    /* elements from a voxel to its neighbour along D, H, W; may be negative */
    int64_t out_class_step; /* LOGITS */
} noc_gather;

typedef struct noc_device_ops {
    const char *kind;
    const char *build;  /* what of it was built: "own kernels: avx512, ...", "built without CUDA" */
    bool has_memory;    /* of its own, where buffers lie */
    int (*count)(void); /* such devices of this machine, without opening one */
    /* NOC_EUNAVAILABLE with a sentence ("built without CUDA", "this CPU has no AVX-512") */
    noc_status (*open)(const noc_device_options *options, noc_device **device, noc_error *err);
    /* What a device opened with these options computes in: what is wanted where there is such a thing, else
     * f32. */
    noc_precision (*precision)(const noc_device_options *options);
    void (*close)(noc_device *device);
    void (*describe)(const noc_device *device, noc_device_info *info);

    /* Windows of a batch where nobody says how many. */
    int (*default_batch)(noc_device *device, const noc_plan *plan);
    /* The plan must outlive the network; its weights are read now only. lender: NULL, or a network of as many
     * windows and of a plan with other weights and else the same, which is freed later: what it holds but for
     * its weights serves both, and only one of them runs at a time. */
    noc_status (*network_create)(noc_device *device, const noc_plan *plan, int max_batch,
                                 const noc_network *lender, noc_network **network, noc_error *err);
    void (*network_free)(noc_network *network);
    void (*network_memory)(const noc_network *network, noc_network_memory *memory);
    /* is_planar: windows of the host are [channels][tokens]. Writes logits of window b, [classes][grid], to
     * output[b] at offset[b] floats, or adds them. Each window's bits are independent of the batch, of the
     * number of threads, and of whether the host or the device cut it. */
    noc_status (*network_run)(noc_network *network, int batch, const noc_window_input input[], bool is_planar,
                              noc_buffer *const output[], const size_t offset[], noc_error *err);
    /* After network_run with batch 1: copies a kept value (plan->stages) as [C][D][H][W] to host memory. */
    noc_status (*network_read)(noc_network *network, int value, float *out, noc_error *err);
    /* Seconds that each op of the plan took, summed over all windows since the first call of this at the
     * latest, from which on runs may be slower: some devices time ops for those alone who ask. An op that is
     * computed as part of a later one has 0. plan->op_count numbers that live with the network. */
    const double *(*network_seconds)(noc_network *network);
    /* Seconds that the last batch took on the device from its first step to its last, without taking windows
     * and giving logits. */
    double (*batch_seconds)(const noc_network *network);
    /* Measures for about half a second with the threads of the device. */
    noc_status (*limits)(noc_device *device, noc_device_limits *limits, noc_error *err);

    /* piece(argument, i, thread) for each i in [0, count), by the threads of the host that the device has for
     * its own work; returns when all are done. */
    void (*host_loop)(noc_device *device, int count, void (*piece)(void *argument, int i, int thread),
                      void *argument);

    /* The volume on the device, done on return; source is read now only. Both may be called by any thread at
     * any time, but a volume is freed after the last run that cuts it and before the device is closed. Memory
     * is kept for volumes to come. NOC_ENOMEMORY where it is not there or would leave too little for other
     * work. NULL: this device has windows cut by the host. */
    noc_status (*volume_create)(noc_device *device, const noc_volume_source *source, noc_volume **volume,
                                noc_error *err);
    void (*volume_free)(noc_volume *volume);

    noc_status (*buffer_create)(noc_device *device, size_t bytes, noc_buffer **buffer, noc_error *err);
    void (*buffer_free)(noc_buffer *buffer);
    noc_status (*gather)(noc_device *device, const noc_gather *gather, noc_error *err);
    /* Room, kept by the device, for gathers with these classes, grid, upsample, importance, a box not wider
     * along W and not more windows: those allocate nothing. */
    noc_status (*gather_reserve)(noc_device *device, const noc_gather *widest, noc_error *err);
} noc_device_ops;

/* "cpu", "cuda", "cuda:1", "auto" -> the table and index (of a GPU: negative where none is named). "auto" is
 * a GPU where there is one, else the CPU. NOC_EUSAGE for another text. */
noc_status noc_device_find(const char *text, const noc_device_ops **ops, int *index, noc_error *err);

/* NOC_EINTERNAL where classes do not fit into elements, or windows not into their logits: devices ask first.
 */
noc_status noc_gather_check(const noc_gather *gather, noc_error *err);

/* "f32", "bf16", "f16". */
const char *noc_precision_name(noc_precision precision);

extern const noc_device_ops noc_cpu_ops;
/* The CUDA table (engine/cuda/device.c), or the stub that says "built without CUDA" (engine/cuda/absent.c).
 */
extern const noc_device_ops noc_cuda_ops;

#endif
