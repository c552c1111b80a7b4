/* The version, from the build: NOC_VERSION and NOC_COMMIT come from the Makefile. */
#include "pipeline/command.h"

#include <hdf5.h>
#include <mpi.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

const char *noc_version(void)
{
    return NOC_VERSION " (" NOC_COMMIT ")";
}

void noc_version_print(void)
{
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    unsigned major = 0, minor = 0, release = 0;
    MPI_Get_library_version(mpi, &length);
    mpi[strcspn(mpi, ",\n")] = '\0';
    H5get_libversion(&major, &minor, &release);
    printf("nocturne %s\n", noc_version());
    printf("cpu     %s\n", noc_cpu_ops.build);
    printf("cuda    %s\n", noc_cuda_ops.build);
    printf("mpi     %s\n", mpi);
    printf("hdf5    %u.%u.%u, parallel\n", major, minor, release);
    printf("sqlite  %s\n", sqlite3_libversion());
}
