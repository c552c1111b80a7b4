/* An image of labels, and where each of them lies. */
#ifndef NOC_LABEL_MAP_H
#define NOC_LABEL_MAP_H

#include "engine/volume/image.h"

enum { NOC_LABEL_COUNT = 65536 };

/* True of 0, 1, ... 65535. */
bool noc_is_label(double value);

/* The smallest box that holds a label; both ends are inside. */
typedef struct noc_label_box {
    uint16_t label;
    int64_t low[3], high[3];
} noc_label_box;

typedef struct noc_label_map {
    int64_t size[3];
    void *voxels;         /* i fastest, owned */
    int voxel_bytes;      /* 1 or 2 */
    noc_label_box *boxes; /* of each label above 0 that occurs, ascending; owned */
    int box_count;
} noc_label_map;

/* Of an image of one channel (NOC_ECHANNELS) whose values, float or not, are whole numbers from 0 to 65535
 * (NOC_EDATA naming the first voxel that is not). The voxels of an u8 image become the map's, and the image
 * has none any more. NOC_ENOMEMORY. On failure *map is empty. */
noc_status noc_label_map_make(noc_image *image, noc_label_map *map, noc_error *err);
void noc_label_map_clear(noc_label_map *map);

#endif
