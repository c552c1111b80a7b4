/* Components against a flood fill, voxel by voxel, of masks of all densities, widths and types. */
#include "worker/components.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { I = 19, J = 13, K = 11, LABELS = 4 };

static uint32_t values[I * J * K];
static int64_t size[3];

static bool is_in(int64_t i, int64_t j, int64_t k)
{
    return i >= 0 && j >= 0 && k >= 0 && i < size[0] && j < size[1] && k < size[2];
}

/* Clears what hangs together with that voxel, and returns how many that are. */
static int64_t flood(bool *left, int64_t i, int64_t j, int64_t k)
{
    if (!is_in(i, j, k) || !left[(k * size[1] + j) * size[0] + i])
        return 0;
    left[(k * size[1] + j) * size[0] + i] = false;
    int64_t count = 1;
    for (int n = 0; n < 27; n++)
        count += flood(left, i + n % 3 - 1, j + n / 3 % 3 - 1, k + n / 9 - 1);
    return count;
}

static int64_t count_by_flood(uint32_t bits, uint32_t wanted)
{
    static bool left[I * J * K];
    int64_t count = 0, voxels = size[0] * size[1] * size[2];
    for (int64_t at = 0; at < voxels; at++)
        left[at] = (values[at] & bits) == wanted;
    for (int64_t at = 0; at < voxels; at++) {
        count += left[at];
        flood(left, at % size[0], at / size[0] % size[1], at / size[0] / size[1]);
    }
    return count;
}

/* The same as bytes, of two and of four. */
static void check_count(uint32_t bits, uint32_t wanted)
{
    static uint8_t bytes[I * J * K];
    static uint16_t words[I * J * K];
    const void *const masks[] = {bytes, words, values};
    int64_t expected = count_by_flood(bits, wanted);
    for (int at = 0; at < I * J * K; at++) {
        bytes[at] = (uint8_t)values[at];
        words[at] = (uint16_t)values[at];
    }
    for (int m = 0; m < 3; m++) {
        int64_t count = -1;
        ck_assert_int_eq(noc_components_count(masks[m], 1 << m, size, bits, wanted, &count, NULL), NOC_OK);
        ck_assert_int_eq(count, expected);
    }
}

/* expected: the values without the bits of `cleared` outside of the largest component, by its first voxel. */
static void keep_by_flood(uint32_t bits, uint32_t wanted, uint32_t cleared, uint32_t *expected)
{
    static bool left[I * J * K], kept[I * J * K];
    int64_t most = 0, first = 0, voxels = size[0] * size[1] * size[2];
    for (int64_t at = 0; at < voxels; at++)
        left[at] = (values[at] & bits) == wanted;
    memcpy(kept, left, sizeof kept);
    for (int64_t at = 0; at < voxels; at++) {
        int64_t count = flood(left, at % size[0], at / size[0] % size[1], at / size[0] / size[1]);
        if (count > most)
            most = count, first = at;
    }
    memcpy(left, kept, sizeof left);
    flood(left, first % size[0], first / size[0] % size[1], first / size[0] / size[1]);
    for (int64_t at = 0; at < voxels; at++)
        expected[at] = values[at] & (left[at] ? ~cleared : UINT32_MAX);
}

/* The same as bytes, of two and of four. */
static void check_largest(uint32_t bits, uint32_t wanted, uint32_t cleared)
{
    static uint8_t bytes[I * J * K];
    static uint16_t words[I * J * K];
    static uint32_t longs[I * J * K], expected[I * J * K];
    void *const masks[] = {bytes, words, longs};
    keep_by_flood(bits, wanted, cleared, expected);
    for (int at = 0; at < I * J * K; at++)
        bytes[at] = (uint8_t)(words[at] = (uint16_t)(longs[at] = values[at]));
    for (int m = 0; m < 3; m++)
        ck_assert_int_eq(noc_components_keep_largest(masks[m], 1 << m, size, bits, wanted, cleared, NULL),
                         NOC_OK);
    for (int64_t at = 0; at < size[0] * size[1] * size[2]; at++)
        ck_assert(bytes[at] == expected[at] && words[at] == expected[at] && longs[at] == expected[at]);
}

static void check_classes(void)
{
    for (uint32_t label = 1; label < LABELS; label++) {
        check_count(UINT32_MAX, label);
        check_largest(UINT32_MAX, label, UINT32_MAX);
    }
    check_count(1, 1);
    check_count(2, 2);
    check_largest(1, 1, 1);
    check_largest(2, 2, 3);
}

START_TEST(components_are_those_of_a_flood_fill)
{
    static const int64_t sizes[][3] = {{I, J, K}, {1, J, K}, {I, 1, K}, {I, J, 1}, {1, 1, K}, {1, 1, 1}};
    static const int percents[] = {0, 1, 3, 6, 10, 20, 50, 90, 100};
    uint32_t state = 1;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (int p = 0; p < 90; p++) {
            memcpy(size, sizes[s], sizeof size);
            for (int at = 0; at < I * J * K; at++) {
                state = state * 1664525u + 1013904223u;
                uint32_t chance = state >> 8;
                uint32_t label = 1 + chance / 100 % (p % 2 ? 1 : LABELS - 1);
                values[at] = chance % 100 < (uint32_t)percents[p / 10] ? label : 0;
            }
            check_classes();
        }
}
END_TEST

/* Teeth that only their common end, in the last plane or the first, makes one. */
START_TEST(what_meets_late_is_one)
{
    int64_t count = 0;
    for (int end = 0; end < K; end += K - 1) {
        size[0] = I, size[1] = J, size[2] = K;
        for (int at = 0; at < I * J * K; at++)
            values[at] = at / (I * J) == end || (at % I % 2 == 0 && at / I % J % 2 == 0);
        ck_assert_int_eq(noc_components_count(values, 4, size, UINT32_MAX, 1, &count, NULL), NOC_OK);
        ck_assert_int_eq(count, 1);
        for (int at = end * I * J; at < (end + 1) * I * J; at++)
            values[at] = 0;
        ck_assert_int_eq(noc_components_count(values, 4, size, UINT32_MAX, 1, &count, NULL), NOC_OK);
        ck_assert_int_eq(count, (I / 2 + 1) * (J / 2 + 1));
    }
}
END_TEST

START_TEST(of_equals_the_first_is_kept)
{
    uint8_t mask[] = {0, 2, 0, 1, 1, 0, 1, 1, 2, 0, 1, 2, 2};
    static const uint8_t kept[] = {0, 2, 0, 1, 1, 0, 0, 0, 2, 0, 0, 2, 2};
    const int64_t line[3] = {sizeof mask, 1, 1};
    ck_assert_int_eq(noc_components_keep_largest(mask, 1, line, UINT32_MAX, 1, UINT32_MAX, NULL), NOC_OK);
    ck_assert_mem_eq(mask, kept, sizeof mask);
}
END_TEST

START_TEST(what_is_kept_needs_bounded_memory)
{
    static const int64_t large[3] = {512, 512, 800}, huge[3] = {INT64_MAX, INT64_MAX, 1};
    size_t voxels = 512 * 512 * 800;
    ck_assert_uint_gt(noc_components_keep_bytes(large), 3 * voxels);
    ck_assert_uint_lt(noc_components_keep_bytes(large), 7 * voxels / 2);
    ck_assert_uint_eq(noc_components_keep_bytes(huge), SIZE_MAX);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("components");
    TCase *tests = tcase_create("components");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, components_are_those_of_a_flood_fill);
    tcase_add_test(tests, what_meets_late_is_one);
    tcase_add_test(tests, of_equals_the_first_is_kept);
    tcase_add_test(tests, what_is_kept_needs_bounded_memory);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
