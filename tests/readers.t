#!/bin/sh
# Results as others read them: h5py, h5dump and sqlite3, all without MPI, see what was promised and the same
# numbers; and verify sees what is damaged.
. "$(dirname "$0")/tap.sh"
tap_begin
model=$root/models/hippocampus
helper=$root/tests/readers.py
site=$work/site
c=$site/c.sqlite
r=$site/results
mkdir -p "$site/images"
cp "$root"/demo/archive/imagesTr/*.nii.gz "$site/images"
cp "$site/images/hippocampus_008.nii.gz" "$site/images/no_truth.nii.gz"
head -c 3000 "$site/images/hippocampus_008.nii.gz" >"$site/images/cut_short.nii.gz"
{
    echo key,image,truth
    for image in "$site"/images/hippocampus_*.nii.gz; do
        name=$(basename "$image")
        echo "${name%.nii.gz},images/$name,$root/demo/archive/labelsTr/$name"
    done
    echo no_truth,images/no_truth.nii.gz,
    echo cut_short,images/cut_short.nii.gz,
} >"$site/list.csv"

# A run that hangs is red, not a test that never ends.
noc()
{
    verb=$1
    shift
    timeout 300 "$NOC" "$verb" --catalog "$c" --results "$r" "$@"
}

# --- what is there ---

exits "scan" 0 noc scan "$site/list.csv"
exits "run" 1 noc run -m "$model" --device cpu --progress none --ranks 3 --part-studies 3
rm "$site/images/cut_short.nii.gz"
exits "h5py sees groups, types, filters and relative links" 0 \
    "$PYTHON" "$helper" layout "$r" "$site/images" 17
is "... and parts that were closed at 3 studies" "$(cat "$work/out")" "parts of 3 3 3 3 3 2"
noc status --json >"$work/status.json"
noc report --csv >"$work/report.csv"
noc report --json >"$work/report.json"
exits "status, report, /metrics and the catalog agree on every number" 0 \
    "$PYTHON" "$helper" agree "$r" "$c" "$work/report.csv" "$work/report.json" "$work/status.json"
is "... of every study and label" "$(cat "$work/out")" "34 rows"
is "the other status is the same" "$("$PYTHON" -c 'import json, sys
print(*[json.load(open(name))["studies"] for name in sys.argv[1:]], sep="\n")' \
    "$work/status.json" "$r/status.json" | uniq | wc -l)" 1

h5dump=$(command -v h5dump)
is "h5dump is a serial program" "$(ldd "$h5dump" | grep -c libmpi)" 0
for file in "$r"/part-*.h5 "$r/index.h5"; do
    exits "h5dump -H $(basename "$file")" 0 "$h5dump" -H "$file"
done
says "... a mask behind a link" 'DATASET "mask"'
exits "h5dump of a mask" 0 "$h5dump" -p -d /studies/hippocampus_161/mask "$r/index.h5"
for line in "DATATYPE  H5T_STD_U8LE" "PREPROCESSING SHUFFLE" "COMPRESSION DEFLATE { LEVEL 1 }" \
    "(0,0,0): 0, 0, 0"; do
    says "... says $line" "$line"
done
exits "h5dump of metrics" 0 "$h5dump" -d /metrics "$r/part-000001.h5"
says "... says a state" '"done"'

# --- what verify sees ---

cp -Rp "$r" "$work/kept"
sqlite3 "$c" "PRAGMA wal_checkpoint(TRUNCATE)" >/dev/null
cp "$c" "$work/kept.sqlite"
"$PYTHON" "$root/tests/masks.py" list "$r" >"$work/masks"

mend()
{
    rm -rf "$r" "$c"*
    cp -Rp "$work/kept" "$r"
    cp "$work/kept.sqlite" "$c"
}

# damaged NAME SENTENCE COMMAND...
damaged()
{
    name=$1 sentence=$2
    shift 2
    "$@" || fail "$name: the damage cannot be done"
    exits "verify: $name" 69 noc verify
    says "... says so" "$sentence"
    exits "... and in JSON" 69 noc verify --json
    ok "... that can be read" "$PYTHON" -c 'import json, sys
sys.exit(not json.load(open(sys.argv[1]))["damage"])' "$work/out"
    mend
}

sql()
{
    sqlite3 "$c" "$1"
}

exits "verify" 0 noc verify
says "... reads all" "verified 17 masks in 6 parts: all good"
p=$r/part-000002.h5
key=$("$PYTHON" -c 'import h5py, sys; print(list(h5py.File(sys.argv[1], "r")["studies"])[0])' "$p")
damaged "a bit of a mask" "damage: part-000002.h5: $key: " "$PYTHON" "$helper" flip "$p" "$key"
damaged "a part without its end" "damage: part-000002.h5: " truncate -s -1000 "$p"
damaged "... without its last byte" "damage: part-000002.h5: " truncate -s -1 "$p"
damaged "an empty part" "damage: part-000002.h5: " truncate -s 0 "$p"
damaged "a part that has grown" "damage: part-000002.h5: " sh -c "echo more >>'$p'"
damaged "a part that is gone" "(3 masks should be in it)" rm "$p"
damaged "a part in another's place" "damage: part-000002.h5: it says to be part 1" cp "$r/part-000001.h5" "$p"
damaged "no index" "damage: index.h5: missing, damaged" rm "$r/index.h5"
damaged "half an index" "damage: index.h5: missing, damaged" truncate -s 500 "$r/index.h5"
damaged "an index without a study" "damage: index.h5: $key is not linked to part-000002.h5" \
    "$PYTHON" "$helper" unlink "$r" "$key"
id="(SELECT id FROM study WHERE key = '$key')"
damaged "a row that points to no part" "damage: part-000099.h5: $key: " \
    sql "UPDATE result SET part = 99 WHERE study_id = $id"
damaged "a row that points to another part" "damage: part-000001.h5: $key: the study is not in the part" \
    sql "UPDATE result SET part = 1 WHERE study_id = $id"
damaged "a row that points to nothing" "damage: part-000000.h5: cut_short: " \
    sql "UPDATE result SET state = 'done' WHERE state = 'failed'"
damaged "another number in the catalog" "damage: part-000002.h5: $key: the metrics differ" \
    sql "UPDATE metric SET tp = tp + 1 WHERE study_id = $id AND position = 0"
damaged "another mask in the catalog" "damage: part-000002.h5: $key: the mask's SHA-256 is" \
    sql "UPDATE result SET mask_sha256 = replace(mask_sha256, '1', '2') WHERE study_id = $id"
damaged "another scan in the catalog" "damage: part-000002.h5: $key: the scan's SHA-256 differs" \
    sql "UPDATE result SET source_sha256 = replace(source_sha256, '1', '2') WHERE study_id = $id"
exits "single bits anywhere" 0 "$PYTHON" "$helper" flips "$r" 60 "$NOC" verify --catalog "$c" --results "$r"
sed 's/^/# /' "$work/out"
cp "$r/part-000001.h5" "$r/part-000077.h5"
exits "a stray part is no damage" 0 noc verify
says "... but told" "note: part-000077.h5: not in the catalog"
mend

for loss in "rm $r/index.h5" "truncate -s 500 $r/index.h5" "$PYTHON $helper unlink $r $key"; do
    $loss
    exits "verify --index after: ${loss%% *}" 0 noc verify --index
    "$PYTHON" "$root/tests/masks.py" list "$r" >"$work/now"
    ok "... and every mask is found again" cmp "$work/masks" "$work/now"
done
before=$(stat -c '%i %Y %s' "$r/index.h5")
exits "verify --index where it is right" 0 noc verify --index
is "... leaves it alone" "$(stat -c '%i %Y %s' "$r/index.h5")" "$before"
tap_end
