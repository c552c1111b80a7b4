/* NIfTI files byte by byte; see nifti_sample.h. */
#include "tests/nifti_sample.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

nifti_sample nifti_sample_of(int version, int64_t ni, int64_t nj, int64_t nk)
{
    nifti_sample s = {.version = version,
                      .dim = {3, ni, nj, nk, 1, 1, 1, 1},
                      .datatype = 4,
                      .bitpix = 16,
                      .pixdim = {1, 1, 2, 3, 1, 1, 1, 1},
                      .offset = version == 1 ? 352 : 544,
                      .sform_code = 1,
                      .srow = {{1, 0, 0, -7}, {0, 2, 0, 11}, {0, 0, 3, 13}},
                      .units = 2};
    return s;
}

void nifti_sample_order(const nifti_sample *sample, void *numbers, size_t count, size_t size)
{
    unsigned char *bytes = numbers;

    for (size_t n = 0; sample->is_big && n < count; n++, bytes += size)
        for (size_t i = 0; i < size / 2; i++) {
            unsigned char byte = bytes[i];
            bytes[i] = bytes[size - 1 - i];
            bytes[size - 1 - i] = byte;
        }
}

/* Puts a number at *at and moves on. */
static void put_integer(const nifti_sample *s, unsigned char **at, int64_t value, size_t size)
{
    memcpy(*at, &value, size); /* the low bytes come first on the machines that this is built for */
    nifti_sample_order(s, *at, 1, size);
    *at += size;
}

static void put_real(const nifti_sample *s, unsigned char **at, double value)
{
    const float narrow = (float)value;
    const size_t size = s->version == 1 ? sizeof narrow : sizeof value;

    memcpy(*at, s->version == 1 ? (const void *)&narrow : (const void *)&value, size);
    nifti_sample_order(s, *at, 1, size);
    *at += size;
}

static void put_reals(const nifti_sample *s, unsigned char *at, const double *values, int count)
{
    for (int i = 0; i < count; i++)
        put_real(s, &at, values[i]);
}

static void put_integer_at(const nifti_sample *s, unsigned char *at, int64_t value, size_t size)
{
    put_integer(s, &at, value, size);
}

static size_t header_1(const nifti_sample *s, unsigned char *out)
{
    unsigned char *at = out + 40;

    put_integer_at(s, out, 348, 4);
    for (int i = 0; i < 8; i++)
        put_integer(s, &at, s->dim[i], 2);
    put_integer_at(s, out + 70, s->datatype, 2);
    put_integer_at(s, out + 72, s->bitpix, 2);
    put_reals(s, out + 76, s->pixdim, 8);
    put_reals(s, out + 108, (const double[]){s->offset, s->slope, s->inter}, 3);
    out[123] = (unsigned char)s->units;
    strcpy((char *)out + 148, SAMPLE_PATIENT);
    strcpy((char *)out + 228, SAMPLE_PATIENT);
    put_integer_at(s, out + 252, s->qform_code, 2);
    put_integer_at(s, out + 254, s->sform_code, 2);
    put_reals(s, out + 256, s->quatern, 3);
    put_reals(s, out + 268, s->qoffset, 3);
    put_reals(s, out + 280, s->srow[0], 12);
    strcpy((char *)out + 328, SAMPLE_PATIENT);
    strncpy((char *)out + 344, s->magic ? s->magic : s->is_pair ? "ni1" : "n+1", 4);
    return 348;
}

static size_t header_2(const nifti_sample *s, unsigned char *out)
{
    unsigned char *at = out + 16;

    put_integer_at(s, out, 540, 4);
    memcpy(out + 4, s->is_pair ? "ni2\0\r\n\032\n" : "n+2\0\r\n\032\n", 8);
    if (s->magic)
        strncpy((char *)out + 4, s->magic, 4);
    put_integer_at(s, out + 12, s->datatype, 2);
    put_integer_at(s, out + 14, s->bitpix, 2);
    for (int i = 0; i < 8; i++)
        put_integer(s, &at, s->dim[i], 8);
    put_reals(s, out + 104, s->pixdim, 8);
    put_integer_at(s, out + 168, (int64_t)s->offset, 8);
    put_reals(s, out + 176, (const double[]){s->slope, s->inter}, 2);
    strcpy((char *)out + 240, SAMPLE_PATIENT);
    strcpy((char *)out + 320, SAMPLE_PATIENT);
    put_integer_at(s, out + 344, s->qform_code, 4);
    put_integer_at(s, out + 348, s->sform_code, 4);
    put_reals(s, out + 352, s->quatern, 3);
    put_reals(s, out + 376, s->qoffset, 3);
    put_reals(s, out + 400, s->srow[0], 12);
    put_integer_at(s, out + 500, s->units, 4);
    strcpy((char *)out + 508, SAMPLE_PATIENT);
    return 540;
}

size_t nifti_sample_header(const nifti_sample *sample, unsigned char out[SAMPLE_HEADER_BYTES])
{
    memset(out, 0, SAMPLE_HEADER_BYTES);
    return (sample->version == 1 ? header_1 : header_2)(sample, out) + (sample->is_pair ? 0 : 4);
}

void sample_write(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");

    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) {
        perror(path);
        abort();
    }
}
