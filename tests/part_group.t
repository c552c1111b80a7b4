#!/bin/sh
# Parts written by one, two and three ranks together hold what each of them brought.
set -u
program=${BUILD:-build}/tests/prog_part_group
folder=$(mktemp -d "${TMPDIR:-/tmp}/part_group.XXXXXX") || exit 1
trap 'rm -rf "$folder"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1

number=0
echo 1..6
for kind in labels regions; do
    for ranks in 1 2 3; do
        number=$((number + 1))
        rm -f "$folder"/part-*
        if timeout 120 mpirun --oversubscribe -n "$ranks" "$program" "$folder" "$kind" >"$folder/log" 2>&1; then
            echo "ok $number - $kind by $ranks ranks"
        else
            echo "not ok $number - $kind by $ranks ranks"
            sed 's/^/# /' "$folder/log"
        fi
    done
done
