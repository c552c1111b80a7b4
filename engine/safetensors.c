/* The safetensors container. A file is mapped; its JSON header is parsed once and kept, since the tensors'
 * names live in it. Nothing the header says is believed before it is checked against the file. */
#include "engine/safetensors.h"

#include "engine/base/file.h"
#include "engine/base/half.h"
#include "engine/base/json.h"
#include "engine/base/memory.h"
#include "engine/base/text.h"

#include <assert.h>
#include <endian.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH_BYTES = 8, HEADER_MAX = 100 * 1000 * 1000, HEADER_ALIGN = 8 };

struct noc_safetensors {
    noc_mapping mapping;
    json_t *header;
    noc_tensor *tensors; /* by name */
    size_t count;
};

static const struct {
    const char *name;
    size_t size;
} dtypes[] = {
    [NOC_DTYPE_BOOL] = {"BOOL", 1}, [NOC_DTYPE_U8] = {"U8", 1},     [NOC_DTYPE_I8] = {"I8", 1},
    [NOC_DTYPE_U16] = {"U16", 2},   [NOC_DTYPE_I16] = {"I16", 2},   [NOC_DTYPE_U32] = {"U32", 4},
    [NOC_DTYPE_I32] = {"I32", 4},   [NOC_DTYPE_U64] = {"U64", 8},   [NOC_DTYPE_I64] = {"I64", 8},
    [NOC_DTYPE_F16] = {"F16", 2},   [NOC_DTYPE_BF16] = {"BF16", 2}, [NOC_DTYPE_F32] = {"F32", 4},
    [NOC_DTYPE_F64] = {"F64", 8},
};

static bool find_dtype(const char *name, noc_dtype *dtype)
{
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++) {
        if (strcmp(dtypes[i].name, name) != 0)
            continue;
        *dtype = (noc_dtype)i;
        return true;
    }
    return false;
}

/* A JSON integer from 0 up. */
static bool get_count(const json_t *value, uint64_t *count)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *count = (uint64_t)json_integer_value(value);
    return true;
}

static bool product_of(const noc_tensor *tensor, size_t size, size_t *product)
{
    *product = size;
    /* A zero makes the product zero whatever the other axes say, overflow included. */
    for (int i = 0; i < tensor->axes; i++)
        if (tensor->shape[i] == 0)
            *product = 0;
    for (int i = 0; i<tensor->axes && * product> 0; i++)
        if (!noc_size_mul(*product, (size_t)tensor->shape[i], product))
            return false;
    return true;
}

static noc_status read_shape(const char *path, const json_t *shape, noc_tensor *tensor, noc_error *err)
{
    if (!json_is_array(shape) || json_array_size(shape) > NOC_TENSOR_AXES)
        return noc_fail(err, NOC_EDATA, "%s: tensor %s: shape is not a list of at most %d numbers", path,
                        tensor->name, NOC_TENSOR_AXES);
    tensor->axes = (int)json_array_size(shape);
    for (int i = 0; i < tensor->axes; i++) {
        uint64_t length;
        if (!get_count(json_array_get(shape, (size_t)i), &length))
            return noc_fail(err, NOC_EDATA, "%s: tensor %s: shape holds something that is no count", path,
                            tensor->name);
        tensor->shape[i] = (int64_t)length;
    }
    return NOC_OK;
}

static noc_status read_span(const char *path, const json_t *offsets, const unsigned char *data, size_t size,
                            noc_tensor *tensor, noc_error *err)
{
    uint64_t from, to;
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !get_count(json_array_get(offsets, 0), &from) || !get_count(json_array_get(offsets, 1), &to) ||
        from > to)
        return noc_fail(err, NOC_EDATA, "%s: tensor %s: data_offsets are not two counts in order", path,
                        tensor->name);
    if (to > size)
        return noc_fail(err, NOC_EDATA, "%s: tensor %s ends at byte %" PRIu64 " of %zu bytes of data", path,
                        tensor->name, to, size);
    tensor->data = data + from;
    tensor->bytes = (size_t)(to - from);
    return NOC_OK;
}

static noc_status read_tensor(const char *path, const char *name, const json_t *entry,
                              const unsigned char *data, size_t size, noc_tensor *tensor, noc_error *err)
{
    tensor->name = name;
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (!json_is_object(entry) || !dtype)
        return noc_fail(err, NOC_EDATA, "%s: tensor %s has no dtype", path, name);
    if (!find_dtype(dtype, &tensor->dtype))
        return noc_fail(err, NOC_EDATA, "%s: tensor %s: dtype %s is not known", path, name, dtype);
    noc_status status = read_shape(path, json_object_get(entry, "shape"), tensor, err);
    if (status == NOC_OK)
        status = read_span(path, json_object_get(entry, "data_offsets"), data, size, tensor, err);
    size_t expected;
    if (status == NOC_OK &&
        (!product_of(tensor, dtypes[tensor->dtype].size, &expected) || expected != tensor->bytes))
        status =
            noc_fail(err, NOC_EDATA, "%s: tensor %s: %zu bytes of data do not fit its shape and dtype %s",
                     path, name, tensor->bytes, dtype);
    return status;
}

static noc_status check_metadata(const char *path, const json_t *metadata, noc_error *err)
{
    if (!json_is_object(metadata))
        return noc_fail(err, NOC_EDATA, "%s: __metadata__ is no map", path);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)metadata, key, value) if (!json_is_string(value)) return noc_fail(
        err, NOC_EDATA, "%s: __metadata__.%s is no text", path, key);
    return NOC_OK;
}

static int by_place(const void *a, const void *b)
{
    const noc_tensor *left = a, *right = b;
    if (left->data != right->data)
        return (const char *)left->data < (const char *)right->data ? -1 : 1;
    return left->bytes < right->bytes ? -1 : left->bytes > right->bytes;
}

static int by_name(const void *a, const void *b)
{
    const noc_tensor *left = a, *right = b;
    return strcmp(left->name, right->name);
}

/* The tensors must tile the data: one behind the other, from its first byte to its last. */
static noc_status check_tiling(const char *path, noc_safetensors *file, const unsigned char *data,
                               size_t size, noc_error *err)
{
    const unsigned char *at = data;
    qsort(file->tensors, file->count, sizeof(*file->tensors), by_place);
    for (size_t i = 0; i < file->count; i++) {
        const noc_tensor *tensor = &file->tensors[i];
        const unsigned char *start = tensor->data;
        if (start != at)
            return noc_fail(err, NOC_EDATA, "%s: the data of tensor %s %s", path, tensor->name,
                            start < at ? "overlap those of another" : "begin behind a hole");
        at = start + tensor->bytes;
    }
    if (at != data + size)
        return noc_fail(err, NOC_EDATA, "%s: %zu bytes at the end belong to no tensor", path,
                        (size_t)(data + size - at));
    qsort(file->tensors, file->count, sizeof(*file->tensors), by_name);
    return NOC_OK;
}

static noc_status read_tensors(const char *path, noc_safetensors *file, const unsigned char *data,
                               size_t size, noc_error *err)
{
    file->tensors = noc_alloc_zeroed(json_object_size(file->header), sizeof(*file->tensors), err);
    if (!file->tensors)
        return NOC_ENOMEMORY;
    const char *name;
    json_t *entry;
    json_object_foreach(file->header, name, entry)
    {
        noc_status status;
        if (strcmp(name, "__metadata__") == 0)
            status = check_metadata(path, entry, err);
        else
            status = read_tensor(path, name, entry, data, size, &file->tensors[file->count++], err);
        if (status != NOC_OK)
            return status;
    }
    return check_tiling(path, file, data, size, err);
}

static noc_status read_header(const char *path, noc_safetensors *file, noc_error *err)
{
    const noc_mapping *mapping = &file->mapping;
    if (mapping->size < LENGTH_BYTES)
        return noc_fail(err, NOC_EDATA, "%s: %zu bytes are no safetensors file", path, mapping->size);
    uint64_t length;
    memcpy(&length, mapping->data, sizeof(length));
    length = le64toh(length);
    if (length > HEADER_MAX || length > mapping->size - LENGTH_BYTES)
        return noc_fail(err, NOC_EDATA,
                        "%s: a header of %" PRIu64 " bytes in a file of %zu (no safetensors file?)", path,
                        length, mapping->size);
    json_error_t json_error;
    const char *text = (const char *)mapping->data + LENGTH_BYTES;
    bool is_memory;
    file->header = noc_json_load(text, (size_t)length, JSON_REJECT_DUPLICATES, &json_error, &is_memory);
    if (!file->header && is_memory)
        return noc_fail(err, NOC_ENOMEMORY, "%s: header: no memory to read it", path);
    if (!file->header)
        return noc_fail(err, NOC_EDATA, "%s: header: %s (byte %d)", path, json_error.text,
                        json_error.position);
    if (!json_is_object(file->header))
        return noc_fail(err, NOC_EDATA, "%s: header: no map of tensors", path);
    return read_tensors(path, file, mapping->data + LENGTH_BYTES + length,
                        mapping->size - LENGTH_BYTES - (size_t)length, err);
}

noc_status noc_safetensors_open(const char *path, noc_safetensors **file, noc_error *err)
{
    noc_safetensors *opened = noc_alloc_zeroed(1, sizeof(*opened), err);
    if (!opened)
        return NOC_ENOMEMORY;
    noc_status status = noc_file_map(path, &opened->mapping, err);
    if (status == NOC_OK)
        status = read_header(path, opened, err);
    if (status == NOC_OK)
        *file = opened;
    else
        noc_safetensors_close(opened);
    return status;
}

void noc_safetensors_close(noc_safetensors *file)
{
    if (!file)
        return;
    free(file->tensors);
    json_decref(file->header);
    noc_file_unmap(&file->mapping);
    free(file);
}

size_t noc_safetensors_count(const noc_safetensors *file)
{
    return file->count;
}

const noc_tensor *noc_safetensors_item(const noc_safetensors *file, size_t i)
{
    return &file->tensors[i];
}

const noc_tensor *noc_safetensors_find(const noc_safetensors *file, const char *name)
{
    noc_tensor key = {.name = name};
    return bsearch(&key, file->tensors, file->count, sizeof(key), by_name);
}

const char *noc_safetensors_metadata(const noc_safetensors *file, const char *key)
{
    return json_string_value(json_object_get(json_object_get(file->header, "__metadata__"), key));
}

size_t noc_tensor_count(const noc_tensor *tensor)
{
    return tensor->bytes / dtypes[tensor->dtype].size;
}

static double element(noc_dtype dtype, const unsigned char *at)
{
    uint16_t small;
    uint32_t bits;
    uint64_t wide;
    float single;
    double value;
    switch (dtype) {
    case NOC_DTYPE_F64:
        memcpy(&wide, at, sizeof(wide));
        wide = le64toh(wide);
        memcpy(&value, &wide, sizeof(value));
        return value;
    case NOC_DTYPE_F32:
        memcpy(&bits, at, sizeof(bits));
        bits = le32toh(bits);
        break;
    default:
        memcpy(&small, at, sizeof(small));
        small = le16toh(small);
        if (dtype == NOC_DTYPE_F16)
            return noc_half_value(small);
        bits = (uint32_t)small << 16;
        break;
    }
    memcpy(&single, &bits, sizeof(single));
    return single;
}

static noc_status check_floating(const noc_tensor *tensor, noc_error *err)
{
    switch (tensor->dtype) {
    case NOC_DTYPE_F64:
    case NOC_DTYPE_F32:
    case NOC_DTYPE_F16:
    case NOC_DTYPE_BF16:
        return NOC_OK;
    default:
        return noc_fail(err, NOC_EDATA, "tensor %s is %s, not floating-point", tensor->name,
                        dtypes[tensor->dtype].name);
    }
}

noc_status noc_tensor_floats(const noc_tensor *tensor, size_t first, size_t count, float *out, noc_error *err)
{
    noc_status status = check_floating(tensor, err);
    if (status != NOC_OK)
        return status;
    assert(first <= noc_tensor_count(tensor) && count <= noc_tensor_count(tensor) - first);
    size_t size = dtypes[tensor->dtype].size;
    const unsigned char *at = (const unsigned char *)tensor->data + first * size;
    for (size_t i = 0; i < count; i++)
        out[i] = (float)element(tensor->dtype, at + i * size);
    return NOC_OK;
}

noc_status noc_tensor_doubles(const noc_tensor *tensor, size_t first, size_t count, double *out,
                              noc_error *err)
{
    noc_status status = check_floating(tensor, err);
    if (status != NOC_OK)
        return status;
    assert(first <= noc_tensor_count(tensor) && count <= noc_tensor_count(tensor) - first);
    size_t size = dtypes[tensor->dtype].size;
    const unsigned char *at = (const unsigned char *)tensor->data + first * size;
    for (size_t i = 0; i < count; i++)
        out[i] = element(tensor->dtype, at + i * size);
    return NOC_OK;
}

static void add_metadata(noc_text *text, const char *const *metadata)
{
    if (!metadata || !metadata[0])
        return;
    noc_text_add(text, "\"__metadata__\":{");
    for (size_t i = 0; metadata[i]; i += 2) {
        if (i > 0)
            noc_text_add(text, ",");
        noc_text_add_json(text, metadata[i]);
        noc_text_add(text, ":");
        noc_text_add_json(text, metadata[i + 1]);
    }
    noc_text_add(text, "}");
}

static void add_tensor(noc_text *text, const noc_tensor *tensor, size_t offset)
{
    if (text->size > 1)
        noc_text_add(text, ",");
    noc_text_add_json(text, tensor->name);
    noc_text_add(text, ":{\"dtype\":\"%s\",\"shape\":[", dtypes[tensor->dtype].name);
    for (int i = 0; i < tensor->axes; i++)
        noc_text_add(text, "%s%" PRId64, i ? "," : "", tensor->shape[i]);
    noc_text_add(text, "],\"data_offsets\":[%zu,%zu]}", offset, offset + tensor->bytes);
}

static noc_status compose_header(const noc_tensor *tensors, size_t count, const char *const *metadata,
                                 noc_text *text, noc_error *err)
{
    size_t offset = 0, expected;
    noc_text_add(text, "{");
    add_metadata(text, metadata);
    for (size_t i = 0; i < count; i++) {
        if (!product_of(&tensors[i], dtypes[tensors[i].dtype].size, &expected) ||
            expected != tensors[i].bytes)
            return noc_fail(err, NOC_EINTERNAL, "tensor %s: %zu bytes do not fit its shape", tensors[i].name,
                            tensors[i].bytes);
        add_tensor(text, &tensors[i], offset);
        offset += tensors[i].bytes;
    }
    noc_text_add(text, "}");
    while (!text->failed && text->size % HEADER_ALIGN != 0)
        noc_text_add(text, " ");
    return text->failed ? noc_fail(err, NOC_ENOMEMORY, "no memory for a safetensors header") : NOC_OK;
}

noc_status noc_safetensors_write(const char *path, const noc_tensor *tensors, size_t count,
                                 const char *const *metadata, noc_error *err)
{
    noc_text header = {0};
    char *file = NULL;
    noc_status status = compose_header(tensors, count, metadata, &header, err);
    if (status != NOC_OK)
        goto out;
    size_t size = LENGTH_BYTES + header.size;
    for (size_t i = 0; i < count; i++)
        size += tensors[i].bytes;
    file = noc_alloc(size, 1, err);
    if (!file) {
        status = NOC_ENOMEMORY;
        goto out;
    }
    uint64_t length = htole64(header.size);
    memcpy(file, &length, sizeof(length));
    memcpy(file + LENGTH_BYTES, header.data, header.size);
    char *at = file + LENGTH_BYTES + header.size;
    for (size_t i = 0; i < count; i++) {
        if (tensors[i].bytes > 0)
            memcpy(at, tensors[i].data, tensors[i].bytes);
        at += tensors[i].bytes;
    }
    status = noc_file_replace(path, file, size, err);
out:
    free(file);
    noc_text_free(&header);
    return status;
}
