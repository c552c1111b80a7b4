#!/bin/sh
# Rules of plausibility: a mask that breaks one makes its study suspect everywhere where it is asked for, and
# the masks are those of the same model without rules.
. "$(dirname "$0")/tap.sh"
tap_begin
cd "$work" || exit 1
images=$root/demo/archive/imagesTr
cat >list.csv <<END
key,image,truth
large,$images/hippocampus_008.nii.gz,
small,$images/hippocampus_015.nii.gz,
END

# model NAME RULE...: the model of the demo with these rules
model()
{
    cp -R "$root/models/hippocampus" "$1"
    echo "plausible:" >>"$1/model.yaml"
    name=$1
    shift
    printf '  - {%s}\n' "$@" >>"$name/model.yaml"
}

# noc COMMAND SITE ARGUMENT...
noc()
{
    command=$1 site=$2
    shift 2
    timeout 300 "$NOC" "$command" --catalog "$site.sqlite" --results "results_$site" "$@"
}

# segment SITE MODEL ARGUMENT...
segment()
{
    site=$1 with=$2
    shift 2
    exits "$site: scan" 0 noc scan "$site" list.csv
    exits "$site: run" 0 noc run "$site" -m "$with" --device cpu --threads 1 --progress none "$@"
    exits "$site: masks" 0 "$PYTHON" "$root/tests/masks.py" list "results_$site"
    cp out "$site.masks"
}

# The anterior part is 1.77 ml in one scan and 1.64 ml in the other.
model rules 'label: Anterior, volume_ml: [1.7, 3]' 'label: Posterior, volume_ml: [1, 2], components: [1, 9], present: true'
segment plain "$root/models/hippocampus" --ranks 1
noc report plain --csv >plain.csv
why=$(awk -F, '/^small,.*,Anterior,/ { printf "Anterior: %g ml, expected 1.7 to 3", $15 }' plain.csv)
segment one rules --ranks 1
segment three rules --ranks 3
for site in one three; do
    ok "$site: the masks are those without rules" cmp plain.masks "$site.masks"
    exits "$site: report" 0 noc report "$site"
    ok "$site: it names the study and the rule" grep -q "^small  *$why\$" out
    says "$site: it counts" "2 done, 0 failed, 0 quarantined, 1 suspect"
    exits "$site: report --csv" 0 noc report "$site" --csv
    ok "$site: ... is as without rules" cmp plain.csv out
    exits "$site: report --json" 0 noc report "$site" --json
    is "$site: a key of it" "$(grep -c "{\"key\":\"small\",\"state\":\"done\",\"suspect\":\"$why\"" out)" 2
    is "$site: ... not of the other" "$(grep -c suspect out)" 2
    is "$site: the catalog" "$(sqlite3 "$site.sqlite" \
        "SELECT key, r.suspect FROM result r JOIN study s ON s.id = study_id WHERE r.suspect IS NOT NULL")" "small|$why"
    is "$site: the results" "$("$PYTHON" -c 'import sys, masks
for key, study, _ in masks.masks(sys.argv[1]):
    print(key, masks.text(study.attrs.get("suspect", "-")))' "results_$site")" "large -
small $why"
    exits "$site: verify" 0 noc verify "$site"
done
exits "without rules: report" 0 noc report plain
ok "... nothing is suspect" sh -c '! grep -q suspect out'

model strict 'label: Anterior, components: [50, 99]' 'label: Posterior, present: false'
exits "infer" 0 timeout 60 "$NOC" infer -m strict -o mask.nii.gz "$images/hippocampus_015.nii.gz"
broken="Anterior: [0-9]* components*, expected 50 to 99; Posterior: present, expected absent"
ok "... tells all that is broken" grep -q "; suspect: $broken\$" out
exits "infer --json" 0 timeout 60 "$NOC" infer --json -m strict -o mask.nii.gz "$images/hippocampus_015.nii.gz"
ok "... likewise" grep -q "\"suspect\":\"$broken\"}\$" out

model wrong 'label: Hippocampus, present: true'
exits "a rule for what the model has not" 78 timeout 60 "$NOC" infer -m wrong -o mask.nii.gz "$images/hippocampus_015.nii.gz"
says "... names file, line and key" "wrong/model.yaml:38: plausible.label: there is no label or region Hippocampus" err
tap_end
