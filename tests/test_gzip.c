/* gzip members: how many there are, where they are cut, and that nothing is written beyond the room. */
#include "engine/volume/gzip.h"

#include <check.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { PLAIN = 100000, SPARE = 65536, GUARD = 0xa5 }; /* SPARE: as the reader has it */

static unsigned char plain[PLAIN];
static unsigned char packed[PLAIN * 2];
static unsigned char out[PLAIN + SPARE + 64];
static noc_error err;

static void set_up(void)
{
    uint32_t state = 1;

    for (size_t i = 0; i < PLAIN; i++) {
        state = state * 1664525 + 1013904223;
        plain[i] = (unsigned char)(state >> 30); /* packs to a quarter */
    }
    memset(out, GUARD, sizeof out);
}

/* Appends plain[from, to) as one member at *size. */
static void pack(size_t from, size_t to, size_t *size)
{
    void *member = NULL;
    size_t bytes = 0;

    ck_assert_int_eq(noc_gzip_deflate(plain + from, to - from, 6, &member, &bytes, &err), NOC_OK);
    ck_assert(noc_gzip_is(member, bytes));
    memcpy(packed + *size, member, bytes);
    *size += bytes;
    free(member);
}

static size_t peek(const void *data, size_t size, void *to, size_t capacity)
{
    size_t have = 0;
    ck_assert_int_eq(noc_gzip_peek(data, size, to, capacity, &have, &err), NOC_OK);
    return have;
}

static void expect_plain(size_t bytes)
{
    ck_assert_mem_eq(out, plain, bytes);
    for (size_t i = bytes; i < sizeof out; i++)
        ck_assert_msg(out[i] == GUARD, "byte %zu was written", i);
}

START_TEST(what_gzip_is)
{
    ck_assert(noc_gzip_is("\x1f\x8b", 2));
    ck_assert(!noc_gzip_is("\x1f\x8b", 1));
    ck_assert(!noc_gzip_is("\x1f\x8c", 2));
    ck_assert(!noc_gzip_is(NULL, 0));
}
END_TEST

/* Members are cut at the first byte, in between, and one holds nothing. */
START_TEST(members)
{
    static const size_t cuts[][5] = {
        {0, PLAIN}, {0, 1, PLAIN}, {0, 352, 352, PLAIN}, {0, 17, 40000, 99999, PLAIN}};
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        size_t size = 0;
        set_up();
        for (int m = 0; cuts[i][m] < PLAIN; m++)
            pack(cuts[i][m], cuts[i][m + 1], &size);
        ck_assert_int_eq(noc_gzip_inflate(packed, size, out, PLAIN, PLAIN + 1, &err), NOC_OK);
        expect_plain(PLAIN);
        memset(out, GUARD, sizeof out);
        ck_assert_uint_eq(peek(packed, size, out, 540), 540);
        expect_plain(540);
    }
}
END_TEST

/* What follows the bytes that are needed is not looked at, unless its member began before them. */
START_TEST(after_what_is_needed)
{
    size_t size = 0;

    pack(0, 1000, &size);
    memcpy(packed + size, "no gzip here", 12);
    ck_assert_int_eq(noc_gzip_inflate(packed, size + 12, out, 1000, 1001, &err), NOC_OK);
    expect_plain(1000);
    ck_assert_int_eq(noc_gzip_inflate(packed, size + 12, out, 1001, 1002, &err), NOC_EUNREADABLE);
    ck_assert_int_eq(noc_gzip_inflate(packed, size, out, 990, 1010, &err), NOC_OK);
}
END_TEST

START_TEST(a_member_beyond_the_room)
{
    size_t size = 0;

    pack(0, PLAIN, &size);
    ck_assert_int_eq(noc_gzip_inflate(packed, size, out, 500, 600, &err), NOC_ETOOLARGE);
    ck_assert_ptr_nonnull(strstr(err.text, "500 bytes"));
    for (size_t i = 600; i < sizeof out; i++)
        ck_assert_int_eq(out[i], GUARD);
}
END_TEST

START_TEST(cut_short)
{
    size_t size = 0, first;

    pack(0, 1000, &size);
    first = size;
    pack(1000, PLAIN, &size);
    const size_t lengths[] = {0, 1, 2, 9, 17, first - 1, first, first + 1, first + 20, size - 1};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        memset(out, GUARD, sizeof out);
        ck_assert_int_eq(noc_gzip_inflate(packed, lengths[i], out, PLAIN, PLAIN + SPARE, &err),
                         NOC_EUNREADABLE);
        ck_assert_ptr_nonnull(strstr(err.text, "damaged or cut short"));
    }
    ck_assert_uint_eq(peek(packed, 0, out, 540), 0);
    ck_assert_uint_eq(peek(packed, first, out, 2000), 1000);
    ck_assert_uint_lt(peek(packed, 40, out, 540), 540);
}
END_TEST

/* A changed bit anywhere is found, by the stream or by its checksum. */
START_TEST(damaged)
{
    size_t size = 0;

    pack(0, 3000, &size);
    for (size_t i = 10; i < size; i += 7) {
        packed[i] ^= 4;
        ck_assert_msg(noc_gzip_inflate(packed, size, out, 3000, 3001, &err) != NOC_OK, "byte %zu", i);
        packed[i] ^= 4;
    }
    ck_assert_int_eq(noc_gzip_inflate(packed, size, out, 3000, 3001, &err), NOC_OK);
}
END_TEST

/* Zeros pack best: what deflate makes of them is within the bound, a little more is not. */
START_TEST(how_much_may_be_inside)
{
    static unsigned char zeros[1 << 20];
    void *member = NULL;
    size_t bytes = 0;

    ck_assert_int_eq(noc_gzip_deflate(zeros, sizeof zeros, 9, &member, &bytes, &err), NOC_OK);
    ck_assert_uint_lt(bytes, 1200);
    ck_assert(noc_gzip_may_hold(bytes, sizeof zeros));
    ck_assert(!noc_gzip_may_hold(bytes, sizeof zeros * 2));
    free(member);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gzip");
    TCase *tests = tcase_create("gzip");
    tcase_add_checked_fixture(tests, set_up, NULL);
    tcase_add_test(tests, what_gzip_is);
    tcase_add_test(tests, members);
    tcase_add_test(tests, after_what_is_needed);
    tcase_add_test(tests, a_member_beyond_the_room);
    tcase_add_test(tests, cut_short);
    tcase_add_test(tests, damaged);
    tcase_add_test(tests, how_much_may_be_inside);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
