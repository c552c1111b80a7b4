#!/bin/sh
# A model that keeps only the largest component of a label or region: masks, counts and rules of plausibility are of what is kept.
. "$(dirname "$0")/tap.sh"
tap_begin
cd "$work" || exit 1
helper()
{
    "$PYTHON" "$root/tests/largest.py" "$@"
}

# noc COMMAND SITE ARGUMENT...
noc()
{
    command=$1 site=$2
    shift 2
    timeout 300 "$NOC" "$command" --catalog "$site.sqlite" --results "results_$site" "$@"
}

# segment SITE MODEL RANKS
segment()
{
    exits "$1: scan" 0 noc scan "$1" scans/list.csv
    exits "$1: run" 0 noc run "$1" -m "$2" --device cpu --threads 1 --progress none --ranks "$3"
    exits "$1: masks" 0 "$PYTHON" "$root/tests/masks.py" list "results_$1"
    cp out "$1.masks"
}

ok "scans" helper scans scans 3
one="plausible: [{label: two, components: [1, 1]}]"
ok "a model of labels" helper model labels labels "$one"
ok "... that keeps the largest" helper model labels_kept labels "  keep_largest: [two]" "$one"
ok "a model of regions" helper model regions regions
ok "... that keeps the largest" helper model regions_kept regions "  keep_largest: [inner, outer]"
for kind in labels regions; do
    segment $kind $kind 1
    segment ${kind}_one ${kind}_kept 1
    segment ${kind}_three ${kind}_kept 3
    ok "$kind: the rest is cleared" helper check results_$kind results_${kind}_one
    ok "$kind: the same on three ranks" cmp ${kind}_one.masks ${kind}_three.masks
    exits "$kind: verify" 0 noc verify ${kind}_one
    exits "$kind: report" 0 noc report ${kind}_one --csv
    cut -d, -f1,4-9 out >${kind}.report
    exits "$kind: evaluate --stored" 0 noc evaluate ${kind}_one --stored --csv
    ok "$kind: ... finds the counts of the run" sh -c "cut -d, -f1,4-9 out | cmp - $kind.report"
    exits "$kind: another model's results" 78 noc run $kind -m ${kind}_kept --device cpu --ranks 1 --progress none
done
exits "labels: report" 0 noc report labels
says "... several components are suspect" ", 3 suspect"
exits "labels: report of what is kept" 0 noc report labels_one
ok "... one is not" sh -c '! grep -q suspect out'

exits "infer" 0 timeout 60 "$NOC" infer -m labels_kept -o mask.nii scans/0a.nii.gz scans/0b.nii.gz
exits "export" 0 noc export labels_one -o exported
ok "... gives the mask of the run" "$PYTHON" "$root/tests/masks.py" same mask.nii exported/case0.nii.gz
tap_end
