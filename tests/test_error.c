/* Statuses and sentences; the clock and the log, which people read as well. */
#include "engine/base/clock.h"
#include "engine/base/error.h"
#include "engine/base/log.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

START_TEST(fail_fills_the_sentence)
{
    noc_error err = {0};

    ck_assert_int_eq(noc_fail(&err, NOC_EDATA, "%s has %d rows", "a.csv", 3), NOC_EDATA);
    ck_assert_int_eq(err.status, NOC_EDATA);
    ck_assert_str_eq(err.text, "a.csv has 3 rows");
    ck_assert_int_eq(noc_fail(NULL, NOC_EIO, "nobody listens"), NOC_EIO);
    noc_fail(&err, NOC_EIO, "again: %s", err.text);
    ck_assert_str_eq(err.text, "again: a.csv has 3 rows");
}
END_TEST

START_TEST(within_puts_a_prefix)
{
    noc_error err = {0};

    noc_fail(&err, NOC_EUNREADABLE, "no such file");
    ck_assert_int_eq(noc_within(&err, NOC_EUNREADABLE, "study %s", "a"), NOC_EUNREADABLE);
    ck_assert_str_eq(err.text, "study a: no such file");
    ck_assert_int_eq(err.status, NOC_EUNREADABLE);
    ck_assert_int_eq(noc_within(NULL, NOC_EIO, "x"), NOC_EIO);
}
END_TEST

/* True when text ends with a whole character. */
static int ends_whole(const char *text)
{
    size_t length = strlen(text);

    return length == 0 || (unsigned char)text[length - 1] < 0x80 ||
           (length >= 3 && memcmp(text + length - 3, "\xe2\x82\xac", 3) == 0);
}

START_TEST(long_sentences_end_at_a_character)
{
    char euros[3 * 300 + 1] = "";
    noc_error err;

    for (int i = 0; i < 300; i++)
        strcat(euros, "\xe2\x82\xac");
    for (int lead = 0; lead < 4; lead++) {
        noc_fail(&err, NOC_EDATA, "%.*s%s", lead, "aaa", euros);
        ck_assert_uint_lt(strlen(err.text), NOC_ERROR_TEXT);
        ck_assert_uint_ge(strlen(err.text), NOC_ERROR_TEXT - 4);
        ck_assert(ends_whole(err.text));
        noc_within(&err, NOC_EDATA, "%.*s", lead, "bbb");
        ck_assert_uint_lt(strlen(err.text), NOC_ERROR_TEXT);
        ck_assert(ends_whole(err.text));
    }
    noc_within(&err, NOC_EDATA, "%s", euros);
    ck_assert(ends_whole(err.text));
}
END_TEST

START_TEST(names_and_codes)
{
    noc_status status = NOC_OK;

    ck_assert_str_eq(noc_status_name(NOC_EGEOMETRY), "geometry");
    ck_assert_str_eq(noc_status_name((noc_status)999), "internal");
    ck_assert_int_eq(noc_status_exit(NOC_OK), 0);
    ck_assert_int_eq(noc_status_exit(NOC_EUSAGE), 64);
    ck_assert_int_eq(noc_status_exit(NOC_ECONFIG), 78);
    ck_assert_int_eq(noc_status_exit((noc_status)-5), 70);
    for (int i = NOC_OK; i <= NOC_ECONFIG; i++) {
        ck_assert(noc_status_from_name(noc_status_name((noc_status)i), &status));
        ck_assert_int_eq(status, i);
    }
    ck_assert(!noc_status_from_name("none of them", &status));
    ck_assert(!noc_status_from_name(NULL, &status));
    ck_assert_int_eq(status, NOC_ECONFIG);
}
END_TEST

START_TEST(only_accidents_are_tried_again)
{
    int retryable = 0;

    for (int i = NOC_OK; i <= NOC_ECONFIG; i++)
        retryable += noc_status_is_retryable((noc_status)i);
    ck_assert_int_eq(retryable, 5);
    ck_assert(noc_status_is_retryable(NOC_ECRASH));
    ck_assert(!noc_status_is_retryable(NOC_EUNREADABLE));
}
END_TEST

START_TEST(utc_text)
{
    char text[NOC_CLOCK_TEXT];

    noc_clock_utc(INT64_C(1795485784567999999), 1, text);
    ck_assert_str_eq(text, "2026-11-24T02:03:04.567Z");
    noc_clock_utc(INT64_C(1795485784567999999), 0, text);
    ck_assert_str_eq(text, "2026-11-24T02:03:04Z");
    noc_clock_utc(-1, 1, text);
    ck_assert_str_eq(text, "1969-12-31T23:59:59.999Z");
}
END_TEST

START_TEST(time_passes)
{
    double start = noc_clock_monotonic();

    noc_clock_sleep(-1);
    noc_clock_sleep(0.02);
    ck_assert_double_ge(noc_clock_monotonic() - start, 0.02);
    ck_assert_int_gt(noc_clock_unix_ns(), INT64_C(1700000000000000000));
}
END_TEST

/* What one call wrote to stderr. */
static void capture(char *line, size_t size, noc_log_level level, const char *message)
{
    int ends[2], saved = dup(STDERR_FILENO);

    ck_assert_int_eq(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    noc_log(level, "%s", message);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(ends[1]);
    ssize_t n = read(ends[0], line, size - 1);
    close(ends[0]);
    line[n > 0 ? n : 0] = '\0';
}

START_TEST(log_lines)
{
    char line[4096];

    capture(line, sizeof line, NOC_LOG_INFO, "study a: done");
    ck_assert_str_eq(line + strlen("2026-11-24T02:03:04.567Z"), " info  study a: done\n");
    capture(line, sizeof line, NOC_LOG_DEBUG, "not asked for");
    ck_assert_str_eq(line, "");
    noc_log_open(NOC_LOG_DEBUG, NOC_LOG_TEXT, 3);
    capture(line, sizeof line, NOC_LOG_DEBUG, "two\nlines\x1b[0m");
    ck_assert_str_eq(line + strlen("2026-11-24T02:03:04.567Z"), " debug [3] two lines [0m\n");
    noc_log_open(NOC_LOG_WARN, NOC_LOG_JSON, 3);
    capture(line, sizeof line, NOC_LOG_WARN, "a \"b\"\n");
    ck_assert_ptr_nonnull(
        strstr(line, "Z\",\"level\":\"warn\",\"rank\":3,\"message\":\"a \\\"b\\\"\\n\"}\n"));
    capture(line, sizeof line, NOC_LOG_INFO, "below the level");
    ck_assert_str_eq(line, "");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("error");
    TCase *cases = tcase_create("error");

    tcase_add_test(cases, fail_fills_the_sentence);
    tcase_add_test(cases, within_puts_a_prefix);
    tcase_add_test(cases, long_sentences_end_at_a_character);
    tcase_add_test(cases, names_and_codes);
    tcase_add_test(cases, only_accidents_are_tried_again);
    tcase_add_test(cases, utc_text);
    tcase_add_test(cases, time_passes);
    tcase_add_test(cases, log_lines);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
