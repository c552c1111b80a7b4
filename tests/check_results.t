#!/bin/sh
# The checker of results finds nothing where all is well, and each kind of damage.
. "$(dirname "$0")/tap.sh"
tap_begin
copies=1
. "$root/tests/runs.sh"

make_undisturbed
head -c 100 "$images/hippocampus_008.nii.gz" >"$work/broken.nii.gz"
fresh place "$work/once.csv"
"$NOC" scan --catalog "$place/catalog" "$work/broken.nii.gz" >/dev/null 2>&1
noc_run --ranks 3
is "a run with one broken scan ends with 1" $? 1
ok "the checker finds nothing" "$PYTHON" "$root/scripts/check_results.py" "$place/catalog" "$place/results" \
    "$work/undisturbed/results"
is "... and says nothing" "$(cat "$work/ok.log")" ""

"$PYTHON" "$root/tests/damages.py" names >"$work/names"
while read -r name; do
    ok "it finds: $name" "$PYTHON" "$root/tests/damages.py" try "$name" "$place" "$work/undisturbed/results" \
        "$work/damaged"
done <"$work/names"
tap_end
