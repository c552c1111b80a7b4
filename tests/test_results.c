/* Parts and index in one process: what is written is read again, and nothing that can happen to a file does
 * more than make it refused. */
#include "engine/base/file.h"
#include "tests/part_sample.h"

#include <check.h>
#include <fcntl.h>
#include <hdf5.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[512];
static noc_error err;

static void make_folder(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/results.XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    memset(&err, 0, sizeof err);
}

static void remove_folder(void)
{
    char command[2048];
    snprintf(command, sizeof command, "chmod -R u+w '%s' && rm -rf '%s' '%s.moved'", folder, folder, folder);
    ck_assert_int_eq(system(command), 0);
}

#define ck_ok(call) ck_assert_msg((call) == NOC_OK, "%s", err.text)

static char *path_of(const char *name)
{
    static char path[2][1024];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void write_studies(noc_part_writer *part, noc_output_kind output, int first, int count,
                          noc_status expected)
{
    noc_part_entry *entries = calloc((size_t)count, sizeof *entries);
    for (int i = 0; i < count; i++)
        sample_entry(output, first + i, &entries[i]);
    noc_status status = noc_part_write(part, entries, count, &err);
    ck_assert_msg(status == expected, "%s", err.text);
    for (int i = 0; i < count; i++)
        sample_entry_clear(&entries[i]);
    free(entries);
}

/* part-NUMBER.h5 with these studies. */
static int64_t write_part(noc_output_kind output, int64_t number, int first, int count)
{
    int64_t bytes = 0;
    ck_ok(sample_write_part(folder, output, number, first, count, &bytes, &err));
    return bytes;
}

static void check_part(const char *path, noc_output_kind output, const noc_part_record *part, int first,
                       int count)
{
    ck_assert_uint_eq(part->study_count, (unsigned)count);
    for (int i = 0; i < count; i++) {
        noc_part_entry entry;
        noc_outcome *outcome = NULL;
        sample_entry(output, first + i, &entry);
        ck_assert(sample_is_study(&entry, &part->studies[i]));
        ck_ok(noc_part_read_study(path, entry.outcome.key, true, &outcome, &err));
        ck_assert(sample_is_outcome(&entry, outcome));
        noc_outcome_free(outcome);
        sample_entry_clear(&entry);
    }
}

/* ---- writing and reading ---- */

static void check_round_trip(noc_output_kind output)
{
    noc_part_record part = {0};
    noc_part_header header;
    noc_configuration configuration;
    struct stat info;
    int64_t bytes = write_part(output, 12, 0, SAMPLE_STUDIES);
    const char *path = path_of("part-000012.h5");
    ck_assert_int_eq(stat(path, &info), 0);
    ck_assert_int_eq(info.st_size, bytes);
    ck_ok(noc_part_read(path, true, &part, &configuration, &err));
    ck_assert_int_eq(part.number, 12);
    ck_assert_int_eq(part.bytes, bytes);
    check_part(path, output, &part, 0, SAMPLE_STUDIES);
    sample_header(output, &header);
    ck_assert_str_eq(configuration.results, "");
    header.configuration.results[0] = '\0';
    ck_assert_str_eq(configuration.model, header.configuration.model);
    ck_assert_str_eq(configuration.model_sha256, header.configuration.model_sha256);
    ck_assert_mem_eq(configuration.window, header.configuration.window, sizeof configuration.window);
    ck_assert_double_eq(configuration.overlap, header.configuration.overlap);
    ck_assert_str_eq(configuration.blend, header.configuration.blend);
    ck_assert_str_eq(configuration.precision, header.configuration.precision);
    noc_part_record_clear(&part);
}

START_TEST(a_part_gives_back_labels)
{
    check_round_trip(NOC_OUTPUT_LABELS);
}
END_TEST

START_TEST(a_part_gives_back_regions)
{
    check_round_trip(NOC_OUTPUT_REGIONS);
}
END_TEST

START_TEST(a_part_without_studies_is_a_part)
{
    noc_part_record part = {0};
    write_part(NOC_OUTPUT_LABELS, 1, 0, 0);
    ck_ok(noc_part_read(path_of("part-000001.h5"), true, &part, NULL, &err));
    ck_assert_uint_eq(part.study_count, 0);
    noc_part_record_clear(&part);
}
END_TEST

START_TEST(an_open_part_is_never_written_over)
{
    noc_part_header header;
    noc_part_writer *part = NULL;
    char *data = NULL;
    size_t size;
    sample_header(NOC_OUTPUT_LABELS, &header);
    ck_ok(noc_file_replace(path_of("part-000001.h5.open"), "mine", 4, &err));
    ck_assert_int_eq(noc_part_create(folder, 1, &header, MPI_COMM_NULL, &part, &err), NOC_ECANTCREATE);
    ck_assert_ptr_nonnull(strstr(err.text, "part-000001.h5.open"));
    ck_assert_ptr_null(part);
    ck_ok(noc_file_read(path_of("part-000001.h5.open"), 100, &data, &size, &err));
    ck_assert_uint_eq(size, 4);
    free(data);
    char missing[1024];
    snprintf(missing, sizeof missing, "%s/missing", folder);
    ck_assert_int_eq(noc_part_create(missing, 1, &header, MPI_COMM_NULL, &part, &err), NOC_ECANTCREATE);
}
END_TEST

START_TEST(an_abandoned_part_leaves_nothing)
{
    noc_part_header header;
    noc_part_writer *part = NULL;
    sample_header(NOC_OUTPUT_LABELS, &header);
    ck_ok(noc_part_create(folder, 1, &header, MPI_COMM_NULL, &part, &err));
    write_studies(part, NOC_OUTPUT_LABELS, 0, 3, NOC_OK);
    noc_part_abandon(part);
    ck_assert_int_ne(access(path_of("part-000001.h5.open"), F_OK), 0);
    noc_part_abandon(NULL);
    write_part(NOC_OUTPUT_LABELS, 1, 0, 3);
}
END_TEST

START_TEST(a_read_only_folder_can_be_read)
{
    noc_part_record part = {0};
    write_part(NOC_OUTPUT_LABELS, 1, 0, 2);
    ck_assert_int_eq(chmod(path_of("part-000001.h5"), 0444), 0);
    ck_assert_int_eq(chmod(folder, 0555), 0);
    ck_ok(noc_part_read(path_of("part-000001.h5"), true, &part, NULL, &err));
    noc_part_record_clear(&part);
}
END_TEST

START_TEST(a_study_that_is_not_there_is_said_so)
{
    noc_outcome *outcome = NULL;
    write_part(NOC_OUTPUT_LABELS, 1, 0, 2);
    ck_assert_int_eq(noc_part_read_study(path_of("part-000001.h5"), "study_099", true, &outcome, &err),
                     NOC_EDATA);
    ck_assert_ptr_nonnull(strstr(err.text, "study_099"));
    ck_assert_int_eq(noc_part_read_study(path_of("part-000001.h5"), "../../metrics", true, &outcome, &err),
                     NOC_EDATA);
    ck_assert_ptr_null(outcome);
}
END_TEST

/* ---- damage ---- */

static void check_refused(const char *path)
{
    noc_part_record part = {0};
    noc_outcome *outcome = NULL;
    ck_assert_int_eq(noc_part_read(path, true, &part, NULL, &err), NOC_EDATA);
    ck_assert_ptr_nonnull(strstr(err.text, path));
    ck_assert_int_eq(noc_part_read_study(path, "study_000", true, &outcome, &err), NOC_EDATA);
    ck_assert_ptr_null(outcome);
    ck_assert_ptr_null(part.studies);
}

START_TEST(what_is_no_part_is_refused)
{
    char garbage[5000];
    unsigned value = 1;
    hid_t file = H5Fcreate(path_of("other.h5"), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    ck_assert(H5Fclose(file) >= 0);
    check_refused(path_of("other.h5"));
    check_refused(path_of("missing.h5"));
    check_refused(folder);
    ck_ok(noc_file_replace(path_of("empty.h5"), "", 0, &err));
    check_refused(path_of("empty.h5"));
    for (size_t i = 0; i < sizeof garbage; i++)
        garbage[i] = (char)((value = value * 1664525u + 1013904223u) >> 24);
    ck_ok(noc_file_replace(path_of("garbage.h5"), garbage, sizeof garbage, &err));
    check_refused(path_of("garbage.h5"));
    memcpy(garbage, "\211HDF\r\n\032\n", 8);
    for (int version = 0; version < 5; version++) {
        garbage[8] = (char)version;
        ck_ok(noc_file_replace(path_of("garbage.h5"), garbage, sizeof garbage, &err));
        check_refused(path_of("garbage.h5"));
    }
}
END_TEST

static void put_bytes(const char *path, const char *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(data, 1, size, file), size);
    ck_assert_int_eq(fclose(file), 0);
}

START_TEST(a_part_cut_anywhere_is_refused)
{
    char *data = NULL;
    size_t size = 0;
    write_part(NOC_OUTPUT_REGIONS, 1, 0, 4);
    ck_ok(noc_file_read(path_of("part-000001.h5"), 1 << 24, &data, &size, &err));
    for (size_t cut = 0; cut < size; cut += cut < 3000 ? 1 + cut / 50 : 97) {
        put_bytes(path_of("cut.h5"), data, cut);
        check_refused(path_of("cut.h5"));
    }
    put_bytes(path_of("cut.h5"), data, size - 1);
    check_refused(path_of("cut.h5"));
    free(data);
}
END_TEST

/* A damaged part is refused, or the damage is in bytes that mean nothing and the part says what it always
 * said. */
static bool is_harmless(const char *path)
{
    noc_part_record part = {0};
    noc_status status = noc_part_read(path, true, &part, NULL, &err);
    if (status != NOC_OK) {
        ck_assert_int_eq(status, NOC_EDATA);
        return false;
    }
    check_part(path, NOC_OUTPUT_REGIONS, &part, 0, 4);
    noc_part_record_clear(&part);
    return true;
}

/* Each 7th byte at the beginning and each 61st after, one bit or the whole byte. */
START_TEST(a_flipped_bit_is_refused_or_harmless)
{
    char *data = NULL;
    size_t size = 0;
    int refused = 0, harmless = 0;
    write_part(NOC_OUTPUT_REGIONS, 1, 0, 4);
    ck_ok(noc_file_read(path_of("part-000001.h5"), 1 << 24, &data, &size, &err));
    put_bytes(path_of("flip.h5"), data, size);
    int file = open(path_of("flip.h5"), O_WRONLY);
    ck_assert_int_ge(file, 0);
    for (size_t at = 0; at < size; at += at < 4096 ? 7 : 61) {
        char damaged = (char)(at % 3 == 0 ? ~data[at] : data[at] ^ (1 << at % 8));
        ck_assert_int_eq(pwrite(file, &damaged, 1, (off_t)at), 1);
        *(is_harmless(path_of("flip.h5")) ? &harmless : &refused) += 1;
        ck_assert_int_eq(pwrite(file, &data[at], 1, (off_t)at), 1);
    }
    close(file);
    ck_assert(is_harmless(path_of("flip.h5")));
    ck_assert_int_gt(refused, harmless);
    free(data);
}
END_TEST

/* Blocks of zeros, as a power cut leaves them. */
START_TEST(a_part_with_holes_is_refused_or_harmless)
{
    char *data = NULL;
    size_t size = 0;
    int refused = 0;
    write_part(NOC_OUTPUT_REGIONS, 1, 0, 4);
    ck_ok(noc_file_read(path_of("part-000001.h5"), 1 << 24, &data, &size, &err));
    char *copy = malloc(size);
    for (size_t at = 0; copy && at < size; at += 512) {
        memcpy(copy, data, size);
        memset(copy + at, 0, size - at < 512 ? size - at : 512);
        put_bytes(path_of("hole.h5"), copy, size);
        refused += !is_harmless(path_of("hole.h5"));
    }
    ck_assert_int_gt(refused, 10);
    free(copy);
    free(data);
}
END_TEST

/* ---- a full disk ---- */

/* No assertions under a limit: Check writes them to a file of its own. */
static void limit_files(rlim_t bytes)
{
    struct rlimit limit = {.rlim_max = RLIM_INFINITY};
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    setrlimit(RLIMIT_FSIZE, &limit);
}

static int open_files(void)
{
    int count = 0;
    for (int i = 0; i < 256; i++)
        count += fcntl(i, F_GETFD) != -1;
    return count;
}

/* Writes as far as it goes; true when the part was closed. */
static bool is_written_within(rlim_t bytes)
{
    noc_part_header header;
    noc_part_writer *part = NULL;
    noc_part_entry entry;
    int64_t size;
    sample_header(NOC_OUTPUT_LABELS, &header);
    limit_files(bytes);
    noc_status status = noc_part_create(folder, 9, &header, MPI_COMM_NULL, &part, &err);
    for (int i = 0; status == NOC_OK && i < SAMPLE_STUDIES; i++) {
        sample_entry(NOC_OUTPUT_LABELS, i, &entry);
        status = noc_part_write(part, &entry, 1, &err);
        sample_entry_clear(&entry);
    }
    if (status == NOC_OK)
        status = noc_part_close(part, &size, &err);
    else if (part)
        noc_part_abandon(part);
    limit_files(RLIM_INFINITY);
    if (status != NOC_OK) {
        ck_assert_msg(status == NOC_EIO || status == NOC_ECANTCREATE, "%s: %s", noc_status_name(status),
                      err.text);
        ck_assert_msg(strstr(err.text, "part-000009.h5.open") != NULL, "%s", err.text);
    }
    return status == NOC_OK;
}

START_TEST(a_full_disk_fails_the_part_and_nothing_else)
{
    signal(SIGXFSZ, SIG_IGN);
    struct stat info;
    write_part(NOC_OUTPUT_LABELS, 1, 0, SAMPLE_STUDIES);
    ck_assert_int_eq(stat(path_of("part-000001.h5"), &info), 0);
    int files = open_files(), failed = 0;
    for (int i = 0; i < 12; i++) {
        rlim_t limit = (rlim_t)info.st_size / 12 * (rlim_t)i + 100;
        failed += !is_written_within(limit);
        ck_assert_int_ne(access(path_of("part-000009.h5.open"), F_OK), 0);
    }
    ck_assert_int_eq(failed, 12);
    ck_assert_ptr_nonnull(strstr(err.text, "File too large"));
    ck_assert_int_eq(open_files(), files);
    ck_assert(is_written_within((rlim_t)info.st_size * 2));
}
END_TEST

/* ---- index ---- */

static noc_catalog *catalog;
static int64_t set;

static void make_catalog(void)
{
    ck_ok(sample_catalog_create(folder, &catalog, &set, &err));
}

static void commit_part(int64_t number, int first, int count)
{
    ck_ok(sample_commit(folder, catalog, set, number, first, count, &err));
}

/* Number of studies in the index whose mask has the extent it should. */
static int linked_masks(const char *where)
{
    char path[1024];
    int found = 0;
    snprintf(path, sizeof path, "%s/index.h5", where);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    ck_assert(file >= 0);
    for (int i = 0; i < SAMPLE_STUDIES; i++) {
        noc_part_entry entry;
        hsize_t dims[3] = {0};
        sample_entry(NOC_OUTPUT_LABELS, i, &entry);
        snprintf(path, sizeof path, "/studies/%s/mask", entry.outcome.key);
        hid_t mask = H5Dopen2(file, path, H5P_DEFAULT), space = mask >= 0 ? H5Dget_space(mask) : -1;
        if (mask >= 0 && H5Sget_simple_extent_dims(space, dims, NULL) == 3)
            found += dims[0] == (hsize_t)entry.outcome.grid.size[2] &&
                     dims[2] == (hsize_t)entry.outcome.grid.size[0];
        if (mask >= 0) {
            H5Sclose(space);
            H5Dclose(mask);
        }
        sample_entry_clear(&entry);
    }
    H5Fclose(file);
    return found;
}

static ino_t write_index(void)
{
    struct stat info;
    ck_ok(noc_index_write(folder, catalog, set, &err));
    ck_assert_int_eq(stat(path_of("index.h5"), &info), 0);
    return info.st_ino;
}

START_TEST(the_index_leads_to_every_mask_and_moves_with_its_folder)
{
    char moved[600];
    make_catalog();
    write_index();
    ck_assert_int_eq(linked_masks(folder), 0);
    commit_part(1, 0, 2);
    commit_part(2, 2, 4);
    write_index();
    ck_assert_int_eq(linked_masks(folder), SAMPLE_STUDIES);
    snprintf(moved, sizeof moved, "%s.moved", folder);
    ck_assert_int_eq(rename(folder, moved), 0);
    ck_assert_int_eq(linked_masks(moved), SAMPLE_STUDIES);
    ck_assert_int_eq(rename(moved, folder), 0);
    noc_catalog_close(catalog);
}
END_TEST

START_TEST(the_index_is_written_only_when_it_is_wrong)
{
    make_catalog();
    commit_part(1, 0, 3);
    ino_t first = write_index();
    ck_assert_uint_eq(write_index(), first);
    commit_part(2, 2, 4); /* study 2 again: its link moves */
    ino_t second = write_index();
    ck_assert_uint_ne(second, first);
    ck_assert_uint_eq(write_index(), second);
    ck_assert_int_eq(truncate(path_of("index.h5"), 500), 0);
    write_index();
    ck_assert_int_eq(linked_masks(folder), SAMPLE_STUDIES);
    put_bytes(path_of("index.h5"), "no index", 8);
    write_index();
    ck_assert_int_eq(linked_masks(folder), SAMPLE_STUDIES);
    noc_catalog_close(catalog);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("results");
    TCase *tests = tcase_create("results");

    tcase_set_timeout(tests, 300);
    tcase_add_checked_fixture(tests, make_folder, remove_folder);
    tcase_add_test(tests, a_part_gives_back_labels);
    tcase_add_test(tests, a_part_gives_back_regions);
    tcase_add_test(tests, a_part_without_studies_is_a_part);
    tcase_add_test(tests, an_open_part_is_never_written_over);
    tcase_add_test(tests, an_abandoned_part_leaves_nothing);
    tcase_add_test(tests, a_read_only_folder_can_be_read);
    tcase_add_test(tests, a_study_that_is_not_there_is_said_so);
    tcase_add_test(tests, what_is_no_part_is_refused);
    tcase_add_test(tests, a_part_cut_anywhere_is_refused);
    tcase_add_test(tests, a_flipped_bit_is_refused_or_harmless);
    tcase_add_test(tests, a_part_with_holes_is_refused_or_harmless);
    tcase_add_test(tests, a_full_disk_fails_the_part_and_nothing_else);
    tcase_add_test(tests, the_index_leads_to_every_mask_and_moves_with_its_folder);
    tcase_add_test(tests, the_index_is_written_only_when_it_is_wrong);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
