/* verify and export on a small result set: what is whole is called whole, what is not is found. */
#include "engine/base/file.h"
#include "engine/volume/nifti.h"
#include "pipeline/command.h"
#include "tests/part_sample.h"

#include <check.h>
#include <fcntl.h>
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[512], results_text[600], catalog_text[600];
static noc_error err;
static noc_catalog *catalog;
static int64_t set;
static noc_settings settings;
static char said[20000]; /* on stdout by the last command */

#define ck_ok(call) ck_assert_msg((call) == NOC_OK, "%s", err.text)

/* The program's own stands in main.c. */
int noc_command_fail(const noc_error *failure)
{
    fprintf(stderr, "%s\n", failure->text);
    return noc_status_exit(failure->status);
}

static void make_set(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/verify.XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    memset(&err, 0, sizeof err);
    snprintf(catalog_text, sizeof catalog_text, "%s/catalog.sqlite", folder);
    snprintf(results_text, sizeof results_text, "%s", folder);
    settings = (noc_settings){.catalog = catalog_text, .results = results_text, .format = "plain"};
    ck_ok(sample_catalog_create(folder, &catalog, &set, &err));
    ck_ok(sample_commit(folder, catalog, set, 1, 0, 4, &err));
    ck_ok(sample_commit(folder, catalog, set, 2, 4, 2, &err));
}

static void remove_set(void)
{
    char command[2048];
    noc_catalog_close(catalog);
    snprintf(command, sizeof command, "rm -rf '%s' '%s.moved'", folder, folder);
    ck_assert_int_eq(system(command), 0);
}

/* The command's exit code; what it says goes to `said`. */
static int ask(int (*command)(const noc_settings *settings))
{
    char path[600];
    snprintf(path, sizeof path, "%s/said", folder);
    fflush(stdout);
    int kept = dup(STDOUT_FILENO), file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    dup2(file, STDOUT_FILENO);
    int code = command(&settings);
    fflush(stdout);
    dup2(kept, STDOUT_FILENO);
    ssize_t size = pread(file, said, sizeof said - 1, 0);
    said[size > 0 ? size : 0] = '\0';
    close(kept);
    close(file);
    unlink(path);
    return code;
}

static const char *path_of(const char *name)
{
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

#define ck_says(text) ck_assert_msg(strstr(said, text) != NULL, "no \"%s\" in: %s", text, said)

START_TEST(a_whole_set_is_all_good)
{
    ck_assert_int_eq(ask(noc_command_verify), 0);
    ck_assert_str_eq(said, "verified 6 masks in 2 parts: all good\n");
    settings.json = true;
    ck_assert_int_eq(ask(noc_command_verify), 0);
    ck_assert_str_eq(said, "{\"masks\":6,\"expected\":6,\"parts\":2,\"damage\":[],\"notes\":[]}\n");
}
END_TEST

START_TEST(a_superseded_mask_is_not_missed)
{
    ck_ok(sample_commit(folder, catalog, set, 3, 1, 2, &err));
    ck_assert_int_eq(ask(noc_command_verify), 0);
    ck_says("verified 6 masks in 3 parts: all good");
}
END_TEST

/* Where the first chunk of a dataset lies in its file. */
static haddr_t chunk_address(const char *path, const char *dataset)
{
    hsize_t offset[3], size;
    unsigned filters;
    haddr_t address = HADDR_UNDEF;
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t mask = H5Dopen2(file, dataset, H5P_DEFAULT);
    hid_t space = H5Dget_space(mask);
    ck_assert_int_ge(H5Dget_chunk_info(mask, space, 0, offset, &filters, &address, &size), 0);
    H5Sclose(space);
    H5Dclose(mask);
    H5Fclose(file);
    return address;
}

START_TEST(a_damaged_mask_is_found)
{
    unsigned char *bytes = NULL;
    size_t size = 0;
    haddr_t at = chunk_address(path_of("part-000001.h5"), "/studies/study_000/mask");
    ck_ok(noc_file_read(path_of("part-000001.h5"), 1 << 24, (char **)&bytes, &size, &err));
    for (size_t i = 10; i < 18; i++)
        bytes[at + i] ^= 0x5a;
    ck_ok(noc_file_replace(path_of("part-000001.h5"), bytes, size, &err));
    ck_assert_int_eq(ask(noc_command_verify), 69);
    ck_says("damage: part-000001.h5: study_000: ");
    ck_says("verified 6 masks in 2 parts: 5 good, 1 findings of damage");
    free(bytes);
}
END_TEST

START_TEST(a_part_that_is_gone_or_cut_is_found)
{
    struct stat info;
    ck_assert_int_eq(stat(path_of("part-000002.h5"), &info), 0);
    ck_assert_int_eq(truncate(path_of("part-000002.h5"), info.st_size - 100), 0);
    ck_assert_int_eq(ask(noc_command_verify), 69);
    ck_says("damage: part-000002.h5: ");
    ck_says("4 good");
    ck_assert_int_eq(unlink(path_of("part-000002.h5")), 0);
    ck_assert_int_eq(ask(noc_command_verify), 69);
    ck_says("No such file or directory (2 masks should be in it)");
}
END_TEST

/* Another part with the same studies under the name of the first: whole in itself, but not what the catalog
 * has. */
START_TEST(a_part_that_was_swapped_is_found)
{
    char other[1024];
    int64_t bytes;
    ck_ok(sample_write_part(folder, NOC_OUTPUT_LABELS, 7, 2, 4, &bytes, &err));
    snprintf(other, sizeof other, "%s/part-000007.h5", folder);
    ck_assert_int_eq(rename(other, path_of("part-000001.h5")), 0);
    ck_assert_int_eq(ask(noc_command_verify), 69);
    ck_says("it says to be part 7");
    ck_says("study_000: the study is not in the part");
}
END_TEST

START_TEST(what_lies_about_is_noted_and_harmless)
{
    int64_t bytes;
    ck_ok(sample_write_part(folder, NOC_OUTPUT_LABELS, 3, 0, 1, &bytes, &err));
    ck_ok(noc_file_replace(path_of("part-000004.h5.open"), "x", 1, &err));
    ck_ok(noc_file_replace(path_of("part-000005.h5.unknown"), "x", 1, &err));
    ck_assert_int_eq(ask(noc_command_verify), 0);
    ck_says("note: part-000003.h5: not in the catalog");
    ck_says("note: part-000004.h5.open: an unfinished part");
    ck_says("note: part-000005.h5.unknown: set aside");
    ck_says("verified 6 masks in 2 parts: all good");
}
END_TEST

START_TEST(a_moved_folder_is_found_and_a_missing_one_said)
{
    char moved[600];
    snprintf(moved, sizeof moved, "%s.moved", folder);
    ck_assert_int_eq(mkdir(moved, 0777), 0);
    for (int i = 1; i <= 2; i++) {
        char from[700], to[700];
        snprintf(from, sizeof from, "%s/part-%06d.h5", folder, i);
        snprintf(to, sizeof to, "%s/part-%06d.h5", moved, i);
        ck_assert_int_eq(rename(from, to), 0);
    }
    settings.results = moved;
    ck_assert_int_eq(ask(noc_command_verify), 0);
    settings.results = "/tmp/there/is/no/such/folder";
    ck_assert_int_eq(ask(noc_command_verify), 66);
    settings.catalog = "/tmp/there/is/no/such/catalog";
    ck_assert_int_eq(ask(noc_command_verify), 66);
}
END_TEST

START_TEST(the_index_is_written_when_asked_for)
{
    ck_assert_int_eq(ask(noc_command_verify), 0);
    ck_assert_int_ne(access(path_of("index.h5"), F_OK), 0);
    settings.index = true;
    ck_assert_int_eq(ask(noc_command_verify), 0);
    ck_assert_int_eq(access(path_of("index.h5"), F_OK), 0);
}
END_TEST

/* ---- export ---- */

static void check_exported(const char *target, int number)
{
    char path[1024];
    noc_nifti_options options = {0};
    noc_image image;
    noc_part_entry entry;
    sample_entry(NOC_OUTPUT_LABELS, number, &entry);
    snprintf(path, sizeof path, "%s/%s.nii.gz", target, entry.outcome.key);
    ck_ok(noc_nifti_read(path, &options, &image, &err));
    ck_assert_int_eq(image.type, entry.outcome.mask_bytes == 2 ? NOC_VOXEL_U16 : NOC_VOXEL_U8);
    ck_assert(noc_grid_is_same(&image.grid, &entry.outcome.grid, 1e-4));
    ck_assert_int_eq(image.grid.nifti.version, entry.outcome.grid.nifti.version);
    ck_assert_mem_eq(image.voxels, entry.outcome.mask, image.bytes);
    noc_image_clear(&image);
    sample_entry_clear(&entry);
}

START_TEST(masks_leave_as_nifti_files)
{
    static char target[700];
    snprintf(target, sizeof target, "%s/out/plain", folder);
    settings.output = target;
    for (int again = 0; again < 2; again++) {
        ck_assert_int_eq(ask(noc_command_export), 0);
        ck_says("exported 6 masks to ");
        for (int i = 0; i < SAMPLE_STUDIES; i++)
            check_exported(target, i);
    }
}
END_TEST

START_TEST(only_what_was_asked_for_leaves)
{
    char target[700], path[800];
    snprintf(target, sizeof target, "%s/out", folder);
    settings.output = target;
    settings.only = "*_00[13]";
    ck_assert_int_eq(ask(noc_command_export), 0);
    ck_says("exported 2 masks to ");
    check_exported(target, 1);
    check_exported(target, 3);
    snprintf(path, sizeof path, "%s/study_000.nii.gz", target);
    ck_assert_int_ne(access(path, F_OK), 0);
    settings.only = "nothing*";
    ck_assert_int_eq(ask(noc_command_export), 66);
}
END_TEST

START_TEST(export_says_what_it_cannot)
{
    ck_assert_int_eq(ask(noc_command_export), 64);
    settings.output = "/dev/null/out";
    ck_assert_int_eq(ask(noc_command_export), 73);
    settings.output = path_of("out");
    char part[700];
    snprintf(part, sizeof part, "%s/part-000002.h5", folder);
    ck_assert_int_eq(truncate(part, 1000), 0);
    ck_assert_int_eq(ask(noc_command_export), 65);
    ck_says("exported 4 masks to ");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("verify");
    TCase *tests = tcase_create("verify");

    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, make_set, remove_set);
    tcase_add_test(tests, a_whole_set_is_all_good);
    tcase_add_test(tests, a_superseded_mask_is_not_missed);
    tcase_add_test(tests, a_damaged_mask_is_found);
    tcase_add_test(tests, a_part_that_is_gone_or_cut_is_found);
    tcase_add_test(tests, a_part_that_was_swapped_is_found);
    tcase_add_test(tests, what_lies_about_is_noted_and_harmless);
    tcase_add_test(tests, a_moved_folder_is_found_and_a_missing_one_said);
    tcase_add_test(tests, the_index_is_written_when_asked_for);
    tcase_add_test(tests, masks_leave_as_nifti_files);
    tcase_add_test(tests, only_what_was_asked_for_leaves);
    tcase_add_test(tests, export_says_what_it_cannot);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
