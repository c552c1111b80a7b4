/* A writer that has no memory says so: a lease that is renewed by heartbeats would otherwise never end. And
 * what another writer of its group sends is held against what can be; the other one, MPI and the part are
 * simulated here. */
#include "engine/base/memory.h"
#include "pipeline/message.h"
#include "pipeline/writer.h"
#include "tests/fail_alloc.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LEASE = 99, SIDE = 16, VOXELS = SIDE * SIDE * SIDE, SOME = 64 };

static noc_link *link_here;
static noc_writer *writer;

/* ---- a group of two ---- */

enum { OTHERS = 2, ROUND_STUDIES = OTHERS + 1 };

static noc_record sent;  /* by writer 1 */
static bool is_mirrored; /* writer 0's message comes back as that one too */
static struct {
    int count, owners[ROUND_STUDIES];
    bool have_mask[ROUND_STUDIES];
    char keys[ROUND_STUDIES][24], sources[ROUND_STUDIES][24];
} written;

int MPI_Comm_rank(MPI_Comm communicator, int *rank)
{
    (void)communicator;
    *rank = 0;
    return MPI_SUCCESS;
}

int MPI_Comm_size(MPI_Comm communicator, int *size)
{
    (void)communicator;
    *size = 2;
    return MPI_SUCCESS;
}

int MPI_Allgather(const void *mine, int count, MPI_Datatype type, void *all, int counts, MPI_Datatype types,
                  MPI_Comm communicator)
{
    (void)count, (void)type, (void)counts, (void)types, (void)communicator;
    int *sizes = all;
    sizes[0] = is_mirrored ? (int)sent.size : *(const int *)mine;
    sizes[1] = (int)sent.size;
    return MPI_SUCCESS;
}

int MPI_Allgatherv(const void *mine, int count, MPI_Datatype type, void *all, const int *counts,
                   const int *places, MPI_Datatype types, MPI_Comm communicator)
{
    (void)count, (void)type, (void)types, (void)communicator;
    memcpy((char *)all + places[0], is_mirrored ? sent.data : mine, (size_t)counts[0]);
    memcpy((char *)all + places[1], sent.data, (size_t)counts[1]);
    return MPI_SUCCESS;
}

char *noc_part_path(const char *where, int64_t number, bool with_open, noc_error *err)
{
    (void)where, (void)number, (void)with_open, (void)err;
    return NULL; /* there is no file */
}

noc_status noc_part_create(const char *path, int64_t number, const noc_part_header *header,
                           MPI_Comm communicator, noc_part_writer **part, noc_error *err)
{
    (void)path, (void)number, (void)header, (void)communicator, (void)err;
    *part = (noc_part_writer *)&written; /* nobody looks into it */
    return NOC_OK;
}

noc_status noc_part_write(noc_part_writer *part, const noc_part_entry *entries, int count, noc_error *err)
{
    (void)part, (void)err;
    for (int i = 0; i < count && i < ROUND_STUDIES; i++) {
        written.owners[i] = entries[i].owner;
        written.have_mask[i] = entries[i].outcome.mask != NULL;
        snprintf(written.keys[i], sizeof written.keys[i], "%.23s", entries[i].outcome.key);
        snprintf(written.sources[i], sizeof written.sources[i], "%.23s", entries[i].source);
    }
    written.count = count;
    return NOC_OK;
}

noc_status noc_part_close(noc_part_writer *part, int64_t *bytes, noc_error *err)
{
    (void)part, (void)bytes, (void)err;
    return NOC_OK;
}

void noc_part_abandon(noc_part_writer *part)
{
    (void)part;
}

/* ---- a writer alone ---- */

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

/* What writer 1 sends: says how many studies, and brings as many; with_source: of the last one too. */
static void pack_others(uint64_t says, int brings, bool with_source)
{
    noc_record_begin(&sent, NOC_SAY_ROUND);
    noc_record_put_u64(&sent, says);
    for (int i = 0; i < brings; i++) {
        noc_outcome outcome = {.lease = 1, .mask_bytes = 1, .grid.size = {SIDE, SIDE, SIDE}};
        snprintf(outcome.key, sizeof outcome.key, "other_%d", i);
        noc_record_put_outcome(&sent, &outcome, false);
        if (with_source || i + 1 < brings)
            noc_record_put_text(&sent, outcome.key);
    }
    ck_assert_int_eq(noc_record_end(&sent, NULL), NOC_OK);
}

/* Writer 0 brings one study to a round, its n-th allocation from then on fails (0: none); how the round
 * ended. */
static noc_status round_with_others(long n)
{
    static const noc_part_header header;
    noc_message message = {.type = NOC_SAY_ROUND}, heard;
    noc_error failure;
    uint32_t type;
    ck_assert_int_eq(noc_writer_create(link_here, MPI_COMM_WORLD, "/nowhere", &header, &writer, NULL),
                     NOC_OK);
    answer(fail_nth, 0, &heard);
    noc_record_free(&heard.record);
    noc_record_begin(&message.record, NOC_SAY_ROUND);
    noc_record_put_u64(&message.record, 7);
    noc_record_put_text(&message.record, "isa");
    noc_record_put_text(&message.record, "device");
    noc_record_put_u64(&message.record, 1);
    noc_record_put_u64(&message.record, LEASE);
    noc_record_put_text(&message.record, "own");
    ck_assert_int_eq(noc_record_end(&message.record, NULL), NOC_OK);
    void *data = message.record.data;
    ck_assert_int_eq(noc_record_open(&message.record, data, message.record.size, &type, NULL), NOC_OK);
    fail_nth(n);
    noc_writer_handle(writer, &message);
    fail_nth(0);
    free(data);
    failure.status = NOC_ENOMEMORY; /* the answer itself found none */
    if (noc_link_receive(link_here, &heard)) {
        noc_record_get_u64(&heard.record);
        noc_record_get_u64(&heard.record);
        noc_record_get_error(&heard.record, &failure);
        noc_record_free(&heard.record);
        ck_assert_int_eq(noc_writer_is_broken(writer), failure.status != NOC_OK);
    }
    noc_writer_free(writer);
    return failure.status;
}

static void set_up_group(void)
{
    ck_assert_int_eq(noc_link_open_local(&link_here, NULL), NOC_OK);
}

static void tear_down_group(void)
{
    noc_record_free(&sent);
    noc_link_close(link_here);
}

START_TEST(a_round_holds_what_each_brings)
{
    pack_others(OTHERS, OTHERS, true);
    ck_assert_int_eq(round_with_others(0), NOC_OK);
    ck_assert_int_eq(written.count, ROUND_STUDIES);
    ck_assert_str_eq(written.keys[0], "case_7");
    ck_assert_str_eq(written.sources[0], "own");
    ck_assert(written.owners[0] == 0 && written.have_mask[0]);
    for (int i = 0; i < OTHERS; i++) {
        char key[24];
        snprintf(key, sizeof key, "other_%d", i);
        ck_assert_str_eq(written.keys[1 + i], key);
        ck_assert_str_eq(written.sources[1 + i], key);
        ck_assert(written.owners[1 + i] == 1 && !written.have_mask[1 + i]);
    }
}
END_TEST

START_TEST(what_another_writer_cannot_have_sent_is_refused)
{
    static const struct {
        uint64_t says;
        int brings;
        bool with_source, is_mirrored;
    } cases[] = {{OTHERS + 1, OTHERS, true, false},
                 {UINT64_MAX, OTHERS, true, false},
                 {UINT64_C(1) << 31, OTHERS, true, false},
                 {OTHERS, OTHERS, false, false},
                 {OTHERS, OTHERS, true, true}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        written.count = 0;
        is_mirrored = cases[i].is_mirrored;
        pack_others(cases[i].says, cases[i].brings, cases[i].with_source);
        ck_assert_int_eq(round_with_others(0), NOC_EINTERNAL);
        ck_assert_int_eq(written.count, 0);
        noc_record_free(&sent);
    }
    noc_record_begin(&sent, NOC_SAY_ROUND);
    ck_assert_int_eq(noc_record_end(&sent, NULL), NOC_OK);
    sent.size--;
    is_mirrored = false;
    ck_assert_int_eq(round_with_others(0), NOC_EINTERNAL);
}
END_TEST

START_TEST(every_allocation_of_a_round_may_fail)
{
    int failures = 0;
    pack_others(OTHERS, OTHERS, true);
    for (int n = 1; n < SOME; n++) {
        noc_status status = round_with_others(n);
        ck_assert(status == NOC_OK || status == NOC_ENOMEMORY);
        failures += status != NOC_OK;
    }
    ck_assert_int_ge(failures, 6);
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
    TCase *group = tcase_create("group");
    tcase_add_checked_fixture(group, set_up_group, tear_down_group);
    tcase_add_test(group, a_round_holds_what_each_brings);
    tcase_add_test(group, what_another_writer_cannot_have_sent_is_refused);
    tcase_add_test(group, every_allocation_of_a_round_may_fail);
    suite_add_tcase(suite, group);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
