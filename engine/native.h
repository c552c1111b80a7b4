/* From the grid that a network saw to the voxels of the scan, where preparation has resampled: logits come in
 * slabs of rows along D, a tile of H x W after the other, and become labels as soon as no later row can touch
 * them. A voxel depends on its own place alone, so neither tiles, slabs nor threads change a bit. */
#ifndef NOC_NATIVE_H
#define NOC_NATIVE_H

#include "engine/prepare.h"

enum { NOC_NATIVE_ROWS = 8 /* of a slab, at most */ };

typedef struct noc_native noc_native;

typedef struct noc_native_options {
    const noc_place *placement;
    int64_t size[3]; /* of the prepared volume */
    int classes;
    noc_gather_kind kind; /* LABELS or REGIONS */
    double threshold;     /* REGIONS: of the logit */
    int element_bytes;    /* of `voxels`: 1, 2 or 4 */
    void *voxels;         /* the mask, of the input's grid */
    /* [classes][class_step] likewise, or NULL */
    uint16_t *probabilities;
    int64_t class_step;
} noc_native_options;

/* widest: H and W of the largest tile with what it reaches beyond its end. Bytes, SIZE_MAX on overflow. */
size_t noc_native_bytes(int classes, const int64_t widest[2]);
noc_status noc_native_create(const noc_native_options *options, const int64_t widest[2], noc_native **native,
                             noc_error *err);
void noc_native_free(noc_native *native);

/* A tile: native voxels whose lower neighbour along H and W lies in [from, to); its slabs have the rows and
 * columns [from, reach). */
void noc_native_begin(noc_native *native, const int64_t from[2], const int64_t to[2], const int64_t reach[2]);
/* Where the tile's next slab goes: its first voxel, and elements from a row (D), a row (H) and a class to the
 * next. */
float *noc_native_slab(const noc_native *native, int64_t step[2], int64_t *class_step);
/* Rows [from, to) of D are there, at most NOC_NATIVE_ROWS and in order; host_loop is the device's. */
void noc_native_write(noc_native *native, int64_t from, int64_t to, noc_device *device,
                      void (*host_loop)(noc_device *device, int count,
                                        void (*piece)(void *argument, int i, int thread), void *argument));

#endif
