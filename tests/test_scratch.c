/* The folder of Open MPI's temporary files: empty at first, gone at the end, and never another's. */
#include "pipeline/scratch.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static noc_error err;
static noc_scratch scratch, other;

static bool is_there(const char *name)
{
    struct stat info;
    return lstat(name, &info) == 0;
}

static void make_file(const char *folder, const char *name)
{
    char file[512];
    snprintf(file, sizeof file, "%s/%s", folder, name);
    FILE *stream = fopen(file, "w");
    ck_assert_ptr_nonnull(stream);
    fclose(stream);
}

static void create(noc_scratch *made)
{
    ck_assert_msg(noc_scratch_create(made, &err) == NOC_OK, "%s", err.text);
}

START_TEST(it_goes_with_all_that_is_in_it)
{
    char path[256], below[512];
    create(&scratch);
    memcpy(path, scratch.path, sizeof path);
    snprintf(below, sizeof below, "%s/below", path);
    ck_assert_int_eq(mkdir(below, 0700), 0);
    make_file(below, "segment");
    noc_scratch_remove(&scratch);
    ck_assert(!is_there(path));
    noc_scratch_remove(&scratch);
}
END_TEST

START_TEST(what_a_killed_run_left_is_cleared)
{
    create(&other);
    make_file(other.path, "segment");
    close(other.folder); /* as its death does */
    create(&scratch);
    ck_assert(!is_there(other.path));
    noc_scratch_remove(&scratch);
}
END_TEST

/* A second run of the same catalog has one before it knows that it will be refused. */
START_TEST(what_a_run_works_in_is_left_alone)
{
    char file[512];
    create(&scratch);
    make_file(scratch.path, "segment");
    snprintf(file, sizeof file, "%s/segment", scratch.path);
    create(&other);
    ck_assert_str_ne(scratch.path, other.path);
    ck_assert(is_there(file));
    noc_scratch_remove(&other);
    ck_assert(is_there(file));
    noc_scratch_remove(&scratch);
}
END_TEST

/* A link of such a name may lead anywhere: what it leads to is left alone. */
START_TEST(a_link_is_not_followed)
{
    char target[] = "/tmp/scratch.XXXXXX", path[256], kept[512];
    ck_assert_ptr_nonnull(mkdtemp(target));
    make_file(target, "kept");
    snprintf(kept, sizeof kept, "%s/kept", target);
    create(&scratch);
    memcpy(path, scratch.path, sizeof path);
    noc_scratch_remove(&scratch);
    ck_assert_int_eq(symlink(target, path), 0);
    create(&other);
    ck_assert(is_there(kept));
    noc_scratch_remove(&other);
    unlink(path);
    unlink(kept);
    rmdir(target);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("scratch");
    TCase *cases = tcase_create("scratch");
    tcase_add_test(cases, it_goes_with_all_that_is_in_it);
    tcase_add_test(cases, what_a_killed_run_left_is_cleared);
    tcase_add_test(cases, what_a_run_works_in_is_left_alone);
    tcase_add_test(cases, a_link_is_not_followed);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
