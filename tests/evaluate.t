#!/bin/sh
# nocturne evaluate: the reference metrics, files that are no masks, and masks that a run has stored.
. "$(dirname "$0")/tap.sh"
tap_begin
metrics=$root/tests/data/golden/metrics
helper=$root/tests/evaluate.py
evaluate()
{
    timeout 300 "$NOC" evaluate "$@"
}

helper()
{
    "$PYTHON" "$helper" "$@"
}

cd "$work" || exit 1

# --- the reference pairs ---

ok "pairs" helper folders "$metrics" "$work"
exits "evaluate" 0 evaluate masks truths --regions 1+2 --json --summary summary.json
cp out plain.json
says "the means go to the log" "label 1+2: Dice 0.6830 (" err
ok "every value of every pair is the reference's" helper golden "$metrics/metrics.json" plain.json
ok "means and intervals follow from the cases" helper means plain.json
ok "summary.json is nnU-Net's" helper summary plain.json summary.json
for threads in 1 3; do
    exits "$threads threads" 0 evaluate --threads $threads masks truths --regions 1+2 --json
    ok "... say the same" cmp out plain.json
done
exits "CSV" 0 evaluate masks truths --regions 1+2
cp out plain.csv
exits "--csv" 0 evaluate masks truths --regions 1+2 --csv
ok "... is the default" cmp out plain.csv
exits "brats" 0 evaluate masks truths --regions 1+2 --json --convention brats --penalty 373.12866
ok "... changes empty masks" helper brats plain.json out 373.12866
exits "one label, other tolerances" 0 evaluate masks truths --labels 2 --tolerance 0.5,3 --json
ok "... and no other" "$PYTHON" -c 'import json, sys
for case in json.load(open("out"))["cases"].values():
    assert list(case) == ["2"], case
    assert [n for n in case["2"]["deepmind"] if n[:7] == "surface"] == ["surface_dice_0.5mm", "surface_dice_3mm"]'
exits "a lesion at a time" 0 evaluate masks truths --regions 1+2 --json --lesion-wise men
ok "... adds scores, where all is one lesion those of the masks" "$PYTHON" -c 'import json
plain, found = (json.load(open(name))["cases"] for name in ("plain.json", "out"))
alone = 0
for name, case in found.items():
    for label, values in case.items():
        lesions = values.pop("lesion_wise")
        if (lesions["tp"], lesions["fp"], lesions["fn"]) == (1, 0, 0):
            alone += 1
            assert lesions["hd95"] == values["deepmind"]["hd95"], (name, label, lesions)
            assert abs(lesions["dice"] - values["dice"]) < 1e-12, (name, label, lesions)
assert found == plain and 0 < alone < 3 * len(found), alone'
exits "two files" 0 evaluate "$metrics/erode_prediction.nii.gz" "$metrics/erode_truth.nii.gz" --json
ok "... are one case" "$PYTHON" -c 'import json
assert json.load(open("out"))["cases"] == {"erode_prediction": {label: values for label, values in
    json.load(open("plain.json"))["cases"]["erode"].items() if label != "1+2"}}'
exits "some names" 0 evaluate masks truths --json --only 'shift_*'
is "... match" "$(grep -c '^"shift_' out)" 2

# --- what is no pair ---

ok "broken files" helper hostile "$work/broken"
exits "broken files cost a line each" 1 evaluate broken/masks broken/truths --json
cp out broken.json
cp err broken.err
is "... and the good ones are scored" "$("$PYTHON" -c 'import json
print(*json.load(open("broken.json"))["cases"])')" "ending float good wide"
is "... with every label of any file" "$("$PYTHON" -c 'import json
print(*json.load(open("broken.json"))["cases"]["good"])')" "1 2 8 9 60000"
is "... each failure has its type" "$("$PYTHON" -c 'import json
print(*[name + ":" + f["failure"] for name, f in json.load(open("broken.json"))["failures"].items()])')" \
    "alone:no_input channels:truth_mismatch cut:unreadable empty:unreadable fraction:truth_mismatch \
grid:truth_mismatch lonely:no_input moved:truth_mismatch negative:truth_mismatch twice:data"
is "... and a line" "$(grep -c ' error ' broken.err)" 10
says "... that says what is wrong" "alone: no_input: it has no truth of that name" broken.err
says "... with a voxel" "fraction: truth_mismatch: its truth: it is " broken.err
says "... or the grids" "the truth has 8 x 8 x 7 voxels, the mask 9 x 8 x 7" broken.err
exits "in CSV too" 1 evaluate broken/masks broken/truths
says "... as failed rows" "grid,failed,truth_mismatch,,,,"

exits "too large for the memory" 1 evaluate masks truths --memory 200KiB --threads 1
says "... costs those cases" "same,failed,too_large,,,,"
says "... and no other" "disjoint,done,,1,,0,36,18,2634,"
exits "nothing to score" 64 evaluate
exits "one folder" 64 evaluate masks
exits "a folder and a file" 64 evaluate masks "$metrics/erode_truth.nii.gz"
exits "no such folder" 66 evaluate masks nowhere
says "... is named" "nowhere" err
mkdir nothing
exits "an empty folder" 65 evaluate masks nothing
says "... is named" "nothing: no NIfTI file" err
exits "no name matches" 66 evaluate masks truths --only 'x*'
for wrong in "--labels 0" "--labels 1+2" "--labels 1,1" "--labels 70000" "--labels 1,," "--regions 1" "--regions 1++2" \
    "--tolerance -1" "--tolerance 1,2,3,4,5,6,7,8,9" "--convention other" "--lesion-wise other" "--json --csv" "--stored"; do
    # shellcheck disable=SC2086
    exits "refused: $wrong" 64 evaluate masks truths $wrong
done
exits "a summary that cannot be written" 73 evaluate masks truths --summary nowhere/summary.json

# --- what a run has stored ---

exits "scan" 0 "$NOC" scan "$root/demo/archive"
exits "run" 0 "$NOC" run -m "$root/models/hippocampus" --device cpu --progress none
exits "report" 0 "$NOC" report --json
cp out report.json
exits "report --csv" 0 "$NOC" report --csv
ok "its columns come first, and the numbers are those of the JSON" helper csv plain.json plain.csv "$(head -n 1 out)"
exits "evaluate --stored" 0 evaluate --stored --json
cp out stored.json
ok "... counts what the run counted" helper stored stored.json report.json
exits "export" 0 "$NOC" export -o exported
exits "exported masks" 0 evaluate exported "$root/demo/archive/labelsTr" --json
ok "... score the same" "$PYTHON" -c 'import json
a, b = (json.load(open(name))["cases"] for name in ("stored.json", "out"))
assert a == {key: b[key] for key in a} and a'
exits "no results" 66 evaluate --stored --results nowhere --catalog none.sqlite
exits "--stored and labels" 64 evaluate --stored --labels 1
tap_end
