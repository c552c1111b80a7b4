/* Numbers of 16 bits: each is its own nearest, and what lies between two goes to the nearer, at a tie to the
 * even one. */
#include "engine/base/half.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

START_TEST(each_is_its_own_nearest)
{
    for (unsigned bits = 0; bits < 65536; bits++) {
        double value = noc_half_value((uint16_t)bits);
        if (isnan(value))
            ck_assert_uint_eq(noc_half_from((float)value) & 0x7fff, 0x7e00);
        else
            ck_assert_uint_eq(noc_half_from((float)value), bits);
    }
    ck_assert_double_eq(noc_half_value(0x3c00), 1);
    ck_assert_double_eq(noc_half_value(0x8001), -ldexp(1, -24));
    ck_assert_double_eq(noc_half_value(0x7bff), 65504);
}
END_TEST

START_TEST(between_two)
{
    for (uint16_t bits = 0; bits < 0x7bff; bits++) {
        float low = (float)noc_half_value(bits), high = (float)noc_half_value(bits + 1),
              middle = low + (high - low) / 2;
        ck_assert_uint_eq(noc_half_from(middle), bits + (bits & 1));
        ck_assert_uint_eq(noc_half_from(nextafterf(middle, low)), bits);
        ck_assert_uint_eq(noc_half_from(nextafterf(middle, high)), bits + 1);
        ck_assert_uint_eq(noc_half_from(-nextafterf(middle, high)), (bits + 1) | 0x8000);
    }
    ck_assert_uint_eq(noc_half_from(65519.99f), 0x7bff);
    ck_assert_uint_eq(noc_half_from(65520), 0x7c00);
    ck_assert_uint_eq(noc_half_from(1e30f), 0x7c00);
    ck_assert_uint_eq(noc_half_from(1e-30f), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("half");
    TCase *tests = tcase_create("half");
    tcase_add_test(tests, each_is_its_own_nearest);
    tcase_add_test(tests, between_two);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
