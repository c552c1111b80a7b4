/* From folders and lists to studies: layouts, keys, idempotence, and files that lie. */
#include "catalog/scan.h"
#include "engine/base/clock.h"

#include <check.h>
#include <dirent.h>
#include <dlfcn.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[256];
static noc_catalog *catalog;
static noc_error err;
static char warnings[4096];
static noc_scan_report report;

#define OK(call) ck_assert_msg((call) == NOC_OK, "%s: %s", #call, err.text)

static void warn(void *argument, const char *text)
{
    char *all = argument;
    snprintf(all + strlen(all), sizeof(warnings) - strlen(all), "%s\n", text);
}

/* A name inside the test's folder; some may be in use at once. */
static const char *in(const char *name)
{
    static char names[4][600];
    static int next;
    char *out = names[next++ % 4];
    snprintf(out, sizeof(names[0]), "%s/%s", folder, name);
    return out;
}

static void write_bytes(const char *name, const void *data, size_t size)
{
    char path[600];
    snprintf(path, sizeof(path), "%s", in(name));
    for (char *slash = strchr(path + strlen(folder) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0755);
        *slash = '/';
    }
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(data, 1, size, file), size);
    ck_assert_int_eq(fclose(file), 0);
}

static void write_text(const char *name, const char *text)
{
    write_bytes(name, text, strlen(text));
}

/* Takes the C library's place: some file systems do not tell what a folder's entries are. */
static bool is_untold;

struct dirent *readdir(DIR *open_folder)
{
    static struct dirent *(*real)(DIR *);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "readdir");
    struct dirent *entry = real(open_folder);
    if (entry && is_untold)
        entry->d_type = DT_UNKNOWN;
    return entry;
}

/* A NIfTI-1 file of 4 x 5 x 6 voxels of int16 at 1 x 2 x 3 mm, little-endian. */
static void write_image(const char *name)
{
    unsigned char bytes[352 + 240] = {0};
    const int size = 348;
    const short dims[8] = {3, 4, 5, 6, 1, 1, 1, 1}, code = 4, bits = 16, sform = 1;
    const float pixdim[4] = {1, 1, 2, 3}, offset = 352, slope = 1;
    const float rows[12] = {1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0};
    memcpy(bytes, &size, 4);
    memcpy(bytes + 40, dims, sizeof(dims));
    memcpy(bytes + 70, &code, 2);
    memcpy(bytes + 72, &bits, 2);
    memcpy(bytes + 76, pixdim, sizeof(pixdim));
    memcpy(bytes + 108, &offset, 4);
    memcpy(bytes + 112, &slope, 4);
    memcpy(bytes + 254, &sform, 2);
    memcpy(bytes + 280, rows, sizeof(rows));
    memcpy(bytes + 344, "n+1", 4);
    write_bytes(name, bytes, sizeof(bytes));
}

static void set_up(void)
{
    char base[200];
    const char *given = getenv("TMPDIR");
    ck_assert_ptr_nonnull(realpath(given ? given : "/tmp", folder));
    snprintf(base, sizeof(base), "%.180s", folder);
    snprintf(folder, sizeof(folder), "%s/noc_scan_XXXXXX", base);
    ck_assert_ptr_nonnull(mkdtemp(folder));
    OK(noc_catalog_open(in("catalog.sqlite"), NOC_CATALOG_CREATE, &catalog, &err));
    warnings[0] = 0;
}

static int remove_one(const char *path, const struct stat *about, int type, struct FTW *where)
{
    (void)about;
    (void)type;
    (void)where;
    return remove(path);
}

static void tear_down(void)
{
    noc_catalog_close(catalog);
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static const noc_scan_options listening = {.warn = warn, .argument = warnings};

static noc_status scan(const char *name)
{
    memset(&report, 0, sizeof(report));
    warnings[0] = 0;
    return noc_scan(catalog, in(name), &listening, &report, &err);
}

static noc_study find(const char *key)
{
    noc_study study = {0};
    OK(noc_catalog_find_study(catalog, key, &study, &err));
    return study;
}

static bool has(const char *key)
{
    noc_study study = {0};
    bool is_there = noc_catalog_find_study(catalog, key, &study, NULL) == NOC_OK;
    noc_study_clear(&study);
    return is_there;
}

static int64_t study_count(void)
{
    noc_counts counts;
    OK(noc_catalog_counts(catalog, 0, &counts, &err));
    return counts.states[NOC_PENDING];
}

/* ---- keys ---- */

START_TEST(names_become_keys)
{
    static const char *const pairs[][2] = {
        {"hippocampus_003.nii.gz", "hippocampus_003"},
        {"/a/b/c.nii", "c"},
        {"BraTS.2021.nii.gz", "BraTS.2021"},
        {"a b(c).nii", "a_b_c_"},
        {"scan.hdr", "scan"},
        {"no_extension", "no_extension"},
        {"\xc3\xa4.nii.gz", "__"},
        {"odd.mha", "odd"},
        {"...nii", "__"},
        {".nii.gz", "_"},
    };
    char key[NOC_STUDY_KEY], name[400];
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        noc_study_key_from_name(pairs[i][0], key);
        ck_assert_str_eq(key, pairs[i][1]);
    }
    memset(name, 'x', 300);
    strcpy(name + 300, ".nii.gz");
    noc_study_key_from_name(name, key);
    ck_assert_uint_eq(strlen(key), NOC_STUDY_KEY - 1);
}
END_TEST

/* ---- dataset.json ---- */

static const char dataset[] = "{\"name\":\"x\",\"numTraining\":2,\"numTest\":2,\"training\":["
                              "{\"image\":\"./imagesTr/a.nii\",\"label\":\"./labelsTr/a.nii\"},"
                              "{\"image\":\"./imagesTr/._a.nii\",\"label\":\"./labelsTr/._a.nii\"},"
                              "{\"image\":\"./imagesTr/gone.nii\",\"label\":\"./labelsTr/gone.nii\"}],"
                              "\"test\":[\"./imagesTs/c.nii\",{\"image\":\"../elsewhere/d.nii\"}]}";

static void write_dataset(void)
{
    write_text("set/dataset.json", dataset);
    write_image("set/imagesTr/a.nii");
    write_image("set/labelsTr/a.nii");
    write_text("set/imagesTs/c.nii", "");
    write_image("elsewhere/d.nii");
}

START_TEST(dataset_is_read)
{
    write_dataset();
    OK(scan("set"));
    ck_assert_int_eq(report.added, 4);
    ck_assert_int_eq(report.unreadable, 2);
    ck_assert_msg(report.warnings == 0, "%s", warnings);
    noc_study a = find("a"), c = find("c"), d = find("d"), gone = find("gone");
    ck_assert_str_eq(a.channels[0], in("set/imagesTr/a.nii"));
    ck_assert_str_eq(a.truth, in("set/labelsTr/a.nii"));
    ck_assert_str_eq(a.layout, "msd");
    ck_assert(a.has_shape && a.size[0] == 4 && a.size[2] == 6 && a.spacing_mm[2] == 3 &&
              a.voxel_bytes == 240);
    ck_assert(!c.has_shape && !c.truth && !gone.has_shape);
    ck_assert_str_eq(gone.fingerprint, "missing;missing");
    ck_assert_str_eq(d.channels[0], in("elsewhere/d.nii"));
    noc_study_clear(&a);
    noc_study_clear(&c);
    noc_study_clear(&d);
    noc_study_clear(&gone);
}
END_TEST

START_TEST(scanning_again_changes_nothing_until_a_file_changes)
{
    char name[600];
    write_dataset();
    OK(scan("set"));
    OK(scan("set/."));
    ck_assert(report.unchanged == 4 && report.added == 0 && report.changed == 0);
    snprintf(name, sizeof(name), "%s", "set/dataset.json");
    OK(scan(name));
    ck_assert_int_eq(report.unchanged, 4);
    write_text("set/imagesTs/c.nii", "now it has bytes");
    OK(scan("set"));
    ck_assert(report.unchanged == 3 && report.changed == 1);
    ck_assert_int_eq(study_count(), 4);
}
END_TEST

START_TEST(wrong_numbers_are_one_warning)
{
    write_text("set/dataset.json",
               "{\"numTraining\":260,\"numTest\":\"many\",\"training\":[\"a.nii\"],\"test\":[]}");
    OK(scan("set"));
    ck_assert_int_eq(report.warnings, 1);
    ck_assert_ptr_nonnull(strstr(warnings, "numTraining"));
    ck_assert_int_eq(report.added, 1);
}
END_TEST

START_TEST(image_named_twice_counts_once)
{
    write_image("set/a.nii");
    write_text("set/dataset.json",
               "{\"training\":[{\"image\":\"a.nii\",\"label\":\"t.nii\"}],\"test\":[\"./a.nii\"]}");
    OK(scan("set"));
    ck_assert(report.added == 1 && report.warnings == 1);
    noc_study a = find("a");
    ck_assert_ptr_nonnull(a.truth);
    noc_study_clear(&a);
}
END_TEST

START_TEST(bad_datasets_are_refused)
{
    static const char *const texts[] = {
        "",
        "{",
        "[]",
        "7",
        "{\"training\":7}",
        "{}",
        "{\"training\":[],\"test\":[]}",
        "{\"training\":[7]}",
        "{\"training\":[{\"label\":\"a.nii\"}]}",
        "{\"training\":[{\"image\":7}]}",
        "{\"training\":[{\"image\":\"\"}]}",
        "{\"training\":[{\"image\":\"a.nii\",\"label\":[]}]}",
        "{\"training\":[{\"image\":[]}]}",
        "{\"training\":[{\"image\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}]}",
        "{\"training\":[\"a\\nb.nii\"]}",
        "{\"training\":[\"a\\u0000b.nii\"]}",
        "{\"training\":[\"\xff.nii\"]}",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        write_text("set/dataset.json", texts[i]);
        ck_assert_msg(scan("set") == NOC_EDATA, "%s", texts[i]);
        ck_assert_ptr_nonnull(strstr(err.text, "dataset.json"));
    }
    write_text("set/dataset.json", "{\n\"training\":[\n\"a.nii\",,\n]}");
    ck_assert_int_eq(scan("set"), NOC_EDATA);
    ck_assert_ptr_nonnull(strstr(err.text, "dataset.json:3:"));
    char *deep = malloc(100001);
    memset(deep, '[', 100000);
    deep[100000] = 0;
    write_text("set/dataset.json", deep);
    free(deep);
    ck_assert_int_eq(scan("set"), NOC_EDATA);
    ck_assert_int_eq(study_count(), 0);
}
END_TEST

START_TEST(what_is_not_recognised_is_said)
{
    mkdir(in("empty"), 0755);
    ck_assert_int_eq(scan("empty"), NOC_EDATA);
    ck_assert_ptr_nonnull(strstr(err.text, "dataset.json"));
    ck_assert_ptr_nonnull(strstr(err.text, "key,image,truth"));
    ck_assert_int_eq(scan("missing"), NOC_ENOINPUT);
    write_text("notes.txt", "Just some text\nof two lines\n");
    ck_assert_int_eq(scan("notes.txt"), NOC_EDATA);
    write_bytes("blob", "\0\1\2\377", 4);
    ck_assert_int_eq(scan("blob"), NOC_EDATA);
    mkfifo(in("pipe"), 0600);
    ck_assert_int_eq(scan("pipe"), NOC_EDATA);
}
END_TEST

/* ---- lists ---- */

START_TEST(list_is_read)
{
    write_image("data/a.nii");
    write_image("data/b.nii");
    write_text("list.csv", "\xEF\xBB\xBFtruth,key,image\r\n"
                           ",,data/a.nii\r\n"
                           "\"t, \"\"x\"\".nii\",two,data/a.nii;./data/b.nii\r\n"
                           "\r\n"
                           "/abs/t.nii,three,/abs/none.nii");
    OK(scan("list.csv"));
    ck_assert(report.added == 3 && report.unreadable == 1);
    ck_assert_msg(report.warnings == 0, "%s", warnings);
    noc_study a = find("a"), two = find("two"), three = find("three");
    ck_assert_ptr_null(a.truth);
    ck_assert_str_eq(a.layout, "list");
    ck_assert_int_eq(two.channel_count, 2);
    ck_assert_str_eq(two.channels[1], in("data/b.nii"));
    ck_assert_str_eq(two.truth, in("t, \"x\".nii"));
    ck_assert(two.has_shape && two.voxel_bytes == 480);
    ck_assert_str_eq(three.truth, "/abs/t.nii");
    noc_study_clear(&a);
    noc_study_clear(&two);
    noc_study_clear(&three);
    OK(scan("list.csv"));
    ck_assert(report.unchanged == 3 && report.added == 0);
}
END_TEST

START_TEST(lists_say_what_is_odd)
{
    write_text("list.csv",
               "key,image,truth,colour\nx,a.nii,,red\nx,a.nii,,red\na key,b.nii,,red\n..,c.nii,,red\n");
    OK(scan("list.csv"));
    ck_assert_int_eq(report.added, 3);
    ck_assert_msg(report.warnings == 4, "%s", warnings);
    ck_assert(has("x") && has("a_key") && has("__"));
}
END_TEST

START_TEST(clashing_keys_of_a_list_stay_two_studies)
{
    write_text("list.csv", "image\none/s.nii.gz\ntwo/s.nii.gz\n");
    OK(scan("list.csv"));
    ck_assert_int_eq(report.added, 2);
    ck_assert(has("s") && has("two_s"));
    OK(scan("list.csv"));
    ck_assert_int_eq(report.unchanged, 2);
}
END_TEST

START_TEST(a_given_key_that_is_taken_is_told)
{
    write_text("list.csv", "key,image\nx,one/a.nii\nx,two/b.nii\n");
    OK(scan("list.csv"));
    ck_assert_int_eq(report.added, 2);
    ck_assert_msg(report.warnings == 1 && strstr(warnings, "two_x"), "%s", warnings);
    ck_assert(has("x") && has("two_x"));
    write_text("list.csv", "image\none/s.nii\ntwo/s.nii\n");
    OK(scan("list.csv"));
    ck_assert_msg(report.warnings == 0 && has("two_s"), "%s", warnings);
}
END_TEST

START_TEST(bad_lists_are_refused_with_their_line)
{
    static const struct {
        const char *text, *line;
    } lists[] = {
        {"", ":1:"},
        {"\n\n", ":1:"},
        {"key,image,truth\n", ""},
        {"key,truth\na,b\n", ":1:"},
        {"image,image\na,b\n", ":1:"},
        {"key,image,truth\na,b.nii,\nc,d.nii\n", ":3:"},
        {"key,image,truth\na,b.nii,,\n", ":2:"},
        {"key,image,truth\na,,\n", ":2:"},
        {"key,image,truth\na,b.nii;;c.nii,\n", ":2:"},
        {"key,image,truth\na,\"b.nii,\nc,d.nii,\n", ":2:"},
        {"key,image,truth\na,\"b.nii\"x,\n", ":2:"},
        {"key,image,truth\na,b\"c.nii,\n", ":2:"},
        {"key,image,truth\na,b.nii,\xff\n", ":2:"},
        {"key,image,truth\n\"a\nb\",\"c\n\",\n", ":2:"},
        {"key,image,truth\ra,b.nii,\r", ":1:"},
        {"image\n1;2;3;4;5;6;7;8;9;10;11;12;13;14;15;16;17\n", ":2:"},
    };
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        write_text("list.csv", lists[i].text);
        ck_assert_msg(scan("list.csv") == NOC_EDATA, "%s", lists[i].text);
        ck_assert_msg(strstr(err.text, lists[i].line) != NULL, "%s: %s", lists[i].text, err.text);
    }
    write_bytes("list.csv", "image\na\0b.nii\n", 14);
    ck_assert_int_eq(scan("list.csv"), NOC_EDATA);
    ck_assert_int_eq(study_count(), 0);
}
END_TEST

/* ---- folders ---- */

START_TEST(folders_are_entered_whether_or_not_their_kind_is_told)
{
    is_untold = _i;
    write_image("all/below/a.nii");
    write_image("elsewhere/b.nii");
    write_text("all/notes.txt", "no image");
    ck_assert_int_eq(symlink(in("elsewhere"), in("all/link")), 0);
    OK(scan("all"));
    ck_assert_int_eq(report.added, 2);
    ck_assert_str_eq(warnings, "");
}
END_TEST

/* Where one study has a truth the others beside it should, not those in other folders. */
START_TEST(truths_are_expected_beside_truths)
{
    const char *names[] = {"a/1/X", "a/Y", "a/Z", "ab/U", "a/1/2/V", "W"};
    char name[64];
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(name, sizeof(name), "all/%s_flair.nii", names[i]);
        write_image(name);
    }
    write_image("all/a/Y_seg.nii");
    OK(scan("all"));
    ck_assert_int_eq(report.added, 6);
    ck_assert_ptr_nonnull(strstr(warnings, "study Z: no T1w, no T1gd, no T2w, no truth\n"));
    char *first = strstr(warnings, "no truth");
    ck_assert_ptr_null(strstr(first + 1, "no truth"));
}
END_TEST

/* ---- single files ---- */

START_TEST(single_file_is_a_study)
{
    write_image("one/a.nii");
    OK(scan("one/a.nii"));
    noc_study a = find("a");
    ck_assert_str_eq(a.layout, "file");
    ck_assert_str_eq(a.channels[0], in("one/a.nii"));
    ck_assert(a.has_shape);
    noc_study_clear(&a);
    OK(scan("one/a.nii"));
    ck_assert_int_eq(report.unchanged, 1);
}
END_TEST

START_TEST(single_file_keeps_what_a_list_said)
{
    write_dataset();
    OK(scan("set"));
    OK(scan("set/imagesTr/a.nii"));
    ck_assert_int_eq(report.unchanged, 1);
    write_text("set/labelsTr/a.nii", "another truth");
    OK(scan("set/imagesTr/a.nii"));
    ck_assert_int_eq(report.changed, 1);
    noc_study a = find("a");
    ck_assert_ptr_nonnull(a.truth);
    ck_assert_str_eq(a.layout, "msd");
    noc_study_clear(&a);
    ck_assert_int_eq(study_count(), 4);
}
END_TEST

START_TEST(large_archive_is_scanned_in_seconds)
{
    enum { FILES = 4000 };
    char name[64];
    FILE *list = fopen(in("list.csv"), "w");
    ck_assert_ptr_nonnull(list);
    fprintf(list, "image\n");
    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof(name), "many/s%05d.nii", i);
        write_image(name);
        fprintf(list, "%s\n", name);
    }
    fclose(list);
    double start = noc_clock_monotonic();
    OK(scan("list.csv"));
    double seconds = noc_clock_monotonic() - start;
    ck_assert_int_eq(report.added, FILES);
    ck_assert_int_eq(report.unreadable, 0);
    ck_assert_msg(seconds < 20, "%.1f s", seconds);
}
END_TEST

/* The full archive; only where the reference data lies. */
START_TEST(reference_archive_is_scanned)
{
    char path[1024];
    snprintf(path, sizeof(path), "%s/data/msd_hippocampus", getenv("NOC_REFERENCE_DIR"));
    OK(noc_scan(catalog, path, &listening, &report, &err));
    ck_assert_int_gt(report.added, 20);
    noc_study study = find("hippocampus_003");
    ck_assert(study.has_shape && study.truth);
    noc_study_clear(&study);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("scan");
    TCase *tests = tcase_create("scan");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, names_become_keys);
    tcase_add_test(tests, dataset_is_read);
    tcase_add_test(tests, scanning_again_changes_nothing_until_a_file_changes);
    tcase_add_test(tests, wrong_numbers_are_one_warning);
    tcase_add_test(tests, image_named_twice_counts_once);
    tcase_add_test(tests, bad_datasets_are_refused);
    tcase_add_test(tests, what_is_not_recognised_is_said);
    tcase_add_test(tests, list_is_read);
    tcase_add_test(tests, lists_say_what_is_odd);
    tcase_add_test(tests, clashing_keys_of_a_list_stay_two_studies);
    tcase_add_test(tests, a_given_key_that_is_taken_is_told);
    tcase_add_test(tests, bad_lists_are_refused_with_their_line);
    tcase_add_loop_test(tests, folders_are_entered_whether_or_not_their_kind_is_told, 0, 2);
    tcase_add_test(tests, truths_are_expected_beside_truths);
    tcase_add_test(tests, single_file_is_a_study);
    tcase_add_test(tests, single_file_keeps_what_a_list_said);
    tcase_add_test(tests, large_archive_is_scanned_in_seconds);
    if (getenv("NOC_REFERENCE_DIR"))
        tcase_add_test(tests, reference_archive_is_scanned);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
