/* Safetensors files: what is written comes back, numbers of every floating kind, and headers that claim what
 * is not so. */
#include "engine/safetensors.h"

#include <check.h>
#include <endian.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[256], path[300];

static void make_folder(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof(folder), "%s/test_safetensors.XXXXXX", base ? base : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/file.safetensors", folder);
}

static void remove_folder(void)
{
    unlink(path);
    ck_assert_int_eq(rmdir(folder), 0);
}

static void write_bytes(const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(data, 1, size, file), size);
    ck_assert_int_eq(fclose(file), 0);
}

/* A file of that header and `size` zero bytes of data. */
static void write_file(const char *header, uint64_t length, size_t size)
{
    char *bytes = calloc(1, 8 + strlen(header) + size);
    ck_assert_ptr_nonnull(bytes);
    length = htole64(length);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, strlen(header));
    write_bytes(bytes, 8 + strlen(header) + size);
    free(bytes);
}

static void refuse(noc_status expected, const char *part)
{
    noc_safetensors *file = NULL;
    noc_error err = {0};
    noc_status status = noc_safetensors_open(path, &file, &err);
    ck_assert_msg(status == expected, "%s: status %s, \"%s\"", part, noc_status_name(status), err.text);
    ck_assert_ptr_null(file);
    ck_assert_msg(strstr(err.text, part) != NULL, "\"%s\" does not say \"%s\"", err.text, part);
    ck_assert_msg(strstr(err.text, path) != NULL, "\"%s\" does not name the file", err.text);
}

/* Header text, bytes of data, what the sentence must say; NULL: the file is good. */
static const struct {
    const char *header;
    size_t size;
    const char *part;
} headers[] = {
    {"{}", 0, NULL},
    {"{}   ", 0, NULL},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, NULL},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, NULL},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,9],\"data_offsets\":[0,0]}}", 0, NULL},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4611686018427387904,0],\"data_offsets\":[0,0]}"
     "}",
     0, NULL},
    {"", 0, "header"},
    {"[]", 0, "no map"},
    {"{\"a\":", 0, "header"},
    {"{} x", 0, "header"},
    {"{\"a\":1}", 0, "tensor a has no dtype"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "has no dtype"},
    {"{\"a\":{\"dtype\":\"F99\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "F99"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, "shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, "shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,4]}}", 4, "header"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, "data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, "data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7, "ends at byte 8 of 7"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[9223372036854775803,9223372036854775807]}}",
     8, "ends at"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, "do not fit its shape"},
    {"{\"a\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "do not fit its shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}", 0,
     "do not fit its shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 8, "4 bytes at the end"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "hole"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
     12, "hole"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
     12, "overlap"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
     4, "overlap"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
     "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
     8, "header"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "header"},
    {"{\"__metadata__\":{\"k\":\"v\"}}", 0, NULL},
    {"{\"__metadata__\":7}", 0, "__metadata__"},
    {"{\"__metadata__\":{\"k\":7}}", 0, "__metadata__.k"},
    {"{\"a\\u0000b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "header"},
    {"{\"a\xff\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "header"},
};

START_TEST(headers_are_checked)
{
    write_file(headers[_i].header, strlen(headers[_i].header), headers[_i].size);
    if (headers[_i].part) {
        refuse(NOC_EDATA, headers[_i].part);
        return;
    }
    noc_safetensors *file = NULL;
    noc_error err = {0};
    ck_assert_msg(noc_safetensors_open(path, &file, &err) == NOC_OK, "%s", err.text);
    noc_safetensors_close(file);
}
END_TEST

START_TEST(files_that_are_none)
{
    write_bytes("", 0);
    refuse(NOC_EDATA, "0 bytes");
    write_bytes("1234567", 7);
    refuse(NOC_EDATA, "7 bytes");
    write_file("{}", 3, 0);
    refuse(NOC_EDATA, "header of 3 bytes");
    write_file("{}", UINT64_MAX, 0);
    refuse(NOC_EDATA, "header of 18446744073709551615");
    write_file("{}", (uint64_t)1 << 63, 0);
    refuse(NOC_EDATA, "header of");
    ck_assert_int_eq(unlink(path), 0);
    refuse(NOC_ENOINPUT, "file.safetensors");
}
END_TEST

/* Nesting as deep as the file allows must end in a sentence, not in the stack. */
START_TEST(deep_nesting)
{
    enum { DEPTH = 200000 };
    char *header = malloc(DEPTH + 1);
    ck_assert_ptr_nonnull(header);
    memset(header, '[', DEPTH);
    header[DEPTH] = '\0';
    write_file(header, DEPTH, 0);
    free(header);
    refuse(NOC_EDATA, "header");
}
END_TEST

/* Any byte of a good file may be another: it is read or refused, and never read beyond. */
START_TEST(changed_bytes)
{
    const char header[] = "{\"b\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]},"
                          "\"a\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[8,14]}}";
    char bytes[8 + sizeof(header) - 1 + 14] = {(char)(sizeof(header) - 1)};
    memcpy(bytes + 8, header, sizeof(header) - 1);
    static const char others[] = {0, '0', '9', '"', '}', '-', ',', (char)0xff};
    for (size_t i = 0; i < 8 + sizeof(header) - 1; i++)
        for (size_t k = 0; k < sizeof(others); k++) {
            char kept = bytes[i];
            noc_safetensors *file = NULL;
            bytes[i] = others[k];
            write_bytes(bytes, sizeof(bytes));
            bytes[i] = kept;
            if (noc_safetensors_open(path, &file, NULL) != NOC_OK)
                continue;
            for (size_t t = 0; t < noc_safetensors_count(file); t++) {
                const noc_tensor *tensor = noc_safetensors_item(file, t);
                double numbers[14];
                ck_assert_uint_le(noc_tensor_count(tensor), 14);
                noc_tensor_doubles(tensor, 0, noc_tensor_count(tensor), numbers, NULL);
            }
            noc_safetensors_close(file);
        }
}
END_TEST

START_TEST(written_is_read)
{
    const float singles[6] = {1.5f, -2, 3, 1e-40f, INFINITY, 0};
    const double doubles[2] = {M_PI, -1e300};
    const unsigned char bytes[3] = {1, 2, 255};
    const noc_tensor tensors[] = {
        {.name = "z \"quoted\"",
         .dtype = NOC_DTYPE_F32,
         .axes = 2,
         .shape = {2, 3},
         .data = singles,
         .bytes = 24},
        {.name = "bytes", .dtype = NOC_DTYPE_U8, .axes = 1, .shape = {3}, .data = bytes, .bytes = 3},
        {.name = "a", .dtype = NOC_DTYPE_F64, .axes = 1, .shape = {2}, .data = doubles, .bytes = 16},
        {.name = "none", .dtype = NOC_DTYPE_I64, .axes = 1, .shape = {0}, .data = NULL, .bytes = 0},
    };
    const char *const metadata[] = {"case", "\xc3\xa9\n", "other", "", NULL};
    noc_error err;
    noc_safetensors *file = NULL;
    ck_assert_msg(noc_safetensors_write(path, tensors, 4, metadata, &err) == NOC_OK, "%s", err.text);
    ck_assert_msg(noc_safetensors_open(path, &file, &err) == NOC_OK, "%s", err.text);
    ck_assert_uint_eq(noc_safetensors_count(file), 4);
    ck_assert_str_eq(noc_safetensors_item(file, 0)->name, "a");
    ck_assert_str_eq(noc_safetensors_item(file, 3)->name, "z \"quoted\"");
    ck_assert_str_eq(noc_safetensors_metadata(file, "case"), "\xc3\xa9\n");
    ck_assert_str_eq(noc_safetensors_metadata(file, "other"), "");
    ck_assert_ptr_null(noc_safetensors_metadata(file, "absent"));
    ck_assert_ptr_null(noc_safetensors_find(file, "absent"));
    const noc_tensor *z = noc_safetensors_find(file, "z \"quoted\"");
    ck_assert_int_eq(z->axes, 2);
    ck_assert_int_eq(z->shape[1], 3);
    ck_assert_mem_eq(z->data, singles, sizeof(singles));
    double two[2];
    float one;
    ck_assert_int_eq(noc_tensor_doubles(z, 1, 2, two, NULL), NOC_OK);
    ck_assert_double_eq(two[0], -2);
    ck_assert_double_eq(two[1], 3);
    ck_assert_int_eq(noc_tensor_floats(noc_safetensors_find(file, "a"), 0, 1, &one, NULL), NOC_OK);
    ck_assert_float_eq(one, (float)M_PI);
    ck_assert_int_eq(noc_tensor_floats(noc_safetensors_find(file, "bytes"), 0, 1, &one, &err), NOC_EDATA);
    ck_assert_ptr_nonnull(strstr(err.text, "bytes is U8"));
    noc_safetensors_close(file);
}
END_TEST

START_TEST(nothing_is_written)
{
    const noc_tensor short_one = {
        .name = "a", .dtype = NOC_DTYPE_F32, .axes = 1, .shape = {2}, .data = "", .bytes = 4};
    noc_safetensors *file = NULL;
    ck_assert_int_eq(noc_safetensors_write(path, &short_one, 1, NULL, NULL), NOC_EINTERNAL);
    ck_assert_int_ne(access(path, F_OK), 0);
    ck_assert_int_eq(noc_safetensors_write(path, NULL, 0, NULL, NULL), NOC_OK);
    ck_assert_int_eq(noc_safetensors_open(path, &file, NULL), NOC_OK);
    ck_assert_uint_eq(noc_safetensors_count(file), 0);
    noc_safetensors_close(file);
}
END_TEST

START_TEST(small_floats)
{
    static const struct {
        noc_dtype dtype;
        uint16_t bits;
        double value;
    } cases[] = {
        {NOC_DTYPE_F16, 0x3c00, 1},           {NOC_DTYPE_F16, 0xc000, -2},
        {NOC_DTYPE_F16, 0x7bff, 65504},       {NOC_DTYPE_F16, 0x0001, 0x1p-24},
        {NOC_DTYPE_F16, 0x0400, 0x1p-14},     {NOC_DTYPE_F16, 0x03ff, 0x3ffp-24},
        {NOC_DTYPE_F16, 0x3555, 0x1.554p-2},  {NOC_DTYPE_F16, 0x7c00, INFINITY},
        {NOC_DTYPE_F16, 0xfc00, -INFINITY},   {NOC_DTYPE_F16, 0x0000, 0},
        {NOC_DTYPE_BF16, 0x3f80, 1},          {NOC_DTYPE_BF16, 0xc000, -2},
        {NOC_DTYPE_BF16, 0x7f7f, 0x1.fep127}, {NOC_DTYPE_BF16, 0x0001, 0x1p-133},
        {NOC_DTYPE_BF16, 0xff80, -INFINITY},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint16_t bits = htole16(cases[i].bits);
        const noc_tensor tensor = {.name = "t", .dtype = cases[i].dtype, .data = &bits, .bytes = 2};
        double value;
        ck_assert_int_eq(noc_tensor_doubles(&tensor, 0, 1, &value, NULL), NOC_OK);
        ck_assert_msg(value == cases[i].value, "%04x is %a, expected %a", cases[i].bits, value,
                      cases[i].value);
    }
    const uint16_t nans[2] = {htole16(0x7e00), htole16(0x7fc0)};
    const noc_tensor half = {.name = "t", .dtype = NOC_DTYPE_F16, .data = &nans[0], .bytes = 2};
    const noc_tensor brain = {.name = "t", .dtype = NOC_DTYPE_BF16, .data = &nans[1], .bytes = 2};
    float a, b;
    ck_assert_int_eq(noc_tensor_floats(&half, 0, 1, &a, NULL), NOC_OK);
    ck_assert_int_eq(noc_tensor_floats(&brain, 0, 1, &b, NULL), NOC_OK);
    ck_assert(isnan(a) && isnan(b));
}
END_TEST

static Suite *safetensors_suite(void)
{
    Suite *suite = suite_create("safetensors");
    TCase *files = tcase_create("files");
    tcase_add_checked_fixture(files, make_folder, remove_folder);
    tcase_add_loop_test(files, headers_are_checked, 0, (int)(sizeof(headers) / sizeof(headers[0])));
    tcase_add_test(files, files_that_are_none);
    tcase_add_test(files, deep_nesting);
    tcase_add_test(files, changed_bytes);
    tcase_add_test(files, written_is_read);
    tcase_add_test(files, nothing_is_written);
    tcase_add_test(files, small_floats);
    suite_add_tcase(suite, files);
    return suite;
}

int main(void)
{
    SRunner *runner = srunner_create(safetensors_suite());
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
