/* NIfTI files byte by byte, written from the format's description and not with the library that reads them,
 * so that a header can say anything. Numbers are put in either byte order. */
#ifndef NOC_TESTS_NIFTI_SAMPLE_H
#define NOC_TESTS_NIFTI_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SAMPLE_HEADER_BYTES = 544 }; /* the longer header and its extender */

typedef struct nifti_sample {
    int version;       /* 1 or 2 */
    bool is_big;       /* big-endian */
    bool is_pair;      /* .hdr and .img */
    const char *magic; /* NULL: the right one */
    int64_t dim[8];
    int datatype, bitpix;
    double pixdim[8];
    double offset; /* vox_offset */
    double slope, inter;
    int qform_code, sform_code;
    double quatern[3], qoffset[3], srow[3][4];
    int units;
} nifti_sample;

/* A good header of int16 voxels with an sform along the axes, spacing 1, 2 and 3 mm. Its free text is
 * SAMPLE_PATIENT. */
nifti_sample nifti_sample_of(int version, int64_t ni, int64_t nj, int64_t nk);
#define SAMPLE_PATIENT "PATIENT^NAME"

/* Number of bytes: 352 or 544, of a pair 4 less. */
size_t nifti_sample_header(const nifti_sample *sample, unsigned char out[SAMPLE_HEADER_BYTES]);

/* Little-endian numbers of `size` bytes each, turned around in place where the sample is big-endian. */
void nifti_sample_order(const nifti_sample *sample, void *numbers, size_t count, size_t size);

void sample_write(const char *path, const void *data, size_t size);

#endif
