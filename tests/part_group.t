#!/bin/sh
# Parts written by one, two and three ranks together hold what each of them brought.
. "$(dirname "$0")/tap.sh"
tap_begin
export OMPI_MCA_io_ompio_priority=1 # as runs have it
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1

for kind in labels regions; do
    for ranks in 1 2 3; do
        rm -f "$work"/part-*
        ok "$kind by $ranks ranks" \
            timeout 120 mpirun --oversubscribe -n "$ranks" "$BUILD/tests/prog_part_group" "$work" "$kind"
    done
done
tap_end
