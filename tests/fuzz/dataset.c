/* dataset.json, the Decathlon's and nnU-Net's. */
#include "catalog/source.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    noc_source source = {0};
    noc_error err = {0};
    noc_status status = noc_layout_read(fuzz_file("dataset.json", data, size), "auto", &source, &err);
    fuzz_source(status, &err, &source);
    return 0;
}
