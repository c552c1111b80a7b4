/* dataset.json. */
#include "catalog/source.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    noc_source source = {0};
    noc_error err = {0};
    noc_status status = noc_msd_read(fuzz_file("dataset.json", data, size), &source, &err);
    MUST(status == NOC_OK ? source.count > 0 : err.text[0] != 0);
    for (size_t i = 0; i < source.count; i++) {
        const noc_study *study = &source.studies[i];
        MUST(study->key[0] && strlen(study->key) < NOC_STUDY_KEY);
        MUST(study->channel_count >= 1 && study->channel_count <= NOC_STUDY_CHANNELS);
        for (int c = 0; c < study->channel_count; c++)
            MUST(study->channels[c] && study->channels[c][0] == '/');
    }
    noc_source_clear(&source);
    return 0;
}
