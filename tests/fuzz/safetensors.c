/* Safetensors files. What opens is consistent, can be read to the last byte and found by name, and comes back
 * the same when it is written. */
#include "engine/safetensors.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

static void look_at(const noc_safetensors *file, const noc_tensor *tensor)
{
    double values[32];
    float floats[32];
    unsigned sum = 0;
    size_t count = noc_tensor_count(tensor), some = count < 32 ? count : 32;
    MUST(noc_safetensors_find(file, tensor->name) == tensor);
    for (size_t i = 0; i < tensor->bytes; i++)
        sum += ((const unsigned char *)tensor->data)[i];
    MUST(sum <= 255 * tensor->bytes);
    noc_tensor_doubles(tensor, count - some, some, values, NULL);
    noc_tensor_floats(tensor, 0, some, floats, NULL);
}

static void write_again(const noc_safetensors *file)
{
    noc_safetensors *back = NULL;
    size_t count = noc_safetensors_count(file);
    noc_tensor *tensors = calloc(count + 1, sizeof *tensors);
    const char *path = fuzz_file("again.safetensors", "", 0);
    MUST(tensors);
    for (size_t i = 0; i < count; i++)
        tensors[i] = *noc_safetensors_item(file, i);
    MUST(noc_safetensors_write(path, tensors, count, NULL, NULL) == NOC_OK);
    MUST(noc_safetensors_open(path, &back, NULL) == NOC_OK);
    MUST(noc_safetensors_count(back) == count);
    for (size_t i = 0; i < count; i++) {
        const noc_tensor *item = noc_safetensors_find(back, tensors[i].name);
        MUST(item && item->bytes == tensors[i].bytes);
        MUST(item->bytes == 0 || memcmp(item->data, tensors[i].data, item->bytes) == 0);
    }
    noc_safetensors_close(back);
    free(tensors);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    noc_safetensors *file = NULL;
    noc_error err = {0};
    if (noc_safetensors_open(fuzz_file("in.safetensors", data, size), &file, &err) != NOC_OK) {
        MUST(err.text[0] && !file);
        return 0;
    }
    for (size_t i = 0; i < noc_safetensors_count(file); i++)
        look_at(file, noc_safetensors_item(file, i));
    noc_safetensors_metadata(file, "format");
    write_again(file);
    noc_safetensors_close(file);
    return 0;
}
