/* Ranks that write one part together: each owns every n-th study. Rank 0 reads it back.
 *
 *   mpirun -n N prog_part_group FOLDER labels|regions */
#include "tests/part_sample.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static noc_part_entry entries[SAMPLE_STUDIES];

/* Entries as after a gather: metrics everywhere, voxels at the owner alone. */
static void make_entries(noc_output_kind output, int rank, int size)
{
    for (int i = 0; i < SAMPLE_STUDIES; i++) {
        sample_entry(output, i, &entries[i]);
        entries[i].owner = i % size;
        if (entries[i].owner != rank) {
            free(entries[i].outcome.mask);
            free(entries[i].outcome.regions);
            free(entries[i].outcome.probabilities);
            entries[i].outcome.mask = entries[i].outcome.regions = NULL;
            entries[i].outcome.probabilities = NULL;
        }
    }
}

static noc_status write_part(const char *folder, noc_output_kind output, int64_t *bytes, noc_error *err)
{
    noc_part_header header;
    noc_part_writer *part = NULL;
    sample_header(output, &header);
    noc_status status = noc_part_create(folder, 1, &header, MPI_COMM_WORLD, &part, err);
    if (status == NOC_OK)
        status = noc_part_write(part, entries, 4, err);
    if (status == NOC_OK)
        status = noc_part_write(part, entries + 4, SAMPLE_STUDIES - 4, err);
    if (status == NOC_OK)
        status = noc_part_close(part, bytes, err);
    return status;
}

static bool is_right(const char *path, noc_output_kind output, int64_t bytes, noc_error *err)
{
    noc_part_record part = {0};
    bool is_so = noc_part_read(path, true, &part, NULL, err) == NOC_OK &&
                 part.study_count == SAMPLE_STUDIES && part.bytes == bytes;
    for (int i = 0; is_so && i < SAMPLE_STUDIES; i++) {
        noc_part_entry expected;
        noc_outcome *read = NULL;
        sample_entry(output, i, &expected);
        is_so = sample_is_study(&expected, &part.studies[i]) &&
                noc_part_read_study(path, expected.outcome.key, true, &read, err) == NOC_OK &&
                sample_is_outcome(&expected, read);
        noc_outcome_free(read);
        sample_entry_clear(&expected);
    }
    noc_part_record_clear(&part);
    return is_so;
}

int main(int argc, char **argv)
{
    int rank, size, code = 0;
    int64_t bytes = 0;
    noc_error err = {.status = NOC_OK};
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    noc_output_kind output =
        argc > 2 && strcmp(argv[2], "regions") == 0 ? NOC_OUTPUT_REGIONS : NOC_OUTPUT_LABELS;
    make_entries(output, rank, size);
    if (argc < 3 || write_part(argv[1], output, &bytes, &err) != NOC_OK) {
        fprintf(stderr, "rank %d: %s\n", rank, err.text);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    if (rank == 0) {
        char *path = noc_part_path(argv[1], 1, true, NULL);
        code = path && is_right(path, output, bytes, &err) ? 0 : 1;
        if (code != 0)
            fprintf(stderr, "%s\n", err.text);
        free(path);
    }
    for (int i = 0; i < SAMPLE_STUDIES; i++)
        sample_entry_clear(&entries[i]);
    MPI_Finalize();
    return code;
}
