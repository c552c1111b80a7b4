/* Settings: defaults, configuration file, flags, in that order. */
#include "pipeline/settings.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static noc_settings s;

static void free_settings(void)
{
    noc_settings_free(&s);
}

/* What was parsed before is gone. */
static noc_status parse(noc_error *err, const char *line)
{
    static char text[1024];
    char *argv[64];
    int argc = 0;
    bool is_help;
    free_settings();
    snprintf(text, sizeof text, "%s", line);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    return noc_settings_parse(argc, argv, &s, &is_help, err);
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    fclose(file);
}

START_TEST(defaults)
{
    ck_assert_int_eq(parse(NULL, "run"), NOC_OK);
    ck_assert_str_eq(s.catalog, "nocturne.sqlite");
    ck_assert_str_eq(s.results, "results");
    ck_assert_str_eq(s.device, "auto");
    ck_assert_int_eq(s.attempts, 3);
    ck_assert(s.heartbeat_s == 1 && s.lease_s == 15);
    ck_assert_int_eq(s.part_studies, 64);
    ck_assert_uint_eq(s.part_bytes, (size_t)1 << 30);
    ck_assert(s.overlap < 0 && s.blend < 0 && s.mirror < 0 && s.window[0] == 0);
    ck_assert_ptr_null(s.model);
}
END_TEST

START_TEST(flags_in_every_form)
{
    ck_assert_int_eq(parse(NULL, "infer -m M --window 24,32,40 --overlap=0.25 --blend constant --memory "
                                 "1536MiB a -oOUT -- -b"),
                     NOC_OK);
    ck_assert_str_eq(s.model, "M");
    ck_assert_str_eq(s.output, "OUT");
    ck_assert_int_eq(s.window[2], 40);
    ck_assert(s.overlap == 0.25);
    ck_assert_int_eq(s.blend, NOC_BLEND_CONSTANT);
    ck_assert_uint_eq(s.memory, (size_t)1536 << 20);
    ck_assert_int_eq(s.argument_count, 2);
    ck_assert_str_eq(s.arguments[1], "-b");
    ck_assert_int_eq(parse(NULL, "run --mirror x,z"), NOC_OK);
    ck_assert_int_eq(s.mirror, 5);
    ck_assert_int_eq(parse(NULL, "forward --mirror z,y,x --mirror none"), NOC_OK);
    ck_assert_int_eq(s.mirror, 0);
    ck_assert_int_eq(parse(NULL, "run -m M --limit 3"), NOC_OK);
    ck_assert_int_eq(s.limit, 3);
}
END_TEST

static const char *const wrong[][2] = {
    {"run --modle x", "--model"},
    {"run --overlap 1.5", "--overlap"},
    {"run --window 24,32", "D,H,W"},
    {"run --window 0,32,32", "between 1"},
    {"run --blend soft", "constant|gaussian"},
    {"run --mirror z,z", "neither none nor some of z,y,x"},
    {"run --mirror z,", "neither none nor some of z,y,x"},
    {"run --mirror zyx", "neither none nor some of z,y,x"},
    {"run --mirror all", "neither none nor some of z,y,x"},
    {"run --mirror=", "neither none nor some of z,y,x"},
    {"infer --tta", "--mirror z,y,x"},
    {"run --disable_tta", "--mirror none"},
    {"run --memory lots", "no size"},
    {"run --threads two", "two"},
    {"run --limit", "needs a value"},
    {"run --dry-run=yes", "takes no value"},
    {"status --limit 3", "no such flag"},
    {"fly", "see nocturne --help"},
    {"rnu", "did you mean run?"},
    {"stat", "did you mean status?"},
    {"-m M run", "the command comes first"},
    {"run archive", "nocturne scan takes"},
    {"doctor please", "takes no arguments"},
    {"run --win 1,2,3", "--window"},
    {"run -q", "--log-level error"},
    {"run -o out", "--results"},
    {"report -o out", "report --help"},
    {"run --device gpu", "cuda:N"},
    {"run --until 24:00", "HH:MM"},
    {"run --precision f64", "f32|bf16|f16|auto"},
};

START_TEST(a_wrong_flag_is_explained)
{
    noc_error err;
    ck_assert_int_eq(parse(&err, wrong[_i][0]), NOC_EUSAGE);
    ck_assert_msg(strstr(err.text, wrong[_i][1]) != NULL, "%s: %s", wrong[_i][0], err.text);
}
END_TEST

START_TEST(flags_override_the_file)
{
    noc_error err;
    char path[] = "/tmp/nocturne-settings-XXXXXX", line[128];
    close(mkstemp(path));
    write_file(path, "workers: 5\nwriters: 2\nwindow: [8, 9, 10]\nassume_ras: true\nlease_s: 2.5\nresults: "
                     "here\nmemory: 2GiB\n");
    snprintf(line, sizeof line, "run -c %s --writers 3", path);
    ck_assert_int_eq(parse(&err, line), NOC_OK);
    ck_assert_int_eq(s.workers, 5);
    ck_assert_int_eq(s.writers, 3);
    ck_assert_int_eq(s.window[1], 9);
    ck_assert(s.assume_ras);
    ck_assert(s.lease_s == 2.5);
    ck_assert_str_eq(s.results, "here");
    ck_assert_uint_eq(s.memory, (size_t)2 << 30);
    write_file(path, "workers: 5\nwritres: 2\n");
    ck_assert_int_eq(parse(&err, line), NOC_ECONFIG);
    ck_assert_msg(strstr(err.text, ":2:") && strstr(err.text, "writers"), "%s", err.text);
    write_file(path, "\n\noverlap: 2\n");
    ck_assert_int_eq(parse(&err, line), NOC_ECONFIG);
    ck_assert_msg(strstr(err.text, ":3:") != NULL, "%s", err.text);
    write_file(path, "workers: 5\nuntil: 6 am\n");
    ck_assert_int_eq(parse(&err, line), NOC_ECONFIG);
    ck_assert_msg(strstr(err.text, ":2: until") != NULL, "%s", err.text);
    write_file(path, "mirror: [y, x]\n");
    ck_assert_int_eq(parse(&err, line), NOC_OK);
    ck_assert_int_eq(s.mirror, 6);
    write_file(path, "mirror: none\n");
    ck_assert_int_eq(parse(&err, line), NOC_OK);
    ck_assert_int_eq(s.mirror, 0);
    write_file(path, "threads: 2\nmirror: [y, up]\n");
    ck_assert_int_eq(parse(&err, line), NOC_ECONFIG);
    ck_assert_msg(strstr(err.text, ":2: mirror: an axis is z, y or x") != NULL, "%s", err.text);
    write_file(path, "until: 06:00\ndevice: cuda:1\n");
    ck_assert_int_eq(parse(&err, line), NOC_OK);
    ck_assert_str_eq(s.until, "06:00");
    ck_assert_str_eq(s.device, "cuda:1");
    unlink(path);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("settings");
    TCase *cases = tcase_create("settings");
    tcase_add_checked_fixture(cases, NULL, free_settings);
    tcase_add_test(cases, defaults);
    tcase_add_test(cases, flags_in_every_form);
    tcase_add_loop_test(cases, a_wrong_flag_is_explained, 0, (int)(sizeof wrong / sizeof wrong[0]));
    tcase_add_test(cases, flags_override_the_file);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
