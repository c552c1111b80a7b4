/* Records between ranks: what goes in comes out, and a record that was cut anywhere is refused. */
#include "engine/base/memory.h"
#include "pipeline/link.h"
#include "pipeline/message.h"
#include "pipeline/record.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static noc_outcome sample_outcome(void)
{
    noc_outcome o = {.study = 7,
                     .lease = 99,
                     .windows = 12,
                     .mask_bytes = 1,
                     .region_bytes = 2,
                     .plane_count = 3,
                     .metric_count = 2};
    strcpy(o.key, "case_7");
    strcpy(o.source_sha256, "aa;bb");
    strcpy(o.suspect, "one: absent, expected present");
    o.grid.size[0] = 2;
    o.grid.size[1] = 3;
    o.grid.size[2] = 4;
    o.grid.affine[1][3] = -17.5;
    o.mask = noc_alloc_zeroed(24, 1, NULL);
    o.regions = noc_alloc_zeroed(24, 2, NULL);
    o.probabilities = noc_alloc_zeroed(24 * 3, sizeof *o.probabilities, NULL);
    o.probabilities[71] = 0x3c00;
    strcpy(o.probabilities_sha256, "ff");
    o.metrics = noc_alloc_zeroed(2, sizeof *o.metrics, NULL);
    ((unsigned char *)o.mask)[23] = 5;
    o.metrics[1].tp = 1234567890123u;
    return o;
}

/* Writes the sample, and gives the block. */
static noc_record pack(bool with_voxels)
{
    noc_record r;
    noc_outcome o = sample_outcome();
    noc_record_begin(&r, NOC_SAY_MASK);
    noc_record_put_outcome(&r, &o, with_voxels);
    ck_assert_int_eq(noc_record_end(&r, NULL), NOC_OK);
    noc_outcome_drop_results(&o);
    return r;
}

START_TEST(an_outcome_comes_out_as_it_went_in)
{
    noc_record block = pack(_i), r;
    noc_outcome *o;
    uint32_t type;
    ck_assert_int_eq(noc_record_open(&r, block.data, block.size, &type, NULL), NOC_OK);
    ck_assert_uint_eq(type, NOC_SAY_MASK);
    ck_assert_int_eq(noc_record_get_outcome(&r, &o, NULL), NOC_OK);
    ck_assert_int_eq(o->study, 7);
    ck_assert_uint_eq(o->lease, 99);
    ck_assert_str_eq(o->key, "case_7");
    ck_assert_str_eq(o->source_sha256, "aa;bb");
    ck_assert_str_eq(o->suspect, "one: absent, expected present");
    ck_assert(o->grid.affine[1][3] == -17.5);
    ck_assert_int_eq(o->metric_count, 2);
    ck_assert_uint_eq(o->metrics[1].tp, 1234567890123u);
    ck_assert_int_eq(o->plane_count, 3);
    ck_assert_str_eq(o->probabilities_sha256, "ff");
    if (_i) {
        ck_assert_int_eq(((unsigned char *)o->mask)[23], 5);
        ck_assert_uint_eq(o->probabilities[71], 0x3c00);
    } else {
        ck_assert_ptr_null(o->mask);
        ck_assert_ptr_null(o->probabilities);
    }
    noc_outcome_free(o);
    noc_record_free(&block);
}
END_TEST

START_TEST(a_record_cut_anywhere_is_refused)
{
    noc_record block = pack(true), r;
    uint32_t type;
    for (size_t size = 0; size < block.size; size++) {
        noc_outcome *o = NULL;
        /* the guarded copy lets the address sanitizer see a read beyond the end */
        unsigned char *cut = malloc(size + !size);
        memcpy(cut, block.data, size);
        ck_assert_int_ne(noc_record_open(&r, cut, size, &type, NULL), NOC_OK);
        r = (noc_record){.data = cut, .size = size, .at = size < 24 ? size : 24};
        ck_assert_int_ne(noc_record_get_outcome(&r, &o, NULL), NOC_OK);
        ck_assert_ptr_null(o);
        free(cut);
    }
    noc_record_free(&block);
}
END_TEST

START_TEST(a_foreign_version_is_refused)
{
    noc_record block = pack(true), r;
    uint32_t type;
    block.data[4] ^= 1;
    ck_assert_int_eq(noc_record_open(&r, block.data, block.size, &type, NULL), NOC_EINTERNAL);
    noc_record_free(&block);
}
END_TEST

START_TEST(a_mask_of_another_size_than_its_grid_is_refused)
{
    noc_record r, block;
    noc_outcome o = sample_outcome(), *out = NULL;
    uint32_t type;
    noc_record_begin(&r, NOC_SAY_MASK);
    noc_record_put_outcome(&r, &o, true);
    ck_assert_int_eq(noc_record_end(&r, NULL), NOC_OK);
    block = r;
    for (size_t at = 24; at + 8 <= block.size; at++) { /* find the grid's first size and change it */
        int64_t size[3];
        if (at + sizeof size > block.size)
            break;
        memcpy(size, block.data + at, sizeof size);
        if (size[0] == 2 && size[1] == 3 && size[2] == 4) {
            block.data[at] = 3;
            break;
        }
    }
    ck_assert_int_eq(noc_record_open(&r, block.data, block.size, &type, NULL), NOC_OK);
    ck_assert_int_eq(noc_record_get_outcome(&r, &out, NULL), NOC_EINTERNAL);
    noc_record_free(&block);
    noc_outcome_drop_results(&o);
}
END_TEST

START_TEST(a_study_comes_out_as_it_went_in)
{
    noc_study in = {.id = 3,
                    .key = "k",
                    .layout = "list",
                    .channel_count = 2,
                    .has_shape = true,
                    .voxel_bytes = 5},
              out;
    noc_record r, block;
    uint32_t type;
    in.channels[0] = (char *)"/a b/1.nii";
    in.channels[1] = (char *)"/a b/2.nii";
    in.fingerprint = (char *)"1:2;3:4";
    noc_record_begin(&block, NOC_SAY_GRANT);
    noc_record_put_study(&block, &in);
    ck_assert_int_eq(noc_record_end(&block, NULL), NOC_OK);
    ck_assert_int_eq(noc_record_open(&r, block.data, block.size, &type, NULL), NOC_OK);
    ck_assert_int_eq(noc_record_get_study(&r, &out, NULL), NOC_OK);
    ck_assert_int_eq(out.channel_count, 2);
    ck_assert_str_eq(out.channels[1], "/a b/2.nii");
    ck_assert_ptr_null(out.truth);
    ck_assert_str_eq(out.fingerprint, "1:2;3:4");
    noc_study_clear(&out);
    for (size_t size = 24; size < block.size; size++) {
        r = (noc_record){.data = block.data, .size = size, .at = 24};
        ck_assert_int_eq(noc_record_get_study(&r, &out, NULL), NOC_EINTERNAL);
    }
    noc_record_free(&block);
}
END_TEST

/* Its receiver goes by the paths. */
START_TEST(a_study_without_a_path_is_refused)
{
    noc_study in = {.key = "k", .layout = "list", .channel_count = 1}, out;
    noc_record r, block;
    uint32_t type;
    in.channels[0] = _i == 0 ? NULL : (char *)"/1.nii";
    in.fingerprint = _i == 0 ? (char *)"1:2" : NULL;
    noc_record_begin(&block, NOC_SAY_GRANT);
    noc_record_put_study(&block, &in);
    ck_assert_int_eq(noc_record_end(&block, NULL), NOC_OK);
    ck_assert_int_eq(noc_record_open(&r, block.data, block.size, &type, NULL), NOC_OK);
    ck_assert_int_eq(noc_record_get_study(&r, &out, NULL), NOC_EINTERNAL);
    noc_record_free(&block);
}
END_TEST

/* Where the other end would read beyond what came. */
START_TEST(a_spoilt_outcome_is_refused)
{
    noc_record r, block;
    noc_outcome o = sample_outcome(), spoilt = o, *out = NULL;
    uint32_t type;
    bool is_short = _i == 0 || _i == 3; /* no regions, no probabilities */
    if (is_short)
        spoilt.region_bytes = spoilt.plane_count = 0;
    else if (_i == 1) /* an endless text */
        memset(o.metrics[1].label, 'x', sizeof o.metrics[1].label);
    else if (_i == 2) /* what is neither true nor false */
        memset(&o.metrics[0].has_truth, 2, 1);
    noc_record_begin(&block, NOC_SAY_MASK);
    noc_record_put_outcome(&block, &spoilt, true);
    ck_assert_int_eq(noc_record_end(&block, NULL), NOC_OK);
    if (is_short) { /* before the three blocks, the mask's alone not empty: bytes of a region's voxel, planes
                     */
        uint64_t said = 2;
        memcpy(block.data + block.size - 24 - 3 * 8 - (_i == 0 ? 16 : 8), &said, sizeof said);
    }
    ck_assert_int_eq(noc_record_open(&r, block.data, block.size, &type, NULL), NOC_OK);
    ck_assert_int_eq(noc_record_get_outcome(&r, &out, NULL), NOC_EINTERNAL);
    noc_record_free(&block);
    noc_outcome_drop_results(&o);
}
END_TEST

START_TEST(the_local_link_delivers_in_order)
{
    noc_link *link;
    noc_message m;
    ck_assert_int_eq(noc_link_open_local(&link, NULL), NOC_OK);
    ck_assert(!noc_link_receive(link, &m));
    for (uint64_t i = 0; i < 5; i++) {
        noc_record r;
        noc_record_begin(&r, NOC_SAY_HOLDS);
        noc_record_put_u64(&r, i);
        ck_assert_int_eq(noc_record_end(&r, NULL), NOC_OK);
        noc_link_send(link, 0, &r);
    }
    for (uint64_t i = 0; i < 4; i++) {
        ck_assert(noc_link_receive(link, &m));
        ck_assert_uint_eq(m.type, NOC_SAY_HOLDS);
        ck_assert_uint_eq(noc_record_get_u64(&m.record), i);
        noc_record_free(&m.record);
    }
    ck_assert(noc_link_is_flushed(link));
    noc_link_close(link); /* one is still inside */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("record");
    TCase *cases = tcase_create("record");
    tcase_add_loop_test(cases, an_outcome_comes_out_as_it_went_in, 0, 2);
    tcase_add_test(cases, a_record_cut_anywhere_is_refused);
    tcase_add_test(cases, a_foreign_version_is_refused);
    tcase_add_test(cases, a_mask_of_another_size_than_its_grid_is_refused);
    tcase_add_test(cases, a_study_comes_out_as_it_went_in);
    tcase_add_loop_test(cases, a_study_without_a_path_is_refused, 0, 2);
    tcase_add_loop_test(cases, a_spoilt_outcome_is_refused, 0, 4);
    tcase_add_test(cases, the_local_link_delivers_in_order);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
