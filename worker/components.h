/* Connected components of a class in a mask. */
#ifndef NOC_COMPONENTS_H
#define NOC_COMPONENTS_H

#include "engine/base/error.h"

#include <stddef.h>
#include <stdint.h>

/* How many components the voxels v with (v & bits) == wanted (never 0) form, where voxels that share a face,
 * an edge or a corner hang together. size: i (fastest), j, k; voxel_bytes 1, 2 or 4. One pass. NOC_ENOMEMORY.
 */
noc_status noc_components_count(const void *voxels, int voxel_bytes, const int64_t size[3], uint32_t bits,
                                uint32_t wanted, int64_t *count, noc_error *err);

/* What that allocates at most: it keeps the runs of two planes. SIZE_MAX on overflow. */
size_t noc_components_bytes(const int64_t size[3]);

/* Clears the bits of `cleared` in the voxels v with (v & bits) == wanted (never 0) outside of the largest of
 * these components; of several as large, the one whose first voxel comes first is kept. Four passes.
 * NOC_ENOMEMORY, NOC_ETOOLARGE beyond 2^32 stretches of such voxels. On failure no voxel is changed. */
noc_status noc_components_keep_largest(void *voxels, int voxel_bytes, const int64_t size[3], uint32_t bits,
                                       uint32_t wanted, uint32_t cleared, noc_error *err);

/* Writes the component of each such voxel, from 1 on in the order of their first voxels, and leaves the
 * others. NOC_ENOMEMORY, NOC_ETOOLARGE as above. */
noc_status noc_components_number(const void *voxels, int voxel_bytes, const int64_t size[3], uint32_t bits,
                                 uint32_t wanted, uint32_t *component_of, size_t *count, noc_error *err);

/* What those two allocate at most: also a number a stretch, of which a mask has one for every two voxels at
 * most. SIZE_MAX on overflow. */
size_t noc_components_keep_bytes(const int64_t size[3]);

#endif
