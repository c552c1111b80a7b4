/* The one shape of status --json and RESULTS/status.json. */
#include "pipeline/status.h"

#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

static json_t *written(const noc_counts *counts)
{
    noc_text text = {0};
    json_error_t error;
    noc_counts_write_json(counts, &text);
    ck_assert(!text.failed);
    ck_assert_int_eq(text.data[text.size - 1], '\n');
    json_t *root = json_loadb(text.data, text.size, JSON_REJECT_DUPLICATES, &error);
    ck_assert_msg(root != NULL, "%s in: %s", error.text, text.data);
    noc_text_free(&text);
    return root;
}

START_TEST(every_state_stands_there)
{
    static const char *const names[] = {"pending", "running", "written", "done", "failed", "quarantined"};
    noc_counts counts = {.studies_per_hour = 12.5, .seconds_left = 90};
    for (int i = 0; i < NOC_STATE_COUNT; i++)
        counts.states[i] = i + 1;
    json_t *root = written(&counts), *studies = json_object_get(root, "studies");
    ck_assert_uint_eq(json_object_size(studies), NOC_STATE_COUNT);
    for (int i = 0; i < NOC_STATE_COUNT; i++)
        ck_assert_int_eq(json_integer_value(json_object_get(studies, names[i])), i + 1);
    ck_assert_uint_eq(json_object_size(json_object_get(root, "failures")), 0);
    ck_assert_double_eq_tol(json_number_value(json_object_get(root, "studies_per_hour")), 12.5, 1e-3);
    ck_assert_double_eq_tol(json_number_value(json_object_get(root, "seconds_left")), 90, 0.05);
    json_decref(root);
}
END_TEST

START_TEST(failures_by_their_types)
{
    noc_counts counts = {0};
    counts.failures[NOC_EUNREADABLE] = 2;
    counts.failures[NOC_ECRASH] = 1;
    json_t *root = written(&counts), *failures = json_object_get(root, "failures");
    ck_assert_uint_eq(json_object_size(failures), 2);
    ck_assert_int_eq(json_integer_value(json_object_get(failures, "unreadable")), 2);
    ck_assert_int_eq(json_integer_value(json_object_get(failures, "crash")), 1);
    json_decref(root);
}
END_TEST

START_TEST(what_is_unknown_is_null)
{
    noc_counts counts = {.seconds_left = NAN};
    json_t *root = written(&counts);
    ck_assert(json_is_null(json_object_get(root, "seconds_left")));
    json_decref(root);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("status");
    TCase *cases = tcase_create("status");
    tcase_add_test(cases, every_state_stands_there);
    tcase_add_test(cases, failures_by_their_types);
    tcase_add_test(cases, what_is_unknown_is_null);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
