/* The folder of Open MPI's temporary files: empty at first, gone at the end, and never another's. */
#include "pipeline/scratch.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static noc_error err;
static char path[256], catalog[64];

static bool is_there(const char *name)
{
    struct stat info;
    return lstat(name, &info) == 0;
}

static void make_catalog_name(void)
{
    snprintf(catalog, sizeof catalog, "/no/such/catalog.%ld", (long)getpid());
}

static void make_file(const char *folder, const char *name)
{
    char file[512];
    snprintf(file, sizeof file, "%s/%s", folder, name);
    FILE *stream = fopen(file, "w");
    ck_assert_ptr_nonnull(stream);
    fclose(stream);
}

START_TEST(what_a_killed_run_left_is_cleared)
{
    char first[256], below[512];
    ck_assert_msg(noc_scratch_create(catalog, first, sizeof first, &err) == NOC_OK, "%s", err.text);
    snprintf(below, sizeof below, "%s/below", first);
    ck_assert_int_eq(mkdir(below, 0700), 0);
    make_file(below, "segment");
    ck_assert_int_eq(noc_scratch_create(catalog, path, sizeof path, &err), NOC_OK);
    ck_assert_str_eq(path, first);
    ck_assert(is_there(path) && !is_there(below));
    noc_scratch_remove(path);
    ck_assert(!is_there(path));
    noc_scratch_remove(path);
    noc_scratch_remove("");
}
END_TEST

START_TEST(catalogs_have_folders_of_their_own)
{
    char other[256];
    ck_assert_int_eq(noc_scratch_create(catalog, path, sizeof path, &err), NOC_OK);
    ck_assert_int_eq(noc_scratch_create("/no/such/other", other, sizeof other, &err), NOC_OK);
    ck_assert_str_ne(path, other);
    noc_scratch_remove(path);
    noc_scratch_remove(other);
}
END_TEST

/* A link of that name may lead anywhere: what it leads to is left alone. */
START_TEST(a_link_is_not_followed)
{
    char target[] = "/tmp/scratch.XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(target));
    make_file(target, "kept");
    ck_assert_int_eq(noc_scratch_create(catalog, path, sizeof path, &err), NOC_OK);
    noc_scratch_remove(path);
    ck_assert_int_eq(symlink(target, path), 0);
    char again[256], kept[64];
    ck_assert_int_eq(noc_scratch_create(catalog, again, sizeof again, &err), NOC_OK);
    snprintf(kept, sizeof kept, "%s/kept", target);
    ck_assert(is_there(kept));
    noc_scratch_remove(again);
    ck_assert(is_there(kept));
    noc_scratch_remove(target);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("scratch");
    TCase *cases = tcase_create("scratch");
    tcase_add_checked_fixture(cases, make_catalog_name, NULL);
    tcase_add_test(cases, what_a_killed_run_left_is_cleared);
    tcase_add_test(cases, catalogs_have_folders_of_their_own);
    tcase_add_test(cases, a_link_is_not_followed);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
