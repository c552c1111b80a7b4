/* The growing string, its JSON and CSV forms, and numbers out of text. */
#include "engine/base/text.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

START_TEST(text_grows)
{
    noc_text text = {0};

    for (int i = 0; i < 5000; i++)
        noc_text_add(&text, "%d,", i % 10);
    ck_assert(!text.failed);
    ck_assert_uint_eq(text.size, 10000);
    ck_assert_uint_eq(strlen(text.data), 10000);
    ck_assert_int_eq(strncmp(text.data + 9980, "0,1,2,3,4,5,6,7,8,9,", 21), 0);
    noc_text_free(&text);
    ck_assert_ptr_null(text.data);
    noc_text_add(&text, "%s", "");
    ck_assert_str_eq(text.data, "");
    noc_text_free(&text);
    noc_text_free(NULL);
}
END_TEST

START_TEST(failed_text_stays_as_it_is)
{
    noc_text text = {0};

    noc_text_add(&text, "a");
    text.failed = true;
    noc_text_add(&text, "b");
    noc_text_add_json(&text, "c");
    noc_text_add_csv(&text, "d");
    ck_assert_str_eq(text.data, "a");
    noc_text_free(&text);
}
END_TEST

static void check_json(const char *value, const char *expected)
{
    noc_text text = {0};

    noc_text_add_json(&text, value);
    ck_assert_str_eq(text.data, expected);
    noc_text_free(&text);
}

START_TEST(json)
{
    check_json(NULL, "null");
    check_json("", "\"\"");
    check_json("a\"b\\c/", "\"a\\\"b\\\\c/\"");
    check_json("\n\t\r\x01\x7f", "\"\\n\\t\\u000d\\u0001\\u007f\"");
    check_json("M\xc3\xbcller \xe2\x82\xac \xf0\x9f\xa7\xa0",
               "\"M\xc3\xbcller \xe2\x82\xac \xf0\x9f\xa7\xa0\"");
    check_json("\xff-\xc3", "\"\\ufffd-\\ufffd\"");
    check_json("\xc0\xaf", "\"\\ufffd\\ufffd\"");                       /* overlong */
    check_json("\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\"");            /* a surrogate */
    check_json("\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\""); /* beyond the last character */
    check_json("\xe2\x82", "\"\\ufffd\\ufffd\"");
}
END_TEST

static void check_csv(const char *value, const char *expected)
{
    noc_text text = {0};

    noc_text_add(&text, "<");
    noc_text_add_csv(&text, value);
    ck_assert_str_eq(text.data + 1, expected);
    noc_text_free(&text);
}

START_TEST(csv)
{
    check_csv(NULL, "");
    check_csv("", "");
    check_csv("plain text", "plain text");
    check_csv("a,b", "\"a,b\"");
    check_csv("\"", "\"\"\"\"");
    check_csv("say \"a\"", "\"say \"\"a\"\"\"");
    check_csv("two\nlines", "\"two\nlines\"");
}
END_TEST

START_TEST(sizes)
{
    const struct {
        const char *text;
        size_t bytes;
    } good[] = {
        {"0", 0},
        {"500000", 500000},
        {"1536MiB", 1610612736},
        {"2GiB", 2147483648},
        {"1.5GB", 1500000000},
        {"2 GiB", 2147483648},
        {"1kB", 1000},
        {"1KiB", 1024},
        {"3g", 3221225472},
        {"7B", 7},
        {"0.5TiB", 549755813888},
        {"9007199254740993", 9007199254740993},
    };
    const char *const bad[] = {"",       "MiB",        "-1",   "1.2.3MiB", "1XiB", "1MiB!",
                               ".",      " 1",         "0x10", "1e3",      "nan",  "99999999999999999999",
                               "9e9TiB", "8388608TiB", "1MiBB"};
    size_t bytes;
    noc_error err;

    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        ck_assert_int_eq(noc_parse_size(good[i].text, &bytes, &err), NOC_OK);
        ck_assert_uint_eq(bytes, good[i].bytes);
    }
    bytes = 7;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ck_assert_msg(noc_parse_size(bad[i], &bytes, &err) == NOC_EUSAGE, "\"%s\" was taken", bad[i]);
        ck_assert_ptr_nonnull(strstr(err.text, bad[i]));
    }
    ck_assert_uint_eq(bytes, 7);
}
END_TEST

START_TEST(numbers)
{
    const char *const bad[] = {"", "a", "1a", " 1", "1 ", "nan", "inf", "0x10", "1e999", "1,5", "e", "--1"};
    double value;
    noc_error err;

    ck_assert_int_eq(noc_parse_number("-2.5e1", -100, 100, &value, NULL), NOC_OK);
    ck_assert_double_eq(value, -25);
    ck_assert_int_eq(noc_parse_number(".5", 0.5, 0.5, &value, NULL), NOC_OK);
    ck_assert_int_eq(noc_parse_number("100.1", -100, 100, &value, &err), NOC_EUSAGE);
    ck_assert_str_eq(err.text, "100.1 is not within -100 and 100");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        ck_assert_msg(noc_parse_number(bad[i], -1e308, 1e308, &value, &err) == NOC_EUSAGE, "\"%s\" was taken",
                      bad[i]);
    ck_assert_double_eq(value, 0.5);
}
END_TEST

START_TEST(integers)
{
    const char *const bad[] = {"", "a", "1a", " 1", "1 ", "1.0", "0x10", "1e3", "9223372036854775808"};
    int64_t value;
    noc_error err;

    ck_assert_int_eq(noc_parse_integer("-12", -12, 0, &value, NULL), NOC_OK);
    ck_assert_int_eq(value, -12);
    ck_assert_int_eq(noc_parse_integer("9223372036854775807", 0, INT64_MAX, &value, NULL), NOC_OK);
    ck_assert_int_eq(value, INT64_MAX);
    ck_assert_int_eq(noc_parse_integer("0", 1, 8, &value, &err), NOC_EUSAGE);
    ck_assert_str_eq(err.text, "0 is not within 1 and 8");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        ck_assert_msg(noc_parse_integer(bad[i], INT64_MIN, INT64_MAX, &value, &err) == NOC_EUSAGE,
                      "\"%s\" was taken", bad[i]);
    ck_assert_int_eq(value, INT64_MAX);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("text");
    TCase *cases = tcase_create("text");

    tcase_add_test(cases, text_grows);
    tcase_add_test(cases, failed_text_stays_as_it_is);
    tcase_add_test(cases, json);
    tcase_add_test(cases, csv);
    tcase_add_test(cases, sizes);
    tcase_add_test(cases, numbers);
    tcase_add_test(cases, integers);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
