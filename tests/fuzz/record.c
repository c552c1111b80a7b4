/* Messages between ranks: each is taken apart as its receiver does. A study or an outcome that is accepted is
 * whole, and packs to a record that is accepted again. */
#include "pipeline/record.h"
#include "pipeline/message.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

static void open_again(noc_record *packed, noc_record *record)
{
    uint32_t type;
    MUST(noc_record_end(packed, NULL) == NOC_OK);
    MUST(noc_record_open(record, packed->data, packed->size, &type, NULL) == NOC_OK);
}

static void take_study(noc_record *record)
{
    noc_study study, again;
    noc_record packed, back;
    noc_error err = {0};
    noc_record_get_u64(record);
    if (noc_record_get_study(record, &study, &err) != NOC_OK) {
        MUST(err.text[0]);
        return;
    }
    for (int i = 0; i < study.channel_count; i++)
        MUST(study.channels[i]);
    MUST(study.fingerprint);
    noc_record_begin(&packed, NOC_SAY_GRANT);
    noc_record_put_study(&packed, &study);
    open_again(&packed, &back);
    MUST(noc_record_get_study(&back, &again, &err) == NOC_OK);
    MUST(strcmp(again.key, study.key) == 0 && again.channel_count == study.channel_count);
    noc_study_clear(&again);
    noc_study_clear(&study);
    noc_record_free(&packed);
}

static void take_outcome(noc_record *record)
{
    noc_outcome *outcome = NULL, *again = NULL;
    noc_record packed, back;
    noc_error err = {0};
    if (noc_record_get_outcome(record, &outcome, &err) != NOC_OK) {
        MUST(err.text[0] && !outcome);
        return;
    }
    MUST(outcome->metric_count == 0 || outcome->metrics);
    noc_record_begin(&packed, NOC_SAY_MASK);
    noc_record_put_outcome(&packed, outcome, outcome->mask != NULL);
    open_again(&packed, &back);
    MUST(noc_record_get_outcome(&back, &again, &err) == NOC_OK);
    MUST(again->lease == outcome->lease && again->metric_count == outcome->metric_count);
    noc_outcome_free(again);
    noc_outcome_free(outcome);
    noc_record_free(&packed);
}

static void take_hello(noc_record *record)
{
    char text[256];
    noc_error failure;
    for (int i = 0; i < 3; i++) {
        noc_record_get_fixed(record, text, sizeof text);
        MUST(memchr(text, 0, sizeof text));
    }
    noc_record_get_error(record, &failure);
    MUST(memchr(failure.text, 0, sizeof failure.text));
    noc_record_get_fixed(record, text, sizeof text);
    MUST(memchr(text, 0, sizeof text));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    noc_record record;
    uint32_t type;
    uint64_t length = size;
    uint8_t *copy = malloc(size + !size);
    MUST(copy);
    memcpy(copy, data, size);
    if (size >= 24) /* the fuzzer need not guess it; the wrong ones are test_record's */
        memcpy(copy + 16, &length, sizeof length);
    if (noc_record_open(&record, copy, size, &type, NULL) == NOC_OK) {
        if (type == NOC_SAY_GRANT)
            take_study(&record);
        else if (type == NOC_SAY_MASK || type == NOC_SAY_FINISHED)
            take_outcome(&record);
        else
            take_hello(&record);
    }
    free(copy);
    return 0;
}
