/* NIfTI in and out: what every header can say, what is refused and how, and that a written mask says of space
 * what its scan said. Files are made byte by byte (tests/nifti_sample.h). */
#include "engine/base/file.h"
#include "engine/base/memory.h"
#include "engine/volume/gzip.h"
#include "engine/volume/nifti.h"
#include "tests/nifti_sample.h"

#include <check.h>
#include <dirent.h>
#include <float.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];
static noc_error err;

static void make_folder(void)
{
    snprintf(folder, sizeof folder, "/tmp/nocturne-nifti-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void remove_folder(void)
{
    char command[128];

    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    ck_assert_int_eq(system(command), 0);
}

/* A path in the folder; good until the next call but three. */
static const char *at(const char *name)
{
    static char paths[4][160];
    static int n;

    n = (n + 1) % 4;
    snprintf(paths[n], sizeof paths[n], "%s/%s", folder, name);
    return paths[n];
}

/* Header and voxels, little-endian in, as one piece of memory; *size = its length. */
static unsigned char *whole_of(const nifti_sample *s, const void *voxels, size_t count, size_t voxel_size,
                               size_t *size)
{
    unsigned char header[SAMPLE_HEADER_BYTES];
    const size_t head = nifti_sample_header(s, header);
    const size_t begin = !s->is_pair && s->offset > (double)head ? (size_t)s->offset : head;
    unsigned char *whole = calloc(1, begin + count * voxel_size);

    ck_assert_ptr_nonnull(whole);
    memcpy(whole, header, head);
    if (count > 0)
        memcpy(whole + begin, voxels, count * voxel_size);
    nifti_sample_order(s, whole + begin, count, voxel_size);
    *size = begin + count * voxel_size;
    return whole;
}

static void write_scan(const char *name, const nifti_sample *s, const void *voxels, size_t count,
                       size_t voxel_size)
{
    size_t size;
    unsigned char *whole = whole_of(s, voxels, count, voxel_size, &size);

    sample_write(at(name), whole, size);
    free(whole);
}

static void write_packed(const char *name, const void *data, const size_t *cuts)
{
    FILE *file = fopen(at(name), "wb");

    ck_assert_ptr_nonnull(file);
    for (int m = 0; cuts[m] < cuts[m + 1]; m++) {
        void *member = NULL;
        size_t bytes = 0;
        ck_assert_int_eq(
            noc_gzip_deflate((const char *)data + cuts[m], cuts[m + 1] - cuts[m], 6, &member, &bytes, &err),
            NOC_OK);
        ck_assert_uint_eq(fwrite(member, 1, bytes, file), bytes);
        free(member);
    }
    ck_assert_int_eq(fclose(file), 0);
}

/* A sentence for people: it names the file, is one line, and holds nothing of the header's free text. */
static void check_sentence(const char *path, const char *text)
{
    ck_assert_msg(strstr(err.text, path) == err.text, "%s", err.text);
    ck_assert_msg(strstr(err.text, text) != NULL, "\"%s\" does not say \"%s\"", err.text, text);
    ck_assert_ptr_null(strchr(err.text, '\n'));
    ck_assert_ptr_null(strstr(err.text, "PATIENT"));
}

static void expect_refused(const char *path, const noc_nifti_options *options, noc_status wanted,
                           const char *text)
{
    noc_image image = {.channels = 7};
    noc_status status = noc_nifti_read(path, options, &image, &err);

    ck_assert_msg(status == wanted, "%s, wanted %s: %s", noc_status_name(status), noc_status_name(wanted),
                  status == NOC_OK ? "" : err.text);
    ck_assert_int_eq(err.status, wanted);
    check_sentence(path, text);
    ck_assert(!image.voxels && image.channels == 0);
}

static noc_image read_scan(const char *name, const noc_nifti_options *options)
{
    noc_image image;
    noc_nifti_header header;

    ck_assert_msg(noc_nifti_read(at(name), options, &image, &err) == NOC_OK, "%s", err.text);
    ck_assert_msg(noc_nifti_read_header(at(name), options, &header, &err) == NOC_OK, "%s", err.text);
    ck_assert_mem_eq(&header.grid, &image.grid, sizeof header.grid);
    ck_assert_int_eq(header.channels, image.channels);
    ck_assert_int_eq(header.type, image.type);
    ck_assert_uint_eq(header.voxel_bytes, image.bytes);
    return image;
}

/* ---- what is read ---- */

static const int8_t some_i8[] = {0, 1, -1, INT8_MIN, INT8_MAX, 7};
static const uint8_t some_u8[] = {0, 1, 2, 128, UINT8_MAX, 7};
static const int16_t some_i16[] = {0, 1, -1, INT16_MIN, INT16_MAX, 258};
static const uint16_t some_u16[] = {0, 1, 2, 32768, UINT16_MAX, 258};
static const int32_t some_i32[] = {0, 1, -1, INT32_MIN, INT32_MAX, 16909060};
static const uint32_t some_u32[] = {0, 1, 2, 2147483648u, UINT32_MAX, 16909060};
static const int64_t some_i64[] = {0, 1, -1, INT64_MIN, INT64_MAX, 72623859790382856};
static const uint64_t some_u64[] = {0, 1, 2, (uint64_t)1 << 63, UINT64_MAX, 72623859790382856};
static const float some_f32[] = {0, 1.5f, -1e-30f, -FLT_MAX, FLT_MAX, 3.14159274f};
static const double some_f64[] = {0, 1.5, -1e-300, -1e300, DBL_MAX / 4, 3.14159265358979};

#define STORED(code, type, array, name)                                                                      \
    {                                                                                                        \
        code, type, sizeof array[0], array, name                                                             \
    }

static const struct {
    int code;
    noc_voxel_type type;
    size_t size;
    const void *stored;
    const char *name;
} types[] = {
    STORED(2, NOC_VOXEL_U8, some_u8, "uint8"),       STORED(256, NOC_VOXEL_I8, some_i8, "int8"),
    STORED(512, NOC_VOXEL_U16, some_u16, "uint16"),  STORED(4, NOC_VOXEL_I16, some_i16, "int16"),
    STORED(768, NOC_VOXEL_U32, some_u32, "uint32"),  STORED(8, NOC_VOXEL_I32, some_i32, "int32"),
    STORED(1280, NOC_VOXEL_U64, some_u64, "uint64"), STORED(1024, NOC_VOXEL_I64, some_i64, "int64"),
    STORED(16, NOC_VOXEL_F32, some_f32, "float32"),  STORED(64, NOC_VOXEL_F64, some_f64, "float64"),
};
enum { TYPES = sizeof types / sizeof types[0] };

static double stored_value(int type, int n)
{
    switch (types[type].type) {
    case NOC_VOXEL_U8:
        return some_u8[n];
    case NOC_VOXEL_I8:
        return some_i8[n];
    case NOC_VOXEL_U16:
        return some_u16[n];
    case NOC_VOXEL_I16:
        return some_i16[n];
    case NOC_VOXEL_U32:
        return some_u32[n];
    case NOC_VOXEL_I32:
        return some_i32[n];
    case NOC_VOXEL_U64:
        return (double)some_u64[n];
    case NOC_VOXEL_I64:
        return (double)some_i64[n];
    case NOC_VOXEL_F32:
        return (double)some_f32[n];
    default:
        return some_f64[n];
    }
}

START_TEST(every_type_in_both_orders_and_versions)
{
    const int type = _i / 4;
    nifti_sample s = nifti_sample_of(_i % 2 + 1, 3, 2, 1);
    double v[6];

    s.is_big = _i / 2 % 2;
    s.datatype = types[type].code;
    s.bitpix = (int)types[type].size * 8;
    s.slope = 0.5;
    s.inter = -12;
    write_scan("a.nii", &s, types[type].stored, 6, types[type].size);
    noc_image image = read_scan("a.nii", NULL);
    ck_assert_int_eq(image.type, types[type].type);
    ck_assert_str_eq(noc_voxel_name(image.type), types[type].name);
    ck_assert_uint_eq(noc_voxel_size(image.type), types[type].size);
    ck_assert_uint_eq(image.bytes, 6 * types[type].size);
    ck_assert_mem_eq(image.voxels, types[type].stored, image.bytes);
    noc_image_values(&image, 0, 1, 6, v);
    for (int n = 0; n < 6; n++)
        ck_assert(v[n] == stored_value(type, n) * 0.5 - 12);
    noc_image_values(&image, 5, -2, 3, v);
    for (int n = 0; n < 3; n++)
        ck_assert(v[n] == stored_value(type, 5 - 2 * n) * 0.5 - 12);
    ck_assert_int_eq(noc_image_check_finite(&image, &err), NOC_OK);
    ck_assert_int_eq(image.grid.nifti.version, s.version);
    for (int a = 0; a < 3; a++) {
        ck_assert_int_eq(image.grid.size[a], s.dim[a + 1]);
        ck_assert(image.grid.spacing_mm[a] == s.pixdim[a + 1]);
        ck_assert_mem_eq(image.grid.affine[a], s.srow[a], sizeof s.srow[a]);
    }
    noc_image_clear(&image);
    ck_assert_ptr_null(image.voxels);
}
END_TEST

START_TEST(slope_and_inter)
{
    static const struct {
        double slope, inter, wanted_slope, wanted_inter;
    } cases[] = {{2, 3, 2, 3},         {-1, 100, -1, 100}, {1, 0, 1, 0},     {0.25, -1024, 0.25, -1024},
                 {0, 7, 1, 0},         {NAN, 7, 1, 0},     {NAN, NAN, 1, 0}, {INFINITY, 7, 1, 0},
                 {-INFINITY, 7, 1, 0}, {0, INFINITY, 1, 0}};
    static const int16_t voxels[] = {1, -2};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int version = 1; version <= 2; version++) {
            nifti_sample s = nifti_sample_of(version, 2, 1, 1);
            double v[2];
            s.slope = cases[i].slope;
            s.inter = cases[i].inter;
            write_scan("a.nii", &s, voxels, 2, 2);
            noc_image image = read_scan("a.nii", NULL);
            ck_assert(image.slope == cases[i].wanted_slope && image.inter == cases[i].wanted_inter);
            noc_image_values(&image, 0, 1, 2, v);
            ck_assert(v[0] == cases[i].wanted_slope + cases[i].wanted_inter);
            ck_assert(v[1] == -2 * cases[i].wanted_slope + cases[i].wanted_inter);
            noc_image_clear(&image);
        }
}
END_TEST

START_TEST(axes)
{
    static const struct {
        int64_t dim[8], size[3];
        int channels;
    } cases[] = {
        {{3, 2, 3, 4}, {2, 3, 4}, 1},
        {{4, 2, 3, 4, 1}, {2, 3, 4}, 1},
        {{4, 2, 3, 2, 2}, {2, 3, 2}, 2},
        {{4, 2, 1, 3, 4}, {2, 1, 3}, 4},
        {{5, 2, 3, 4, 1, 1}, {2, 3, 4}, 1},
        {{7, 2, 3, 2, 2, 1, 1, 1}, {2, 3, 2}, 2},
        {{2, 4, 6}, {4, 6, 1}, 1},
        {{1, 24}, {24, 1, 1}, 1},
        {{3, 2, 3, 4, -5, 0, 9, 9}, {2, 3, 4}, 1}, /* beyond dim[0] nothing counts */
        {{3, 1, 24, 1}, {1, 24, 1}, 1},
    };
    int16_t voxels[24];

    for (int16_t n = 0; n < 24; n++)
        voxels[n] = n;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int version = 1; version <= 2; version++) {
            nifti_sample s = nifti_sample_of(version, 1, 1, 1);
            memcpy(s.dim, cases[i].dim, sizeof s.dim);
            write_scan("a.nii", &s, voxels, 24, 2);
            noc_image image = read_scan("a.nii", NULL);
            ck_assert_mem_eq(image.grid.size, cases[i].size, sizeof image.grid.size);
            ck_assert_int_eq(image.channels, cases[i].channels);
            ck_assert_uint_eq(noc_grid_voxels(&image.grid) * (size_t)image.channels, 24);
            ck_assert_mem_eq(image.voxels, voxels, sizeof voxels);
            noc_image_clear(&image);
        }
}
END_TEST

/* Every container, given by either of its names; members are cut in header, extender and voxels. */
START_TEST(containers)
{
    static const size_t one[] = {0, 1000, 0}, several[] = {0, 11, 348, 353, 700, 1000, 0};
    static const char *const pairs[][4] = {{"p.hdr", "p.img", "p.hdr", "p.img"},
                                           {"q.hdr", "q.img.gz", "q.hdr", "q.img.gz"},
                                           {"r.hdr.gz", "r.img.gz", "r.hdr.gz", "r.img.gz"},
                                           {"s.hdr.gz", "s.img", "s.hdr.gz", "s.img"}};
    unsigned char voxels[1000];

    for (int i = 0; i < 1000; i++)
        voxels[i] = (unsigned char)(i * 37 % 251);
    voxels[0] = 0x1f; /* a plain image may begin like gzip */
    voxels[1] = 0x8b;
    for (int version = 1; version <= 2; version++) {
        nifti_sample s = nifti_sample_of(version, 8, 9, 1);
        unsigned char header[SAMPLE_HEADER_BYTES];
        size_t size, head;
        s.datatype = 2;
        s.bitpix = 8;
        s.offset = version == 1 ? 928 : 720; /* a gap for extensions */
        unsigned char *whole = whole_of(&s, voxels, 1000 - (size_t)s.offset, 1, &size);
        ck_assert_uint_eq(size, 1000);
        sample_write(at("a.nii"), whole, size);
        write_packed("b.nii.gz", whole, one);
        write_packed("c.nii.gz", whole, several);
        write_packed("d.nii", whole, one); /* content decides, not the name */
        sample_write(at("e.nii.gz"), whole, size);
        free(whole);
        for (int i = 0; i < 5; i++) {
            static const char *const names[] = {"a.nii", "b.nii.gz", "c.nii.gz", "d.nii", "e.nii.gz"};
            noc_image image = read_scan(names[i], NULL);
            ck_assert_uint_eq(image.bytes, 72);
            ck_assert_mem_eq(image.voxels, voxels, 72);
            noc_image_clear(&image);
        }
        s.is_pair = true;
        s.offset = 8;
        head = nifti_sample_header(&s, header);
        const size_t cuts[] = {0, head, 0}, image_cuts[] = {0, 50, 80, 0};
        for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
            if (strstr(pairs[i][0], ".gz"))
                write_packed(pairs[i][0], header, cuts);
            else
                sample_write(at(pairs[i][0]), header, head);
            if (strstr(pairs[i][1], ".gz"))
                write_packed(pairs[i][1], voxels, image_cuts);
            else
                sample_write(at(pairs[i][1]), voxels, 80);
            for (int given = 2; given < 4; given++) {
                noc_image image = read_scan(pairs[i][given], NULL);
                ck_assert_mem_eq(image.voxels, voxels + 8, 72);
                noc_image_clear(&image);
            }
        }
    }
}
END_TEST

START_TEST(names_of_files)
{
    static const struct {
        const char *name;
        int stem;
    } cases[] = {{"a.nii", 1},    {"a.nii.gz", 1},      {"a.b.hdr", 3},    {"a.img", 1},  {"a.hdr.gz", 1},
                 {"a.img.gz", 1}, {"a.gz", -1},         {"a.nii.bz2", -1}, {"a.NII", -1}, {"nii", -1},
                 {"", -1},        {"a.nii.gz.txt", -1}, {".nii", 0}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t stem = 99;
        ck_assert_msg(noc_nifti_is_name(cases[i].name, &stem) == (cases[i].stem >= 0), "%s", cases[i].name);
        ck_assert_uint_eq(stem, cases[i].stem >= 0 ? (size_t)cases[i].stem : 99);
    }
    ck_assert(noc_nifti_is_name("a.nii", NULL));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) /* a pair's image is known by its header */
        ck_assert_msg(noc_nifti_is_image_name(cases[i].name, NULL) ==
                          (cases[i].stem > 0 && !strstr(cases[i].name, ".img")),
                      "%s", cases[i].name);
    ck_assert(!noc_nifti_is_image_name("._a.nii", NULL));
}
END_TEST

START_TEST(sha256_of_the_file)
{
    static const int16_t voxels[] = {1, 2, 3, 4, 5, 6};
    nifti_sample s = nifti_sample_of(1, 3, 2, 1);
    const noc_nifti_options options = {.with_sha256 = true};
    char command[256], wanted[65] = "";

    write_scan("a.nii", &s, voxels, 6, 2);
    noc_image image = read_scan("a.nii", NULL);
    ck_assert_str_eq(image.sha256, "");
    noc_image_clear(&image);
    image = read_scan("a.nii", &options);
    snprintf(command, sizeof command, "sha256sum '%s'", at("a.nii"));
    FILE *pipe = popen(command, "r");
    ck_assert_ptr_nonnull(pipe);
    ck_assert_int_eq(fscanf(pipe, "%64s", wanted), 1);
    ck_assert_int_eq(pclose(pipe), 0);
    ck_assert_str_eq(image.sha256, wanted);
    noc_image_clear(&image);
}
END_TEST

/* ---- space ---- */

/* The quaternion's rotation, from the format's description. */
static void rotation_of(const double q[3], double r[3][3])
{
    const double b = q[0], c = q[1], d = q[2], a = sqrt(fmax(0, 1 - b * b - c * c - d * d));
    const double m[3][3] = {{a * a + b * b - c * c - d * d, 2 * b * c - 2 * a * d, 2 * b * d + 2 * a * c},
                            {2 * b * c + 2 * a * d, a * a + c * c - b * b - d * d, 2 * c * d - 2 * a * b},
                            {2 * b * d - 2 * a * c, 2 * c * d + 2 * a * b, a * a + d * d - c * c - b * b}};

    memcpy(r, m, sizeof m);
}

START_TEST(qform)
{
    static const double quaterns[][3] = {{0, 0, 0},       {0, 0, 1},       {0, 1, 0},
                                         {1, 0, 0},       {0.5, 0.5, 0.5}, {0, 0, 0.7071067811865476},
                                         {0.1, -0.3, 0.6}};
    static const double qfacs[] = {1, -1, 0};
    static const int16_t voxel = 1;

    for (size_t i = 0; i < sizeof quaterns / sizeof quaterns[0]; i++)
        for (int f = 0; f < 3; f++)
            for (int version = 1; version <= 2; version++) {
                nifti_sample s = nifti_sample_of(version, 1, 1, 1);
                double r[3][3];
                s.qform_code = 1;
                s.sform_code = 0; /* its rows are there and do not count */
                memcpy(s.quatern, quaterns[i], sizeof s.quatern);
                s.pixdim[0] = qfacs[f];
                s.qoffset[0] = -5, s.qoffset[1] = 6.5, s.qoffset[2] = 7;
                write_scan("a.nii", &s, &voxel, 1, 2);
                noc_image image = read_scan("a.nii", NULL);
                rotation_of(s.quatern, r);
                for (int a = 0; a < 3; a++) {
                    ck_assert(image.grid.affine[a][3] == s.qoffset[a]);
                    for (int j = 0; j < 3; j++)
                        ck_assert_double_eq_tol(image.grid.affine[a][j],
                                                r[a][j] * s.pixdim[j + 1] * (j == 2 && qfacs[f] < 0 ? -1 : 1),
                                                version == 1 ? 2e-6 : 1e-12);
                }
                ck_assert(image.grid.affine[3][3] == 1 && image.grid.affine[3][0] == 0);
                noc_image_clear(&image);
            }
}
END_TEST

START_TEST(sform_goes_before_qform)
{
    static const int16_t voxel = 1;
    static const int codes[] = {1, 2, 3, 4, 5};

    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        nifti_sample s = nifti_sample_of(1, 1, 1, 1);
        s.sform_code = codes[i];
        s.qform_code = 1;
        s.quatern[2] = 1;
        s.srow[0][1] = 0.5; /* a shear, which no qform can say */
        write_scan("a.nii", &s, &voxel, 1, 2);
        noc_image image = read_scan("a.nii", NULL);
        ck_assert_mem_eq(image.grid.affine, s.srow, sizeof s.srow);
        ck_assert_int_eq(image.grid.nifti.sform_code, codes[i]);
        ck_assert_int_eq(image.grid.nifti.qform_code, 1);
        noc_image_clear(&image);
    }
}
END_TEST

START_TEST(no_orientation)
{
    static const int16_t voxel = 1;
    const noc_nifti_options assume = {.assume_ras = true};
    nifti_sample s = nifti_sample_of(1, 1, 1, 1);

    s.sform_code = 0;
    s.pixdim[2] = -2; /* a size, whatever its sign */
    write_scan("a.nii", &s, &voxel, 1, 2);
    expect_refused(at("a.nii"), NULL, NOC_EGEOMETRY, "qform_code and sform_code are both 0");
    noc_image image = read_scan("a.nii", &assume);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            ck_assert(image.grid.affine[i][j] == (i == j ? (i < 3 ? fabs(s.pixdim[i + 1]) : 1) : 0));
    noc_image_clear(&image);
    s.pixdim[1] = 0;
    write_scan("a.nii", &s, &voxel, 1, 2);
    expect_refused(at("a.nii"), &assume, NOC_EGEOMETRY, "the affine of the pixdim is zero");
}
END_TEST

START_TEST(spacing_where_pixdim_says_none)
{
    static const int16_t voxel = 1;
    static const double nothing[] = {0, NAN, INFINITY};

    for (int i = 0; i < 3; i++) {
        nifti_sample s = nifti_sample_of(1, 1, 1, 1);
        s.pixdim[2] = nothing[i];
        s.srow[0][1] = 1.5; /* with 2 along y: a column of length 2.5 */
        write_scan("a.nii", &s, &voxel, 1, 2);
        noc_image image = read_scan("a.nii", NULL);
        ck_assert(image.grid.spacing_mm[0] == 1 && image.grid.spacing_mm[1] == 2.5);
        noc_image_clear(&image);
    }
}
END_TEST

START_TEST(same_grids)
{
    noc_grid a = {.size = {2, 3, 4}, .affine = {{1, 0, 0, 5}, {0, 1, 0, 0}, {0, 0, 1, 0}, {0, 0, 0, 1}}};
    noc_grid b = a;

    ck_assert(noc_grid_is_same(&a, &b, 0));
    b.affine[0][3] += 1.0 / 1024;
    ck_assert(noc_grid_is_same(&a, &b, 1e-3) && !noc_grid_is_same(&a, &b, 9e-4));
    b.affine[0][3] = NAN;
    ck_assert(!noc_grid_is_same(&a, &b, 1e-3));
    b = a;
    b.size[2] = 5;
    ck_assert(!noc_grid_is_same(&a, &b, 1e-3));
}
END_TEST

/* ---- what is refused ---- */

typedef struct hostile {
    noc_status status;
    const char *text;
    void (*spoil)(nifti_sample *s);
    bool is_wide_only; /* NIfTI-1 cannot say it */
} hostile;

#define SPOIL(name, statement)                                                                               \
    static void name(nifti_sample *s)                                                                        \
    {                                                                                                        \
        statement;                                                                                           \
    }
SPOIL(no_axes, s->dim[0] = 0)
SPOIL(negative_axes, s->dim[0] = -1)
SPOIL(eight_axes, s->dim[0] = 8)
SPOIL(zero_dim, s->dim[2] = 0)
SPOIL(negative_dim, s->dim[1] = -3)
SPOIL(zero_channels, (s->dim[0] = 4, s->dim[4] = 0))
SPOIL(zero_fifth, (s->dim[0] = 5, s->dim[5] = 0))
SPOIL(five_axes, (s->dim[0] = 5, s->dim[5] = 3))
SPOIL(seven_axes, (s->dim[0] = 7, s->dim[7] = 2))
SPOIL(largest_dims, s->dim[1] = s->dim[2] = s->dim[3] = 32767)
SPOIL(overflowing_dims, s->dim[1] = s->dim[2] = s->dim[3] = (int64_t)1 << 40)
SPOIL(overflow_to_nothing, s->dim[1] = s->dim[2] = (int64_t)1 << 32)
SPOIL(many_channels, (s->dim[0] = 4, s->dim[4] = (int64_t)1 << 33))
SPOIL(rgb, (s->datatype = 128, s->bitpix = 24))
SPOIL(rgba, (s->datatype = 2304, s->bitpix = 32))
SPOIL(complex64, (s->datatype = 32, s->bitpix = 64))
SPOIL(complex128, (s->datatype = 1792, s->bitpix = 128))
SPOIL(float128, (s->datatype = 1536, s->bitpix = 128))
SPOIL(bits, (s->datatype = 1, s->bitpix = 1))
SPOIL(no_type, s->datatype = 0)
SPOIL(odd_type, s->datatype = -77)
SPOIL(wrong_bitpix, s->bitpix = 8)
SPOIL(offset_in_header, s->offset = 300)
SPOIL(offset_negative, s->offset = -352)
SPOIL(offset_huge, s->offset = 1e15)
SPOIL(offset_nan, s->offset = NAN)
SPOIL(offset_inf, s->offset = INFINITY)
SPOIL(offset_fraction, s->offset = 352.5)
SPOIL(offset_beyond, s->offset = 4096)
SPOIL(inter_nan, (s->slope = 2, s->inter = NAN))
SPOIL(zero_affine, memset(s->srow, 0, sizeof s->srow))
SPOIL(nan_affine, s->srow[1][1] = NAN)
SPOIL(nan_origin, s->srow[1][3] = NAN)
SPOIL(inf_affine, s->srow[0][0] = INFINITY)
SPOIL(flat_affine, memcpy(s->srow[2], s->srow[1], sizeof s->srow[1]))
SPOIL(no_codes, s->sform_code = 0)
SPOIL(negative_codes, s->sform_code = s->qform_code = -1)
SPOIL(qform_zero_pixdim, (s->sform_code = 0, s->qform_code = 1, s->pixdim[3] = 0))
SPOIL(qform_nan, (s->sform_code = 0, s->qform_code = 1, s->quatern[1] = NAN))
SPOIL(qform_long, (s->sform_code = 0, s->qform_code = 1, s->quatern[1] = 3))
SPOIL(bad_magic, s->magic = "xyz")

static const hostile spoils[] = {
    {NOC_EGEOMETRY, "dim[0] is 0", no_axes, false},
    {NOC_EGEOMETRY, "dim[0] is -1", negative_axes, false},
    {NOC_EGEOMETRY, "dim[0] is 8", eight_axes, false},
    {NOC_EGEOMETRY, "dim[2] is 0", zero_dim, false},
    {NOC_EGEOMETRY, "dim[1] is -3", negative_dim, false},
    {NOC_EGEOMETRY, "dim[4] is 0", zero_channels, false},
    {NOC_EGEOMETRY, "dim[5] is 0", zero_fifth, false},
    {NOC_EUNSUPPORTED, "axis 5 has 3 entries", five_axes, false},
    {NOC_EUNSUPPORTED, "axis 7 has 2 entries", seven_axes, false},
    {NOC_ETOOLARGE, "32767x32767x32767", largest_dims, false},
    {NOC_ETOOLARGE, "1099511627776x", overflowing_dims, true},
    {NOC_ETOOLARGE, "4294967296x4294967296x2", overflow_to_nothing, true},
    {NOC_ETOOLARGE, "8589934592 channels", many_channels, true},
    {NOC_EUNSUPPORTED, "RGB", rgb, false},
    {NOC_EUNSUPPORTED, "RGBA", rgba, false},
    {NOC_EUNSUPPORTED, "COMPLEX64", complex64, false},
    {NOC_EUNSUPPORTED, "COMPLEX128", complex128, false},
    {NOC_EUNSUPPORTED, "FLOAT128", float128, false},
    {NOC_EUNSUPPORTED, "datatype 1 ", bits, false},
    {NOC_EUNSUPPORTED, "datatype 0 ", no_type, false},
    {NOC_EUNSUPPORTED, "datatype -77 ", odd_type, false},
    {NOC_EUNREADABLE, "int16 has 16 bits a voxel, bitpix says 8", wrong_bitpix, false},
    {NOC_EUNREADABLE, "vox_offset", offset_in_header, false},
    {NOC_EUNREADABLE, "vox_offset", offset_negative, false},
    {NOC_EUNREADABLE, "vox_offset", offset_huge, false},
    {NOC_EUNREADABLE, "cut short", offset_beyond, false},
    {NOC_EUNREADABLE, "scl_inter is not finite", inter_nan, false},
    {NOC_EGEOMETRY, "affine of the sform", zero_affine, false},
    {NOC_EGEOMETRY, "affine of the sform", nan_affine, false},
    {NOC_EGEOMETRY, "affine of the sform", nan_origin, false},
    {NOC_EGEOMETRY, "affine of the sform", inf_affine, false},
    {NOC_EGEOMETRY, "affine of the sform", flat_affine, false},
    {NOC_EGEOMETRY, "both 0", no_codes, false},
    {NOC_EGEOMETRY, "", negative_codes, false},
    {NOC_EGEOMETRY, "affine of the qform", qform_zero_pixdim, false},
    {NOC_EGEOMETRY, "quaternion", qform_nan, false},
    {NOC_EGEOMETRY, "quaternion", qform_long, false},
    {NOC_EUNREADABLE, "not NIfTI", bad_magic, false},
};
enum { SPOILS = sizeof spoils / sizeof spoils[0] };

/* Plain and compressed, in both byte orders and versions: the same verdict. */
START_TEST(hostile_headers)
{
    static const int16_t voxels[8] = {0};
    const hostile *h = &spoils[_i];

    for (int n = h->is_wide_only ? 1 : 0; n < 4; n += h->is_wide_only ? 2 : 1) {
        nifti_sample s = nifti_sample_of(n % 2 + 1, 2, 2, 2);
        unsigned char header[SAMPLE_HEADER_BYTES + sizeof voxels] = {0};
        s.is_big = n >= 2;
        h->spoil(&s);
        const size_t size = nifti_sample_header(&s, header) + sizeof voxels, cuts[] = {0, size, 0};
        noc_nifti_header ignored;
        sample_write(at("a.nii"), header, size);
        write_packed("b.nii.gz", header, cuts);
        expect_refused(at("a.nii"), NULL, h->status, h->text);
        if (h->spoil == offset_beyond) /* voxels are missing, which a look at the header cannot know */
            continue;
        expect_refused(at("b.nii.gz"), NULL, h->status, h->text);
        ck_assert_int_eq(noc_nifti_read_header(at("a.nii"), NULL, &ignored, &err), h->status);
        check_sentence(at("a.nii"), h->text);
    }
}
END_TEST

/* Only NIfTI-1's vox_offset is a float. */
START_TEST(offsets_that_are_no_numbers)
{
    static void (*const spoil[])(nifti_sample *) = {offset_nan, offset_inf, offset_fraction};
    unsigned char header[SAMPLE_HEADER_BYTES + 16] = {0};

    for (size_t i = 0; i < sizeof spoil / sizeof spoil[0]; i++) {
        nifti_sample s = nifti_sample_of(1, 2, 2, 2);
        spoil[i](&s);
        sample_write(at("a.nii"), header, nifti_sample_header(&s, header) + 16);
        expect_refused(at("a.nii"), NULL, NOC_EUNREADABLE, "vox_offset");
    }
}
END_TEST

START_TEST(files_that_are_none)
{
    static const char text[600] = "this is not an image, it only goes on for as long as one";
    unsigned char header[SAMPLE_HEADER_BYTES];
    nifti_sample s = nifti_sample_of(2, 2, 2, 2);

    expect_refused(at("missing.nii"), NULL, NOC_EUNREADABLE, "No such file");
    ck_assert_int_eq(mkdir(at("folder.nii"), 0777), 0);
    expect_refused(at("folder.nii"), NULL, NOC_EUNREADABLE, "folder");
    ck_assert_int_eq(mkfifo(at("fifo.nii"), 0666), 0);
    expect_refused(at("fifo.nii"), NULL, NOC_EUNREADABLE, "regular file");
    sample_write(at("empty.nii.gz"), "", 0);
    expect_refused(at("empty.nii.gz"), NULL, NOC_EUNREADABLE, "empty");
    sample_write(at("text.nii"), text, sizeof text);
    expect_refused(at("text.nii"), NULL, NOC_EUNREADABLE, "is not NIfTI");
    for (size_t size = 1; size < 348; size += 173) {
        nifti_sample_header(&s, header);
        sample_write(at("short.nii"), header, size);
        expect_refused(at("short.nii"), NULL, NOC_EUNREADABLE, "a NIfTI header has 348");
    }
    sample_write(at("short.nii"), header, 539);
    expect_refused(at("short.nii"), NULL, NOC_EUNREADABLE, "a NIfTI-2 header has 540");
}
END_TEST

/* Root reads everything, so the test steps down where it is root. */
START_TEST(no_permission)
{
    static const int16_t voxels[8] = {0};
    nifti_sample s = nifti_sample_of(1, 2, 2, 2);
    const uid_t user = geteuid();

    write_scan("a.nii", &s, voxels, 8, 2);
    ck_assert_int_eq(chmod(folder, 0755), 0);
    ck_assert_int_eq(chmod(at("a.nii"), 0), 0);
    ck_assert_int_eq(user == 0 ? seteuid(65534) : 0, 0);
    noc_image image;
    noc_status status = noc_nifti_read(at("a.nii"), NULL, &image, &err);
    ck_assert_int_eq(seteuid(user), 0);
    ck_assert_int_eq(status, NOC_EUNREADABLE);
    check_sentence(at("a.nii"), "Permission denied");
}
END_TEST

START_TEST(pairs_that_are_none)
{
    unsigned char header[SAMPLE_HEADER_BYTES], voxels[16] = {0};
    nifti_sample s = nifti_sample_of(1, 2, 2, 2);
    noc_image image;

    s.is_pair = true;
    s.offset = 0;
    size_t size = nifti_sample_header(&s, header);
    sample_write(at("a.hdr"), header, size);
    ck_assert_int_eq(noc_nifti_read(at("a.hdr"), NULL, &image, &err), NOC_EUNREADABLE);
    check_sentence(at("a.img"), "No such file");
    sample_write(at("a.img"), voxels, 15);
    ck_assert_int_eq(noc_nifti_read(at("a.hdr"), NULL, &image, &err), NOC_EUNREADABLE);
    check_sentence(at("a.img"), "cut short");
    sample_write(at("b.nii"), header, size);
    expect_refused(at("b.nii"), NULL, NOC_EUNREADABLE, "a pair of files");
    s.is_pair = false;
    s.offset = 352;
    sample_write(at("c.hdr"), header, nifti_sample_header(&s, header));
    sample_write(at("c.img"), voxels, 16);
    expect_refused(at("c.hdr"), NULL, NOC_EUNREADABLE, "a single file");
}
END_TEST

static void write_bytes_packed(const char *name, const void *data, size_t size)
{
    const size_t cuts[] = {0, size, 0};

    write_packed(name, data, cuts);
}

START_TEST(voxels_cut_short)
{
    int16_t voxels[64];
    nifti_sample s = nifti_sample_of(1, 4, 4, 4);
    size_t size;
    uint32_t state = 5;

    for (int i = 0; i < 64; i++) {
        state = state * 1664525 + 1013904223;
        voxels[i] = (int16_t)(state >> 16);
    }
    unsigned char *whole = whole_of(&s, voxels, 64, 2, &size);
    sample_write(at("a.nii"), whole, size - 1);
    expect_refused(at("a.nii"), NULL, NOC_EUNREADABLE, "cut short: 479 bytes, the header declares 480");
    write_bytes_packed("b.nii.gz", whole, size - 1);
    expect_refused(at("b.nii.gz"), NULL, NOC_EUNREADABLE, "cut short");
    write_bytes_packed("c.nii.gz", whole, size);
    struct stat info;
    ck_assert_int_eq(stat(at("c.nii.gz"), &info), 0);
    for (off_t length = info.st_size - 1; length > 0; length -= 13) {
        ck_assert_int_eq(truncate(at("c.nii.gz"), length), 0);
        expect_refused(at("c.nii.gz"), NULL, NOC_EUNREADABLE, "");
    }
    free(whole);
}
END_TEST

static void append(const char *name, const char *data, size_t size)
{
    FILE *file = fopen(at(name), "ab");

    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(data, 1, size, file), size);
    ck_assert_int_eq(fclose(file), 0);
}

/* What follows the voxels is no harm, whether packed or not. */
START_TEST(trailing_garbage)
{
    static const int16_t voxels[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    nifti_sample s = nifti_sample_of(1, 2, 2, 2);
    size_t size;
    unsigned char *whole = whole_of(&s, voxels, 8, 2, &size), *longer = calloc(1, size + 1000);

    memcpy(longer, whole, size);
    write_bytes_packed("a.nii.gz", whole, size);
    append("a.nii.gz", "garbage", 7);
    write_bytes_packed("b.nii.gz", longer, size + 1000);
    sample_write(at("c.nii"), longer, size + 1000);
    for (int i = 0; i < 3; i++) {
        static const char *const files[] = {"a.nii.gz", "b.nii.gz", "c.nii"};
        noc_image image = read_scan(files[i], NULL);
        ck_assert_mem_eq(image.voxels, voxels, sizeof voxels);
        noc_image_clear(&image);
    }
    free(longer);
    free(whole);
}
END_TEST

/* Small files that claim or hold much; none may cost the memory that they ask for. */
START_TEST(bombs)
{
    nifti_sample s = nifti_sample_of(1, 2, 2, 2);
    const noc_nifti_options little = {.max_bytes = 1 << 20};
    unsigned char header[SAMPLE_HEADER_BYTES];
    const size_t head = nifti_sample_header(&s, header), before = noc_memory_peak();
    char command[512];

    sample_write(at("header"), header, head);
    snprintf(command, sizeof command, "(cat %s; head -c 256M /dev/zero) | gzip -c >%s", at("header"),
             at("long.nii.gz")); /* behind a header of 8 voxels */
    ck_assert_int_eq(system(command), 0);
    expect_refused(at("long.nii.gz"), NULL, NOC_ETOOLARGE, "go on beyond the 368 bytes");
    s.dim[1] = s.dim[2] = 4096, s.dim[3] = 1000;
    nifti_sample_header(&s, header);
    write_bytes_packed("wide.nii.gz", header, head); /* 32 GiB declared, nothing there */
    expect_refused(at("wide.nii.gz"), NULL, NOC_EUNREADABLE, "cannot hold");
    expect_refused(at("wide.nii.gz"), &little, NOC_ETOOLARGE, "more than 1048576 bytes");
    ck_assert_uint_lt(noc_memory_peak() - before, 32 << 20);
}
END_TEST

/* Any one byte of a header changed: an image or a typed failure, and nothing beyond the file is touched (the
 * sanitizers watch). */
START_TEST(any_byte_changed)
{
    static const unsigned char values[] = {0, 1, 0x7f, 0x80, 0xff};
    const noc_nifti_options options = {.max_bytes = 1 << 24};

    for (int version = 1; version <= 2; version++) {
        nifti_sample s = nifti_sample_of(version, 3, 2, 2);
        unsigned char bytes[SAMPLE_HEADER_BYTES + 24] = {0};
        const size_t head = nifti_sample_header(&s, bytes);
        int read = 0;
        for (size_t i = 0; i < head; i++)
            for (size_t v = 0; v < sizeof values; v++) {
                const unsigned char before = bytes[i];
                noc_image image;
                bytes[i] = values[v];
                sample_write(at("a.nii"), bytes, head + 24);
                noc_status status = noc_nifti_read(at("a.nii"), &options, &image, &err);
                if (status == NOC_OK) {
                    ck_assert_uint_eq(image.bytes, noc_grid_voxels(&image.grid) * (size_t)image.channels *
                                                       noc_voxel_size(image.type));
                    ck_assert_uint_le(image.bytes, 24);
                    read++;
                } else {
                    ck_assert_int_le(status, NOC_ETOOLARGE);
                    check_sentence(at("a.nii"), "");
                }
                noc_image_clear(&image);
                bytes[i] = before;
            }
        ck_assert_int_gt(read, (int)head); /* most bytes are free text or do not matter */
    }
}
END_TEST

START_TEST(voxels_that_are_no_numbers)
{
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    double wide[24] = {0};
    float narrow[24] = {0};
    noc_image image = {.grid.size = {2, 3, 2}, .channels = 2, .slope = 1};

    for (int b = 0; b < 3; b++)
        for (int type = 0; type < 2; type++) {
            image.type = type ? NOC_VOXEL_F64 : NOC_VOXEL_F32;
            image.voxels = type ? (void *)wide : (void *)narrow;
            wide[12 + 6 + 2 + 1] = bad[b]; /* (1, 1, 1) of the second channel */
            narrow[12 + 6 + 2 + 1] = (float)bad[b];
            ck_assert_int_eq(noc_image_check_finite(&image, &err), NOC_ENONFINITE);
            ck_assert_ptr_nonnull(strstr(err.text, "voxel (1, 1, 1) of channel 2 is"));
            ck_assert_ptr_nonnull(strstr(err.text, b == 0 ? "NaN" : "infinite"));
        }
    wide[21] = 1e300;
    ck_assert_int_eq(noc_image_check_finite(&image, &err), NOC_OK);
    image.slope = 1e100; /* finite as stored, not as a value */
    ck_assert_int_eq(noc_image_check_finite(&image, &err), NOC_ENONFINITE);
}
END_TEST

/* ---- what is written ---- */

static void check_geometry(const noc_grid *got, const noc_grid *wanted)
{
    ck_assert_mem_eq(got->size, wanted->size, sizeof got->size);
    ck_assert_mem_eq(got->affine, wanted->affine, sizeof got->affine);
    ck_assert_mem_eq(got->spacing_mm, wanted->spacing_mm, sizeof got->spacing_mm);
    const noc_nifti_geometry *g = &got->nifti, *w = &wanted->nifti;
    ck_assert_int_eq(g->version, w->version);
    ck_assert_int_eq(g->qform_code, w->qform_code);
    ck_assert_int_eq(g->sform_code, w->sform_code);
    ck_assert_int_eq(g->xyzt_units, w->xyzt_units);
    ck_assert(g->qfac == w->qfac);
    ck_assert_mem_eq(g->quatern, w->quatern, sizeof g->quatern);
    ck_assert_mem_eq(g->qoffset, w->qoffset, sizeof g->qoffset);
    ck_assert_mem_eq(g->srow, w->srow, sizeof g->srow);
    ck_assert_mem_eq(g->pixdim, w->pixdim, sizeof g->pixdim);
}

static int files_in_folder(void)
{
    DIR *listing = opendir(folder);
    int count = -2; /* . and .. */

    ck_assert_ptr_nonnull(listing);
    while (readdir(listing))
        count++;
    closedir(listing);
    return count;
}

/* A scan's space goes into its mask unchanged, whichever form says it. */
START_TEST(masks_carry_the_space_of_their_scan)
{
    static const int codes[][2] = {{0, 1}, {1, 0}, {1, 1}, {3, 4}, {2, 2}};
    static const int16_t voxels[24] = {0};
    const int version = _i % 2 + 1;
    const bool is_wide = _i / 2 % 2;
    nifti_sample s = nifti_sample_of(version, 4, 3, 2);
    uint8_t labels[24];
    uint16_t wide[24];

    for (int i = 0; i < 24; i++) {
        labels[i] = (uint8_t)(i * 11);
        wide[i] = (uint16_t)(i * 2711);
    }
    for (size_t c = 0; c < sizeof codes / sizeof codes[0]; c++) {
        s.is_big = c % 2;
        s.qform_code = codes[c][0];
        s.sform_code = codes[c][1];
        s.pixdim[0] = c % 2 ? -1 : 1;
        s.quatern[0] = 0.25, s.quatern[1] = -0.5, s.quatern[2] = 0.125;
        s.qoffset[0] = 0.1, s.qoffset[1] = -90.3, s.qoffset[2] = 44.7;
        s.srow[0][0] = -0.9, s.srow[0][1] = 0.1;
        s.units = 10;
        s.slope = 3, s.inter = 4;
        write_scan("scan.nii", &s, voxels, 24, 2);
        noc_image scan = read_scan("scan.nii", NULL);
        const char *names[] = {"mask.nii", "mask.nii.gz"};
        for (int n = 0; n < 2; n++) {
            ck_assert_msg(noc_nifti_write_labels(
                              at(names[n]), &scan.grid, is_wide ? NOC_VOXEL_U16 : NOC_VOXEL_U8,
                              is_wide ? (void *)wide : (void *)labels, "nocturne test", &err) == NOC_OK,
                          "%s", err.text);
            noc_image mask = read_scan(names[n], NULL);
            check_geometry(&mask.grid, &scan.grid);
            ck_assert_int_eq(mask.type, is_wide ? NOC_VOXEL_U16 : NOC_VOXEL_U8);
            ck_assert_int_eq(mask.channels, 1);
            ck_assert(mask.slope == 1 && mask.inter == 0);
            ck_assert_mem_eq(mask.voxels, is_wide ? (void *)wide : (void *)labels, mask.bytes);
            noc_image_clear(&mask);
            noc_mapping file;
            void *packed;
            size_t size;
            ck_assert_int_eq(noc_nifti_pack_labels(at(names[n]), &scan.grid,
                                                   is_wide ? NOC_VOXEL_U16 : NOC_VOXEL_U8,
                                                   is_wide ? (void *)wide : (void *)labels, "nocturne test",
                                                   &packed, &size, &err),
                             NOC_OK);
            ck_assert_int_eq(noc_file_map(at(names[n]), &file, NULL), NOC_OK);
            ck_assert_uint_eq(file.size, size);
            ck_assert_mem_eq(file.data, packed, size);
            noc_file_unmap(&file);
            free(packed);
        }
        noc_image_clear(&scan);
    }
    ck_assert_int_eq(files_in_folder(), 3); /* no temporary file is left */
}
END_TEST

/* A slice has no third edge, its mask has three axes all the same. */
START_TEST(a_mask_of_a_slice_can_be_read)
{
    static const int16_t voxels[12] = {0};
    static const uint8_t labels[12] = {1};
    const noc_nifti_options assume = {.assume_ras = true};
    nifti_sample s = nifti_sample_of(_i % 2 + 1, 4, 3, 1);
    s.dim[0] = 2;
    s.pixdim[3] = 0;
    s.qform_code = _i / 2;
    s.sform_code = 0;
    write_scan("scan.nii", &s, voxels, 12, 2);
    noc_image scan = read_scan("scan.nii", &assume);
    ck_assert_msg(noc_nifti_write_labels(at("mask.nii"), &scan.grid, NOC_VOXEL_U8, labels, "test", &err) ==
                      NOC_OK,
                  "%s", err.text);
    noc_image mask = read_scan("mask.nii", &assume);
    ck_assert(noc_grid_is_same(&mask.grid, &scan.grid, 0));
    noc_image_clear(&mask);
    noc_image_clear(&scan);
}
END_TEST

static int64_t integer_at(const unsigned char *bytes, size_t size)
{
    int64_t value = 0;

    memcpy(&value, bytes, size);
    return value;
}

/* The written header's other bytes, by their offsets. */
START_TEST(written_headers)
{
    static const int16_t voxels[24] = {0};
    static const uint8_t labels[24] = {1};

    for (int version = 1; version <= 2; version++) {
        nifti_sample s = nifti_sample_of(version, 4, 3, 2);
        unsigned char bytes[SAMPLE_HEADER_BYTES + 25];
        const size_t head = version == 1 ? 352 : 544;
        write_scan("scan.nii", &s, voxels, 24, 2);
        noc_image scan = read_scan("scan.nii", NULL);
        ck_assert_int_eq(
            noc_nifti_write_labels(at("mask.nii"), &scan.grid, NOC_VOXEL_U8, labels, "nocturne test", &err),
            NOC_OK);
        FILE *file = fopen(at("mask.nii"), "rb");
        ck_assert_ptr_nonnull(file);
        ck_assert_uint_eq(fread(bytes, 1, sizeof bytes, file), head + 24);
        fclose(file);
        ck_assert_mem_eq(bytes + head - 4, "\0\0\0\0", 4); /* no extension */
        ck_assert_mem_eq(bytes + head, labels, 24);
        if (version == 1) {
            ck_assert_int_eq(integer_at(bytes, 4), 348);
            ck_assert_mem_eq(bytes + 344, "n+1", 4);
            ck_assert_int_eq(integer_at(bytes + 68, 2), 1002);
            ck_assert_str_eq((char *)bytes + 148, "nocturne test");
            ck_assert_mem_eq(bytes + 124, "\0\0\0\0\0\0\0\0", 8); /* cal_max, cal_min */
        } else {
            ck_assert_int_eq(integer_at(bytes, 4), 540);
            ck_assert_mem_eq(bytes + 4, "n+2\0\r\n\032\n", 8);
            ck_assert_int_eq(integer_at(bytes + 504, 4), 1002);
            ck_assert_str_eq((char *)bytes + 240, "nocturne test");
            ck_assert_int_eq(integer_at(bytes + 192, 8), 0);
            ck_assert_int_eq(integer_at(bytes + 200, 8), 0);
        }
        ck_assert_ptr_null(memmem(bytes, sizeof bytes, SAMPLE_PATIENT, strlen(SAMPLE_PATIENT)));
        noc_image_clear(&scan);
    }
}
END_TEST

/* NIfTI-1's dims end at 32767. */
START_TEST(long_axes_need_nifti_2)
{
    enum { LONG = 40000 };
    uint8_t *labels = calloc(1, LONG);
    noc_grid grid = {.size = {1, LONG, 1}, .spacing_mm = {1, 1, 1}};

    grid.nifti.version = 1;
    grid.nifti.sform_code = 1;
    for (int a = 0; a < 3; a++)
        grid.affine[a][a] = grid.nifti.srow[a][a] = grid.nifti.pixdim[a] = 1;
    labels[LONG - 1] = 9;
    ck_assert_int_eq(noc_nifti_write_labels(at("long.nii.gz"), &grid, NOC_VOXEL_U8, labels, "", &err),
                     NOC_OK);
    noc_image image = read_scan("long.nii.gz", NULL);
    ck_assert_int_eq(image.grid.nifti.version, 2);
    ck_assert_int_eq(image.grid.size[1], LONG);
    ck_assert_mem_eq(image.voxels, labels, LONG);
    noc_image_clear(&image);
    free(labels);
}
END_TEST

static noc_grid small_grid(void)
{
    noc_grid grid = {.size = {40, 50, 60}};

    grid.nifti.version = 1;
    grid.nifti.sform_code = 1;
    for (int a = 0; a < 3; a++)
        grid.affine[a][a] = grid.nifti.srow[a][a] = grid.nifti.pixdim[a] = 1;
    return grid;
}

/* A file-size limit is a disk that fills up: the failure is told, the old mask stays, no temporary file does.
 */
START_TEST(disk_full)
{
    static uint8_t labels[40 * 50 * 60];
    const noc_grid grid = small_grid();
    struct rlimit none, limit;

    ck_assert_ptr_ne(signal(SIGXFSZ, SIG_IGN), SIG_ERR);
    ck_assert_int_eq(noc_nifti_write_labels(at("mask.nii"), &grid, NOC_VOXEL_U8, labels, "", &err), NOC_OK);
    labels[0] = 1;
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &none), 0);
    limit = none;
    limit.rlim_cur = 5000;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    noc_status status = noc_nifti_write_labels(at("mask.nii"), &grid, NOC_VOXEL_U8, labels, "", &err);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &none), 0);
    ck_assert_int_eq(status, NOC_EIO);
    check_sentence(at("mask.nii"), "cannot be written");
    ck_assert_int_eq(files_in_folder(), 1);
    noc_image image = read_scan("mask.nii", NULL);
    ck_assert_int_eq(*(uint8_t *)image.voxels, 0);
    noc_image_clear(&image);
}
END_TEST

START_TEST(nowhere_to_write)
{
    static const uint8_t labels[40 * 50 * 60];
    const noc_grid grid = small_grid();
    const uid_t user = geteuid();

    ck_assert_int_eq(noc_nifti_write_labels(at("no/mask.nii"), &grid, NOC_VOXEL_U8, labels, "", &err),
                     NOC_ECANTCREATE);
    check_sentence(at("no/mask.nii"), "cannot be created");
    ck_assert_int_eq(chmod(folder, 0555), 0);
    ck_assert_int_eq(user == 0 ? seteuid(65534) : 0, 0);
    noc_status status = noc_nifti_write_labels(at("mask.nii.gz"), &grid, NOC_VOXEL_U8, labels, "", &err);
    ck_assert_int_eq(seteuid(user), 0);
    ck_assert_int_eq(chmod(folder, 0755), 0);
    ck_assert_int_eq(status, NOC_ECANTCREATE);
    check_sentence(at("mask.nii.gz"), "Permission denied");
    ck_assert_int_eq(mkdir(at("taken.nii"), 0777), 0);
    ck_assert_int_eq(noc_nifti_write_labels(at("taken.nii"), &grid, NOC_VOXEL_U8, labels, "", &err), NOC_EIO);
    check_sentence(at("taken.nii"), "cannot be written");
    ck_assert_int_eq(files_in_folder(), 1);
}
END_TEST

static Suite *nifti_suite(void)
{
    Suite *suite = suite_create("nifti");
    TCase *reading = tcase_create("reading"), *writing = tcase_create("writing");

    tcase_add_checked_fixture(reading, make_folder, remove_folder);
    tcase_add_checked_fixture(writing, make_folder, remove_folder);
    tcase_set_timeout(reading, 120);
    tcase_add_loop_test(reading, every_type_in_both_orders_and_versions, 0, TYPES * 4);
    tcase_add_test(reading, slope_and_inter);
    tcase_add_test(reading, axes);
    tcase_add_test(reading, containers);
    tcase_add_test(reading, names_of_files);
    tcase_add_test(reading, sha256_of_the_file);
    tcase_add_test(reading, qform);
    tcase_add_test(reading, sform_goes_before_qform);
    tcase_add_test(reading, no_orientation);
    tcase_add_test(reading, spacing_where_pixdim_says_none);
    tcase_add_test(reading, same_grids);
    tcase_add_loop_test(reading, hostile_headers, 0, SPOILS);
    tcase_add_test(reading, offsets_that_are_no_numbers);
    tcase_add_test(reading, files_that_are_none);
    tcase_add_test(reading, no_permission);
    tcase_add_test(reading, pairs_that_are_none);
    tcase_add_test(reading, voxels_cut_short);
    tcase_add_test(reading, trailing_garbage);
    tcase_add_test(reading, bombs);
    tcase_add_test(reading, any_byte_changed);
    tcase_add_test(reading, voxels_that_are_no_numbers);
    tcase_add_loop_test(writing, masks_carry_the_space_of_their_scan, 0, 4);
    tcase_add_loop_test(writing, a_mask_of_a_slice_can_be_read, 0, 4);
    tcase_add_test(writing, written_headers);
    tcase_add_test(writing, long_axes_need_nifti_2);
    tcase_add_test(writing, disk_full);
    tcase_add_test(writing, nowhere_to_write);
    suite_add_tcase(suite, reading);
    suite_add_tcase(suite, writing);
    return suite;
}

int main(void)
{
    SRunner *runner = srunner_create(nifti_suite());
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
