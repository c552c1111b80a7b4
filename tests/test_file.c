/* Whole files, replacement and paths, in a folder that each test gets anew. */
#include "engine/base/file.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[256];
static char path[512];

/* folder/name, in one place that the next call overwrites. */
static const char *at(const char *name)
{
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void set_up(void)
{
    const char *base = getenv("TMPDIR");

    snprintf(folder, sizeof folder, "%s/test_file.XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void tear_down(void)
{
    char command[600];

    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    ck_assert_int_eq(system(command), 0);
}

static int count_entries(void)
{
    int count = 0;
    DIR *dir = opendir(folder);

    while (readdir(dir))
        count++;
    closedir(dir);
    return count - 2;
}

START_TEST(replace_and_read)
{
    char *data = NULL;
    size_t size = 0;

    ck_assert_int_eq(noc_file_replace(at("a"), "first", 5, NULL), NOC_OK);
    ck_assert_int_eq(noc_file_replace(at("a"), "second\0x", 8, NULL), NOC_OK);
    ck_assert_int_eq(noc_file_read(at("a"), 8, &data, &size, NULL), NOC_OK);
    ck_assert_uint_eq(size, 8);
    ck_assert_mem_eq(data, "second\0x", 9);
    free(data);
    ck_assert_int_eq(noc_file_replace(at("a"), NULL, 0, NULL), NOC_OK);
    ck_assert_int_eq(noc_file_read(at("a"), 0, &data, &size, NULL), NOC_OK);
    ck_assert_uint_eq(size, 0);
    ck_assert_str_eq(data, "");
    free(data);
    ck_assert_int_eq(count_entries(), 1);
}
END_TEST

START_TEST(an_open_reader_keeps_the_old_bytes)
{
    char text[8] = "";

    noc_file_replace(at("a"), "old", 3, NULL);
    int reader = open(path, O_RDONLY);
    noc_file_replace(path, "new", 3, NULL);
    ck_assert_int_eq(read(reader, text, sizeof text), 3);
    ck_assert_str_eq(text, "old");
    close(reader);
}
END_TEST

START_TEST(replace_leaves_no_rubbish_behind)
{
    noc_error err;

    ck_assert_int_eq(noc_file_replace(at("no/such/folder"), "x", 1, &err), NOC_ECANTCREATE);
    ck_assert_ptr_nonnull(strstr(err.text, path));
    ck_assert_int_eq(mkdir(at("taken"), 0777), 0);
    ck_assert_int_eq(noc_file_replace(path, "x", 1, &err), NOC_EIO);
    ck_assert_int_eq(count_entries(), 1);
}
END_TEST

/* A limit on the size of files stands for a full disk: the write fails in the middle. */
START_TEST(what_cannot_be_written_leaves_the_old_file)
{
    noc_error err;
    char *data;
    size_t size;
    struct rlimit before, small;
    static const char large[10000];

    noc_file_replace(at("a"), "old", 3, NULL);
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    noc_status status = noc_file_replace(path, large, sizeof large, &err);
    setrlimit(RLIMIT_FSIZE, &before);
    ck_assert_int_eq(status, NOC_EIO);
    ck_assert_ptr_nonnull(strstr(err.text, path));
    ck_assert_int_eq(count_entries(), 1);
    ck_assert_int_eq(noc_file_read(path, 100, &data, &size, NULL), NOC_OK);
    ck_assert_str_eq(data, "old");
    free(data);
}
END_TEST

/* Each of these is refused with a sentence that names it, whether read or mapped. */
START_TEST(only_regular_files_are_read)
{
    noc_error err;
    noc_mapping mapping = {0};
    char *data = NULL;
    size_t size = 0;

    mkfifo(at("fifo"), 0666);
    ck_assert_int_eq(symlink("nowhere", at("dangling")), 0);
    const char *const names[] = {"missing", "fifo", "dangling", ""};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        ck_assert_int_eq(noc_file_map(at(names[i]), &mapping, &err), NOC_ENOINPUT);
        ck_assert_ptr_nonnull(strstr(err.text, path));
        ck_assert_int_eq(noc_file_read(at(names[i]), 100, &data, &size, &err), NOC_ENOINPUT);
        ck_assert_ptr_nonnull(strstr(err.text, path));
    }
    ck_assert_int_eq(noc_file_read("/dev/null", 100, &data, &size, &err), NOC_ENOINPUT);
    ck_assert_ptr_null(data);
    ck_assert_ptr_null(mapping.data);
}
END_TEST

START_TEST(larger_than_allowed)
{
    noc_error err;
    char *data = NULL;
    size_t size = 0;

    noc_file_replace(at("a"), "12345", 5, NULL);
    ck_assert_int_eq(noc_file_read(path, 4, &data, &size, &err), NOC_ETOOLARGE);
    ck_assert_ptr_null(data);
}
END_TEST

START_TEST(mapped_files)
{
    noc_mapping mapping;

    noc_file_replace(at("a"), "12345", 5, NULL);
    ck_assert_int_eq(noc_file_map(path, &mapping, NULL), NOC_OK);
    ck_assert_uint_eq(mapping.size, 5);
    ck_assert_mem_eq(mapping.data, "12345", 5);
    noc_file_unmap(&mapping);
    ck_assert_ptr_null(mapping.data);
    noc_file_unmap(&mapping);
    noc_file_replace(path, "", 0, NULL);
    ck_assert_int_eq(noc_file_map(path, &mapping, NULL), NOC_OK);
    ck_assert_ptr_null(mapping.data);
    ck_assert_uint_eq(mapping.size, 0);
    noc_file_unmap(&mapping);
}
END_TEST

START_TEST(folders)
{
    noc_error err;
    struct stat info;

    ck_assert_int_eq(noc_folder_create(at("a//b/c/"), NULL), NOC_OK);
    ck_assert_int_eq(noc_folder_create(path, NULL), NOC_OK);
    ck_assert(stat(path, &info) == 0 && S_ISDIR(info.st_mode));
    noc_file_replace(at("file"), "x", 1, NULL);
    ck_assert_int_eq(noc_folder_create(path, &err), NOC_ECANTCREATE);
    ck_assert_int_eq(noc_folder_create(at("file/below"), &err), NOC_ECANTCREATE);
    ck_assert_ptr_nonnull(strstr(err.text, "file/below"));
    ck_assert_int_eq(noc_folder_create("", &err), NOC_ECANTCREATE);
    ck_assert_int_eq(noc_file_sync(folder, NULL), NOC_OK);
    ck_assert_int_eq(noc_file_sync(at("missing"), &err), NOC_EIO);
}
END_TEST

/* A home of mode 0711: what is there below it may be used. Root reads it all the same. */
START_TEST(a_folder_below_one_that_cannot_be_read)
{
    ck_assert_int_eq(noc_folder_create(at("there"), NULL), NOC_OK);
    ck_assert_int_eq(chmod(folder, 0311), 0);
    noc_status status = noc_folder_create(path, NULL);
    ck_assert_int_eq(chmod(folder, 0755), 0);
    ck_assert_int_eq(status, NOC_OK);
}
END_TEST

START_TEST(fingerprint)
{
    const struct timespec times[2] = {{.tv_sec = 1}, {.tv_sec = 1700000000, .tv_nsec = 123456789}};
    int64_t size = -1, mtime = -1;
    noc_error err;

    noc_file_replace(at("a"), "12345", 5, NULL);
    utimensat(AT_FDCWD, path, times, 0);
    ck_assert_int_eq(noc_file_fingerprint(path, &size, &mtime, NULL), NOC_OK);
    ck_assert_int_eq(size, 5);
    ck_assert_int_eq(mtime, INT64_C(1700000000123456789));
    ck_assert_int_eq(noc_file_fingerprint(at("missing"), &size, &mtime, &err), NOC_ENOINPUT);
    ck_assert_int_eq(size, 5);
}
END_TEST

static void check_text(char *made, const char *expected)
{
    ck_assert_ptr_nonnull(made);
    ck_assert_str_eq(made, expected);
    free(made);
}

START_TEST(paths)
{
    char here[1000], expected[1100];

    check_text(noc_path_join("a", "b", NULL), "a/b");
    check_text(noc_path_join("a/", "b/c", NULL), "a/b/c");
    check_text(noc_path_join("a", "/b", NULL), "/b");
    check_text(noc_path_join("/", "b", NULL), "/b");
    check_text(noc_path_join("", "b", NULL), "b");
    check_text(noc_path_folder("a/b", NULL), "a");
    check_text(noc_path_folder("a//b", NULL), "a");
    check_text(noc_path_folder("b", NULL), ".");
    check_text(noc_path_folder("/b", NULL), "/");
    check_text(noc_path_absolute("/a/b", NULL), "/a/b");
    ck_assert_ptr_nonnull(getcwd(here, sizeof here));
    snprintf(expected, sizeof expected, "%s/a/b", here);
    check_text(noc_path_absolute("a/b", NULL), expected);
    check_text(noc_path_absolute(".//./a/b", NULL), expected);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("file");
    TCase *cases = tcase_create("file");

    tcase_add_checked_fixture(cases, set_up, tear_down);
    tcase_add_test(cases, replace_and_read);
    tcase_add_test(cases, an_open_reader_keeps_the_old_bytes);
    tcase_add_test(cases, replace_leaves_no_rubbish_behind);
    tcase_add_test(cases, what_cannot_be_written_leaves_the_old_file);
    tcase_add_test(cases, only_regular_files_are_read);
    tcase_add_test(cases, larger_than_allowed);
    tcase_add_test(cases, mapped_files);
    tcase_add_test(cases, folders);
    tcase_add_test(cases, a_folder_below_one_that_cannot_be_read);
    tcase_add_test(cases, fingerprint);
    tcase_add_test(cases, paths);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
