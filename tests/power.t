#!/bin/sh
# No acknowledgement before the durability that it claims: power cuts after each call of a recorded run. `make power`
# sets POWER_CUTS, the random choices of what a disk holds then, and records more runs.
[ ! -w /dev/shm ] || TMPDIR=/dev/shm # which is quick to sync: this disk is not the one whose power is cut
. "$(dirname "$0")/tap.sh"
tap_begin
seed=${NOC_SEED:-$(od -An -N2 -tu2 /dev/urandom | tr -d ' ')}
echo "# seed $seed (NOC_SEED)"

cuts=${POWER_CUTS:-1} continued=3
[ -z "${POWER_CUTS:-}" ] || continued=20

power_cut()
{
    "$PYTHON" "$root/tests/power_cut.py" "$@"
}

# holds NAME FLAGS... -- WORDS...: whatever is lost of a run with these words (flags of `record`).
holds()
{
    holds_name=$1 flags=
    shift
    while [ "$1" != -- ]; do
        flags="$flags $1"
        shift
    done
    shift
    apart=
    [ "${holds_name#shared}" = "$holds_name" ] || apart=--apart
    # shellcheck disable=SC2086
    ok "$holds_name: a run is recorded" power_cut record $flags "$work/$holds_name" "$@"
    ok "$holds_name: every power cut can be recovered from" \
        power_cut replay --random "$cuts" --continued $continued --seed "$seed" "$work/$holds_name"
    echo "# $holds_name: $(tail -n 1 "$work/ok.log")"
}

# red NAME TEXT FLAGS...: a program that forgets that is found out, in the run `alone`.
red()
{
    red_name=$1 red_text=$2
    shift 2
    exits "$red_name: is found" 1 power_cut replay --random 1 --continued 0 --seed "$seed" "$@" "$work/alone"
    says "$red_name: by its loss" "$red_text"
}

holds alone -- --ranks 1
holds ranks -- --ranks 3
holds shared -- --ranks 5 --writers 2
holds network --network -- --ranks 1
holds adopted --die r:part-000002 -- --ranks 1
holds folder --die m:results -- --ranks 1
holds indexed --die r:.index -- --ranks 1
if [ -n "${POWER_CUTS:-}" ]; then
    holds network-ranks --network -- --ranks 3
    holds network-shared --network -- --ranks 5 --writers 2
    holds network-adopted --network --die r:part-000002 -- --ranks 1
    holds begun --die c:part-000002 -- --ranks 1
    holds written --die w:part-000002 -- --ranks 1
    holds synced --die s:part-000002 -- --ranks 1
    holds named --die S:results -- --ranks 1
    holds network-committed --network --die u:studies.sqlite-journal -- --ranks 1
    holds logged --die s:studies.sqlite-wal -- --ranks 1
fi

red "a part that is not synced" "part-000001.h5 has its name and not its content" --forget s:part-
red "a name that is not synced" "is done, and not in results/part-000001.h5: missing" --forget S:results
red "a commit before the name" "is done, and not in results/part-000001.h5: missing" --late r:part-
red "a commit that is not synced" "was acknowledged with part" --forget s:studies.sqlite-wal
red "a mask that is not synced" "out/one.nii.gz has its name and not its content" --forget s:one.nii.gz
red "a folder's name that is not synced" "export has ended with 0, and new/masks" --forget S:new
tap_end
