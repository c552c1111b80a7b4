#!/bin/sh
# Whole cases of BraTS in the names and labels of 2021 and 2023: from scan to regions, masks on the scan's grid and scores.
. "$(dirname "$0")/tap.sh"
tap_begin
helper()
{
    "$PYTHON" "$root/tests/brats.py" "$@"
}

# evaluates NAME REPORT FLAGS...: in both conventions, with the run's counts and Dice
evaluates()
{
    name=$1 report=$2
    shift 2
    for convention in nnunet brats; do
        exits "$name, $convention" 0 timeout 300 "$NOC" evaluate --json --convention $convention "$@"
        ok "... has the Dice of the run" helper same "$report" out $convention
    done
}

cd "$work" || exit 1
while read -r naming suffix regions enhancing; do
    ok "$naming: two cases" "$PYTHON" "$root/scripts/brats_phantoms.py" "$naming" 2 "$naming"
    ok "$naming: a model" helper model "$naming.model" "$naming"
    c=$naming.sqlite r=$naming.results
    exits "$naming: scan" 0 timeout 60 "$NOC" scan --catalog "$c" "$naming"
    says "... knows the layout" "layout brats: names $suffix" err
    says "... without a complaint" "2 studies: 2 added"
    exits "$naming: run" 0 timeout 300 "$NOC" run -m "$naming.model" --device cpu --ranks 1 --progress none --catalog "$c" \
        --results "$r"
    exits "$naming: report" 0 "$NOC" report --csv --catalog "$c" --results "$r"
    cp out "$naming.csv"
    exits "$naming: export" 0 "$NOC" export --catalog "$c" --results "$r" -o "$naming.masks"
    ok "$naming: masks on the scan's grid, labels of that year, Dice of TC, WT and ET" \
        helper check "$naming" "$naming" "$naming.masks" "$naming.csv"
    evaluates "$naming: evaluate --stored" "$naming.csv" --stored --catalog "$c" --results "$r"
    ok "$naming: truths" helper truths "$naming" "$naming.truths"
    evaluates "$naming: evaluate" "$naming.csv" "$naming.masks" "$naming.truths" --labels "$enhancing" --regions "$regions"
done <<LIST
2021 CASE_flair 1+4,1+2+4 4
2023 CASE-t2f 1+3,1+2+3 3
LIST
tap_end
