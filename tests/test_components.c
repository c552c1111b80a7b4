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

/* Clears what hangs together with that voxel. */
static void flood(bool *left, int64_t i, int64_t j, int64_t k)
{
    if (!is_in(i, j, k) || !left[(k * size[1] + j) * size[0] + i])
        return;
    left[(k * size[1] + j) * size[0] + i] = false;
    for (int n = 0; n < 27; n++)
        flood(left, i + n % 3 - 1, j + n / 3 % 3 - 1, k + n / 9 - 1);
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

static void check_classes(void)
{
    for (uint32_t label = 1; label < LABELS; label++)
        check_count(UINT32_MAX, label);
    check_count(1, 1);
    check_count(2, 2);
}

START_TEST(as_many_as_a_flood_fill_finds)
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
                values[at] = chance % 100 < (uint32_t)percents[p / 10] ? 1 + chance / 100 % (LABELS - 1) : 0;
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

int main(void)
{
    Suite *suite = suite_create("components");
    TCase *tests = tcase_create("components");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, as_many_as_a_flood_fill_finds);
    tcase_add_test(tests, what_meets_late_is_one);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
