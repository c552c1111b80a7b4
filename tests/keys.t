#!/bin/sh
# Names of studies: from odd file names and lists as people write them, through the catalog, the results, the
# report and the exported files.
. "$(dirname "$0")/tap.sh"
tap_begin
model=$root/tests/data/models/tiny
mkdir "$work/in" "$work/elsewhere"
cd "$work/elsewhere" || exit 1
ok "scans are made" "$PYTHON" "$root/tests/keys.py" make "$work/in"
longer=$(printf '%0200d' 0 | tr 0 x) long=$(printf '%0120d' 0 | tr 0 x)

# A byte order mark, lines that end in CR LF, columns in another order, quotes, an empty line, paths relative
# to the file (which lies in another folder), two files as two channels, no last line end.
{
    printf '\357\273\277truth,image,key\r\n'
    printf ',one/scan.nii.gz,\r\n,two/scan.nii.gz,\r\n,two/deep/scan.nii,\r\n,sp ace/scan.nii.gz,\r\n\r\n'
    printf '"truth, of all.nii","a b (c), d.nii.gz",\r\n,"say ""hi"".nii",\r\n,BraTS.2021.x.nii.gz,\r\n'
    printf ',größe.nii,\r\n,./-m.nii,\r\n,..nii.gz,\r\n,%s.nii.gz,\r\n,../in/pair.hdr,\r\n' "$longer"
    printf '"truth, of all.nii",first_a.nii;first_b.nii.gz,Two channels\r\n,%s/pair.hdr,again' "$work/in"
} >"$work/in/list.csv"
keys="scan two_scan deep_scan sp_ace_scan a_b__c___d say__hi_ BraTS.2021.x gr____e _ pair Two_channels again"
keys="$keys $long"

exits "scan a list of another folder" 0 "$NOC" scan ../in/list.csv
says "fourteen" "14 studies: 14 added, 0 changed, 0 unchanged; 0 without a readable header; 1 warnings"
says "the altered key is told" "it becomes Two_channels" ../err
exits "again, named otherwise" 0 "$NOC" scan "$work/elsewhere/../in/list.csv"
says "nothing new" "0 added, 0 changed, 14 unchanged"
exits "run" 0 "$NOC" run -m "$model" --device cpu
# shellcheck disable=SC2086
ok "the results go by their keys" "$PYTHON" "$root/tests/keys.py" check results $keys -m
exits "export" 0 "$NOC" export -o masks
for key in $keys -m; do
    [ -f "masks/$key.nii.gz" ] || echo "$key" >>missing
done
ok "a file for each key" test ! -e missing -a "$(find masks -type f | wc -l)" = 14
exits "report" 0 "$NOC" report --csv --only 'a_b*'
says "scored against a truth with a comma in its name" "a_b__c___d,done,,2,two,"
exits "one by its key" 0 "$NOC" report --csv --only Two_channels
says "its channels are two files" "Two_channels,done,,1,one,"
is "the header and two labels" "$(wc -l <../out)" 3

# A key that stands twice costs neither study.
printf 'key,image\nsame,one/scan.nii.gz\nsame,two/scan.nii.gz\nsame,one/scan.nii.gz\n' >../in/twice.csv
exits "a key that stands twice" 0 "$NOC" scan --catalog twice.sqlite ../in/twice.csv
says "two studies" "2 studies: 2 added, 0 changed, 0 unchanged; 0 without a readable header; 2 warnings"
says "which it tells" "key same is taken by another image: this study becomes two_same" ../err
says "and a line that stands twice" "named twice with the same image" ../err

# Lists that cannot be meant: the line is named, and nothing of them is taken.
bad()
{
    # shellcheck disable=SC2059
    printf "$3" >../in/bad.csv
    exits "$1" 65 "$NOC" scan --catalog twice.sqlite ../in/bad.csv
    says "$1: says where" "bad.csv:$2" ../err
}
bad "a field too many" 3 'key,image,truth\na,one/scan.nii.gz,\nb,two/scan.nii.gz,,\n'
bad "no image" 2 'key,image,truth\na,,\n'
bad "no column image" 1 'key,path\na,one/scan.nii.gz\n'
bad "an open quote" 2 'key,image,truth\na,"one/scan.nii.gz,\n'
bad "not UTF-8" 2 'key,image,truth\na,gr\366\337e.nii,\n'
exits "what was there stays" 0 "$NOC" report --csv --catalog twice.sqlite --results results
is "and no more" "$(sed -n '2,$p' ../out | cut -d, -f1 | sort | tr '\n' ' ')" "same two_same "
exits "a list that is not there" 66 "$NOC" scan --catalog new.sqlite ../in/none.csv
ok "makes no catalog" test ! -e new.sqlite

# A dataset.json with leftovers of another system, and numbers that are wrong.
mkdir -p set/imagesTr set/labelsTr set/imagesTs
cp ../in/one/scan.nii.gz set/imagesTr/case_1.nii.gz
cp ../in/two/scan.nii.gz set/imagesTs/case_2.nii.gz
cp "../in/truth, of all.nii" set/labelsTr/case_1.nii
echo leftover >set/imagesTr/._case_1.nii.gz
cat >set/dataset.json <<END
{"numTraining": 260, "numTest": 1, "training": [
  {"image": "./imagesTr/._case_1.nii.gz", "label": "./labelsTr/._case_1.nii.gz"},
  {"image": "./imagesTr/case_1.nii.gz", "label": "./labelsTr/case_1.nii"}],
  "test": ["./imagesTs/case_2.nii.gz"]}
END
exits "a dataset.json whose numbers are wrong" 0 "$NOC" scan --catalog set.sqlite set
says "two studies" "2 studies: 2 added"
says "and a warning" "0 without a readable header; 1 warnings"
says "about the number" "numTraining" ../err
exits "run them" 0 "$NOC" run --catalog set.sqlite --results set.results -m "$model" --device cpu --ranks 1
ok "both, and no leftover" "$PYTHON" "$root/tests/keys.py" check set.results case_1 case_2
tap_end
