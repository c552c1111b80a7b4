#!/bin/sh
# The demo: a small real archive (16 hippocampus scans with truths) and one scan that is damaged on purpose go through scan, run, verify and report.
# Exit code 0 when everything came out as expected. Environment: NOC (the program), DEMO_DIR (where it works, default build/demo).
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
NOC=$(realpath -m "${NOC:-$here/build/nocturne}")
work=$(realpath -m "${DEMO_DIR:-${BUILD:-$here/build}/demo}")

say()
{
    printf '\n\033[1m%s\033[0m\n' "$*"
}
[ -t 1 ] && [ -z "${NO_COLOR-}" ] || say() { printf '\n%s\n' "$*"; }

die()
{
    echo "demo: $*" >&2
    exit 1
}

[ -x "$NOC" ] || die "there is no program at $NOC; make it first"
# The work of an earlier demo goes away, and nothing else.
[ -e "$work/.demo" ] || [ -z "${DEMO_DIR-}" ] || [ -z "$(ls -A "$work" 2>/dev/null)" ] ||
    die "$work is not empty and not an earlier demo's; name another DEMO_DIR"
rm -rf "$work"
mkdir -p "$work"
: >"$work/.demo"
cp -R "$here/demo/archive" "$work/archive"
cd "$work"

say "1. An archive of 16 scans, and one that is damaged: its file ends in the middle"
head -c 20000 archive/imagesTr/hippocampus_008.nii.gz >archive/imagesTr/damaged_001.nii.gz
sed -i 's|"training": \[|"training": [\n  {"image": "./imagesTr/damaged_001.nii.gz", "label": "./labelsTr/hippocampus_008.nii.gz"},|; s|"numTraining": 16|"numTraining": 17|' archive/dataset.json
"$NOC" scan archive

say "2. Segment it: a coordinator, a writer and a worker over MPI"
code=0
"$NOC" run -m "$here/models/hippocampus" --device cpu || code=$?
[ "$code" = 1 ] || die "the run ended with exit code $code; 1 (finished, one study failed) was expected"

say "3. Verify: the catalog against the files, every mask read"
"$NOC" verify || die "verify found damage"

say "4. Report"
"$NOC" report
"$NOC" report --csv >report.csv
"$NOC" export -o masks

# What must have come out: each Dice within 0.002 of the reference implementation's, and one failure.
awk -F, '
    NR == FNR { if (FNR > 1) want[$1 "," $2] = $3; next }
    FNR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
    $column["state"] == "failed" { failed++; type = $column["failure"]; next }
    { key = $column["key"] "," $column["label"]
      if (!(key in want)) { print "demo: unexpected row " key; bad++; next }
      d = $column["dice"] - want[key]; if (d < 0) d = -d
      if (d > worst) worst = d
      if (d > 0.002) { printf "demo: %s: Dice %s, expected %s\n", key, $column["dice"], want[key]; bad++ }
      seen++ }
    END {
      if (seen != 32 || failed != 1 || type != "unreadable") { printf "demo: %d scored rows and %d failures (%s)\n", seen, failed, type; bad++ }
      if (bad) exit 1
      printf "\n16 studies scored, 1 failed as planted; largest difference from the reference Dice %.6f\n", worst
    }' "$here/demo/expected.csv" report.csv || die "the results are not what they should be"

say "Where things are"
echo "  catalog   $work/nocturne.sqlite"
echo "  results   $work/results (HDF5: index.h5 and parts)"
echo "  masks     $work/masks (NIfTI, one a scan)"
echo "  table     $work/report.csv"
say "Your own data:  $NOC scan DIR && $NOC run -m MODEL && $NOC report"
