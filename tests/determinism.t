#!/bin/sh
# One answer for every number of ranks, writers, threads and windows in a batch, and from run and infer.
. "$(dirname "$0")/tap.sh"
. "$(dirname "$0")/determinism.sh"
tap_begin
set_up_runs
isa=$(isa_here)
archive=$root/demo/archive
export archive
"$NOC" scan --catalog "$work/a.sqlite" "$archive" >"$work/scan.log" 2>&1 || fail "scan" "$work/scan.log"

# two_answers NAME RUN_OPTIONS...: with the model's window, in which every scan fits, and with many a scan.
two_answers()
{
    name=$1
    shift
    same_answer "$name-window" "$work/a.sqlite" "$@"
    same_answer "$name-windows" "$work/a.sqlite" "$@" --window 24,32,24 --overlap 0.5
}

two_answers "$isa" --ranks 1 --threads 1 --batch 1
two_answers "$isa" --ranks 2 --threads 2 --batch 7
two_answers "$isa" --ranks 3 --threads 1 --batch 3
two_answers "$isa" --ranks 4 --writers 2 --threads 2 --batch 1
two_answers "$isa" --ranks 6 --writers 2 --threads 1 --batch 7
answer_is_whole "$isa-window" 16 "$isa"
answer_is_whole "$isa-windows" 16 "$isa"
is "another window is another answer" \
    "$(cmp -s "$work/answers/$isa-window.masks" "$work/answers/$isa-windows.masks"; echo $?)" 1

# The last run's results, as files: against a count by numpy, and against infer.
exits "export" 0 "$NOC" export --catalog "$work/c.sqlite" --results "$work/r" -o "$work/masks"
"$NOC" report --csv --catalog "$work/c.sqlite" --results "$work/r" >"$work/report.csv"
exits "counts and Dice are numpy's" 0 \
    "$PYTHON" "$root/tests/masks.py" dice "$work/masks" "$archive/labelsTr" "$work/report.csv"
is "... of every study and label" "$(cat "$work/out")" "32 rows"
rm -f "$work"/masks/hippocampus_0[2-9]* "$work"/masks/hippocampus_1*
infer_agrees "infer gives the masks of run, window by window" "$archive/imagesTr" "$work/masks" \
    --window 24,32,24 --overlap 0.5 --threads 2 --batch 3

if "$NOC" doctor | grep -q 'bf16 with amx'; then
    two_answers bf16 --precision bf16 --ranks 1 --threads 1 --batch 1
    two_answers bf16 --precision bf16 --ranks 4 --writers 2 --threads 2 --batch 7
    answer_is_whole bf16-window 16 amx
    answer_is_whole bf16-windows 16 amx
    ok "bf16: Dice as in f32, to 0.005" "$PYTHON" "$root/tests/masks.py" near "$work/answers/bf16-window.csv" \
        "$work/answers/$isa-window.csv" 0.005
else
    skip "bf16" "this CPU has no AMX"
fi

for other in avx2 portable; do
    [ "$other" != "$isa" ] || continue
    has_isa $other || { skip "$other" "this CPU has none"; continue; }
    export NOC_CPU_ISA=$other OPENBLAS_CORETYPE=Haswell
    two_answers $other --ranks 3 --threads 1 --batch 1
    two_answers $other --ranks 4 --writers 2 --threads 2 --batch 7
    answer_is_whole $other-window 16 $other
    answer_is_whole $other-windows 16 $other
    unset NOC_CPU_ISA OPENBLAS_CORETYPE
done
tap_end
