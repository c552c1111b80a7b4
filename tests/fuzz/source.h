/* What every reader of studies promises, whatever it read. */
#ifndef NOC_FUZZ_SOURCE_H
#define NOC_FUZZ_SOURCE_H

#include "catalog/source.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

/* Clears the source. */
static inline void fuzz_source(noc_status status, const noc_error *err, noc_source *source)
{
    MUST(status == NOC_OK ? source->count > 0 : err->text[0] != 0);
    for (size_t i = 0; i < source->count; i++) {
        const noc_study *study = &source->studies[i];
        MUST(study->key[0] && strlen(study->key) < NOC_STUDY_KEY);
        MUST(study->channel_count >= 1 && study->channel_count <= NOC_STUDY_CHANNELS);
        for (int c = 0; c < study->channel_count; c++)
            MUST(study->channels[c] && study->channels[c][0] == '/');
    }
    noc_source_clear(source);
}

#endif
