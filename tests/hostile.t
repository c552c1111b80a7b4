#!/bin/sh
# An archive of 60 studies that are wrong in every way known and ten good ones between them: each gets its
# type and a sentence, the good ones lose nothing, memory stays bounded, and what the scans say of patients is
# said nowhere else.
. "$(dirname "$0")/tap.sh"
tap_begin
model=$root/tests/data/models/tiny
hostile()
{
    "$PYTHON" "$root/tests/hostile.py" "$@"
}
# NAME FILE: a log that names no scan's file
no_paths()
{
    if grep -n 'file[0-9][0-9][0-9]\|\.nii\|\.hdr\|/in/' "$2" >paths; then fail "$1" paths; else pass "$1"; fi
}

mkdir "$work/in"
cd "$work" || exit 1
ok "the files are made" hostile make "$work/in"
exits "scan takes them all" 0 timeout 120 "$NOC" scan in/list.csv
says "readable or not" "70 studies: 70 added"
no_paths "scan: no path in the log" err

# RESULTS FLAG...: a run within 512 MiB
run_all()
{
    kind=$1
    shift
    exits "$kind: the run goes on to the end" 1 \
        timeout 300 "$PYTHON" "$root/tests/hostile.py" measure "$kind.peak" \
        "$NOC" run -m "$model" --device cpu --memory 512MiB --results "$kind" --log-level debug "$@"
    cp err "$kind.err"
    no_paths "$kind: no path in the log" "$kind.err"
    says "$kind: the log names the study" "gzip_bomb_declared failed: too_large" "$kind.err"
    says "$kind: the run tells its memory" "resident memory was at most" "$kind.err"
    peak=$(sed 's/.*"worker_peak_bytes":\([0-9]*\).*/\1/' "$kind/run.json")
    ok "$kind: a worker had $((peak / 1048576)) MiB" test "$peak" -gt 0 -a "$peak" -le $((512 << 20))
    ok "$kind: the largest process had $(cat "$kind.peak") MiB" test "$(cat "$kind.peak")" -le 512
    exits "$kind: report" 0 "$NOC" report --json --results "$kind"
    cp out "$kind.json"
    ok "$kind: each has its type and a sentence" hostile failures "$kind.json" all
    says "$kind: the sentence leads to the voxel" "file 2 of 2: voxel (3, 4, 5)" "$kind.json"
    ok "$kind: nothing was tried twice" hostile attempts nocturne.sqlite "$kind" 1
    exits "$kind: verify" 0 "$NOC" verify --results "$kind"
    exits "$kind: export" 0 "$NOC" export --results "$kind" -o "$kind.masks"
}
run_all ranks --log-format json
run_all alone --ranks 1

# Where nothing goes wrong the same masks come out.
exits "the good ones alone" 0 "$NOC" run -m "$model" --device cpu --batch 1 --only 'good_*' --results good
exits "export them" 0 "$NOC" export --results good -o good.masks
is "ten masks" "$(find good.masks -name 'good_*.nii.gz' | wc -l)" 10
for kind in ranks alone; do
    ok "$kind: good ones lost nothing" diff -r good.masks "$kind.masks"
done

# Again: nothing is pending, nothing is tried again by itself.
exits "the same command again" 1 "$NOC" run -m "$model" --device cpu --results ranks
says "nothing was pending" "nothing was pending" err
ok "still one attempt each" hostile attempts nocturne.sqlite ranks 1

# A study may be too late as often as --attempts says; what is wrong with a file is tried once.
exits "too late" 1 "$NOC" run -m "$model" --device cpu --only '*channels' --results late \
    --study-timeout 0.000001 --attempts 2
exits "report it" 0 "$NOC" report --json --results late --only 'good_channels'
ok "the type is timeout" hostile failures out good_channels=timeout
ok "twice" hostile attempts nocturne.sqlite late 2 good_channels
ok "three channels only once" hostile attempts nocturne.sqlite late 1 three_channels
exits "retry" 0 "$NOC" retry --results late --type timeout --only 'good_*'
says "one" "1 studies put back"
exits "with all the time there is" 1 "$NOC" run -m "$model" --device cpu --only 'good_channels' --results late
exits "report again" 0 "$NOC" report --json --results late --only 'good_channels'
ok "done" hostile failures out good_channels=

# What a person puts back is tried once more.
exits "retry bombs" 0 "$NOC" retry --results ranks --only 'gzip_bomb*'
says "both" "2 studies put back"
exits "run" 1 "$NOC" run -m "$model" --device cpu --memory 512MiB --results ranks
exits "report bombs" 0 "$NOC" report --json --results ranks --only 'gzip_bomb*'
ok "as before" hostile failures out gzip_bomb=too_large gzip_bomb_declared=too_large

exits "retry what has no form" 0 "$NOC" retry --results ranks --type geometry --only 'no_forms'
exits "with --assume-ras" 1 "$NOC" run -m "$model" --device cpu --results ranks --assume-ras
exits "report what had no form" 0 "$NOC" report --json --results ranks --only 'no_forms'
ok "is done" hostile failures out no_forms=

cp in/file000.nii.gz new.nii.gz && gzip -d new.nii.gz && mv new.nii in/file001.nii
exits "a bad file is replaced and scanned" 0 "$NOC" scan in/list.csv
says "one has changed" "0 added, 1 changed, 69 unchanged"
exits "run what changed" 1 "$NOC" run -m "$model" --device cpu --results ranks
says "one study" "1 studies done, 0 failed" err
exits "report all" 0 "$NOC" report --json --results ranks
ok "the rest is as it was" hostile failures out all zero_bytes= no_forms=

# A model that crops more than a scan has.
ok "a model with a crop" hostile crop "$work" "$model"
exits "run it" 1 "$NOC" run -m crop --device cpu --only 'good_plain*' --results cropped
exits "report it" 0 "$NOC" report --json --results cropped --only 'good_plain*'
ok "the crop lies beyond one of them" hostile failures out good_plain=geometry good_plain_2=

# What people wrote into the headers.
"$NOC" report --csv --results ranks >report.csv
"$NOC" report --results ranks >report.txt
says "the scans do hold it" "DOE^JANE" in/file001.nii
# shellcheck disable=SC2046
ok "free text of the headers is nowhere else" \
    hostile silent nocturne.sqlite* ranks.err alone.err ranks.json report.* ranks.masks/* \
    $(find ranks alone late cropped -type f)

# As a user who may not read all (root may).
user=
as_user()
{
    ${user:+runuser -u "$user" --} "$@"
}
mkdir -p mine/closed
cp in/file000.nii.gz mine/fine.nii.gz
cp in/file000.nii.gz mine/secret.nii.gz
cp in/file000.nii.gz mine/closed/hidden.nii.gz
printf 'image\nsecret.nii.gz\nfine.nii.gz\nclosed/hidden.nii.gz\n' >mine/list.csv
cp -R "$NOC" "$root/tests/data/golden/tiny_weights.safetensors" mine
sed 's|^weights: .*|weights: tiny_weights.safetensors|' "$model/model.yaml" >mine/model.yaml
chmod 000 mine/secret.nii.gz mine/closed
if [ "$(id -u)" = 0 ]; then
    user=nobody
    chmod 755 "$work"
    chown -R nobody mine 2>/dev/null
fi
if ! as_user test -x "$work/mine/nocturne" 2>/dev/null; then
    skip "files without permission" "no way to be another user here"
else
    cd mine || exit 1
    exits "scan without permission" 0 as_user ./nocturne scan list.csv
    exits "run without permission" 1 as_user ./nocturne run -m . --device cpu
    exits "report without permission" 0 as_user ./nocturne report --json
    cp "$work/out" "$work/mine.json"
    cd ..
    ok "unreadable, and the readable one is done" \
        hostile failures mine.json secret=unreadable hidden=unreadable fine=
    says "with the reason" "Permission denied" mine.json
    chmod 755 mine/closed
fi
tap_end
