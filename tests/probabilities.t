#!/bin/sh
# --save-probabilities: what run, infer and export make of it, and that masks stay as they are.
. "$(dirname "$0")/tap.sh"
tap_begin
probabilities()
{
    "$PYTHON" "$root/tests/probabilities.py" "$@"
}
check_results()
{
    "$PYTHON" "$root/scripts/check_results.py" "$@"
}
# run_into NAME WORDS...: the demo's scans, with a catalog and a folder of their own
run_into()
{
    name=$1
    shift
    [ -e "$name.sqlite" ] || "$NOC" scan --catalog "$name.sqlite" "$root/demo/archive" >/dev/null 2>&1
    exits "$name: run $*" 0 "$NOC" run -m "$model" --device cpu --catalog "$name.sqlite" --results "$name" "$@"
}
verify()
{
    "$NOC" verify --catalog "$1.sqlite" --results "$1"
}

cd "$work" || exit 1
model=$root/models/hippocampus
run_into without --workers 1
run_into one --workers 1 --save-probabilities
echo "save_probabilities: true" >two.yaml
run_into two --ranks 5 --writers 2 --batch 3 --part-studies 5 -c two.yaml
for name in one two; do
    exits "$name: verify" 0 verify "$name"
    ok "$name: the checker finds nothing, and the masks of a run without" check_results "$name.sqlite" "$name" without
    ok "$name: the report is that of a run without" sh -c "
        '$NOC' report --csv --catalog $name.sqlite --results $name >$name.csv &&
        '$NOC' report --csv --catalog without.sqlite --results without | cmp - $name.csv"
done
ok "the same bits by one worker and by two, with two writers" check_results two.sqlite two one
exits "h5dump" 0 h5dump -H -d /studies/hippocampus_020/probabilities one/index.h5
# by name where the library has one
ok "h5dump: f16" grep -q -e "16-bit little-endian floating-point" -e H5T_IEEE_F16LE out
says "h5dump: classes, k, j, i" "( 3, 43, 46, 36 )"
is "a run without: nothing of it" "$(h5dump -n without/part-000001.h5 | grep -c -e mask -e probabilities)" 16

exits "a dry run" 0 "$NOC" run -m "$model" --catalog without.sqlite --results new --dry-run --save-probabilities
says "a dry run: their bytes" "probabilities     0.00"

# ---- export and infer ----

exits "export" 0 "$NOC" export --catalog two.sqlite --results two -o masks --probabilities
says "export: says how many" "16 masks, 16 with probabilities,"
ok "export: f32 on the scan's grid, the fourth axis the classes" probabilities exported one masks
exits "export by BIDS" 0 "$NOC" export --catalog two.sqlite --results two -o bids --format bids --probabilities
ok "export by BIDS: the same file" cmp masks/probabilities/hippocampus_020.nii.gz \
    bids/derivatives/nocturne/sub-hippocampus020/anat/sub-hippocampus020_probseg.nii.gz
exits "export again, without" 0 "$NOC" export --catalog two.sqlite --results two -o plain
is "export without: masks alone" "$(find plain -name '*prob*')" ""
exits "export of what was not stored" 66 "$NOC" export --catalog without.sqlite --results without -o none --probabilities
says "... says how to get it" "run --save-probabilities" err
scan=$root/demo/archive/imagesTr/hippocampus_020.nii.gz
exits "infer" 0 "$NOC" infer -m "$model" -o m.nii.gz --save-probabilities "$scan" --device cpu
ok "infer: the mask of run" cmp m.nii.gz masks/hippocampus_020.nii.gz
ok "infer: the probabilities of run" cmp m_probabilities.nii.gz masks/probabilities/hippocampus_020.nii.gz
exits "infer --json" 0 "$NOC" infer -m "$model" -o m.nii --json --save-probabilities "$scan" --device cpu
says "infer --json: where they are" '"probabilities":"m_probabilities.nii"'
ok "infer --json: they are there" test -s m_probabilities.nii
exits "infer without" 0 "$NOC" infer -m "$model" -o n.nii "$scan" --device cpu
ok "infer without: the mask alone" test ! -e n_probabilities.nii

# ---- studies with and without ----

run_into mixed --workers 1 --limit 5
run_into mixed --workers 1 --save-probabilities
exits "mixed: verify" 0 verify mixed
ok "mixed: the checker finds nothing" check_results mixed.sqlite mixed one
exits "mixed: export" 0 "$NOC" export --catalog mixed.sqlite --results mixed -o mixed.masks --probabilities
says "mixed: export says how many" "16 masks, 11 with probabilities,"

# ---- damage ----

for damage in value dataset type hash; do
    rm -rf bad && cp -r one bad && cp one.sqlite bad.sqlite
    probabilities damage "$damage" bad bad.sqlite
    exits "verify finds damage: $damage" 69 verify bad
    says "verify names it: $damage" "hippocampus_020: "
    says "verify says of what: $damage" "probabilities"
    says "verify: all others are good: $damage" "15 good, 1 findings"
    [ "$damage" = type ] || exits "the checker finds damage: $damage" 1 check_results bad.sqlite bad
    exits "evaluate needs none: $damage" 0 "$NOC" evaluate --stored --catalog bad.sqlite --results bad
done

# ---- against the network's logits ----

ok "scans and models are made" "$PYTHON" "$root/tests/regions.py" make "$work" "$root/tests/data/golden/tiny_weights.safetensors"
for kind in regions labels; do
    model=nested
    [ $kind = regions ] || model=$root/tests/data/models/tiny
    for files in plain.nii.gz turned.nii.gz "split_a.nii split_b.nii"; do
        # shellcheck disable=SC2086
        exits "$kind: infer $files" 0 "$NOC" infer -m "$model" --device cpu -o s.nii --save-probabilities $files
        # shellcheck disable=SC2086
        ok "$kind: prepare" "$NOC" prepare -m "$model" --output input $files
        ok "$kind: logits" "$NOC" forward -m "$model" --device cpu --sliding --input input --output logits
        ok "$kind: probabilities of the logits" probabilities logits "$kind" s_probabilities.nii logits
    done
done
exits "regions: scan" 0 "$NOC" scan --catalog regions.sqlite nested.csv
exits "regions: run" 0 "$NOC" run -m nested --device cpu --catalog regions.sqlite --results regions --save-probabilities
exits "regions: verify" 0 verify regions
ok "regions: the checker finds nothing" check_results regions.sqlite regions
tap_end
