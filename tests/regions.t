#!/bin/sh
# Models of overlapping regions: which bits are set, how they are painted, how each region is scored.
. "$(dirname "$0")/tap.sh"
tap_begin
regions()
{
    "$PYTHON" "$root/tests/regions.py" "$@"
}

cd "$work" || exit 1
ok "scans and models are made" regions make "$work" "$root/tests/data/golden/tiny_weights.safetensors"

# NAME FILE...: what the network says of a scan, voxel by voxel in the model's axes
logits()
{
    name=$1
    shift
    "$NOC" prepare -m nested --output input "$@" &&
        "$NOC" forward -m nested --device cpu --sliding --input input --output "$name"
}
for model in nested other; do
    ok "$model: logits of plain" logits "$model.plain.logits" plain.nii.gz
    ok "$model: logits of turned" logits "$model.turned.logits" turned.nii.gz
    ok "$model: logits of split" logits "$model.split.logits" split_a.nii split_b.nii
    ok "$model: logits of untold" logits "$model.untold.logits" untold.nii.gz
    exits "$model: scan" 0 "$NOC" scan --catalog "$model.sqlite" "$model.csv"
    exits "$model: run" 0 "$NOC" run -m "$model" --device cpu --catalog "$model.sqlite" \
        --results "$model.results"
    exits "$model: verify" 0 "$NOC" verify --catalog "$model.sqlite" --results "$model.results"
    exits "$model: report" 0 "$NOC" report --csv --catalog "$model.sqlite" --results "$model.results"
    cp out "$model.report"
    ok "$model: bits, paint and counts are numpy's" \
        regions check "$work" "$model" "$model.results" "$model.report"
done

if [ -z "$reference" ]; then
    skip "three brains" "NOC_REFERENCE_DIR is not set"
else
    brains=$reference/golden/prepare
    {
        echo "key,image,truth"
        for brain in lps ras permuted; do
            echo "brain_$brain,$brains/brain_$brain.nii.gz,$brains/brain_${brain}_label.nii.gz"
        done
    } >brains.csv
    exits "brains: scan" 0 "$NOC" scan --catalog brains.sqlite brains.csv
    exits "brains: run" 0 "$NOC" run -m "$reference/models/brats-untrained" --device cpu \
        --catalog brains.sqlite --results brains.results
    exits "brains: report" 0 "$NOC" report --csv --catalog brains.sqlite --results brains.results
    cp out brains.report
    ok "brains: regions, painted labels and Dice of the reference" \
        regions brains brains.results brains.report "$reference/golden/regions/expected.json"
    [ -z "${TEST_VERBOSE-}" ] || sed 's/^/# /' ok.log
fi
tap_end
