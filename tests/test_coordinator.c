/* The coordinator over the local link: the test plays the worker and the writer of a run in one process. */
#include "engine/base/file.h"
#include "pipeline/command.h"
#include "pipeline/coordinator.h"
#include "pipeline/message.h"
#include "tests/part_sample.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DEPTH = 4, NO_LEASE = 99, PLAGUE = 60 }; /* studies that a worker holds at once */

static char folder[512], catalog_path[600];
static noc_error err;
static noc_settings settings;
static noc_model *model;
static noc_link *link_here;
static noc_coordinator *coordinator;
static double now;
static noc_message heard;
static noc_outcome granted[PLAGUE]; /* study, key and lease of each grant, in their order */
static int grants;

#define ck_ok(call) ck_assert_msg((call) == NOC_OK, "%s", err.text)

/* The program's own stands in main.c. */
int noc_command_fail(const noc_error *failure)
{
    return noc_status_exit(failure->status);
}

/* Beside those of the sample. */
static void add_studies(noc_catalog *catalog, int count)
{
    for (int i = 0; i < count; i++) {
        noc_study study = {.layout = "file", .channel_count = 1};
        noc_put what;
        snprintf(study.key, sizeof study.key, "more_%03d", i);
        ck_assert_int_gt(asprintf(&study.channels[0], "/scans/more_%03d.nii.gz", i), 0);
        study.fingerprint = strdup("1:1");
        ck_ok(noc_catalog_put_study(catalog, &study, &what, &err));
        noc_study_clear(&study);
    }
}

static void make_run_of(int more)
{
    const char *base = getenv("TMPDIR");
    noc_catalog *catalog;
    int64_t set;
    bool is_help;
    static char verb[] = "run";
    snprintf(folder, sizeof folder, "%s/coordinator.XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(catalog_path, sizeof catalog_path, "%s/catalog.sqlite", folder);
    ck_ok(noc_settings_parse(1, (char *[]){verb, NULL}, &settings, &is_help, &err));
    settings.catalog = catalog_path;
    settings.part_studies = 2;
    settings.disk_reserve = 0;
    ck_ok(noc_model_load("tests/data/models/tiny", &model, &err));
    ck_ok(noc_link_open_local(&link_here, &err));
    noc_coordinator_options options = {.settings = &settings, .model = model, .link = link_here};
    ck_ok(noc_layout_make(1, 1, 1, &options.layout, &err));
    ck_ok(sample_catalog_create(folder, &catalog, &set, &err));
    ck_ok(noc_catalog_read_set(catalog, set, &options.configuration, &err));
    add_studies(catalog, more);
    noc_catalog_close(catalog);
    ck_ok(noc_coordinator_create(&options, &coordinator, &err));
    now = 100;
    grants = 0;
}

static void make_run(void)
{
    make_run_of(0);
}

static void make_plague(void)
{
    make_run_of(PLAGUE - SAMPLE_STUDIES);
}

static void remove_run(void)
{
    char command[600];
    noc_coordinator_free(coordinator);
    noc_link_close(link_here);
    noc_model_free(model);
    noc_settings_free(&settings);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    ck_assert_int_eq(system(command), 0);
}

/* ---- what ranks say ---- */

static void say(noc_record *record)
{
    ck_ok(noc_record_end(record, &err));
    noc_link_send(link_here, 0, record);
}

static void say_number(noc_message_type type, uint64_t number)
{
    noc_record record;
    noc_record_begin(&record, type);
    noc_record_put_u64(&record, number);
    say(&record);
}

static void say_hello(void)
{
    noc_record record;
    noc_record_begin(&record, NOC_SAY_HELLO);
    noc_record_put_text(&record, "arithmetic");
    noc_record_put_text(&record, "device");
    noc_record_put_text(&record, "isa");
    noc_record_put_error(&record, &(noc_error){.status = NOC_OK});
    noc_record_put_text(&record, "");
    say(&record);
}

static void say_finished(const noc_outcome *grant, noc_status status)
{
    noc_record record;
    noc_outcome outcome = *grant;
    outcome.failure.status = status;
    snprintf(outcome.failure.text, sizeof outcome.failure.text, "%s", status ? "a sentence" : "");
    memset(outcome.mask_sha256, 'a', 64);
    outcome.grid.size[0] = outcome.grid.size[1] = outcome.grid.size[2] = 1;
    outcome.mask_bytes = 1;
    noc_record_begin(&record, NOC_SAY_FINISHED);
    noc_record_put_outcome(&record, &outcome, false);
    say(&record);
}

static void say_part(noc_message_type type, uint64_t part, noc_status status)
{
    noc_record record;
    noc_error failure = {.status = status};
    snprintf(failure.text, sizeof failure.text, "%s", status ? "the disk is gone" : "");
    noc_record_begin(&record, type);
    noc_record_put_u64(&record, part);
    noc_record_put_u64(&record, 3);
    noc_record_put_error(&record, &failure);
    say(&record);
}

/* ---- what the coordinator says ---- */

static bool is_over(noc_verdict *verdict)
{
    return noc_coordinator_is_over(coordinator, verdict);
}

static void note_grant(void)
{
    noc_study study;
    ck_assert_int_lt(grants, PLAGUE);
    granted[grants].lease = noc_record_get_u64(&heard.record);
    ck_ok(noc_record_get_study(&heard.record, &study, &err));
    granted[grants].study = study.id;
    memcpy(granted[grants++].key, study.key, sizeof study.key);
    noc_study_clear(&study);
}

/* Lets it work until it says something of that type; grants on the way are noted. False: it has no more to
 * say. */
static bool hear(noc_message_type type)
{
    for (int quiet = 0; quiet < 20;) {
        now += 0.01;
        bool did = noc_coordinator_tick(coordinator, now);
        noc_record_free(&heard.record);
        if (!noc_link_receive(link_here, &heard)) {
            quiet += !did;
            continue;
        }
        quiet = 0;
        if (noc_coordinator_handle(coordinator, &heard, now))
            continue;
        if (heard.type == NOC_SAY_GRANT)
            note_grant();
        if (heard.type == type)
            return true;
    }
    memset(&heard, 0, sizeof heard);
    return false;
}

static uint64_t number_heard(noc_message_type type)
{
    ck_assert_msg(hear(type), "it never said %d", type);
    return noc_record_get_u64(&heard.record);
}

static void start_work(void)
{
    say_hello();
    ck_assert(!hear(NOC_SAY_DELIVER));
    ck_assert_int_eq(grants, DEPTH);
}

/* The mask of a grant goes to the writer. */
static void deliver(const noc_outcome *grant)
{
    say_finished(grant, NOC_OK);
    ck_assert_uint_eq(number_heard(NOC_SAY_DELIVER), grant->lease);
    say_number(NOC_SAY_HOLDS, grant->lease);
}

/* The writer is told to write; its answer. */
static uint64_t answer_round(noc_status status)
{
    uint64_t part = number_heard(NOC_SAY_ROUND);
    say_part(NOC_SAY_ROUND_DONE, part, status);
    return part;
}

/* The writer is told to close: it leaves a file of the three bytes that it says. */
static void answer_close(noc_status status)
{
    uint64_t part = number_heard(NOC_SAY_CLOSE);
    char *path = noc_part_path(folder, (int64_t)part, true, &err);
    ck_ok(noc_file_replace(path, "hdf", 3, &err));
    free(path);
    say_part(NOC_SAY_CLOSED, part, status);
}

static void ends_with(int code)
{
    noc_verdict verdict = {.exit_code = -1};
    ck_assert(!hear(NOC_SAY_ROUND));
    ck_assert(is_over(&verdict));
    ck_assert_int_eq(verdict.exit_code, code);
}

static void stands(int64_t pending, int64_t done, int64_t failed)
{
    noc_catalog *catalog;
    noc_counts counts;
    int64_t set;
    ck_ok(noc_catalog_open(catalog_path, NOC_CATALOG_READ, &catalog, &err));
    ck_ok(noc_catalog_find_set(catalog, folder, &set, &err));
    ck_ok(noc_catalog_counts(catalog, set, &counts, &err));
    noc_catalog_close(catalog);
    ck_assert_int_eq(counts.states[NOC_PENDING], pending);
    ck_assert_int_eq(counts.states[NOC_DONE], done);
    ck_assert_int_eq(counts.states[NOC_FAILED], failed);
    ck_assert_int_eq(counts.states[NOC_RUNNING] + counts.states[NOC_WRITTEN], 0);
}

/* ---- the tests ---- */

START_TEST(a_run_fills_one_part_after_the_other)
{
    start_work();
    for (int i = 0; i < SAMPLE_STUDIES; i++) {
        deliver(&granted[i]);
        ck_assert_uint_eq(answer_round(NOC_OK), (uint64_t)(i / 2 + 1));
        if (i % 2 == 1)
            answer_close(NOC_OK);
    }
    ends_with(0);
    ck_assert_int_eq(grants, SAMPLE_STUDIES);
    stands(0, SAMPLE_STUDIES, 0);
}
END_TEST

static int64_t last_part(void)
{
    noc_catalog *catalog;
    int64_t set, number = -1;
    ck_ok(noc_catalog_open(catalog_path, NOC_CATALOG_READ, &catalog, &err));
    ck_ok(noc_catalog_find_set(catalog, folder, &set, &err));
    ck_ok(noc_catalog_last_part(catalog, set, &number, &err));
    noc_catalog_close(catalog);
    return number;
}

/* A writer that outlives its start may still act on the order: nobody else must ever get that number. */
START_TEST(a_number_is_on_record_before_a_writer_hears_it)
{
    start_work();
    ck_assert_int_eq(last_part(), 0);
    deliver(&granted[0]);
    ck_assert_uint_eq(number_heard(NOC_SAY_ROUND), 1);
    ck_assert_int_eq(last_part(), 1);
}
END_TEST

START_TEST(what_belongs_to_no_lease_is_refused)
{
    start_work();
    noc_outcome late = granted[0];
    late.lease = NO_LEASE;
    say_finished(&late, NOC_OK);
    ck_assert_uint_eq(number_heard(NOC_SAY_DISCARD), NO_LEASE);
    say_number(NOC_SAY_HOLDS, NO_LEASE);
    ck_assert_uint_eq(number_heard(NOC_SAY_DROP), NO_LEASE);
    deliver(&granted[0]);
    say_number(NOC_SAY_HOLDS, granted[0].lease); /* the same once more */
    ck_assert_uint_eq(number_heard(NOC_SAY_DROP), granted[0].lease);
}
END_TEST

/* Lets time pass until it says that, with a worker that lives. False: not within so many seconds. */
static bool hear_within(noc_message_type type, double seconds)
{
    double end = now + seconds;
    while (now < end) {
        noc_record ping;
        noc_record_begin(&ping, NOC_SAY_PING);
        say(&ping);
        if (hear(type))
            return true;
        now += 1;
    }
    return false;
}

/* Every study but the first granted is delivered, and that one when it is granted again. */
static void finish_the_rest(void)
{
    for (int i = 1; i <= SAMPLE_STUDIES; i++) {
        if (i >= grants)
            hear_within(NOC_SAY_DELIVER, 60);
        ck_assert_int_lt(i, grants);
        deliver(&granted[i]);
        answer_round(NOC_OK);
    }
    answer_close(NOC_OK);
    ends_with(0);
    stands(0, SAMPLE_STUDIES, 0);
    ck_assert_int_eq(granted[SAMPLE_STUDIES].study, granted[0].study);
}

START_TEST(a_mask_that_its_writer_cannot_keep_is_made_again)
{
    settings.part_studies = 64;
    settings.part_seconds = 1e6;
    start_work();
    say_finished(&granted[0], NOC_OK);
    ck_assert_uint_eq(number_heard(NOC_SAY_DELIVER), granted[0].lease);
    say_finished(&granted[0], NOC_ENOMEMORY); /* the writer now */
    ck_assert_uint_eq(number_heard(NOC_SAY_DISCARD), granted[0].lease);
    finish_the_rest();
}
END_TEST

START_TEST(a_mask_that_never_arrives_is_made_again)
{
    settings.part_studies = 64;
    settings.part_seconds = 1e6;
    start_work();
    say_finished(&granted[0], NOC_OK);
    ck_assert_uint_eq(number_heard(NOC_SAY_DELIVER), granted[0].lease);
    ck_assert(!hear_within(NOC_SAY_DISCARD, 100));
    ck_assert(hear_within(NOC_SAY_DISCARD, 60));
    ck_assert_uint_eq(noc_record_get_u64(&heard.record), granted[0].lease);
    say_number(NOC_SAY_HOLDS, granted[0].lease); /* late */
    ck_assert_uint_eq(number_heard(NOC_SAY_DROP), granted[0].lease);
    finish_the_rest();
}
END_TEST

START_TEST(a_bad_scan_fails_alone)
{
    settings.part_studies = 64;
    start_work();
    say_finished(&granted[0], NOC_EUNREADABLE);
    for (int i = 1; i < SAMPLE_STUDIES; i++) {
        deliver(&granted[i]);
        answer_round(NOC_OK);
    }
    answer_close(NOC_OK);
    ends_with(1);
    stands(0, SAMPLE_STUDIES - 1, 1);
}
END_TEST

/* Whatever the reason: without its part the group cannot go on, so the run must not wait for it. */
START_TEST(a_round_that_fails_ends_the_run)
{
    static const noc_status reasons[] = {NOC_EIO, NOC_ENOMEMORY, NOC_EINTERNAL};
    start_work();
    deliver(&granted[0]);
    answer_round(reasons[_i]);
    ends_with(noc_status_exit(reasons[_i]));
    stands(SAMPLE_STUDIES, 0, 0);
}
END_TEST

/* The run has a reason to stop already, and then its part is lost too. */
START_TEST(a_close_that_fails_ends_a_run_that_stops)
{
    noc_record record;
    noc_error failure = {.status = NOC_EDEVICE, .text = "the device is gone"};
    start_work();
    deliver(&granted[0]);
    answer_round(NOC_OK);
    noc_record_begin(&record, NOC_SAY_BROKEN);
    noc_record_put_error(&record, &failure);
    say(&record);
    answer_close(NOC_EIO);
    ends_with(noc_status_exit(NOC_EDEVICE));
    stands(SAMPLE_STUDIES, 0, 0);
}
END_TEST

START_TEST(a_drained_run_gives_back_what_has_not_begun)
{
    settings.part_studies = 64;
    start_work();
    noc_coordinator_drain(coordinator, "a test asks");
    ck_assert(hear(NOC_SAY_WITHDRAW));
    for (int i = 1; i < DEPTH; i++)
        say_number(NOC_SAY_RETURNED, granted[i].lease);
    deliver(&granted[0]);
    answer_round(NOC_OK);
    answer_close(NOC_OK);
    ends_with(75);
    ck_assert_int_eq(grants, DEPTH);
    stands(SAMPLE_STUDIES - 1, 1, 0);
}
END_TEST

/* Writers may wait for each other in a call of MPI for ever. */
START_TEST(a_round_without_an_end_does_not_outlive_a_drain)
{
    noc_verdict verdict;
    settings.part_studies = 64;
    start_work();
    deliver(&granted[0]);
    ck_assert(hear(NOC_SAY_ROUND));
    noc_coordinator_drain(coordinator, "a test asks");
    noc_coordinator_hurry(coordinator, now);
    now += 9;
    hear(NOC_SAY_CLOSE);
    ck_assert(!is_over(&verdict));
    now += 2;
    hear(NOC_SAY_CLOSE);
    ck_assert(is_over(&verdict));
    ck_assert_int_eq(verdict.exit_code, 75);
    stands(SAMPLE_STUDIES, 0, 0);
}
END_TEST

START_TEST(a_request_after_the_last_study_is_no_early_stop)
{
    settings.part_studies = 64;
    start_work();
    for (int i = 0; i < SAMPLE_STUDIES; i++) {
        deliver(&granted[i]);
        answer_round(NOC_OK);
    }
    noc_coordinator_drain(coordinator, "a test asks");
    answer_close(NOC_OK);
    ends_with(0);
    stands(0, SAMPLE_STUDIES, 0);
}
END_TEST

START_TEST(without_room_the_open_part_is_closed)
{
    settings.part_studies = 64;
    start_work();
    deliver(&granted[0]);
    answer_round(NOC_OK);
    settings.disk_reserve = (size_t)1 << 60;
    deliver(&granted[1]);
    answer_close(NOC_OK);
    ends_with(74);
    stands(SAMPLE_STUDIES - 1, 1, 0);
}
END_TEST

/* Every study fails by the machine: 50 of them are enough, the rest of the night is spared. */
START_TEST(a_plague_stops_the_run)
{
    say_hello();
    hear(NOC_SAY_DELIVER);
    for (int i = 0; i < 50; i++) {
        say_finished(&granted[i], NOC_EUNREADABLE);
        hear(NOC_SAY_WITHDRAW);
    }
    for (int i = 50; i < grants; i++)
        say_number(NOC_SAY_RETURNED, granted[i].lease);
    ends_with(69);
    stands(PLAGUE - 50, 0, 50);
    char *text;
    size_t size;
    char path[700];
    snprintf(path, sizeof path, "%s/run.json", folder);
    ck_ok(noc_file_read(path, 1 << 16, &text, &size, &err));
    ck_assert_ptr_nonnull(strstr(text, "\"exit\":69"));
    free(text);
}
END_TEST

START_TEST(a_second_coordinator_is_refused)
{
    noc_catalog_lock *lock;
    ck_assert_int_eq(noc_catalog_lock_take(catalog_path, 0, &lock, &err), NOC_ETEMPFAIL);
    char pid[32];
    snprintf(pid, sizeof pid, "pid %ld", (long)getpid());
    ck_assert_ptr_nonnull(strstr(err.text, pid));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("coordinator");
    TCase *cases = tcase_create("coordinator");
    tcase_add_checked_fixture(cases, make_run, remove_run);
    tcase_add_test(cases, a_run_fills_one_part_after_the_other);
    tcase_add_test(cases, a_number_is_on_record_before_a_writer_hears_it);
    tcase_add_test(cases, what_belongs_to_no_lease_is_refused);
    tcase_add_test(cases, a_mask_that_its_writer_cannot_keep_is_made_again);
    tcase_add_test(cases, a_mask_that_never_arrives_is_made_again);
    tcase_add_test(cases, a_bad_scan_fails_alone);
    tcase_add_loop_test(cases, a_round_that_fails_ends_the_run, 0, 3);
    tcase_add_test(cases, a_close_that_fails_ends_a_run_that_stops);
    tcase_add_test(cases, a_drained_run_gives_back_what_has_not_begun);
    tcase_add_test(cases, a_round_without_an_end_does_not_outlive_a_drain);
    tcase_add_test(cases, a_request_after_the_last_study_is_no_early_stop);
    tcase_add_test(cases, without_room_the_open_part_is_closed);
    tcase_add_test(cases, a_second_coordinator_is_refused);
    suite_add_tcase(suite, cases);
    TCase *plague = tcase_create("plague");
    tcase_add_checked_fixture(plague, make_plague, remove_run);
    tcase_add_test(plague, a_plague_stops_the_run);
    suite_add_tcase(suite, plague);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
