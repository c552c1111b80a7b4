/* The lock beside the catalog: one owner, named to the others, gone with its process. */
#include "catalog/lock.h"
#include "engine/base/clock.h"

#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[256], path[320], lock_path[340];

static void set_up(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof(folder), "%s/noc_lock_XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/catalog.sqlite", folder);
    snprintf(lock_path, sizeof(lock_path), "%s.lock", path);
}

static void tear_down(void)
{
    unlink(path);
    unlink(lock_path);
    rmdir(folder);
}

START_TEST(second_owner_is_refused_and_the_first_named)
{
    noc_error err;
    noc_catalog_lock *first = NULL, *second = NULL;
    char pid[32];
    ck_assert_int_eq(noc_catalog_lock_take(path, 0, &first, &err), NOC_OK);
    double start = noc_clock_monotonic();
    ck_assert_int_eq(noc_catalog_lock_take(path, 0.5, &second, &err), NOC_ETEMPFAIL);
    ck_assert(noc_clock_monotonic() - start >= 0.45);
    snprintf(pid, sizeof(pid), "pid %ld", (long)getpid());
    ck_assert_ptr_nonnull(strstr(err.text, pid));
    ck_assert_ptr_null(second);
    noc_catalog_lock_release(first);
    ck_assert_int_eq(noc_catalog_lock_take(path, 0, &second, &err), NOC_OK);
    noc_catalog_lock_release(second);
    noc_catalog_lock_release(NULL);
}
END_TEST

/* Holds the lock until it is killed; says so through a pipe. */
static pid_t start_owner(void)
{
    int ends[2];
    char byte = 0;
    ck_assert_int_eq(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        noc_catalog_lock *lock = NULL;
        if (noc_catalog_lock_take(path, 0, &lock, NULL) != NOC_OK || write(ends[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ends[1]);
    ck_assert_int_eq(read(ends[0], &byte, 1), 1);
    close(ends[0]);
    return child;
}

START_TEST(lock_ends_with_its_process)
{
    noc_error err;
    noc_catalog_lock *lock = NULL;
    char pid[32];
    pid_t child = start_owner();
    ck_assert_int_eq(noc_catalog_lock_take(path, 0, &lock, &err), NOC_ETEMPFAIL);
    snprintf(pid, sizeof(pid), "pid %ld", (long)child);
    ck_assert_ptr_nonnull(strstr(err.text, pid));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    ck_assert_int_eq(noc_catalog_lock_take(path, 5, &lock, &err), NOC_OK);
    noc_catalog_lock_release(lock);
}
END_TEST

START_TEST(waiting_ends_when_the_owner_leaves)
{
    noc_error err;
    noc_catalog_lock *lock = NULL;
    pid_t owner = start_owner();
    pid_t killer = fork();
    if (killer == 0) {
        noc_clock_sleep(0.4);
        kill(owner, SIGKILL);
        _exit(0);
    }
    double start = noc_clock_monotonic();
    ck_assert_int_eq(noc_catalog_lock_take(path, 20, &lock, &err), NOC_OK);
    ck_assert(noc_clock_monotonic() - start < 10);
    waitpid(killer, NULL, 0);
    waitpid(owner, NULL, 0);
    noc_catalog_lock_release(lock);
}
END_TEST

START_TEST(two_names_of_one_catalog_share_the_lock)
{
    noc_error err;
    noc_catalog_lock *first = NULL, *second = NULL;
    char name[340];
    snprintf(name, sizeof(name), "%s/link.sqlite", folder);
    int file = open(path, O_CREAT | O_WRONLY, 0600);
    ck_assert_int_ge(file, 0);
    close(file);
    ck_assert_int_eq(symlink("catalog.sqlite", name), 0);
    ck_assert_int_eq(noc_catalog_lock_take(path, 0, &first, &err), NOC_OK);
    ck_assert_int_eq(noc_catalog_lock_take(name, 0, &second, &err), NOC_ETEMPFAIL);
    noc_catalog_lock_release(first);
    unlink(name);
}
END_TEST

START_TEST(folder_that_is_missing_cannot_be_locked)
{
    noc_error err;
    noc_catalog_lock *lock = NULL;
    char name[340];
    snprintf(name, sizeof(name), "%s/none/catalog.sqlite", folder);
    ck_assert_int_eq(noc_catalog_lock_take(name, 0, &lock, &err), NOC_ECANTCREATE);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lock");
    TCase *tests = tcase_create("lock");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, second_owner_is_refused_and_the_first_named);
    tcase_add_test(tests, lock_ends_with_its_process);
    tcase_add_test(tests, waiting_ends_when_the_owner_leaves);
    tcase_add_test(tests, two_names_of_one_catalog_share_the_lock);
    tcase_add_test(tests, folder_that_is_missing_cannot_be_locked);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
