/* Gatherings made by hand, for tests of devices: windows that cover a volume, with logits of few values, so
 * that ties occur, and what each voxel must become, by a naive loop over doubles. */
#ifndef NOC_TESTS_GATHER_SAMPLE_H
#define NOC_TESTS_GATHER_SAMPLE_H

#include "engine/device.h"

typedef struct scene {
    noc_gather gather;
    noc_gather_window windows[64];
    int64_t volume[3];
    float *importance;
    float *logits; /* what the buffer holds: window after window, planar */
    size_t floats; /* of one window */
} scene;

void start_scene(scene *s, const int grid[3], const int upsample[3], const int64_t window[3],
                 const int64_t volume[3], int classes, bool is_weighted);
/* The whole volume, or less at each side. */
void set_box(scene *s, int shrink);
/* The windows' logits in one buffer, filled through a network that passes its input on. */
noc_buffer *fill_buffer(const noc_device_ops *ops, noc_device *device, const scene *s);
/* Gathers into memory filled with 0xA5, laid out as axes `order` (slowest first), some of them backwards. */
void *gather_into(const noc_device_ops *ops, noc_device *device, scene *s, const int order[3], int flips,
                  int64_t *origin, size_t *bytes);
uint32_t element(const void *data, int bytes, int64_t at);
/* value, or logits at the voxel's place, is what the voxel at `at` must become. */
void check_voxel(const scene *s, const int64_t at[3], uint32_t value, const float *logits);

#endif
