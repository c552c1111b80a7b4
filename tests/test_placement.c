/* Shares of a node's CPUs on invented machines, what /sys tells and does not tell, and a thread that is
 * pinned. */
#include "engine/base/cpus.h"
#include "engine/base/file.h"
#include "pipeline/placement.h"

#include <check.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 256 };

static noc_cpu cpus[MOST];

/* `each` CPUs in each of `domains`, numbered from 0 on. */
static noc_topology machine(int domains, int each)
{
    for (int i = 0; i < domains * each; i++)
        cpus[i] = (noc_cpu){.number = i, .domain = i / each, .core = i};
    return (noc_topology){.cpus = cpus, .count = domains * each, .quota = INT_MAX};
}

/* Worker `index` has CPUs [first, first + count) and that many threads. */
static void check_share(const noc_topology *t, int workers, int index, int first, int count, int threads)
{
    noc_placement p = noc_placement_of(t, workers, index);
    ck_assert_msg(p.first == first && p.count == count && p.threads == threads,
                  "worker %d of %d: CPUs %d + %d, %d threads", index, workers, p.first, p.count, p.threads);
}

START_TEST(one_domain_of_two)
{
    noc_topology t = machine(1, 2);
    ck_assert_int_eq(noc_topology_domains(&t), 1);
    ck_assert_int_eq(noc_topology_workers(&t), 1);
    check_share(&t, 1, 0, 0, 2, 2);
    check_share(&t, 2, 0, 0, 1, 1);
    check_share(&t, 2, 1, 1, 1, 1);
    for (int i = 0; i < 3; i++) /* the system shares two CPUs among three better than we do */
        check_share(&t, 3, i, 0, 2, 1);
}
END_TEST

START_TEST(two_domains_of_32)
{
    noc_topology t = machine(2, 32);
    ck_assert_int_eq(noc_topology_domains(&t), 2);
    ck_assert_int_eq(noc_topology_workers(&t), 2);
    check_share(&t, 1, 0, 0, 64, 64);
    check_share(&t, 2, 0, 0, 32, 32);
    check_share(&t, 2, 1, 32, 32, 32);
    check_share(&t, 4, 1, 16, 16, 16);
    check_share(&t, 4, 2, 32, 16, 16);
}
END_TEST

/* Fewer workers than domains get whole ones, more get equal parts; nothing is given twice or forgotten. */
START_TEST(four_domains)
{
    noc_topology t = machine(4, 16);
    check_share(&t, 2, 1, 32, 32, 32);
    check_share(&t, 3, 0, 0, 16, 16);
    check_share(&t, 3, 2, 32, 32, 32);
    for (int workers = 1; workers <= t.count; workers++) {
        int next = 0;
        for (int i = 0; i < workers; i++) {
            noc_placement p = noc_placement_of(&t, workers, i);
            ck_assert_int_eq(p.first, next);
            ck_assert_int_eq(p.threads, p.count);
            if (workers > 4)
                ck_assert(p.count == t.count / workers || p.count == t.count / workers + 1);
            next += p.count;
        }
        ck_assert_int_eq(next, t.count);
    }
    check_share(&t, 6, 0, 0, 10, 10);
    check_share(&t, 6, 5, 53, 11, 11);
}
END_TEST

/* taskset left 3 CPUs of domain 0 and 5 of domain 2: domain 1 does not count. */
START_TEST(restricted_affinity)
{
    static noc_cpu left[] = {{0, 0, 0},   {1, 0, 1},   {5, 0, 5},   {32, 2, 32},
                             {33, 2, 33}, {34, 2, 34}, {40, 2, 40}, {41, 2, 41}};
    noc_topology t = {.cpus = left, .count = 8, .quota = INT_MAX}, other = t;
    ck_assert_int_eq(noc_topology_domains(&t), 2);
    check_share(&t, 2, 0, 0, 3, 3);
    check_share(&t, 2, 1, 3, 5, 5);
    check_share(&t, 4, 3, 6, 2, 2);
    other.count = 7;
    ck_assert(noc_topology_fingerprint(&t) != noc_topology_fingerprint(&other));
}
END_TEST

START_TEST(quota)
{
    noc_topology t = machine(2, 32);
    t.quota = 5;
    check_share(&t, 1, 0, 0, 64, 5);
    check_share(&t, 2, 0, 0, 32, 2);
    check_share(&t, 2, 1, 32, 32, 3);
    check_share(&t, 8, 3, 24, 8, 1);
    t.quota = 1;
    ck_assert_int_eq(noc_topology_workers(&t), 1);
    check_share(&t, 2, 0, 0, 32, 1);
}
END_TEST

START_TEST(nothing_is_known)
{
    noc_topology t = {0};
    ck_assert_int_eq(noc_topology_workers(&t), 1);
    check_share(&t, 2, 1, 0, 0, 0);
    noc_placement p = noc_placement_of(&t, 2, 1);
    ck_assert_int_eq(noc_placement_pin(&t, &p, NULL), NOC_OK);
}
END_TEST

/* ---- an invented /sys/devices/system ---- */

static char folder[256];

static void make_folder(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/test_placement.XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void remove_folder(void)
{
    char command[512];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    ck_assert_int_eq(system(command), 0); /* NOLINT(cert-env33-c): a folder of our own */
}

static void write_file(const char *place, const char *name, const char *text)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, place);
    ck_assert_int_eq(noc_folder_create(path, NULL), NOC_OK);
    snprintf(path, sizeof path, "%s/%s/%s", folder, place, name);
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs(text, file), 0);
    ck_assert_int_eq(fclose(file), 0);
}

static noc_topology read_folder(void)
{
    noc_topology t = {0};
    ck_assert_int_eq(noc_topology_read(folder, &t, NULL), NOC_OK);
    return t;
}

START_TEST(a_machine_that_tells_nothing_is_one_domain)
{
    int *numbers, count;
    noc_topology t = read_folder();
    ck_assert_int_eq(noc_cpus_allowed(&numbers, &count, NULL), NOC_OK);
    ck_assert_int_eq(t.count, count);
    ck_assert_int_eq(noc_topology_domains(&t), 1);
    for (int i = 0; i < count; i++)
        ck_assert_int_eq(t.cpus[i].number, numbers[i]);
    free(numbers);
    noc_topology_free(&t);
}
END_TEST

/* The lowest CPU of this process is put into domain 1, the others, a thousand CPUs that are not there and a
 * domain of memory alone make the rest. */
START_TEST(domains_are_read)
{
    int *numbers, count;
    char text[128];
    ck_assert_int_eq(noc_cpus_allowed(&numbers, &count, NULL), NOC_OK);
    snprintf(text, sizeof text, "%d,90000\n", numbers[0]);
    write_file("node/node1", "cpulist", text);
    snprintf(text, sizeof text, "%d-%d,91000-92000\n", numbers[0] + 1, numbers[count - 1] + 1);
    write_file("node/node0", "cpulist", text);
    write_file("node/node2", "cpulist", "\n");
    write_file("node/node3x", "cpulist", "0-100000\n");
    noc_topology t = read_folder();
    ck_assert_int_eq(t.count, count);
    ck_assert_int_eq(noc_topology_domains(&t), count > 1 ? 2 : 1);
    ck_assert_int_eq(t.cpus[count - 1].number, numbers[0]);
    ck_assert_int_eq(t.cpus[count - 1].domain, 1);
    for (int i = 0; i < count - 1; i++)
        ck_assert(t.cpus[i].number == numbers[i + 1] && t.cpus[i].domain == 0);
    free(numbers);
    noc_topology_free(&t);
}
END_TEST

/* Threads of one core are neighbours: the lowest CPU belongs to a core behind all others. */
START_TEST(cores_are_read)
{
    int *numbers, count;
    char place[64];
    ck_assert_int_eq(noc_cpus_allowed(&numbers, &count, NULL), NOC_OK);
    snprintf(place, sizeof place, "cpu/cpu%d/topology", numbers[0]);
    write_file(place, "thread_siblings_list", "80000,80001\n");
    noc_topology t = read_folder();
    ck_assert_int_eq(t.cpus[count - 1].number, numbers[0]);
    ck_assert_int_eq(t.cpus[count - 1].core, 80000);
    free(numbers);
    noc_topology_free(&t);
}
END_TEST

static void *count_cpus(void *count)
{
    *(int *)count = noc_cpus_count();
    return NULL;
}

/* In a thread of its own, since it stays pinned. */
static void *pin_to_last(void *unused)
{
    (void)unused;
    noc_topology t = read_folder();
    noc_placement p = {.first = t.count - 1, .count = 1};
    noc_text text = {0};
    char expected[32];
    pthread_t child;
    int seen = 0;
    ck_assert_int_eq(noc_placement_pin(&t, &p, NULL), NOC_OK);
    snprintf(expected, sizeof expected, "%d", t.cpus[t.count - 1].number);
    noc_placement_add_cpus(&text);
    ck_assert_str_eq(text.data, expected);
    ck_assert_int_eq(pthread_create(&child, NULL, count_cpus, &seen), 0);
    ck_assert_int_eq(pthread_join(child, NULL), 0);
    ck_assert_int_eq(seen, 1);
    ck_assert_int_eq(noc_cpus_usable(), 1);
    noc_text_free(&text);
    noc_topology_free(&t);
    return NULL;
}

START_TEST(threads_stay_on_their_share)
{
    pthread_t thread;
    int before = noc_cpus_count();
    ck_assert_int_eq(pthread_create(&thread, NULL, pin_to_last, NULL), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_int_eq(noc_cpus_count(), before);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("placement");
    TCase *shares = tcase_create("shares"), *systems = tcase_create("systems");
    tcase_add_test(shares, one_domain_of_two);
    tcase_add_test(shares, two_domains_of_32);
    tcase_add_test(shares, four_domains);
    tcase_add_test(shares, restricted_affinity);
    tcase_add_test(shares, quota);
    tcase_add_test(shares, nothing_is_known);
    tcase_add_checked_fixture(systems, make_folder, remove_folder);
    tcase_add_test(systems, a_machine_that_tells_nothing_is_one_domain);
    tcase_add_test(systems, domains_are_read);
    tcase_add_test(systems, cores_are_read);
    tcase_add_test(systems, threads_stay_on_their_share);
    suite_add_tcase(suite, shares);
    suite_add_tcase(suite, systems);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
