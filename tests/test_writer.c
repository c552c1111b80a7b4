/* A writer that has no memory says so: a lease that is renewed by heartbeats would otherwise never end. */
#include "engine/base/memory.h"
#include "pipeline/message.h"
#include "pipeline/writer.h"
#include "tests/fail_alloc.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { LEASE = 99, SIDE = 16, VOXELS = SIDE * SIDE * SIDE, SOME = 64 };

static noc_link *link_here;
static noc_writer *writer;

static void set_up(void)
{
    static const noc_part_header header;
    ck_assert_int_eq(noc_link_open_local(&link_here, NULL), NOC_OK);
    ck_assert_int_eq(noc_writer_create(link_here, MPI_COMM_NULL, "/nowhere", &header, &writer, NULL), NOC_OK);
}

static void tear_down(void)
{
    noc_writer_free(writer);
    noc_link_close(link_here);
}

static void pack_mask(noc_message *message)
{
    noc_outcome outcome = {.lease = LEASE, .mask_bytes = 1, .grid.size = {SIDE, SIDE, SIDE}};
    strcpy(outcome.key, "case_7");
    outcome.mask = noc_alloc_zeroed(VOXELS, 1, NULL);
    *message = (noc_message){.type = NOC_SAY_MASK};
    noc_record_begin(&message->record, NOC_SAY_MASK);
    noc_record_put_outcome(&message->record, &outcome, true);
    ck_assert_int_eq(noc_record_end(&message->record, NULL), NOC_OK);
    free(outcome.mask);
}

/* What it answers to a mask while memory fails so. */
static void answer(void (*starve)(long), long how, noc_message *heard)
{
    noc_message message;
    uint32_t type;
    pack_mask(&message);
    void *data = message.record.data;
    ck_assert_int_eq(noc_record_open(&message.record, data, message.record.size, &type, NULL), NOC_OK);
    starve(how);
    noc_writer_handle(writer, &message);
    bool has_failed = fail_alloc_happened();
    starve(0);
    if (!noc_link_receive(link_here, heard))
        heard->type = 0;
    else if (!has_failed)
        ck_assert_int_eq(heard->type, NOC_SAY_HOLDS);
    free(data);
}

static void fail_nth(long n)
{
    fail_alloc(n, false);
}

static void fail_large(long bytes)
{
    fail_alloc_above((size_t)bytes);
}

static void expect_refusal(noc_message *heard)
{
    noc_outcome *outcome;
    ck_assert_int_eq(heard->type, NOC_SAY_FINISHED);
    ck_assert_int_eq(noc_record_get_outcome(&heard->record, &outcome, NULL), NOC_OK);
    ck_assert_uint_eq(outcome->lease, LEASE);
    ck_assert_int_eq(outcome->failure.status, NOC_ENOMEMORY);
    ck_assert_ptr_nonnull(strstr(outcome->failure.text, "a writer: no memory"));
    noc_outcome_free(outcome);
    noc_record_free(&heard->record);
}

START_TEST(a_mask_too_many_is_refused)
{
    noc_message heard;
    answer(fail_large, VOXELS, &heard);
    expect_refusal(&heard);
    answer(fail_nth, 0, &heard);
    ck_assert_int_eq(heard.type, NOC_SAY_HOLDS);
    ck_assert_uint_eq(noc_record_get_u64(&heard.record), LEASE);
    noc_record_free(&heard.record);
}
END_TEST

/* Each allocation fails once. Only where the answer itself has none it stays away: then its rank leaves. */
START_TEST(every_allocation_may_fail)
{
    int refusals = 0, silences = 0;
    for (int n = 1; n < SOME; n++) {
        noc_message heard;
        answer(fail_nth, n, &heard);
        if (heard.type == NOC_SAY_FINISHED) {
            refusals++;
            ck_assert(silences > 0 || !noc_link_has_lost(link_here));
            expect_refusal(&heard);
        } else if (heard.type == 0) {
            silences++;
            ck_assert(noc_link_has_lost(link_here));
        } else {
            noc_record_free(&heard.record);
        }
    }
    ck_assert_int_ge(refusals, 2);
    ck_assert_int_le(silences, 2);
}
END_TEST

/* Counts are held against what is there, before memory is asked for them. */
START_TEST(a_round_of_more_than_its_message_holds_is_refused)
{
    const uint64_t counts[] = {1, UINT64_C(1) << 32, UINT64_C(1) << 40, UINT64_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        noc_message message = {.type = NOC_SAY_ROUND}, heard;
        noc_error failure;
        uint32_t type;
        noc_record_begin(&message.record, NOC_SAY_ROUND);
        noc_record_put_u64(&message.record, 7);
        noc_record_put_text(&message.record, "isa");
        noc_record_put_text(&message.record, "device");
        noc_record_put_u64(&message.record, counts[i]);
        ck_assert_int_eq(noc_record_end(&message.record, NULL), NOC_OK);
        void *data = message.record.data;
        ck_assert_int_eq(noc_record_open(&message.record, data, message.record.size, &type, NULL), NOC_OK);
        noc_writer_handle(writer, &message);
        ck_assert(noc_link_receive(link_here, &heard) && heard.type == NOC_SAY_ROUND_DONE);
        noc_record_get_u64(&heard.record);
        noc_record_get_u64(&heard.record);
        noc_record_get_error(&heard.record, &failure);
        ck_assert_int_eq(failure.status, NOC_EINTERNAL);
        noc_record_free(&heard.record);
        free(data);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("writer");
    TCase *cases = tcase_create("writer");
    tcase_add_checked_fixture(cases, set_up, tear_down);
    tcase_add_test(cases, a_mask_too_many_is_refused);
    tcase_add_test(cases, every_allocation_may_fail);
    tcase_add_test(cases, a_round_of_more_than_its_message_holds_is_refused);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
