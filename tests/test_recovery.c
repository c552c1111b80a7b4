/* What a run finds after another was cut short: unfinished parts go, whole ones count, the rest is set aside;
 * and nothing is ever written over. */
#include "engine/base/file.h"
#include "pipeline/recovery.h"
#include "tests/part_sample.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[512];
static noc_error err;
static noc_catalog *catalog;
static int64_t set;
static noc_configuration configuration;
static noc_recovery found;

#define ck_ok(call) ck_assert_msg((call) == NOC_OK, "%s", err.text)

static void make_set(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/recovery.XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    ck_ok(sample_catalog_create(folder, &catalog, &set, &err));
    ck_ok(noc_catalog_read_set(catalog, set, &configuration, &err));
}

static void remove_set(void)
{
    char command[600];
    noc_catalog_close(catalog);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    ck_assert_int_eq(system(command), 0);
}

static const char *path_of(const char *name)
{
    static char path[4][1024];
    static int at;
    at = (at + 1) % 4;
    snprintf(path[at], sizeof path[at], "%s/%s", folder, name);
    return path[at];
}

static void make_file(const char *name, const char *text)
{
    ck_ok(noc_file_replace(path_of(name), text, strlen(text), &err));
}

static bool holds(const char *name, const char *text)
{
    char *data = NULL;
    size_t size = 0;
    if (noc_file_read(path_of(name), 1 << 20, &data, &size, NULL) != NOC_OK)
        return false;
    bool is_same = size == strlen(text) && memcmp(data, text, size) == 0;
    free(data);
    return is_same;
}

static bool is_there(const char *name)
{
    return access(path_of(name), F_OK) == 0;
}

static int64_t count(noc_study_state state)
{
    noc_counts counts;
    ck_ok(noc_catalog_counts(catalog, set, &counts, &err));
    return counts.states[state];
}

static void recover(void)
{
    ck_ok(noc_recover(catalog, set, &configuration, &found, &err));
}

static void write_part(int64_t number, int first, int studies)
{
    int64_t bytes;
    ck_ok(sample_write_part(folder, NOC_OUTPUT_LABELS, number, first, studies, &bytes, &err));
}

/* Of every count but last_part. */
static int64_t sum(void)
{
    return found.removed_open + found.adopted + found.unknown + found.dropped + found.put_back;
}

START_TEST(an_unfinished_part_is_removed)
{
    ck_ok(sample_commit(folder, catalog, set, 1, 0, 4, &err));
    make_file("part-000002.h5.open", "half a part");
    recover();
    ck_assert_int_eq(found.removed_open, 1);
    ck_assert_int_eq(sum(), 1);
    ck_assert_int_eq(found.last_part, 2); /* its number is not given again */
    ck_assert(!is_there("part-000002.h5.open") && is_there("part-000001.h5"));
    ck_assert_int_eq(count(NOC_DONE), 4);
    recover();
    ck_assert_int_eq(sum(), 0);
}
END_TEST

/* By a killed process; who lives may be at it. */
START_TEST(leftovers_of_the_dead_are_removed)
{
    char living[64];
    snprintf(living, sizeof living, ".index-%ld.h5", (long)getpid());
    make_file(living, "an index in the making");
    make_file(".index-4194305.h5", "half an index"); /* beyond the largest pid */
    make_file("status.json.4194305.3.tmp", "half a status");
    make_file("run.json.4194305.2.tmp", "half the figures");
    make_file("status.json", "{}");
    make_file("status.json.bak", "somebody's");
    recover();
    ck_assert_int_eq(sum(), 0);
    ck_assert(!is_there(".index-4194305.h5") && !is_there("status.json.4194305.3.tmp"));
    ck_assert(!is_there("run.json.4194305.2.tmp"));
    ck_assert(is_there(living) && is_there("status.json") && is_there("status.json.bak"));
}
END_TEST

START_TEST(a_whole_part_is_adopted)
{
    ck_ok(sample_commit(folder, catalog, set, 1, 0, 2, &err));
    write_part(2, 2, 3);
    recover();
    ck_assert_int_eq(found.adopted, 1);
    ck_assert_int_eq(sum(), 1);
    ck_assert_int_eq(found.last_part, 2);
    ck_assert_int_eq(count(NOC_DONE), 5);
    ck_assert_int_eq(count(NOC_PENDING), SAMPLE_STUDIES - 5);
    recover();
    ck_assert_int_eq(sum(), 0);
}
END_TEST

/* A study that the lost run was still to be asked about is done when its part is whole. */
START_TEST(adoption_comes_before_putting_back)
{
    noc_pending *list;
    size_t studies;
    int64_t run;
    ck_ok(noc_catalog_begin_run(catalog, set, &(noc_run_record){.ranks = 3}, &run, &err));
    ck_ok(noc_catalog_pending(catalog, set, NULL, 3, &list, &studies, &err));
    for (size_t i = 0; i < studies; i++)
        ck_ok(noc_catalog_start(catalog, set, run, list[i].study.id, 2, "here", &err));
    ck_ok(noc_catalog_mark_written(catalog, set, list[0].study.id, 1, &err));
    ck_ok(noc_catalog_mark_written(catalog, set, list[1].study.id, 1, &err));
    noc_pending_free(list, studies);
    write_part(1, 0, 2);
    recover();
    ck_assert_int_eq(found.adopted, 1);
    ck_assert_int_eq(found.put_back, 1);
    ck_assert_int_eq(count(NOC_DONE), 2);
    ck_assert_int_eq(count(NOC_PENDING), SAMPLE_STUDIES - 2);
}
END_TEST

START_TEST(a_part_of_another_configuration_is_set_aside)
{
    write_part(1, 0, 2);
    configuration.overlap = 0.25;
    recover();
    ck_assert_int_eq(found.unknown, 1);
    ck_assert_int_eq(sum(), 1);
    ck_assert(!is_there("part-000001.h5") && is_there("part-000001.h5.unknown"));
    ck_assert_int_eq(count(NOC_DONE), 0);
}
END_TEST

START_TEST(what_is_set_aside_replaces_nothing)
{
    make_file("part-000001.h5", "no part");
    make_file("part-000001.h5.unknown", "an older one");
    make_file("part-000001.h5.1.unknown", "another");
    recover();
    ck_assert_int_eq(found.unknown, 1);
    ck_assert(!is_there("part-000001.h5"));
    ck_assert(holds("part-000001.h5.unknown", "an older one"));
    ck_assert(holds("part-000001.h5.1.unknown", "another"));
    ck_assert(holds("part-000001.h5.2.unknown", "no part"));
}
END_TEST

START_TEST(a_part_that_is_gone_gives_its_studies_back)
{
    ck_ok(sample_commit(folder, catalog, set, 1, 0, 2, &err));
    ck_ok(sample_commit(folder, catalog, set, 2, 2, 3, &err));
    ck_assert_int_eq(unlink(path_of("part-000001.h5")), 0);
    recover();
    ck_assert_int_eq(found.dropped, 1);
    ck_assert_int_eq(found.last_part, 2);
    ck_assert_int_eq(count(NOC_DONE), 3);
    ck_assert_int_eq(count(NOC_PENDING), SAMPLE_STUDIES - 3);
}
END_TEST

START_TEST(a_part_of_another_size_is_set_aside)
{
    ck_ok(sample_commit(folder, catalog, set, 1, 0, 2, &err));
    ck_assert_int_eq(truncate(path_of("part-000001.h5"), 1000), 0);
    recover();
    ck_assert_int_eq(found.dropped, 1);
    ck_assert_int_eq(found.unknown, 1);
    ck_assert(is_there("part-000001.h5.unknown"));
    ck_assert_int_eq(count(NOC_DONE), 0);
}
END_TEST

START_TEST(other_files_are_left_alone)
{
    static const char *const names[] = {
        "notes.txt", "part-7.h5", "part-7.h5.open", "part-000003.h5.unknown", "part-000003.h5.open.bak",
        "part-x.h5", "index.h5"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        make_file(names[i], names[i]);
    recover();
    ck_assert_int_eq(sum(), 0);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        ck_assert_msg(holds(names[i], names[i]), "%s", names[i]);
}
END_TEST

START_TEST(a_missing_folder_is_made)
{
    snprintf(configuration.results, sizeof configuration.results, "%s/some/where", folder);
    recover();
    ck_assert(is_there("some/where"));
    ck_assert_int_eq(found.last_part, 0);
}
END_TEST

START_TEST(what_stands_in_the_way_is_said)
{
    ck_assert_int_eq(mkdir(path_of("part-000001.h5.open"), 0700), 0);
    ck_assert_int_eq(noc_recover(catalog, set, &configuration, &found, &err), NOC_EIO);
    ck_assert_ptr_nonnull(strstr(err.text, "part-000001.h5.open"));
}
END_TEST

START_TEST(publishing_replaces_nothing)
{
    make_file("part-000005.h5.open", "new");
    ck_ok(noc_part_publish(folder, 5, &err));
    ck_assert(holds("part-000005.h5", "new") && !is_there("part-000005.h5.open"));
    make_file("part-000005.h5.open", "newer");
    ck_assert_int_eq(noc_part_publish(folder, 5, &err), NOC_EIO);
    ck_assert_ptr_nonnull(strstr(err.text, "part-000005.h5.open"));
    ck_assert(holds("part-000005.h5", "new") && holds("part-000005.h5.open", "newer"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("recovery");
    TCase *cases = tcase_create("recovery");
    tcase_add_checked_fixture(cases, make_set, remove_set);
    tcase_add_test(cases, an_unfinished_part_is_removed);
    tcase_add_test(cases, leftovers_of_the_dead_are_removed);
    tcase_add_test(cases, a_whole_part_is_adopted);
    tcase_add_test(cases, adoption_comes_before_putting_back);
    tcase_add_test(cases, a_part_of_another_configuration_is_set_aside);
    tcase_add_test(cases, what_is_set_aside_replaces_nothing);
    tcase_add_test(cases, a_part_that_is_gone_gives_its_studies_back);
    tcase_add_test(cases, a_part_of_another_size_is_set_aside);
    tcase_add_test(cases, other_files_are_left_alone);
    tcase_add_test(cases, a_missing_folder_is_made);
    tcase_add_test(cases, what_stands_in_the_way_is_said);
    tcase_add_test(cases, publishing_replaces_nothing);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
