/* Checked sizes, aligned blocks, what this process may use, and digests of what is in memory. */
#include "engine/base/memory.h"
#include "engine/base/sha256.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

START_TEST(sizes_do_not_overflow)
{
    size_t out = 7;

    ck_assert(noc_size_mul(6, 7, &out) && out == 42);
    ck_assert(noc_size_add(40, 2, &out) && out == 42);
    ck_assert(noc_size_mul(0, SIZE_MAX, &out) && out == 0);
    out = 7;
    ck_assert(!noc_size_mul(SIZE_MAX / 2 + 1, 2, &out));
    ck_assert(!noc_size_mul(SIZE_MAX, SIZE_MAX, &out));
    ck_assert(!noc_size_add(SIZE_MAX, 1, &out));
    ck_assert_uint_eq(out, 7);
}
END_TEST

START_TEST(sizes_saturate)
{
    ck_assert_uint_eq(noc_size_product(6, 7), 42);
    ck_assert_uint_eq(noc_size_product(SIZE_MAX, 0), 0);
    ck_assert_uint_eq(noc_size_product(SIZE_MAX / 2 + 1, 2), SIZE_MAX);
    ck_assert_uint_eq(noc_size_product(SIZE_MAX, SIZE_MAX), SIZE_MAX);
    ck_assert_uint_eq(noc_size_sum(40, 2), 42);
    ck_assert_uint_eq(noc_size_sum(SIZE_MAX - 1, 1), SIZE_MAX);
    ck_assert_uint_eq(noc_size_sum(SIZE_MAX, 2), SIZE_MAX);
}
END_TEST

START_TEST(blocks_are_aligned)
{
    const size_t sizes[] = {0, 1, 63, 64, 65, 1000003};

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned char *block = noc_alloc(sizes[i], 1, NULL);
        ck_assert_ptr_nonnull(block);
        ck_assert_uint_eq((uintptr_t)block % 64, 0);
        memset(block, 0xff, sizes[i]);
        free(block);
        block = noc_alloc_zeroed(1, sizes[i], NULL);
        ck_assert_ptr_nonnull(block);
        for (size_t j = 0; j < sizes[i]; j++)
            ck_assert_uint_eq(block[j], 0);
        free(block);
    }
}
END_TEST

START_TEST(too_much_is_an_error)
{
    const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 62, SIZE_MAX / 2 + 2, PTRDIFF_MAX};

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        noc_error err = {0};
        ck_assert_ptr_null(noc_alloc(sizes[i], 1, &err));
        ck_assert_int_eq(err.status, NOC_ENOMEMORY);
        ck_assert_uint_gt(strlen(err.text), 0);
        ck_assert_ptr_null(noc_alloc_zeroed(sizes[i], 3, NULL));
    }
}
END_TEST

START_TEST(copies_of_text)
{
    char text[] = "study";
    char *copy = noc_strdup(text, NULL);

    text[0] = 'S';
    ck_assert_str_eq(copy, "study");
    free(copy);
}
END_TEST

START_TEST(process_numbers)
{
    size_t limit = noc_memory_limit(), resident = noc_memory_resident();

    ck_assert_uint_gt(limit, (size_t)64 << 20);
    ck_assert_uint_gt(resident, (size_t)1 << 16);
    ck_assert_uint_le(resident, limit);

    size_t before = noc_memory_peak(), size = (size_t)32 << 20;
    volatile char *block = noc_alloc(size, 1, NULL);
    for (size_t i = 0; i < size; i += 512)
        block[i] = 1;
    ck_assert_uint_ge(noc_memory_peak(), before);
    ck_assert_uint_ge(noc_memory_peak(), (size_t)32 << 20);
    free((void *)block);
}
END_TEST

START_TEST(known_digests)
{
    char hex[NOC_SHA256_HEX];

    ck_assert_int_eq(noc_sha256_of("abc", 3, hex, NULL), NOC_OK);
    ck_assert_str_eq(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    ck_assert_int_eq(noc_sha256_of(NULL, 0, hex, NULL), NOC_OK);
    ck_assert_str_eq(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}
END_TEST

START_TEST(digests_in_parts)
{
    char whole[NOC_SHA256_HEX], parts[NOC_SHA256_HEX], data[1000];
    noc_sha256 *hash;

    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (char)(i * 7);
    noc_sha256_of(data, sizeof data, whole, NULL);
    ck_assert_int_eq(noc_sha256_create(&hash, NULL), NOC_OK);
    noc_sha256_add(hash, data, 1);
    noc_sha256_add(hash, data + 1, 0);
    noc_sha256_add(hash, data + 1, sizeof data - 1);
    noc_sha256_end(hash, parts);
    ck_assert_str_eq(parts, whole);
    ck_assert_int_eq(noc_sha256_create(&hash, NULL), NOC_OK);
    noc_sha256_free(hash);
    noc_sha256_free(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("memory");
    TCase *cases = tcase_create("memory");

    tcase_add_test(cases, sizes_do_not_overflow);
    tcase_add_test(cases, sizes_saturate);
    tcase_add_test(cases, blocks_are_aligned);
    tcase_add_test(cases, too_much_is_an_error);
    tcase_add_test(cases, copies_of_text);
    tcase_add_test(cases, process_numbers);
    tcase_add_test(cases, known_digests);
    tcase_add_test(cases, digests_in_parts);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
