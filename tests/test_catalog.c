/* The catalog: every change of state, one configuration a folder, changed files, key clashes, the one
 * transaction of a part, schemas, and reading beside a writer. */
#include "catalog/catalog.h"
#include "catalog/database.h"

#include <check.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[256], path[320];
static noc_catalog *catalog;
static noc_error err;

#define OK(call) ck_assert_msg((call) == NOC_OK, "%s: %s", #call, err.text)

static void set_up(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof(folder), "%s/noc_catalog_XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/catalog.sqlite", folder);
    OK(noc_catalog_open(path, NOC_CATALOG_CREATE, &catalog, &err));
}

static void tear_down(void)
{
    static const char *const endings[] = {"", "-wal", "-shm", "-journal"};
    char name[400];
    noc_catalog_close(catalog);
    catalog = NULL;
    chmod(folder, 0700);
    for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
        snprintf(name, sizeof(name), "%s%s", path, endings[i]);
        unlink(name);
    }
    rmdir(folder);
}

/* ---- makers ---- */

static noc_study make_study(const char *key, const char *image, const char *truth, const char *fingerprint)
{
    noc_study study = {.channel_count = 1,
                       .has_shape = true,
                       .size = {4, 5, 6},
                       .spacing_mm = {1, 2, 3},
                       .voxel_bytes = 240,
                       .layout = "file"};
    snprintf(study.key, sizeof(study.key), "%s", key);
    study.channels[0] = strdup(image);
    study.truth = truth ? strdup(truth) : NULL;
    study.fingerprint = strdup(fingerprint);
    return study;
}

static noc_put put(const char *key, const char *image, const char *truth, const char *fingerprint,
                   char *key_out, int64_t *id)
{
    noc_put what;
    noc_study study = make_study(key, image, truth, fingerprint);
    OK(noc_catalog_put_study(catalog, &study, &what, &err));
    if (key_out)
        strcpy(key_out, study.key);
    if (id)
        *id = study.id;
    noc_study_clear(&study);
    return what;
}

static int64_t add(const char *key)
{
    char image[200];
    int64_t id;
    snprintf(image, sizeof(image), "/images/%s.nii.gz", key);
    ck_assert_int_eq(put(key, image, NULL, "1:1", NULL, &id), NOC_PUT_ADDED);
    return id;
}

static noc_configuration make_configuration(const char *results)
{
    noc_configuration c = {.model = "hippocampus",
                           .model_sha256 = "1c6c0123456789",
                           .window = {48, 64, 48},
                           .overlap = 0.5,
                           .blend = "gaussian",
                           .precision = "f32"};
    snprintf(c.results, sizeof(c.results), "%s", results);
    return c;
}

static int64_t open_set(const char *results)
{
    int64_t set = 0;
    noc_configuration c = make_configuration(results);
    OK(noc_catalog_open_set(catalog, &c, &set, &err));
    ck_assert_int_gt(set, 0);
    return set;
}

static int64_t begin_run(int64_t set)
{
    int64_t run = 0;
    noc_run_record record = {.version = "0.1.0", .device = "cpu", .host = "here", .ranks = 3};
    OK(noc_catalog_begin_run(catalog, set, &record, &run, &err));
    return run;
}

static noc_counts counts_of(int64_t set)
{
    noc_counts counts;
    OK(noc_catalog_counts(catalog, set, &counts, &err));
    return counts;
}

static int64_t ask(const char *sql)
{
    sqlite3_stmt *row = NULL;
    ck_assert_int_eq(sqlite3_prepare_v2(catalog->db, sql, -1, &row, NULL), SQLITE_OK);
    ck_assert_int_eq(sqlite3_step(row), SQLITE_ROW);
    int64_t value = sqlite3_column_int64(row, 0);
    sqlite3_finalize(row);
    return value;
}

static noc_part_record make_part(int64_t number, const char *const *keys, size_t count,
                                 const char *fingerprint)
{
    noc_part_record part = {.number = number, .bytes = 1000 + number, .study_count = count};
    part.studies = calloc(count, sizeof(*part.studies));
    for (size_t i = 0; i < count; i++) {
        noc_part_study *s = &part.studies[i];
        snprintf(s->key, sizeof(s->key), "%s", keys[i]);
        snprintf(s->fingerprint, sizeof(s->fingerprint), "%s", fingerprint);
        snprintf(s->mask_sha256, sizeof(s->mask_sha256), "mask%lld", (long long)number);
        snprintf(s->source_sha256, sizeof(s->source_sha256), "aa;bb");
        s->seconds_compute = 2.5;
        s->windows = 8;
        if (number == 1)
            strcpy(s->suspect, "anterior: absent, expected present");
        s->metric_count = 2;
        s->metrics = calloc(2, sizeof(*s->metrics));
        s->metrics[0] = (noc_metric){.label = "1",
                                     .name = "anterior",
                                     .has_truth = true,
                                     .tp = 10,
                                     .fp = 1,
                                     .fn = 2,
                                     .tn = UINT64_C(9000000000),
                                     .dice = 20.0 / 23,
                                     .iou = 10.0 / 13,
                                     .precision = 10.0 / 11,
                                     .recall = 10.0 / 12,
                                     .truth_ml = 0.012,
                                     .prediction_ml = 0.011,
                                     .volume_similarity = INFINITY};
        s->metrics[1] =
            (noc_metric){.label = "2+3", .name = "whole, \"all\"", .dice = NAN, .prediction_ml = 1};
    }
    return part;
}

static noc_status commit_one(int64_t set, int64_t number, const char *key, const char *fingerprint)
{
    noc_part_record part = make_part(number, &key, 1, fingerprint);
    noc_status status = noc_catalog_commit_part(catalog, set, &part, &err);
    noc_part_record_clear(&part);
    return status;
}

/* ---- rows ---- */

typedef struct seen {
    noc_result_row row;
    char failure[32], sentence[512], mask[80];
    noc_metric metrics[4];
    int calls;
} seen;

static noc_status remember(void *argument, const noc_result_row *row, noc_error *error)
{
    seen *out = argument;
    (void)error;
    out->row = *row;
    snprintf(out->failure, sizeof(out->failure), "%s", row->failure ? row->failure : "");
    snprintf(out->sentence, sizeof(out->sentence), "%s", row->sentence ? row->sentence : "");
    snprintf(out->mask, sizeof(out->mask), "%s", row->mask_sha256 ? row->mask_sha256 : "");
    for (int i = 0; i < row->metric_count && i < 4; i++)
        out->metrics[i] = row->metrics[i];
    out->calls++;
    return NOC_OK;
}

static seen result_of(int64_t set, const char *key)
{
    seen out = {0};
    OK(noc_catalog_each_result(catalog, set, key, remember, &out, &err));
    ck_assert_int_eq(out.calls, 1);
    return out;
}

/* ---- studies ---- */

START_TEST(study_comes_back_as_it_was_put)
{
    noc_study found = {0}, study = make_study("a", "/d/a_t1.nii.gz", "/d/a_seg.nii.gz", "1:2;3:4;5:6");
    noc_put what;
    study.channels[study.channel_count++] = strdup("/d/a;odd, name.nii.gz");
    OK(noc_catalog_put_study(catalog, &study, &what, &err));
    ck_assert_int_eq(what, NOC_PUT_ADDED);
    OK(noc_catalog_find_study(catalog, "a", &found, &err));
    ck_assert_int_eq(found.id, study.id);
    ck_assert_int_eq(found.channel_count, 2);
    ck_assert_str_eq(found.channels[1], "/d/a;odd, name.nii.gz");
    ck_assert_str_eq(found.truth, study.truth);
    ck_assert_str_eq(found.fingerprint, study.fingerprint);
    ck_assert_str_eq(found.layout, "file");
    ck_assert(found.has_shape && found.size[2] == 6 && found.spacing_mm[1] == 2 && found.voxel_bytes == 240);
    noc_study_clear(&found);
    noc_study_clear(&study);
    ck_assert_int_eq(noc_catalog_find_study(catalog, "b", &found, &err), NOC_ENOINPUT);
}
END_TEST

START_TEST(unknown_shape_is_kept_unknown_and_can_be_learnt)
{
    noc_put what;
    noc_study found = {0}, study = make_study("a", "/d/a.nii", NULL, "missing");
    study.has_shape = false;
    OK(noc_catalog_put_study(catalog, &study, &what, &err));
    OK(noc_catalog_find_study(catalog, "a", &found, &err));
    ck_assert(!found.has_shape && !found.truth);
    noc_study_clear(&found);
    study.has_shape = true;
    OK(noc_catalog_put_study(catalog, &study, &what, &err));
    ck_assert_int_eq(what, NOC_PUT_UNCHANGED);
    OK(noc_catalog_find_study(catalog, "a", &found, &err));
    ck_assert(found.has_shape);
    noc_study_clear(&found);
    noc_study_clear(&study);
}
END_TEST

START_TEST(putting_again_changes_nothing)
{
    int64_t first, second;
    ck_assert_int_eq(put("a", "/d/a.nii", "/t/a.nii", "1:1;2:2", NULL, &first), NOC_PUT_ADDED);
    ck_assert_int_eq(put("a", "/d/a.nii", "/t/a.nii", "1:1;2:2", NULL, &second), NOC_PUT_UNCHANGED);
    ck_assert_int_eq(first, second);
    ck_assert_int_eq(put("a", "/d/a.nii", "/t/a.nii", "1:1;2:3", NULL, NULL), NOC_PUT_CHANGED);
    ck_assert_int_eq(put("a", "/d/a.nii", NULL, "1:1", NULL, NULL), NOC_PUT_CHANGED);
    ck_assert_int_eq(put("a", "/d/a.nii", NULL, "1:1", NULL, NULL), NOC_PUT_UNCHANGED);
    ck_assert_int_eq(ask("SELECT count(*) FROM study"), 1);
}
END_TEST

START_TEST(clashing_keys_get_folders_then_numbers)
{
    static const char *const images[] = {"/one/anat/s.nii", "/two/anat/s.nii", "/three/anat/s.nii",
                                         "/s.nii",          "/x y/s.nii",      "/more/two/anat/s.nii"};
    static const char *const keys[] = {"s", "anat_s", "three_anat_s", "s-2", "x_y_s", "two_anat_s"};
    char key[NOC_STUDY_KEY];
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 6; i++) {
            noc_put what = put("s", images[i], NULL, "1:1", key, NULL);
            ck_assert_int_eq(what, round ? NOC_PUT_UNCHANGED : NOC_PUT_ADDED);
            ck_assert_str_eq(key, keys[i]);
        }
    }
    ck_assert_int_eq(put("s", "/./s.nii", NULL, "1:1", key, NULL), NOC_PUT_ADDED);
    ck_assert_int_eq(ask("SELECT count(*) FROM study"), 7);
}
END_TEST

START_TEST(longest_key_still_finds_a_place)
{
    char key[NOC_STUDY_KEY], out[NOC_STUDY_KEY];
    memset(key, 'k', sizeof(key) - 1);
    key[sizeof(key) - 1] = 0;
    put(key, "/a/s.nii", NULL, "1:1", out, NULL);
    ck_assert_str_eq(out, key);
    ck_assert_int_eq(put(key, "/b/s.nii", NULL, "1:1", out, NULL), NOC_PUT_ADDED);
    ck_assert_uint_eq(strlen(out), NOC_STUDY_KEY - 1);
    ck_assert_str_eq(out + NOC_STUDY_KEY - 3, "-2");
    ck_assert_int_eq(put(key, "/c/s.nii", NULL, "1:1", out, NULL), NOC_PUT_ADDED);
    ck_assert_str_eq(out + NOC_STUDY_KEY - 3, "-3");
}
END_TEST

START_TEST(bad_studies_are_refused)
{
    static const char *const keys[] = {"", "a b", "a/b", ".", "..", "\xc3\xa4"};
    noc_put what;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        noc_study study = make_study(keys[i], "/d/a.nii", NULL, "1:1");
        ck_assert_int_eq(noc_catalog_put_study(catalog, &study, &what, &err), NOC_EDATA);
        noc_study_clear(&study);
    }
    noc_study study = make_study("a", "/d/a\nb.nii", NULL, "1:1");
    ck_assert_int_eq(noc_catalog_put_study(catalog, &study, &what, &err), NOC_EDATA);
    noc_study_clear(&study);
    ck_assert_int_eq(ask("SELECT count(*) FROM study"), 0);
}
END_TEST

/* ---- sets ---- */

START_TEST(folder_has_one_configuration)
{
    static const char *const words[] = {"1c6c", "deadbeef", "gaussian", "constant", "32x64x48"};
    int64_t set = open_set("/r/one"), again = 0, other = 0;
    noc_configuration c = make_configuration("/r/one"), read;
    OK(noc_catalog_open_set(catalog, &c, &again, &err));
    ck_assert_int_eq(set, again);
    strcpy(c.model_sha256, "deadbeef");
    strcpy(c.blend, "constant");
    c.window[0] = 32;
    ck_assert_int_eq(noc_catalog_open_set(catalog, &c, &other, &err), NOC_ECONFIG);
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        ck_assert_ptr_nonnull(strstr(err.text, words[i]));
    c = make_configuration("/r/one");
    c.overlap = 0.25;
    ck_assert_int_eq(noc_catalog_open_set(catalog, &c, &other, &err), NOC_ECONFIG);
    OK(noc_catalog_read_set(catalog, set, &read, &err));
    ck_assert(read.overlap == 0.5 && read.window[1] == 64);
    ck_assert_str_eq(read.results, "/r/one");
    ck_assert_int_eq(noc_catalog_read_set(catalog, 99, &read, &err), NOC_ENOINPUT);
}
END_TEST

START_TEST(sets_are_found_by_folder_or_alone)
{
    int64_t found = -1;
    OK(noc_catalog_find_set(catalog, "/r/one", &found, &err));
    ck_assert_int_eq(found, 0);
    int64_t one = open_set("/r/one");
    OK(noc_catalog_find_set(catalog, "/r/two", &found, &err));
    ck_assert_int_eq(found, one);
    OK(noc_catalog_find_set(catalog, NULL, &found, &err));
    ck_assert_int_eq(found, one);
    int64_t two = open_set("/r/two");
    OK(noc_catalog_find_set(catalog, "/r/two", &found, &err));
    ck_assert_int_eq(found, two);
    OK(noc_catalog_find_set(catalog, "/r/three", &found, &err));
    ck_assert_int_eq(found, 0);
}
END_TEST

START_TEST(every_set_has_every_study)
{
    add("a");
    int64_t one = open_set("/r/one");
    ck_assert_int_eq(counts_of(one).states[NOC_PENDING], 1);
    add("b");
    int64_t two = open_set("/r/two");
    ck_assert_int_eq(counts_of(one).states[NOC_PENDING], 2);
    ck_assert_int_eq(ask("SELECT count(*) FROM result"), 4);
    ck_assert_int_eq(counts_of(two).states[NOC_PENDING], 2);
    ck_assert_int_eq(counts_of(0).states[NOC_PENDING], 2);
}
END_TEST

/* ---- states ---- */

START_TEST(study_runs_from_pending_to_done)
{
    int64_t id = add("a"), set = open_set("/r"), run = begin_run(set);
    OK(noc_catalog_start(catalog, set, run, id, 2, "node", &err));
    ck_assert_int_eq(result_of(set, "a").row.state, NOC_RUNNING);
    ck_assert_int_eq(noc_catalog_start(catalog, set, run, id, 2, "node", &err), NOC_EINTERNAL);
    OK(noc_catalog_mark_written(catalog, set, id, 1, &err));
    seen now = result_of(set, "a");
    ck_assert(now.row.state == NOC_WRITTEN && now.row.part == 1);
    OK(commit_one(set, 1, "a", "1:1"));
    now = result_of(set, "a");
    ck_assert(now.row.state == NOC_DONE && now.row.part == 1 && now.row.windows == 8);
    ck_assert(now.row.seconds_compute == 2.5 && now.row.attempts == 0);
    ck_assert_str_eq(now.mask, "mask1");
    ck_assert_int_eq(now.row.metric_count, 2);
    ck_assert(now.metrics[0].tn == UINT64_C(9000000000) && now.metrics[0].dice == 20.0 / 23);
    ck_assert(isinf(now.metrics[0].volume_similarity) && isnan(now.metrics[1].dice));
    ck_assert_str_eq(now.metrics[1].label, "2+3");
    ck_assert_str_eq(now.metrics[1].name, "whole, \"all\"");
    ck_assert_int_eq(ask("SELECT count(*) FROM attempt WHERE outcome = 'done' AND ended_ns >= started_ns AND "
                         "rank = 2 AND host = 'node' AND seconds_compute = 2.5"),
                     1);
    ck_assert_int_eq(noc_catalog_put_back(catalog, set, id, false, NULL, &err), NOC_EINTERNAL);
    OK(noc_catalog_end_run(catalog, run, 0, &err));
    ck_assert_int_eq(ask("SELECT count(*) FROM run WHERE ended_ns >= started_ns AND exit_code = 0"), 1);
    ck_assert_int_eq(noc_catalog_end_run(catalog, 99, 0, &err), NOC_EINTERNAL);
}
END_TEST

/* It comes with a part and goes with it, with a newer mask, or with another file. */
START_TEST(what_is_suspect_belongs_to_the_mask)
{
    static const char suspects[] = "SELECT count(*) FROM result WHERE suspect IS NOT NULL";
    int64_t count = 0, set = (add("a"), open_set("/r"));
    OK(commit_one(set, 1, "a", "1:1"));
    ck_assert_int_eq(ask(suspects), 1);
    OK(noc_catalog_drop_part(catalog, set, 1, &count, &err));
    ck_assert_int_eq(ask(suspects), 0);
    OK(commit_one(set, 1, "a", "1:1"));
    OK(commit_one(set, 2, "a", "1:1"));
    ck_assert_int_eq(ask(suspects), 0);
    add("b");
    OK(noc_catalog_drop_part(catalog, set, 1, &count, &err));
    OK(commit_one(set, 1, "b", "1:1"));
    ck_assert_int_eq(ask(suspects), 1);
    ck_assert_int_eq(put("b", "/images/b.nii.gz", NULL, "2:2", NULL, NULL), NOC_PUT_CHANGED);
    ck_assert_int_eq(ask(suspects), 0);
}
END_TEST

START_TEST(ends_are_told_latest_first)
{
    static const char *const keys[] = {"a", "b", "c", "d"};
    int64_t ids[4], set, run;
    noc_status ends[4];
    int count = 0;
    noc_error crash = {.status = NOC_ECRASH, .text = "killed its worker"};
    noc_error device = {.status = NOC_EDEVICE, .text = "the device is gone"};
    for (int i = 0; i < 4; i++)
        ids[i] = add(keys[i]);
    set = open_set("/r");
    run = begin_run(set);
    for (int i = 0; i < 4; i++)
        OK(noc_catalog_start(catalog, set, run, ids[i], 1, "h", &err));
    OK(noc_catalog_fail(catalog, set, ids[1], NOC_QUARANTINED, &crash, &err));
    OK(noc_catalog_fail(catalog, set, ids[0], NOC_FAILED, &device, &err));
    OK(noc_catalog_put_back(catalog, set, ids[3], true, &device, &err)); /* no end: it is tried again */
    OK(noc_catalog_mark_written(catalog, set, ids[2], 1, &err));
    OK(commit_one(set, 1, "c", "1:1"));
    OK(noc_catalog_ends(catalog, set, 0, ends, 4, &count, &err));
    ck_assert_int_eq(count, 3);
    ck_assert(ends[0] == NOC_OK && ends[1] == NOC_EDEVICE && ends[2] == NOC_ECRASH);
    OK(noc_catalog_ends(catalog, set, 0, ends, 2, &count, &err));
    ck_assert(count == 2 && ends[1] == NOC_EDEVICE);
    OK(noc_catalog_ends(catalog, set, INT64_MAX, ends, 4, &count, &err)); /* all before */
    ck_assert_int_eq(count, 0);
}
END_TEST

START_TEST(putting_back_charges_when_asked)
{
    int64_t id = add("a"), set = open_set("/r"), run = begin_run(set);
    noc_error failure = {.status = NOC_EDEVICE, .text = "the device is gone"};
    OK(noc_catalog_start(catalog, set, run, id, 1, "h", &err));
    OK(noc_catalog_put_back(catalog, set, id, false, NULL, &err));
    seen now = result_of(set, "a");
    ck_assert(now.row.state == NOC_PENDING && now.row.attempts == 0 && !now.row.failure);
    OK(noc_catalog_start(catalog, set, run, id, 1, "h", &err));
    OK(noc_catalog_put_back(catalog, set, id, true, &failure, &err));
    now = result_of(set, "a");
    ck_assert(now.row.state == NOC_PENDING && now.row.attempts == 1);
    ck_assert_str_eq(now.failure, "device");
    ck_assert_str_eq(now.sentence, failure.text);
    ck_assert_int_eq(counts_of(set).failures[NOC_EDEVICE], 0);
    ck_assert_int_eq(ask("SELECT count(*) FROM attempt WHERE outcome IN ('given_back', 'device')"), 2);
}
END_TEST

START_TEST(suspects_are_remembered)
{
    int64_t id = add("a"), set = open_set("/r"), run = begin_run(set);
    noc_pending *list = NULL;
    size_t count = 0;
    noc_error failure = {.status = NOC_ECRASH, .text = "killed its worker twice"};
    for (int alone = 0; alone < 2; alone++) {
        OK(noc_catalog_start(catalog, set, run, id, 1, "h", &err));
        OK(noc_catalog_mark_suspect(catalog, set, id, alone, &err));
    }
    OK(noc_catalog_pending(catalog, set, NULL, 0, &list, &count, &err));
    ck_assert(count == 1 && list[0].is_suspect && list[0].deaths_alone == 1 && list[0].attempts == 0);
    noc_pending_free(list, count);
    OK(noc_catalog_fail(catalog, set, id, NOC_QUARANTINED, &failure, &err));
    ck_assert_int_eq(result_of(set, "a").row.state, NOC_QUARANTINED);
    ck_assert_int_eq(ask("SELECT deaths_alone FROM result"), 2);
    ck_assert_int_eq(noc_catalog_fail(catalog, set, id, NOC_FAILED, &failure, &err), NOC_EINTERNAL);
    ck_assert_int_eq(noc_catalog_fail(catalog, set, id, NOC_DONE, &failure, &err), NOC_EINTERNAL);
}
END_TEST

static void fail_study(int64_t set, int64_t run, int64_t id, noc_study_state state, noc_status type)
{
    noc_error failure = {.status = type, .text = "a sentence"};
    OK(noc_catalog_start(catalog, set, run, id, 1, "h", &err));
    OK(noc_catalog_fail(catalog, set, id, state, &failure, &err));
}

START_TEST(failures_are_counted_and_can_be_retried)
{
    int64_t a = add("a1"), b = add("a2"), c = add("b1"), set = open_set("/r"), run = begin_run(set),
            count = 0;
    fail_study(set, run, a, NOC_FAILED, NOC_EUNREADABLE);
    fail_study(set, run, b, NOC_QUARANTINED, NOC_ECRASH);
    fail_study(set, run, c, NOC_FAILED, NOC_EUNREADABLE);
    noc_counts counts = counts_of(set);
    ck_assert(counts.states[NOC_FAILED] == 2 && counts.states[NOC_QUARANTINED] == 1);
    ck_assert(counts.failures[NOC_EUNREADABLE] == 2 && counts.failures[NOC_ECRASH] == 1);
    ck_assert(counts.seconds_left == 0);
    ck_assert_int_eq(result_of(set, "a1").row.attempts, 1);
    OK(noc_catalog_retry(catalog, set, "a*", "unreadable", &count, &err));
    ck_assert_int_eq(count, 1);
    seen now = result_of(set, "a1");
    ck_assert(now.row.state == NOC_PENDING && now.row.attempts == 0 && !now.row.failure && !now.row.sentence);
    OK(noc_catalog_retry(catalog, set, "[!a]*", NULL, &count, &err));
    ck_assert_int_eq(count, 1);
    OK(noc_catalog_retry(catalog, set, NULL, NULL, &count, &err));
    ck_assert_int_eq(count, 1);
    OK(noc_catalog_retry(catalog, set, NULL, NULL, &count, &err));
    ck_assert_int_eq(count, 0);
    ck_assert_int_eq(counts_of(set).states[NOC_PENDING], 3);
}
END_TEST

START_TEST(pending_studies_come_in_order_by_glob_and_limit)
{
    static const char *const keys[] = {"c3", "a1", "b2", "a0"};
    noc_pending *list = NULL;
    size_t count = 0;
    int64_t set = open_set("/r");
    for (int i = 0; i < 4; i++)
        add(keys[i]);
    OK(noc_catalog_pending(catalog, set, NULL, 3, &list, &count, &err));
    ck_assert_uint_eq(count, 3);
    ck_assert_str_eq(list[0].study.key, "a0");
    ck_assert_str_eq(list[2].study.key, "b2");
    noc_pending_free(list, count);
    OK(noc_catalog_pending(catalog, set, "?1", 0, &list, &count, &err));
    ck_assert_uint_eq(count, 1);
    noc_pending_free(list, count);
    OK(noc_catalog_pending(catalog, set, "zzz", 0, &list, &count, &err));
    ck_assert_uint_eq(count, 0);
    noc_pending_free(list, count);
    OK(noc_catalog_pending(catalog, 0, NULL, 0, &list, &count, &err)); /* before the first run */
    ck_assert_uint_eq(count, 4);
    noc_pending_free(list, count);
}
END_TEST

START_TEST(recovery_puts_open_work_back)
{
    int64_t a = add("a"), b = add("b"), c = add("c"), set = open_set("/r"), run = begin_run(set), count = 0;
    OK(noc_catalog_start(catalog, set, run, a, 1, "h", &err));
    OK(noc_catalog_start(catalog, set, run, b, 1, "h", &err));
    OK(noc_catalog_mark_written(catalog, set, b, 1, &err));
    OK(noc_catalog_start(catalog, set, run, c, 1, "h", &err));
    OK(commit_one(set, 2, "c", "1:1"));
    OK(noc_catalog_recover(catalog, set, &count, &err));
    ck_assert_int_eq(count, 2);
    noc_counts counts = counts_of(set);
    ck_assert(counts.states[NOC_PENDING] == 2 && counts.states[NOC_DONE] == 1);
    ck_assert_int_eq(result_of(set, "a").row.attempts, 0);
    ck_assert_int_eq(result_of(set, "b").row.part, 0);
    ck_assert_int_eq(ask("SELECT count(*) FROM attempt WHERE outcome = 'lost' AND ended_ns IS NOT NULL"), 2);
    /* A part that was closed after all is adopted: its attempt was not lost. */
    OK(commit_one(set, 1, "b", "1:1"));
    ck_assert_int_eq(result_of(set, "b").row.state, NOC_DONE);
    ck_assert_int_eq(ask("SELECT count(*) FROM attempt WHERE outcome = 'lost'"), 1);
    OK(noc_catalog_recover(catalog, set, &count, &err));
    ck_assert_int_eq(count, 0);
}
END_TEST

START_TEST(speed_is_of_the_latest_run)
{
    int64_t a = add("a"), b = add("b"), set = open_set("/r"), run = begin_run(set);
    add("c");
    add("d");
    ck_assert(counts_of(set).studies_per_hour == 0 && isnan(counts_of(set).seconds_left));
    OK(noc_catalog_start(catalog, set, run, a, 1, "h", &err));
    OK(noc_catalog_start(catalog, set, run, b, 1, "h", &err));
    OK(commit_one(set, 1, "a", "1:1"));
    OK(commit_one(set, 2, "b", "1:1"));
    OK(noc_database_script(
        catalog, "UPDATE run SET started_ns = 0; UPDATE attempt SET ended_ns = 1800000000000", &err));
    noc_counts counts = counts_of(set);
    ck_assert_double_eq_tol(counts.studies_per_hour, 4, 1e-9);
    ck_assert_double_eq_tol(counts.seconds_left, 1800, 1e-6);
}
END_TEST

/* ---- parts ---- */

START_TEST(part_counts_at_once_or_not_at_all)
{
    static const char *const keys[] = {"a", "b"};
    bool has = true;
    add("a");
    add("b");
    int64_t set = open_set("/r");
    noc_part_record part = make_part(1, keys, 2, "1:1");
    OK(noc_database_script(catalog,
                           "CREATE TRIGGER refuse BEFORE INSERT ON metric WHEN NEW.study_id = 2"
                           " BEGIN SELECT raise(ABORT, 'refused'); END",
                           &err));
    ck_assert_int_ne(noc_catalog_commit_part(catalog, set, &part, &err), NOC_OK);
    ck_assert_int_eq(counts_of(set).states[NOC_PENDING], 2);
    ck_assert_int_eq(ask("SELECT count(*) FROM metric"), 0);
    OK(noc_catalog_has_part(catalog, set, 1, &has, &err));
    ck_assert(!has);
    OK(noc_database_script(catalog, "DROP TRIGGER refuse", &err));
    OK(noc_catalog_commit_part(catalog, set, &part, &err));
    ck_assert_int_eq(counts_of(set).states[NOC_DONE], 2);
    OK(noc_catalog_has_part(catalog, set, 1, &has, &err));
    ck_assert(has);
    ck_assert_int_eq(noc_catalog_commit_part(catalog, set, &part, &err), NOC_EINTERNAL);
    ck_assert_int_eq(ask("SELECT count(*) FROM metric"), 4);
    noc_part_record_clear(&part);
}
END_TEST

START_TEST(part_of_a_changed_file_does_not_count)
{
    int64_t id = add("a"), set = open_set("/r"), run = begin_run(set);
    OK(noc_catalog_start(catalog, set, run, id, 1, "h", &err));
    OK(noc_catalog_mark_written(catalog, set, id, 1, &err));
    OK(commit_one(set, 1, "a", "9:9"));
    seen now = result_of(set, "a");
    ck_assert(now.row.state == NOC_PENDING && now.row.metric_count == 0 && now.row.attempts == 0);
    ck_assert_int_eq(ask("SELECT count(*) FROM attempt WHERE outcome = 'changed'"), 1);
    OK(commit_one(set, 2, "a", ""));
    ck_assert_int_eq(result_of(set, "a").row.state, NOC_DONE);
    OK(commit_one(set, 3, "unknown", "1:1"));
}
END_TEST

START_TEST(changed_file_supersedes_its_results_in_every_set)
{
    add("a");
    int64_t one = open_set("/r/one"), two = open_set("/r/two");
    OK(commit_one(one, 1, "a", "1:1"));
    OK(commit_one(two, 1, "a", "1:1"));
    ck_assert_int_eq(put("a", "/images/a.nii.gz", NULL, "2:2", NULL, NULL), NOC_PUT_CHANGED);
    for (int i = 0; i < 2; i++) {
        seen now = result_of(i ? two : one, "a");
        ck_assert(now.row.state == NOC_PENDING && now.row.part == 0 && now.row.metric_count == 0);
        ck_assert_ptr_null(now.row.mask_sha256);
    }
    ck_assert_int_eq(ask("SELECT count(*) FROM metric"), 0);
    OK(commit_one(one, 2, "a", "2:2"));
    ck_assert_int_eq(result_of(one, "a").row.part, 2);
}
END_TEST

START_TEST(older_part_does_not_replace_a_newer_mask)
{
    add("a");
    int64_t set = open_set("/r");
    OK(commit_one(set, 5, "a", "1:1"));
    OK(commit_one(set, 3, "a", "1:1"));
    ck_assert_int_eq(result_of(set, "a").row.part, 5);
    OK(commit_one(set, 6, "a", "1:1"));
    ck_assert_int_eq(result_of(set, "a").row.part, 6);
    ck_assert_int_eq(ask("SELECT count(*) FROM metric"), 2);
}
END_TEST

static noc_status count_part(void *argument, const noc_part_row *row, noc_error *error)
{
    int64_t *sum = argument;
    (void)error;
    *sum += row->number * 100 + row->studies + (row->bytes == 1000 + row->number ? 0 : 1000000);
    return NOC_OK;
}

START_TEST(dropped_part_gives_its_studies_back_but_not_its_number)
{
    int64_t number = -1, count = 0, sum = 0;
    bool has = true;
    add("a");
    add("b");
    int64_t set = open_set("/r");
    OK(noc_catalog_last_part(catalog, set, &number, &err));
    ck_assert_int_eq(number, 0);
    OK(commit_one(set, 1, "a", "1:1"));
    OK(commit_one(set, 2, "b", "1:1"));
    OK(noc_catalog_each_part(catalog, set, count_part, &sum, &err));
    ck_assert_int_eq(sum, 302);
    OK(noc_catalog_drop_part(catalog, set, 2, &count, &err));
    ck_assert_int_eq(count, 1);
    ck_assert_int_eq(result_of(set, "a").row.state, NOC_DONE);
    seen now = result_of(set, "b");
    ck_assert(now.row.state == NOC_PENDING && now.row.metric_count == 0 && now.row.part == 0);
    OK(noc_catalog_has_part(catalog, set, 2, &has, &err));
    ck_assert(!has);
    OK(noc_catalog_last_part(catalog, set, &number, &err));
    ck_assert_int_eq(number, 2);
}
END_TEST

/* ---- asking ---- */

static noc_status stop_at_once(void *argument, const noc_result_row *row, noc_error *error)
{
    int *calls = argument;
    (void)row;
    ++*calls;
    return noc_fail(error, NOC_ETEMPFAIL, "enough");
}

/* Asks the catalog the same from within. */
static noc_status ask_inside(void *argument, const noc_result_row *row, noc_error *error)
{
    int64_t *set = argument;
    seen inner = {0};
    noc_study study = {0};
    noc_status status = noc_catalog_each_result(catalog, *set, row->study.key, remember, &inner, error);
    if (status == NOC_OK)
        status = noc_catalog_find_study(catalog, row->study.key, &study, error);
    ck_assert(inner.calls == 1 && inner.row.metric_count == 2);
    noc_study_clear(&study);
    return status;
}

START_TEST(results_can_be_asked_for_within_results)
{
    int calls = 0;
    add("a");
    add("b");
    int64_t set = open_set("/r");
    OK(commit_one(set, 1, "a", "1:1"));
    OK(commit_one(set, 2, "b", "1:1"));
    OK(noc_catalog_each_result(catalog, set, NULL, ask_inside, &set, &err));
    ck_assert_int_eq(noc_catalog_each_result(catalog, set, NULL, stop_at_once, &calls, &err), NOC_ETEMPFAIL);
    ck_assert_int_eq(calls, 1);
}
END_TEST

/* ---- transactions ---- */

START_TEST(transaction_is_whole)
{
    OK(noc_catalog_begin(catalog, &err));
    ck_assert_int_eq(noc_catalog_begin(catalog, &err), NOC_EINTERNAL);
    add("a");
    noc_catalog_rollback(catalog);
    ck_assert_int_eq(ask("SELECT count(*) FROM study"), 0);
    OK(noc_catalog_begin(catalog, &err));
    add("a");
    add("b");
    OK(noc_catalog_commit(catalog, &err));
    ck_assert_int_eq(noc_catalog_commit(catalog, &err), NOC_EINTERNAL);
    ck_assert_int_eq(ask("SELECT count(*) FROM study"), 2);
}
END_TEST

START_TEST(killed_writer_leaves_what_it_committed)
{
    pid_t child = fork();
    if (child == 0) {
        noc_catalog *mine = NULL;
        if (noc_catalog_open(path, NOC_CATALOG_WRITE, &mine, NULL) != NOC_OK)
            _exit(1);
        catalog = mine;
        add("kept");
        if (noc_catalog_begin(mine, NULL) != NOC_OK)
            _exit(1);
        add("lost");
        raise(SIGKILL);
    }
    int how = 0;
    waitpid(child, &how, 0);
    ck_assert(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
    ck_assert_int_eq(ask("SELECT count(*) FROM study"), 1);
    noc_study study = {0};
    OK(noc_catalog_find_study(catalog, "kept", &study, &err));
    noc_study_clear(&study);
}
END_TEST

/* ---- opening ---- */

static void write_file(const char *name, const void *data, size_t size)
{
    int file = open(name, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    ck_assert_int_ge(file, 0);
    ck_assert_int_eq(write(file, data, size), (ssize_t)size);
    close(file);
}

START_TEST(what_is_no_catalog_is_refused)
{
    char name[400];
    noc_catalog *other = NULL;
    char garbage[4096];
    memset(garbage, 'g', sizeof(garbage));
    snprintf(name, sizeof(name), "%s/other", folder);
    ck_assert_int_eq(noc_catalog_open(name, NOC_CATALOG_READ, &other, &err), NOC_ENOINPUT);
    ck_assert_int_eq(noc_catalog_open(name, NOC_CATALOG_WRITE, &other, &err), NOC_ENOINPUT);
    write_file(name, garbage, sizeof(garbage));
    for (int mode = NOC_CATALOG_READ; mode <= NOC_CATALOG_CREATE; mode++)
        ck_assert_int_eq(noc_catalog_open(name, (noc_catalog_mode)mode, &other, &err), NOC_EDATA);
    write_file(name, garbage, 0);
    ck_assert_int_eq(noc_catalog_open(name, NOC_CATALOG_READ, &other, &err), NOC_EDATA);
    ck_assert_int_eq(noc_catalog_open(name, NOC_CATALOG_WRITE, &other, &err), NOC_EDATA);
    sqlite3 *db = NULL;
    ck_assert_int_eq(sqlite3_open(name, &db), SQLITE_OK);
    ck_assert_int_eq(sqlite3_exec(db, "CREATE TABLE study (id INTEGER)", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    for (int mode = NOC_CATALOG_READ; mode <= NOC_CATALOG_CREATE; mode++)
        ck_assert_int_eq(noc_catalog_open(name, (noc_catalog_mode)mode, &other, &err), NOC_EDATA);
    unlink(name);
    ck_assert_int_eq(noc_catalog_open(folder, NOC_CATALOG_CREATE, &other, &err), NOC_EDATA);
    snprintf(name, sizeof(name), "%s/none/c.sqlite", folder);
    ck_assert_int_eq(noc_catalog_open(name, NOC_CATALOG_CREATE, &other, &err), NOC_ECANTCREATE);
}
END_TEST

START_TEST(newer_schema_is_refused_and_older_upgraded)
{
    static const char *const steps[] = {
        "", "", "ALTER TABLE study ADD COLUMN note TEXT; CREATE TABLE extra (id INTEGER)"};
    add("a");
    ck_assert_int_eq(ask("PRAGMA user_version"), 2);
    OK(noc_schema_apply(catalog, steps, 3, &err));
    ck_assert_int_eq(ask("PRAGMA user_version"), 3);
    ck_assert_int_eq(ask("SELECT count(*) FROM study WHERE note IS NULL AND key = 'a'"), 1);
    noc_catalog_close(catalog);
    catalog = NULL;
    for (int mode = NOC_CATALOG_READ; mode <= NOC_CATALOG_CREATE; mode++) {
        ck_assert_int_eq(noc_catalog_open(path, (noc_catalog_mode)mode, &catalog, &err), NOC_EDATA);
        ck_assert_ptr_nonnull(strstr(err.text, "newer"));
    }
}
END_TEST

/* A catalog of the first schema: read only once `scan` has upgraded it, with nothing lost. */
START_TEST(first_schema_is_upgraded)
{
    static const char back[] = "ALTER TABLE result DROP COLUMN suspect; PRAGMA user_version = 1";
    add("a");
    int64_t set = open_set("/r");
    OK(commit_one(set, 2, "a", "1:1"));
    OK(noc_database_script(catalog, back, &err));
    noc_catalog_close(catalog);
    catalog = NULL;
    ck_assert_int_eq(noc_catalog_open(path, NOC_CATALOG_READ, &catalog, &err), NOC_EDATA);
    ck_assert_ptr_nonnull(strstr(err.text, "`nocturne scan` upgrades it"));
    OK(noc_catalog_open(path, NOC_CATALOG_WRITE, &catalog, &err));
    ck_assert_int_eq(ask("SELECT count(*) FROM result WHERE state = 'done' AND suspect IS NULL"), 1);
    OK(noc_catalog_begin(catalog, &err));
    OK(noc_database_script(catalog, "UPDATE result SET state = 'pending'; DELETE FROM part", &err));
    OK(noc_catalog_commit(catalog, &err));
    OK(commit_one(set, 1, "a", "1:1"));
    ck_assert_int_eq(ask("SELECT count(*) FROM result WHERE suspect LIKE 'anterior%'"), 1);
}
END_TEST

/* Nobody knows what is in such a file: no step may be applied to it. */
START_TEST(schema_that_never_was_is_refused)
{
    static const char *const changes[] = {"PRAGMA user_version = 0", "PRAGMA user_version = -1"};
    add("a");
    for (int i = 0; i < 2; i++) {
        OK(noc_database_script(catalog, changes[i], &err));
        for (int mode = NOC_CATALOG_READ; mode <= NOC_CATALOG_CREATE; mode++) {
            noc_catalog *other = NULL;
            ck_assert_int_eq(noc_catalog_open(path, (noc_catalog_mode)mode, &other, &err), NOC_EDATA);
            ck_assert_ptr_nonnull(strstr(err.text, "never was"));
        }
    }
    ck_assert_int_eq(ask("PRAGMA user_version"), -1);
    ck_assert_int_eq(ask("SELECT count(*) FROM study"), 1);
}
END_TEST

START_TEST(failed_upgrade_changes_nothing)
{
    static const char *const steps[] = {"", "", "CREATE TABLE extra (id INTEGER)", "not SQL"};
    ck_assert_int_ne(noc_schema_apply(catalog, steps, 4, &err), NOC_OK);
    ck_assert_int_eq(ask("PRAGMA user_version"), 2);
    ck_assert_int_eq(ask("SELECT count(*) FROM sqlite_master WHERE name = 'extra'"), 0);
}
END_TEST

START_TEST(reader_sees_the_committed_state_while_a_writer_writes)
{
    noc_catalog *reader = NULL;
    noc_counts counts;
    add("a");
    OK(noc_catalog_begin(catalog, &err));
    add("b");
    OK(noc_catalog_open(path, NOC_CATALOG_READ, &reader, &err));
    OK(noc_catalog_counts(reader, 0, &counts, &err));
    ck_assert_int_eq(counts.states[NOC_PENDING], 1);
    OK(noc_catalog_commit(catalog, &err));
    OK(noc_catalog_counts(reader, 0, &counts, &err));
    ck_assert_int_eq(counts.states[NOC_PENDING], 2);
    ck_assert_int_eq(noc_catalog_begin(reader, &err), NOC_EINTERNAL);
    noc_catalog_close(reader);
    add("c");
}
END_TEST

START_TEST(journal_on_a_network_file_system_is_read_too)
{
    noc_catalog *reader = NULL;
    noc_counts counts;
    OK(noc_database_script(catalog, "PRAGMA journal_mode = DELETE", &err));
    add("a");
    OK(noc_catalog_begin(catalog, &err));
    add("b");
    OK(noc_catalog_open(path, NOC_CATALOG_READ, &reader, &err));
    OK(noc_catalog_counts(reader, 0, &counts, &err));
    ck_assert_int_eq(counts.states[NOC_PENDING], 1);
    OK(noc_catalog_commit(catalog, &err));
    OK(noc_catalog_counts(reader, 0, &counts, &err));
    ck_assert_int_eq(counts.states[NOC_PENDING], 2);
    noc_catalog_close(reader);
}
END_TEST

/* In a process without the rights of root, for which no folder is read-only. */
static int read_without_rights(void)
{
    noc_catalog *reader = NULL;
    noc_counts counts;
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
        return 1;
    if (noc_catalog_open(path, NOC_CATALOG_READ, &reader, &err) != NOC_OK)
        return err.status == NOC_EUNAVAILABLE ? 3 : 2;
    if (noc_catalog_counts(reader, 0, &counts, &err) != NOC_OK || counts.states[NOC_PENDING] != 1)
        return 4;
    noc_catalog_close(reader);
    return noc_catalog_open(path, NOC_CATALOG_WRITE, &reader, &err) == NOC_OK ? 5 : 0;
}

static int status_without_rights(void)
{
    int how = 0;
    pid_t child = fork();
    if (child == 0)
        _exit(read_without_rights());
    waitpid(child, &how, 0);
    return WIFEXITED(how) ? WEXITSTATUS(how) : -1;
}

START_TEST(folder_that_cannot_be_written_is_read)
{
    char log[400];
    struct stat about;
    add("a");
    noc_catalog_close(catalog);
    catalog = NULL;
    chmod(path, 0444);
    chmod(folder, 0555);
    ck_assert_int_eq(status_without_rights(), 0);
    snprintf(log, sizeof(log), "%s-wal", path);
    ck_assert_int_ne(stat(log, &about), 0);
    /* A log without its index cannot be read there: said, not guessed. */
    chmod(folder, 0755);
    write_file(log, "something", 9);
    chmod(log, 0444);
    chmod(folder, 0555);
    ck_assert_int_eq(status_without_rights(), 3);
}
END_TEST

/* Only root can become another user: added for root alone. */
START_TEST(other_users_leave_nothing_behind)
{
    char name[400];
    struct stat about;
    add("a");
    noc_catalog_close(catalog);
    catalog = NULL;
    chmod(path, 0644);
    chmod(folder, 0777);
    ck_assert_int_eq(status_without_rights(), 0);
    snprintf(name, sizeof(name), "%s-shm", path);
    ck_assert_int_ne(stat(name, &about), 0);
    snprintf(name, sizeof(name), "%s-wal", path);
    ck_assert_int_ne(stat(name, &about), 0);
}
END_TEST

START_TEST(odd_names_are_names)
{
    char name[400];
    noc_catalog *other = NULL;
    snprintf(name, sizeof(name), "%s/50%% of? #1.sqlite", folder);
    OK(noc_catalog_open(name, NOC_CATALOG_CREATE, &other, &err));
    noc_catalog_close(other);
    OK(noc_catalog_open(name, NOC_CATALOG_READ, &other, &err));
    noc_catalog_close(other);
    ck_assert_int_eq(unlink(name), 0);
}
END_TEST

START_TEST(full_disk_is_an_io_failure)
{
    char limit[64];
    noc_status status = NOC_OK;
    int64_t pages = ask("PRAGMA page_count");
    snprintf(limit, sizeof(limit), "PRAGMA max_page_count = %lld", (long long)pages + 2);
    OK(noc_database_script(catalog, limit, &err));
    for (int i = 0; i < 2000 && status == NOC_OK; i++) {
        noc_put what;
        char key[32];
        snprintf(key, sizeof(key), "study%d", i);
        noc_study study = make_study(key, "/images/a/b/c.nii", NULL, "1:1");
        status = noc_catalog_put_study(catalog, &study, &what, &err);
        noc_study_clear(&study);
    }
    ck_assert_int_eq(status, NOC_EIO);
    ck_assert_ptr_nonnull(strstr(err.text, path));
}
END_TEST

/* ---- large archives ---- */

static int64_t steps;

static int count_steps(void *unused)
{
    (void)unused;
    steps++;
    return 0;
}

static noc_status look_at_result(void *argument, const noc_result_row *row, noc_error *unused)
{
    (void)unused;
    *(int *)argument += row->state == NOC_DONE;
    return NOC_OK;
}

/* Every second study has the key and the folder of all others. */
static void put_many(const char *key, int count, noc_put wanted)
{
    OK(noc_catalog_begin(catalog, &err));
    for (int i = 0; i < count; i++) {
        char image[64], own[64];
        snprintf(image, sizeof(image), "/images/%s-%d.nii", key, i);
        snprintf(own, sizeof(own), "%s-own-%d", key, i);
        ck_assert_int_eq(put(i % 2 ? own : key, image, NULL, "1:1", NULL, NULL), wanted);
    }
    OK(noc_catalog_commit(catalog, &err));
}

/* A third is done, a third fails, the rest is given back. */
static void finish_one(int64_t set, const noc_pending *pending, int64_t part)
{
    int64_t id = pending->study.id;
    noc_error failure;
    noc_fail(&failure, NOC_EDATA, "a sentence");
    if (id % 3 == 1) {
        OK(noc_catalog_fail(catalog, set, id, NOC_FAILED, &failure, &err));
    } else if (id % 3 == 2) {
        OK(noc_catalog_put_back(catalog, set, id, true, &failure, &err));
    } else {
        noc_part_study study = {.seconds_read = 1};
        noc_part_record record = {.number = part, .bytes = 1, .studies = &study, .study_count = 1};
        memcpy(study.key, pending->study.key, sizeof(study.key));
        OK(noc_catalog_mark_written(catalog, set, id, part, &err));
        OK(noc_catalog_commit_part(catalog, set, &record, &err));
    }
}

/* Steps of SQLite's machine, in tens, for a life of so many studies. */
static double steps_of(const char *name, int count)
{
    noc_pending *list = NULL;
    noc_counts counts;
    size_t pending = 0;
    int64_t put_back = 0;
    int dones = 0;
    steps = 0;
    put_many(name, count, NOC_PUT_ADDED);
    put_many(name, count, NOC_PUT_UNCHANGED);
    int64_t set = open_set(name), run = begin_run(set);
    OK(noc_catalog_pending(catalog, set, NULL, 0, &list, &pending, &err));
    ck_assert_int_eq((int)pending, count);
    OK(noc_catalog_begin(catalog, &err));
    for (size_t i = 0; i < pending; i++) {
        OK(noc_catalog_start(catalog, set, run, list[i].study.id, 1, "here", &err));
        finish_one(set, &list[i], (int64_t)i + 1);
    }
    OK(noc_catalog_commit(catalog, &err));
    noc_pending_free(list, pending);
    OK(noc_catalog_recover(catalog, set, &put_back, &err));
    OK(noc_catalog_counts(catalog, set, &counts, &err));
    OK(noc_catalog_each_result(catalog, set, NULL, look_at_result, &dones, &err));
    ck_assert_int_eq(dones, (int)counts.states[NOC_DONE]);
    OK(noc_catalog_retry(catalog, set, NULL, NULL, &put_back, &err));
    ck_assert_int_gt((int)put_back, 0);
    return (double)steps / count;
}

START_TEST(a_study_of_a_large_archive_takes_no_more_steps)
{
    sqlite3_progress_handler(catalog->db, 10, count_steps, NULL);
    double small = steps_of("small", 200);
    tear_down();
    set_up();
    sqlite3_progress_handler(catalog->db, 10, count_steps, NULL);
    double large = steps_of("large", 3200);
    ck_assert(small > 1);
    ck_assert_msg(large < 1.5 * small, "%.1f steps a study of 200, %.1f of 3,200", small, large);
}
END_TEST

/* A run asks while it goes on. */
START_TEST(states_are_counted_without_the_rows)
{
    int64_t set = open_set("/results");
    put_many("s", 300, NOC_PUT_ADDED);
    noc_counts counts;
    steps = 0;
    sqlite3_progress_handler(catalog->db, 10, count_steps, NULL);
    OK(noc_catalog_states(catalog, set, &counts, &err));
    ck_assert_int_eq(counts.states[NOC_PENDING], 300);
    ck_assert(isnan(counts.seconds_left));
    ck_assert_int_lt(steps, 300);
}
END_TEST

static void add_studies(TCase *tests)
{
    tcase_add_test(tests, study_comes_back_as_it_was_put);
    tcase_add_test(tests, unknown_shape_is_kept_unknown_and_can_be_learnt);
    tcase_add_test(tests, putting_again_changes_nothing);
    tcase_add_test(tests, clashing_keys_get_folders_then_numbers);
    tcase_add_test(tests, a_study_of_a_large_archive_takes_no_more_steps);
    tcase_add_test(tests, states_are_counted_without_the_rows);
    tcase_add_test(tests, longest_key_still_finds_a_place);
    tcase_add_test(tests, bad_studies_are_refused);
    tcase_add_test(tests, folder_has_one_configuration);
    tcase_add_test(tests, sets_are_found_by_folder_or_alone);
    tcase_add_test(tests, every_set_has_every_study);
}

static void add_states(TCase *tests)
{
    tcase_add_test(tests, study_runs_from_pending_to_done);
    tcase_add_test(tests, ends_are_told_latest_first);
    tcase_add_test(tests, putting_back_charges_when_asked);
    tcase_add_test(tests, suspects_are_remembered);
    tcase_add_test(tests, failures_are_counted_and_can_be_retried);
    tcase_add_test(tests, pending_studies_come_in_order_by_glob_and_limit);
    tcase_add_test(tests, recovery_puts_open_work_back);
    tcase_add_test(tests, speed_is_of_the_latest_run);
    tcase_add_test(tests, part_counts_at_once_or_not_at_all);
    tcase_add_test(tests, part_of_a_changed_file_does_not_count);
    tcase_add_test(tests, changed_file_supersedes_its_results_in_every_set);
    tcase_add_test(tests, older_part_does_not_replace_a_newer_mask);
    tcase_add_test(tests, dropped_part_gives_its_studies_back_but_not_its_number);
    tcase_add_test(tests, results_can_be_asked_for_within_results);
}

static void add_opening(TCase *tests)
{
    tcase_add_test(tests, transaction_is_whole);
    tcase_add_test(tests, killed_writer_leaves_what_it_committed);
    tcase_add_test(tests, what_is_no_catalog_is_refused);
    tcase_add_test(tests, newer_schema_is_refused_and_older_upgraded);
    tcase_add_test(tests, first_schema_is_upgraded);
    tcase_add_test(tests, what_is_suspect_belongs_to_the_mask);
    tcase_add_test(tests, schema_that_never_was_is_refused);
    tcase_add_test(tests, failed_upgrade_changes_nothing);
    tcase_add_test(tests, reader_sees_the_committed_state_while_a_writer_writes);
    tcase_add_test(tests, journal_on_a_network_file_system_is_read_too);
    tcase_add_test(tests, folder_that_cannot_be_written_is_read);
    if (geteuid() == 0)
        tcase_add_test(tests, other_users_leave_nothing_behind);
    tcase_add_test(tests, odd_names_are_names);
    tcase_add_test(tests, full_disk_is_an_io_failure);
}

int main(void)
{
    Suite *suite = suite_create("catalog");
    TCase *tests = tcase_create("catalog");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 60);
    add_studies(tests);
    add_states(tests);
    add_opening(tests);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
