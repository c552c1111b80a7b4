/* NIfTI files. The first byte says in which clothes the rest comes: .nii, .nii.gz as it is, .nii.gz deflated
 * here, a pair; and with which options it is read. What can be read is whole, and a mask on its grid comes
 * back the same. */
#include "engine/volume/nifti.h"
#include "engine/base/memory.h"
#include "engine/volume/orientation.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { PLAIN, GZIP, DEFLATED, PAIR, KINDS, ASSUME_RAS = 4, WITH_SHA256 = 8, LIMIT = 1 << 20 };

/* One gzip member of stored blocks: what stands in it stays in sight of the fuzzer. */
static const char *deflated_file(const uint8_t *data, size_t size)
{
    z_stream stream = {0};
    MUST(deflateInit2(&stream, 0, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    size_t room = deflateBound(&stream, size);
    uint8_t *out = malloc(room);
    MUST(out);
    stream.next_in = (Bytef *)data;
    stream.avail_in = (uInt)size;
    stream.next_out = out;
    stream.avail_out = (uInt)room;
    MUST(deflate(&stream, Z_FINISH) == Z_STREAM_END);
    const char *path = fuzz_file("deflated.nii.gz", out, room - stream.avail_out);
    deflateEnd(&stream);
    free(out);
    return path;
}

static const char *pair_file(const uint8_t *data, size_t size)
{
    size_t header = size > 1 && data[0] + 256 * data[1] == 540 ? 540 : 348;
    size_t cut = size < header ? size : header;
    fuzz_file("pair.img", data + cut, size - cut);
    return fuzz_file("pair.hdr", data, cut);
}

static const char *write_input(int kind, const uint8_t *data, size_t size)
{
    switch (kind) {
    case GZIP:
        return fuzz_file("as_is.nii.gz", data, size);
    case DEFLATED:
        return deflated_file(data, size);
    case PAIR:
        return pair_file(data, size);
    default:
        return fuzz_file("plain.nii", data, size);
    }
}

static void look_at_voxels(const noc_image *image)
{
    double values[64];
    size_t count = noc_grid_voxels(&image->grid) * (size_t)image->channels;
    for (size_t at = 0; at < count; at += 64)
        noc_image_values(image, at, 1, count - at < 64 ? count - at : 64, values);
    noc_image_check_finite(image, NULL);
}

static void write_mask(const noc_grid *grid)
{
    noc_image back;
    noc_error err = {0};
    noc_orientation orientation;
    size_t voxels = noc_grid_voxels(grid);
    if (noc_orientation_find(grid->affine, "RAS", &orientation, NULL) != NOC_OK)
        return;
    uint8_t *mask = noc_alloc_zeroed(voxels, 1, NULL);
    const char *path = fuzz_file("mask.nii", "", 0);
    MUST(mask);
    MUST(noc_nifti_write_labels(path, grid, NOC_VOXEL_U8, mask, "fuzz", &err) == NOC_OK);
    MUST(noc_nifti_read(path, &(noc_nifti_options){.assume_ras = true}, &back, &err) == NOC_OK);
    MUST(noc_grid_is_same(grid, &back.grid, 0));
    noc_image_clear(&back);
    free(mask);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return -1;
    int kind = data[0] % KINDS;
    noc_nifti_options options = {.max_bytes = LIMIT,
                                 .assume_ras = (data[0] & ASSUME_RAS) != 0,
                                 .with_sha256 = (data[0] & WITH_SHA256) != 0};
    const char *path = write_input(kind, data + 1, size - 1);
    noc_nifti_header header = {0};
    noc_image image;
    noc_error err = {0};
    noc_status headed = noc_nifti_read_header(path, &options, &header, &err);
    MUST(headed == NOC_OK || err.text[0]);
    noc_status status = noc_nifti_read(path, &options, &image, &err);
    MUST(status == NOC_OK || (err.text[0] && !image.voxels));
    if (status != NOC_OK)
        return 0;
    MUST(headed == NOC_OK && header.voxel_bytes == image.bytes && image.bytes <= LIMIT);
    look_at_voxels(&image);
    write_mask(&image.grid);
    noc_image_clear(&image);
    return 0;
}
