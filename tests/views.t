#!/bin/sh
# Models of several files of weights that are averaged over flips: forward against numpy, one answer for every number of
# ranks, what belongs to a results folder, and what is refused.
. "$(dirname "$0")/tap.sh"
. "$(dirname "$0")/determinism.sh"
tap_begin
views()
{
    "$PYTHON" "$root/tests/views.py" "$@"
}
# holds NAME EXPRESSION: of the JSON in $work/out, d.
holds()
{
    ok "$1" "$PYTHON" -c "import json, sys; d = json.load(open(sys.argv[1])); assert $2, d" "$work/out"
}

set_up_runs
cd "$work" || exit 1
ok "two networks are made" views make "$root/models/hippocampus" pair
model=$work/pair

# ---- one window ----

ok "an input" views input in 24,32,40 1
exits "forward" 0 "$NOC" forward -m pair --device cpu --input in --output out.all
ok "... is the mean of networks and flips" views mean "$NOC" pair in out.all
exits "forward --mirror none" 0 "$NOC" forward -m pair/0 --device cpu --input in --output out.plain
exits "forward --mirror of one network" 0 "$NOC" forward -m pair/0 --mirror none --device cpu --input in --output out.none
ok "... none is the network itself" cmp out.plain out.none
exits "forward --mirror, another order" 0 "$NOC" forward -m pair --mirror x,z --device cpu --input in --output out.again
ok "... is the manifest's" cmp out.all out.again
if [ -x "$BUILD/nocturne-emulated" ]; then
    exits "forward on an emulated GPU" 0 "$BUILD/nocturne-emulated" forward -m pair --device cuda --input in --output out.gpu
    ok "... gives the CPU's logits" views near out.gpu out.all 2e-5
else
    skip "forward on an emulated GPU" "its build needs the headers of a CUDA toolkit and a C++ compiler"
fi
exits "plan" 0 "$NOC" plan -m pair
says "... says what a window costs" "a window is 8 passes, the mean of 2 networks and their flips"
exits "plan --json" 0 "$NOC" plan -m pair --json
holds "... counts views" 'd["views"] == 8 and abs(d["window_gmac"] - 8 * d["gmac"]) < 1e-4'
exits "bench engine" 0 "$NOC" bench engine -m pair --device cpu --repeats 1 --profile --json
holds "... counts views" 'd["views"] == 8 and d["seconds_per_window"] > d["network_seconds_per_window"] > 0'

# ---- what is refused ----

ok "an odd input" views input odd 24,32,37 1
exits "a tensor that cannot be mirrored" 78 "$NOC" forward -m pair --device cpu --input odd --output none
says "... says what to do" "make it a multiple of 2 there (window.size, --window) or mirror other axes only" err
exits "... but along another axis" 0 "$NOC" forward -m pair --mirror z --device cpu --input odd --output out.odd
exits "stages of an ensemble" 64 "$NOC" forward -m pair --device cpu --stages --input in --output none
says "... say why not" "the stages are those of one network" err

# ---- an archive ----

"$NOC" scan --catalog a.sqlite "$root/demo/archive" >scan.log 2>&1 || fail "scan" scan.log
cut="--limit 4 --window 24,32,24"
# shellcheck disable=SC2086
for ranks in "1 --threads 2 --batch 5" "4 --workers 2 --threads 1 --batch 1"; do
    same_answer pair a.sqlite $cut --ranks $ranks
done
is "masks of every study" "$(wc -l <answers/pair.masks)" 4
# shellcheck disable=SC2086
again() { "$NOC" run -m pair --device cpu --catalog c.sqlite --results r --progress none $cut "$@"; }
exits "the same again, its axes by a flag" 0 again --mirror z,x
exits "other flips in the same folder" 78 again --mirror none
says "... say why" "with other weights, model.yaml or --mirror" err
exits "one of its networks in the same folder" 78 "$NOC" run -m pair/0 --device cpu --catalog c.sqlite --results r \
    --window 24,32,24
for ranks in 1 3; do
    exits "a run that cannot be mirrored, --ranks $ranks" 78 "$NOC" run -m pair --device cpu --catalog a.sqlite \
        --results refused --progress none --ranks $ranks --window 24,32,29
    says "... says what to do" "mirroring along x: the network makes 30 voxels of a window of 29" err
done
exits "export" 0 "$NOC" export --catalog c.sqlite --results r -o masks
infer_agrees "infer gives the masks of run" "$root/demo/archive/imagesTr" masks --window 24,32,24 --threads 1 --batch 3
tap_end
