/* The next occurrence of a time of day, around midnight and where clocks are changed. */
#include "pipeline/deadline.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static noc_error err;

static void use_zone(const char *zone)
{
    setenv("TZ", zone, 1);
    tzset();
}

/* Seconds from now until text comes. */
static long wait_for(const char *text, time_t now)
{
    int64_t at;
    ck_assert_msg(noc_deadline_parse(text, now, &at, &err) == NOC_OK, "%s", err.text);
    return (long)(at - (int64_t)now);
}

START_TEST(none_is_none)
{
    int64_t at = 7;
    ck_assert_int_eq(noc_deadline_parse(NULL, 1000, &at, &err), NOC_OK);
    ck_assert_int_eq(at, 0);
}
END_TEST

/* 2026-03-10 12:00:00 UTC */
enum { NOON = 1773144000 };

START_TEST(today_or_tomorrow)
{
    use_zone("UTC0");
    ck_assert_int_eq(wait_for("12:01", NOON), 60);
    ck_assert_int_eq(wait_for("12:01", NOON + 59), 1);
    ck_assert_int_eq(wait_for("12:00", NOON), 86400); /* now is not the next one */
    ck_assert_int_eq(wait_for("11:59", NOON), 86400 - 60);
    ck_assert_int_eq(wait_for("00:00", NOON), 43200);
    ck_assert_int_eq(wait_for("6:00", NOON), 64800);
    ck_assert_int_eq(wait_for("23:59", NOON), 43200 - 60);
}
END_TEST

START_TEST(local_time_counts)
{
    use_zone("AAA-1:00:30");
    ck_assert_int_eq(wait_for("13:01", NOON), 30);
    use_zone("BBB+5");
    ck_assert_int_eq(wait_for("07:00", NOON), 86400);
    ck_assert_int_eq(wait_for("06:00", NOON), 82800);
}
END_TEST

/* In this zone clocks go from 02:00 to 03:00 on 29 March 2026 and back from 03:00 on 25 October. */
START_TEST(days_of_other_lengths)
{
    const time_t spring = 1774738800; /* 2026-03-28 23:00 UTC, 00:00 there */
    const time_t autumn = 1792879200; /* 2026-10-24 22:00 UTC, 00:00 there */
    use_zone("CET-1CEST,M3.5.0,M10.5.0/3");
    ck_assert_int_eq(wait_for("06:00", spring), 5 * 3600);
    ck_assert_int_eq(wait_for("06:00", autumn), 7 * 3600);
    ck_assert_int_ge(wait_for("02:30", spring), 3600); /* there is none: near it */
    ck_assert_int_le(wait_for("02:30", spring), 3 * 3600);
}
END_TEST

START_TEST(what_is_no_time_is_refused)
{
    static const char *const wrong[] = {"",       "6",      "06",     ":30",   "06:",   "06:0",
                                        "06:000", "006:00", "24:00",  "12:60", "-1:00", "12-30",
                                        "ab:cd",  "12:3x",  "12:30 ", " 2:30", "+1:00"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        int64_t at;
        ck_assert_msg(noc_deadline_parse(wrong[i], NOON, &at, &err) == NOC_EUSAGE, "%s", wrong[i]);
        ck_assert_ptr_nonnull(strstr(err.text, "HH:MM"));
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("deadline");
    TCase *cases = tcase_create("deadline");
    tcase_add_test(cases, none_is_none);
    tcase_add_test(cases, today_or_tomorrow);
    tcase_add_test(cases, local_time_counts);
    tcase_add_test(cases, days_of_other_lengths);
    tcase_add_test(cases, what_is_no_time_is_refused);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
