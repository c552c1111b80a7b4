/* The YAML reader: what it takes, and for what it refuses the exact sentence with its line. */
#include "engine/base/yaml.h"

#include "engine/base/file.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static noc_yaml *doc;
static noc_error err;

static const noc_yaml_node *parse(const char *text)
{
    noc_yaml_free(doc);
    doc = NULL;
    noc_status status = noc_yaml_parse("a.yaml", text, strlen(text), &doc, &err);
    ck_assert_msg(status == NOC_OK, "%s", err.text);
    return noc_yaml_root(doc);
}

static void set_up(void)
{
    doc = NULL;
}

static void tear_down(void)
{
    noc_yaml_free(doc);
}

START_TEST(a_document)
{
    const noc_yaml_node *root =
        parse("# model\nname: \"tiny\"\nwindow: [32, 40, 48]\nlabels:\n  0: air\n  1: b\xc3\xb6ne\n");
    const char *text;

    ck_assert_int_eq(noc_yaml_kind_of(root), NOC_YAML_MAPPING);
    ck_assert_uint_eq(noc_yaml_count(root), 3);
    ck_assert_str_eq(noc_yaml_key(root, 1), "window");
    ck_assert_int_eq(noc_yaml_line(noc_yaml_item(root, 1)), 3);
    ck_assert_int_eq(noc_yaml_kind_of(noc_yaml_item(root, 1)), NOC_YAML_SEQUENCE);
    const noc_yaml_node *labels = noc_yaml_find(root, "labels");
    ck_assert_int_eq(noc_yaml_text(doc, noc_yaml_find(labels, "1"), &text, &err), NOC_OK);
    ck_assert_str_eq(text, "b\xc3\xb6ne");
    ck_assert_int_eq(noc_yaml_text(doc, noc_yaml_find(root, "name"), &text, &err), NOC_OK);
    ck_assert_str_eq(text, "tiny");
    ck_assert_ptr_null(noc_yaml_find(root, "none"));
    ck_assert_ptr_null(noc_yaml_find(NULL, "none"));
    ck_assert_ptr_null(noc_yaml_find(noc_yaml_find(root, "window"), "none"));
    ck_assert_uint_eq(noc_yaml_count(NULL), 0);
}
END_TEST

START_TEST(empty_documents)
{
    ck_assert_ptr_null(parse(""));
    ck_assert_ptr_null(parse("# nothing but words\n"));
    ck_assert_ptr_null(parse("---\n"));
    ck_assert_ptr_nonnull(parse("\"\""));
}
END_TEST

START_TEST(typed_scalars)
{
    const noc_yaml_node *root = parse("i: -7\nn: 2.5e-1\nt: true\nf: false\nlist: [1, 2, 3]\n");
    int64_t integer = 0, list[3] = {0};
    double number = 0, numbers[3] = {0};
    bool yes = false, no = true;
    const char *text;

    ck_assert_int_eq(noc_yaml_integer(doc, noc_yaml_find(root, "i"), -10, 10, &integer, &err), NOC_OK);
    ck_assert_int_eq(integer, -7);
    ck_assert_int_eq(noc_yaml_number(doc, noc_yaml_find(root, "n"), 0, 1, &number, &err), NOC_OK);
    ck_assert_double_eq(number, 0.25);
    ck_assert_int_eq(noc_yaml_boolean(doc, noc_yaml_find(root, "t"), &yes, &err), NOC_OK);
    ck_assert_int_eq(noc_yaml_boolean(doc, noc_yaml_find(root, "f"), &no, &err), NOC_OK);
    ck_assert(yes && !no);
    ck_assert_int_eq(noc_yaml_integers(doc, noc_yaml_find(root, "list"), 1, 3, list, 3, &err), NOC_OK);
    ck_assert_int_eq(list[2], 3);
    ck_assert_int_eq(noc_yaml_numbers(doc, noc_yaml_find(root, "list"), 1, 3, numbers, 3, &err), NOC_OK);
    ck_assert_double_eq(numbers[1], 2);
    ck_assert_int_eq(noc_yaml_text(doc, noc_yaml_find(root, "i"), &text, &err), NOC_OK);
    ck_assert_str_eq(text, "-7");
}
END_TEST

static const struct {
    const char *text, *complaint;
} refused[] = {
    {"a: 1\nb: 2\na: 3\n", "a.yaml:3: key \"a\" stands already in line 1"},
    {"a:\n  b: 1\n  b: 2\n", "a.yaml:3: key \"b\" stands already in line 2"},
    {"a: {b: 1, b: 2}\n", "a.yaml:1: key \"b\" stands already in line 1"},
    {"a: 1\nb: &x 2\n", "a.yaml:2: anchors, aliases and tags are not understood here"},
    {"a: 1\nb: *x\n", "a.yaml:2: anchors, aliases and tags are not understood here"},
    {"a: 1\nb: !!int 2\n", "a.yaml:2: anchors, aliases and tags are not understood here"},
    {"a: 1\nb: !x [1]\n", "a.yaml:2: anchors, aliases and tags are not understood here"},
    {"a: 1\n&k b: 2\n", "a.yaml:2: a key must be a plain text"},
    {"a: 1\n? [b]\n: 2\n", "a.yaml:2: a key must be a plain text"},
    {"a: 1\n---\nb: 2\n", "a.yaml:2: a second document begins here"},
    {"a: 1\nb: \"x\\0y\"\n", "a.yaml:2: a text must not hold a zero byte"},
    {"a: 1\n\"x\\0y\": 2\n", "a.yaml:2: a key must not hold a zero byte"},
    {"a: 1\nb: [1, 2\nc: 3\n", "a.yaml:3: "},
    {"a: 1\n\tb: 2\n", "a.yaml:2: "},
    {"a: 1\nb: \xff\n", "a.yaml:2: "},
    {"a: 1\nb: {c: [\xc3", "a.yaml:2: "},
};

START_TEST(refused_documents)
{
    noc_yaml *made = NULL;
    const char *complaint = refused[_i].complaint;

    ck_assert_int_eq(noc_yaml_parse("a.yaml", refused[_i].text, strlen(refused[_i].text), &made, &err),
                     NOC_ECONFIG);
    ck_assert_ptr_null(made);
    ck_assert_msg(strncmp(err.text, complaint, strlen(complaint)) == 0, "\"%s\", not \"%s\"", err.text,
                  complaint);
    ck_assert_uint_gt(strlen(err.text), strlen("a.yaml:1: "));
    ck_assert_int_eq(noc_yaml_parse("a.yaml", refused[_i].text, strlen(refused[_i].text), &made, NULL),
                     NOC_ECONFIG);
}
END_TEST

START_TEST(bounds)
{
    enum { DEEP = 1000, LONG = 30000 };
    noc_yaml *made = NULL;
    char *text = malloc(2 * LONG + 2);

    memset(text, '[', DEEP);
    ck_assert_int_eq(noc_yaml_parse("a.yaml", text, DEEP, &made, &err), NOC_ECONFIG);
    ck_assert_str_eq(err.text, "a.yaml:1: nested too deeply");
    text[0] = '[';
    for (int i = 0; i < LONG; i++)
        memcpy(text + 1 + 2 * i, "1,", 2);
    text[2 * LONG] = ']';
    ck_assert_int_eq(noc_yaml_parse("a.yaml", text, 2 * LONG + 1, &made, &err), NOC_ECONFIG);
    ck_assert_str_eq(err.text, "a.yaml:1: too many values in one file");
    ck_assert_ptr_null(made);
    free(text);
}
END_TEST

START_TEST(unknown_keys)
{
    static const char *const keys[] = {"heartbeat_s", "lease_s", "attempts", "workers", "writers", NULL};
    const struct {
        const char *text, *complaint;
    } cases[] = {
        {"lease_s: 1\nhartbeat_s: 1\n",
         "a.yaml:2: unknown key \"hartbeat_s\"; did you mean \"heartbeat_s\"?"},
        {"lease_s: 1\n\nattempt:\n  - 1\n", "a.yaml:3: unknown key \"attempt\"; did you mean \"attempts\"?"},
        {"writer: 1\n", "a.yaml:1: unknown key \"writer\"; did you mean \"writers\"?"},
        {"zebra: 1\n", "a.yaml:1: unknown key \"zebra\""},
        {"x: 1\n", "a.yaml:1: unknown key \"x\""},
        {"- 1\n- 2\n", "a.yaml:1: a mapping (key: value) is wanted here"},
    };

    ck_assert_int_eq(noc_yaml_only(doc, parse("workers: 1\nlease_s: 2\n"), keys, &err), NOC_OK);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const noc_yaml_node *root = parse(cases[i].text);
        ck_assert_int_eq(noc_yaml_only(doc, root, keys, &err), NOC_ECONFIG);
        ck_assert_str_eq(err.text, cases[i].complaint);
    }
    parse("");
    ck_assert_int_eq(noc_yaml_only(doc, NULL, keys, &err), NOC_ECONFIG);
    ck_assert_str_eq(err.text, "a.yaml: a mapping (key: value) is wanted here");
}
END_TEST

START_TEST(a_very_long_unknown_key)
{
    static const char *const keys[] = {"lease_s", NULL};
    char text[1000];

    memset(text, 'k', sizeof text);
    memcpy(text + 400, ": 1\n", 5);
    const noc_yaml_node *root = parse(text);
    ck_assert_int_eq(noc_yaml_only(doc, root, keys, &err), NOC_ECONFIG);
    ck_assert_int_eq(strncmp(err.text, "a.yaml:1: unknown key \"kkk", 26), 0);
}
END_TEST

START_TEST(required_keys)
{
    const noc_yaml_node *root = parse("\na: 1\n"), *found = NULL;

    ck_assert_int_eq(noc_yaml_require(doc, root, "a", &found, &err), NOC_OK);
    ck_assert_ptr_eq(found, noc_yaml_find(root, "a"));
    ck_assert_int_eq(noc_yaml_require(doc, root, "b", &found, &err), NOC_ECONFIG);
    ck_assert_str_eq(err.text, "a.yaml:2: key \"b\" is missing");
    ck_assert_ptr_eq(found, noc_yaml_find(root, "a"));
    ck_assert_int_eq(noc_yaml_require(doc, NULL, "b", &found, &err), NOC_ECONFIG);
    ck_assert_str_eq(err.text, "a.yaml: key \"b\" is missing");
}
END_TEST

START_TEST(wrong_integers)
{
    const struct {
        const char *text, *complaint;
    } cases[] = {
        {"\nv: \"3\"", "a.yaml:2: an integer is wanted here, not a quoted text"},
        {"\nv: '3'", "a.yaml:2: an integer is wanted here, not a quoted text"},
        {"\nv: 3.5", "a.yaml:2: \"3.5\" is no integer"},
        {"\nv: three", "a.yaml:2: \"three\" is no integer"},
        {"\nv:", "a.yaml:2: \"\" is no integer"},
        {"\nv: [3]", "a.yaml:2: an integer is wanted here, not a list"},
        {"\nv: {a: 3}", "a.yaml:2: an integer is wanted here, not a mapping"},
        {"\nv: 11", "a.yaml:2: 11 is not within 1 and 10"},
    };
    int64_t value = 5;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const noc_yaml_node *node = noc_yaml_find(parse(cases[i].text), "v");
        ck_assert_int_eq(noc_yaml_integer(doc, node, 1, 10, &value, &err), NOC_ECONFIG);
        ck_assert_str_eq(err.text, cases[i].complaint);
    }
    ck_assert_int_eq(value, 5);
}
END_TEST

START_TEST(wrong_other_scalars)
{
    double number = 5;
    bool flag = true;
    const char *text = "kept";
    const noc_yaml_node *root = parse("quoted: \"1.5\"\nword: .inf\nlarge: 7\nyes: yes\nempty:\nlist: [1]\n");

    ck_assert_int_eq(noc_yaml_number(doc, noc_yaml_find(root, "quoted"), 0, 2, &number, &err), NOC_ECONFIG);
    ck_assert_str_eq(err.text, "a.yaml:1: a number is wanted here, not a quoted text");
    ck_assert_int_eq(noc_yaml_number(doc, noc_yaml_find(root, "word"), 0, 2, &number, &err), NOC_ECONFIG);
    ck_assert_str_eq(err.text, "a.yaml:2: \".inf\" is no number");
    ck_assert_int_eq(noc_yaml_number(doc, noc_yaml_find(root, "large"), 0, 2, &number, &err), NOC_ECONFIG);
    ck_assert_str_eq(err.text, "a.yaml:3: 7 is not within 0 and 2");
    ck_assert_int_eq(noc_yaml_boolean(doc, noc_yaml_find(root, "yes"), &flag, &err), NOC_ECONFIG);
    ck_assert_str_eq(err.text, "a.yaml:4: true or false is wanted here, not yes");
    ck_assert_int_eq(noc_yaml_text(doc, noc_yaml_find(root, "empty"), &text, &err), NOC_ECONFIG);
    ck_assert_str_eq(err.text, "a.yaml:5: a text is wanted here, not nothing");
    ck_assert_int_eq(noc_yaml_text(doc, noc_yaml_find(root, "list"), &text, &err), NOC_ECONFIG);
    ck_assert_str_eq(err.text, "a.yaml:6: a text is wanted here, not a list");
    ck_assert(number == 5 && flag && strcmp(text, "kept") == 0);
}
END_TEST

START_TEST(wrong_lists)
{
    int64_t integers[3] = {7, 7, 7};
    double numbers[3] = {7, 7, 7};
    const noc_yaml_node *root = parse("short: [1, 2]\nscalar: 1\nmixed:\n  - 1\n  - 2\n  - x\n");

    ck_assert_int_eq(noc_yaml_integers(doc, noc_yaml_find(root, "short"), 0, 9, integers, 3, &err),
                     NOC_ECONFIG);
    ck_assert_str_eq(err.text, "a.yaml:1: a list of 3 numbers is wanted here, not of 2");
    ck_assert_int_eq(noc_yaml_integers(doc, noc_yaml_find(root, "scalar"), 0, 9, integers, 3, &err),
                     NOC_ECONFIG);
    ck_assert_str_eq(err.text, "a.yaml:2: a list of 3 numbers is wanted here, not 1");
    ck_assert_int_eq(noc_yaml_integers(doc, noc_yaml_find(root, "mixed"), 0, 9, integers, 3, &err),
                     NOC_ECONFIG);
    ck_assert_str_eq(err.text, "a.yaml:6: \"x\" is no integer");
    ck_assert_int_eq(noc_yaml_numbers(doc, noc_yaml_find(root, "mixed"), 0, 9, numbers, 3, &err),
                     NOC_ECONFIG);
    ck_assert_str_eq(err.text, "a.yaml:6: \"x\" is no number");
    ck_assert(integers[0] == 7 && numbers[0] == 7);
}
END_TEST

START_TEST(own_complaints)
{
    const noc_yaml_node *root = parse("a: 1\n\nb: 2\n");

    ck_assert_int_eq(noc_yaml_fail(doc, noc_yaml_find(root, "b"), &err, "%s is odd", "b"), NOC_ECONFIG);
    ck_assert_str_eq(err.text, "a.yaml:3: b is odd");
    ck_assert_int_eq(noc_yaml_fail(doc, NULL, &err, "all of it"), NOC_ECONFIG);
    ck_assert_str_eq(err.text, "a.yaml: all of it");
}
END_TEST

START_TEST(files)
{
    char path[] = "/tmp/test_yaml.XXXXXX";
    int file = mkstemp(path);
    noc_yaml *made = NULL;
    char expected[100];

    close(file);
    ck_assert_int_eq(noc_file_replace(path, "a: 1\na: 2\n", 10, NULL), NOC_OK);
    ck_assert_int_eq(noc_yaml_load(path, &made, &err), NOC_ECONFIG);
    snprintf(expected, sizeof expected, "%s:2: key \"a\" stands already in line 1", path);
    ck_assert_str_eq(err.text, expected);
    ck_assert_int_eq(noc_file_replace(path, "a: 1\n", 5, NULL), NOC_OK);
    ck_assert_int_eq(noc_yaml_load(path, &made, &err), NOC_OK);
    ck_assert_uint_eq(noc_yaml_count(noc_yaml_root(made)), 1);
    noc_yaml_free(made);
    unlink(path);
    ck_assert_int_eq(noc_yaml_load(path, &made, &err), NOC_ENOINPUT);
    ck_assert_int_eq(err.status, NOC_ENOINPUT);
    ck_assert_ptr_nonnull(strstr(err.text, path));
    noc_yaml_free(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("yaml");
    TCase *cases = tcase_create("yaml");

    tcase_add_checked_fixture(cases, set_up, tear_down);
    tcase_add_test(cases, a_document);
    tcase_add_test(cases, empty_documents);
    tcase_add_test(cases, typed_scalars);
    tcase_add_loop_test(cases, refused_documents, 0, sizeof refused / sizeof refused[0]);
    tcase_add_test(cases, bounds);
    tcase_add_test(cases, unknown_keys);
    tcase_add_test(cases, a_very_long_unknown_key);
    tcase_add_test(cases, required_keys);
    tcase_add_test(cases, wrong_integers);
    tcase_add_test(cases, wrong_other_scalars);
    tcase_add_test(cases, wrong_lists);
    tcase_add_test(cases, own_complaints);
    tcase_add_test(cases, files);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
