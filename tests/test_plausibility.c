/* Which rules a mask breaks, and in which words. */
#include "worker/plausibility.h"

#include <check.h>
#include <float.h>
#include <stdlib.h>
#include <string.h>

static noc_label labels[] = {{2, "two"}, {1, "one"}};
/* one: two components; two: one. As bits: three of region 0, one of region 1. */
static uint8_t mask[] = {1, 0, 2, 2, 2, 0, 1}, regions[] = {1, 0, 3, 2, 2, 0, 1};
static noc_metric metrics[] = {{.name = "two", .prediction_ml = 0.2}, {.name = "one", .prediction_ml = 5}};
static noc_rule rule;

static const char *suspicion(noc_output_kind kind, int rules)
{
    static noc_outcome outcome;
    noc_manifest manifest = {.output = kind, .labels = labels, .label_count = 2, .region_count = 2};
    manifest.rules = calloc((size_t)rules, sizeof rule);
    for (manifest.rule_count = 0; manifest.rule_count < rules; manifest.rule_count++)
        manifest.rules[manifest.rule_count] = rule;
    outcome = (noc_outcome){.mask = mask, .mask_bytes = 1, .metrics = metrics, .metric_count = 2};
    if (kind == NOC_OUTPUT_REGIONS)
        outcome.regions = regions, outcome.region_bytes = 1;
    outcome.grid.size[0] = 7, outcome.grid.size[1] = outcome.grid.size[2] = 1;
    memset(outcome.suspect, 'x', sizeof outcome.suspect);
    ck_assert_int_eq(noc_plausibility_check(&manifest, &outcome, NULL), NOC_OK);
    free(manifest.rules);
    return outcome.suspect;
}

#define CHECK(text, ...)                                                                                     \
    do {                                                                                                     \
        rule = (noc_rule){.volume_ml = {0, DBL_MAX}};                                                        \
        __VA_ARGS__;                                                                                         \
        ck_assert_str_eq(suspicion(NOC_OUTPUT_LABELS, 1), text);                                             \
    } while (0)

static void components(int from, int to)
{
    rule.has_components = true;
    rule.components[0] = from, rule.components[1] = to;
}

static void volume(double from, double to)
{
    rule.volume_ml[0] = from, rule.volume_ml[1] = to;
}

START_TEST(a_rule_holds_or_is_told)
{
    CHECK("", (void)rule);
    CHECK("", volume(0.2, 3));
    CHECK("", volume(0, 0.2));
    CHECK("two: 0.2 ml, expected 0.5 to 3", volume(0.5, 3));
    CHECK("two: 0.2 ml, expected 0 to 0.1", volume(0, 0.1));
    CHECK("", components(1, 1));
    CHECK("two: 1 component, expected 2 to 3", components(2, 3));
    CHECK("one: 2 components, expected 0 to 1", rule.class = 1, components(0, 1));
    CHECK("", rule.presence = NOC_PRESENCE_YES);
    CHECK("two: present, expected absent", rule.presence = NOC_PRESENCE_NO);
    CHECK("two: 0.2 ml, expected 1 to 2; two: 1 component, expected 2 to 2", volume(1, 2), components(2, 2));
    metrics[0].prediction_ml = 0;
    CHECK("two: absent, expected present", rule.presence = NOC_PRESENCE_YES);
    CHECK("", rule.presence = NOC_PRESENCE_NO);
}
END_TEST

START_TEST(a_region_is_counted_by_its_bit)
{
    rule = (noc_rule){.class = 1, .volume_ml = {0, DBL_MAX}};
    components(2, 2);
    ck_assert_str_eq(suspicion(NOC_OUTPUT_REGIONS, 1), "one: 1 component, expected 2 to 2");
    rule.class = 0;
    ck_assert_str_eq(suspicion(NOC_OUTPUT_REGIONS, 1), "two: 3 components, expected 2 to 2");
    components(3, 3);
    ck_assert_str_eq(suspicion(NOC_OUTPUT_REGIONS, 1), "");
}
END_TEST

START_TEST(only_components_need_memory)
{
    static const int64_t size[3] = {100, 200, 300}, huge[3] = {INT64_MAX, INT64_MAX, 1};
    const noc_manifest manifest = {.rules = &rule, .rule_count = 1};
    rule = (noc_rule){.presence = NOC_PRESENCE_YES};
    ck_assert_uint_eq(noc_plausibility_bytes(&manifest, size), 0);
    components(1, 1);
    ck_assert_uint_gt(noc_plausibility_bytes(&manifest, size), 100 * 200 * 24);
    ck_assert_uint_lt(noc_plausibility_bytes(&manifest, size), 100 * 200 * 100);
    ck_assert_uint_eq(noc_plausibility_bytes(&manifest, huge), SIZE_MAX);
}
END_TEST

START_TEST(what_has_no_room_is_left_out_whole)
{
    static const char one[] = "two: 0.2 ml, expected 1 to 2";
    rule = (noc_rule){.volume_ml = {1, 2}};
    const char *text = suspicion(NOC_OUTPUT_LABELS, 100);
    size_t whole = strlen(text) / (sizeof one + 1);
    ck_assert_uint_lt(strlen(text), NOC_SUSPECT_TEXT);
    ck_assert_uint_ge(strlen(text) + sizeof one + 1, NOC_SUSPECT_TEXT);
    for (size_t n = 0; n < whole; n++, text += sizeof one + 1)
        ck_assert_int_eq(strncmp(text, one, sizeof one - 1), 0);
    ck_assert_str_eq(text - 2, "; ...");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("plausibility");
    TCase *tests = tcase_create("plausibility");
    tcase_add_test(tests, a_rule_holds_or_is_told);
    tcase_add_test(tests, a_region_is_counted_by_its_bit);
    tcase_add_test(tests, only_components_need_memory);
    tcase_add_test(tests, what_has_no_room_is_left_out_whole);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
