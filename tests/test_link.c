/* A rank that finds no memory for a message knows it: others may wait for that message for ever. MPI is
 * simulated here, with rank 1 as the one that sends. */
#include "pipeline/link.h"
#include "tests/fail_alloc.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { TYPE = 7, NUMBER = 42, SMALL = 100, LARGE = 1 << 20, RECEIVING = 2 /* allocations for a message */ };

static noc_link *link_here;
static noc_record under_way; /* to this rank; size 0: nothing is */

int MPI_Comm_dup(MPI_Comm communicator, MPI_Comm *own)
{
    *own = communicator;
    return MPI_SUCCESS;
}

int MPI_Comm_set_errhandler(MPI_Comm communicator, MPI_Errhandler handler)
{
    (void)communicator, (void)handler;
    return MPI_SUCCESS;
}

int MPI_Comm_rank(MPI_Comm communicator, int *rank)
{
    (void)communicator;
    *rank = 0;
    return MPI_SUCCESS;
}

int MPI_Comm_size(MPI_Comm communicator, int *size)
{
    (void)communicator;
    *size = 2;
    return MPI_SUCCESS;
}

int MPI_Improbe(int source, int tag, MPI_Comm communicator, int *flag, MPI_Message *matched,
                MPI_Status *status)
{
    (void)source, (void)tag, (void)communicator;
    *flag = under_way.size > 0;
    *matched = MPI_MESSAGE_NULL;
    status->MPI_SOURCE = 1;
    return MPI_SUCCESS;
}

int MPI_Get_elements_x(const MPI_Status *status, MPI_Datatype type, MPI_Count *count)
{
    (void)status, (void)type;
    *count = (MPI_Count)under_way.size;
    under_way.size = 0; /* matched: nobody is asked about it again */
    return MPI_SUCCESS;
}

int MPI_Imrecv(void *buffer, int count, MPI_Datatype type, MPI_Message *matched, MPI_Request *request)
{
    (void)type, (void)matched;
    memcpy(buffer, under_way.data, (size_t)count);
    *request = MPI_REQUEST_NULL;
    return MPI_SUCCESS;
}

int MPI_Test(MPI_Request *request, int *flag, MPI_Status *status)
{
    (void)request, (void)status;
    *flag = 1;
    return MPI_SUCCESS;
}

static void set_up(void)
{
    ck_assert_int_eq(noc_link_open_mpi(&link_here, NULL), NOC_OK);
}

static void tear_down(void)
{
    noc_record_free(&under_way);
    noc_link_close(link_here);
}

/* Rank 1 sends so many bytes and a number; this rank's n-th allocation for it fails (0: none). Whether it
 * arrives. */
static bool arrives(size_t bytes, long n)
{
    static const unsigned char zeros[LARGE];
    noc_message message = {.from = -1};
    noc_record_free(&under_way);
    noc_record_begin(&under_way, TYPE);
    noc_record_put_u64(&under_way, NUMBER);
    noc_record_put_block(&under_way, zeros, bytes);
    ck_assert_int_eq(noc_record_end(&under_way, NULL), NOC_OK);
    fail_alloc(n, false);
    bool is_here = noc_link_receive(link_here, &message);
    bool has_failed = fail_alloc_happened();
    fail_alloc(0, false);
    ck_assert_int_eq(has_failed, n > 0);
    if (!is_here)
        return false;
    ck_assert_int_eq(message.from, 1);
    ck_assert_uint_eq(message.type, TYPE);
    ck_assert_uint_eq(noc_record_get_u64(&message.record), NUMBER);
    noc_record_free(&message.record);
    return true;
}

START_TEST(a_message_without_memory_is_known_to_be_lost)
{
    ck_assert(arrives(SMALL, 0));
    ck_assert(!noc_link_has_lost(link_here));
    ck_assert(!arrives(SMALL, _i));
    ck_assert(noc_link_has_lost(link_here));
    ck_assert(arrives(SMALL, 0));
    ck_assert(noc_link_has_lost(link_here));
}
END_TEST

/* A mask's delivery ends in time, and the rank goes on. */
START_TEST(a_mask_without_memory_ends_nobody)
{
    ck_assert(!arrives(LARGE, _i));
    ck_assert(!noc_link_has_lost(link_here));
    ck_assert(arrives(LARGE, 0));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("link");
    TCase *cases = tcase_create("link");
    tcase_add_checked_fixture(cases, set_up, tear_down);
    tcase_add_loop_test(cases, a_message_without_memory_is_known_to_be_lost, 1, RECEIVING + 1);
    tcase_add_loop_test(cases, a_mask_without_memory_ends_nobody, 1, RECEIVING + 1);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
