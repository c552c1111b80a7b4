/* Safetensors files: 8-byte little-endian header length, JSON header, data. Read mapped, every claim of the
 * header checked. */
#ifndef NOC_SAFETENSORS_H
#define NOC_SAFETENSORS_H

#include "engine/base/error.h"

#include <stddef.h>
#include <stdint.h>

enum { NOC_TENSOR_AXES = 8 };

typedef enum noc_dtype {
    NOC_DTYPE_BOOL,
    NOC_DTYPE_U8,
    NOC_DTYPE_I8,
    NOC_DTYPE_U16,
    NOC_DTYPE_I16,
    NOC_DTYPE_U32,
    NOC_DTYPE_I32,
    NOC_DTYPE_U64,
    NOC_DTYPE_I64,
    NOC_DTYPE_F16,
    NOC_DTYPE_BF16,
    NOC_DTYPE_F32,
    NOC_DTYPE_F64,
} noc_dtype;

typedef struct noc_tensor {
    const char *name;
    noc_dtype dtype;
    int axes;
    int64_t shape[NOC_TENSOR_AXES];
    const void *data; /* not aligned; in a read file it belongs to the file */
    size_t bytes;
} noc_tensor;

typedef struct noc_safetensors noc_safetensors;

/* Checks: header length <= 100 MB and <= file; valid JSON without duplicate keys; known dtypes; offsets
 * inside the file, ordered, no overlap, no holes; product(shape)*size == span; __metadata__ text to text.
 * NOC_ENOINPUT (file), NOC_EDATA (contents). */
noc_status noc_safetensors_open(const char *path, noc_safetensors **file, noc_error *err);
void noc_safetensors_close(noc_safetensors *file);

size_t noc_safetensors_count(const noc_safetensors *file);
const noc_tensor *noc_safetensors_item(const noc_safetensors *file, size_t i); /* by name, ascending */
const noc_tensor *noc_safetensors_find(const noc_safetensors *file, const char *name); /* NULL: none */
const char *noc_safetensors_metadata(const noc_safetensors *file, const char *key);    /* NULL: none */

/* Elements first..first+count as float / double, from F64, F32, F16, BF16 (NOC_EDATA for another dtype). */
noc_status noc_tensor_floats(const noc_tensor *tensor, size_t first, size_t count, float *out,
                             noc_error *err);
noc_status noc_tensor_doubles(const noc_tensor *tensor, size_t first, size_t count, double *out,
                              noc_error *err);
size_t noc_tensor_count(const noc_tensor *tensor); /* product of the shape */

/* Writes the tensors in the given order; metadata: pairs key, value, ..., NULL (may be NULL). Atomic
 * (noc_file_replace rules). */
noc_status noc_safetensors_write(const char *path, const noc_tensor *tensors, size_t count,
                                 const char *const *metadata, noc_error *err);

#endif
