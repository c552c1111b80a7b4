#!/bin/sh
# Layouts of archives: what scan makes of whole and half-broken ones, and what export writes for other programs.
. "$(dirname "$0")/tap.sh"
tap_begin
helper()
{
    "$PYTHON" "$root/tests/layouts.py" "$@"
}

cd "$work" || exit 1

# scans NAME PATH STUDIES WARNINGS [FLAG...]: into a new catalog; says what then stands there in $work/listing.
scans()
{
    scans_name=$1 scans_path=$2 scans_studies=$3 scans_warnings=$4
    shift 4
    rm -f c.sqlite
    exits "$scans_name" 0 timeout 60 "$NOC" scan --catalog c.sqlite --json "$@" "$scans_path"
    is "... studies, warnings" "$(sed 's/.*"studies":\([0-9]*\).*"warnings":\([0-9]*\).*/\1 \2/' out)" \
        "$scans_studies $scans_warnings"
    is "... and each has its line" "$(grep -c ' warn ' err)" "$scans_warnings"
    helper listing c.sqlite "$work" >listing
}

# study NAME LINE: the listing has it.
study()
{
    says "$1" "$2" listing
}

ok "archives" helper trees "$work"

scans "BraTS" brats 5 4
says "... is recognised" "layout brats: names CASE_flair, _t1, _t1ce, _t2 (until 2021)" err
says "... with its truths" "until 2021 have the enhancing tumour as 4" err
says "... what is missing is one warning a study" "study BraTS20_Training_002: no T1gd, no truth" err
says "... what is there twice too" "study BraTS20_Training_001: T2w more than once" err
says "... and a link in a circle" "folder again: a link that leads back to a folder above it; left out" err
b=brats/LGG/BraTS2021_00003/BraTS2021_00003
study "channels in order" "BraTS2021_00003 brats ${b}_flair.nii ${b}_t1.nii ${b}_t1ce.nii ${b}_t2.nii ${b}_seg.nii"
b=brats/new/BraTS-GLI-00004-000/BraTS-GLI-00004-000
study "names since 2023" "$b-t2f.nii.gz $b-t1n.nii.gz $b-t1c.nii.gz $b-t2w.nii.gz $b-seg.nii.gz"
study "a channel that is not there is named" "BraTS20_Training_002_t1ce.nii brats/HGG/BraTS20_Training_002/BraTS20_Training_002_t2.nii -"
exits "again" 0 timeout 60 "$NOC" scan --catalog c.sqlite brats
says "... nothing changes" "0 added, 0 changed, 5 unchanged"

scans "nnU-Net" nnunet 5 5
says "... is recognised" "layout nnunet: dataset.json names the channels; channels Flair _0003, T1 _0000, T1ce _0001, T2 _0002" err
says "... numTraining" "numTraining is wrong: there are 4 cases" err
says "... a missing channel" "study B_2: no Flair" err
says "... a truth without a scan" "study lonely: no Flair, no T1, no T1ce, no T2" err
says "... a number too many" "1 files have a channel number above 0003" err
says "... a word in a number's place" "1 NIfTI files have no name of the layout nnunet; left out" err
n=nnunet/imagesTr
study "known channels in the one order" "A_1 nnunet $n/A_1_0003.nii.gz $n/A_1_0000.nii.gz $n/A_1_0001.nii.gz $n/A_1_0002.nii.gz nnunet/labelsTr/A_1.nii.gz"
study "a name that is no key" "B__r nnunet $n/Bär_0003.nii.gz"
study "imagesTs" "C nnunet nnunet/imagesTs/C_0003.nii.gz"
scans "nnU-Net's list of files" named/dataset.json 1 1
study "... with paths beside it" "case_1 nnunet nnunet/imagesTs/C_0000.nii.gz named/t.nii.gz"
scans "numbered files alone" numbered 2 0
study "... are channels" "x nnunet numbered/x_0000.nii.gz numbered/x_0001.nii.gz -"
exits "files of another kind" 65 "$NOC" scan --catalog none.sqlite png
says "... are named" "file_ending .png" err
exits "channels with a gap" 65 "$NOC" scan --catalog none.sqlite gap

scans "BIDS" bids 3 4
says "... is recognised" "layout bids: names sub-*/anat/sub-*_SUFFIX, 3 sessions; channels FLAIR, T1w, T1gd" err
says "... a rare channel is left out" "channel PDw: 1 of 3 studies have it; left out" err
says "... a missing one is told" "study sub-02: no T1gd" err
s=bids/sub-01/ses-a/anat/sub-01_ses-a
study "a session is a study" "sub-01_ses-a bids ${s}_acq-3d_FLAIR.nii.gz ${s}_T1w.nii.gz ${s}_ce-gadolinium_T1w.nii.gz ${s}_dseg.nii.gz"
is "derivatives are none" "$(grep -c derivatives listing)" 0

scans "Decathlon" msd 1 1
says "... is recognised" "layout msd: dataset.json lists the files" err
scans "scans in folders" folder 5 0
says "... are recognised" "layout folder: each NIfTI file is a study" err
study "names that clash" "y_scan folder folder/y/scan.nii.gz -"
study "a link to nothing" "dangling folder folder/dangling.nii -"
scans "a list" list.csv 1 0
says "... is recognised" "layout list" err

# A model's channels: those, in its order.
mkdir model
sed "s|^weights:.*|weights: w.safetensors|; s|in_channels: 1|in_channels: 2|; s|channels: \[T1w\]|channels: [T2, t1n]|" \
    "$root/models/hippocampus/model.yaml" >model/model.yaml
scans "BraTS for a model" brats 5 4 -m model
says "... is told" "taken as the model names them" err
b=brats/LGG/BraTS2021_00003/BraTS2021_00003
study "... has its channels alone" "BraTS2021_00003 brats ${b}_t2.nii ${b}_t1.nii ${b}_seg.nii"
scans "nnU-Net for a model" nnunet 5 4 -m model
study "... too" "A_1 nnunet $n/A_1_0002.nii.gz $n/A_1_0000.nii.gz nnunet/labelsTr/A_1.nii.gz"
scans "BIDS without a channel of the model" bids 3 5 -m model
says "... is told" "no channel is named T2, which the model takes" err
study "... and stored whole" "${s}_acq-3d_FLAIR.nii.gz ${s}_T1w.nii.gz ${s}_ce-gadolinium_T1w.nii.gz"
exits "a model that is not there" 66 "$NOC" scan --catalog none.sqlite -m nowhere brats

scans "a layout that is asked for" brats 25 1 --layout folder
scans "... without its dataset.json" msd 2 0 --layout folder
exits "... that is not there" 65 "$NOC" scan --catalog none.sqlite --layout bids brats
exits "... nor in truths alone" 65 "$NOC" scan --catalog none.sqlite --layout bids truths
exits "a file as a folder" 65 "$NOC" scan --catalog none.sqlite --layout brats list.csv
exits "a folder as a list" 65 "$NOC" scan --catalog none.sqlite --layout list brats
exits "an unknown layout" 64 "$NOC" scan --catalog none.sqlite --layout dicom brats
exits "an empty folder" 65 "$NOC" scan --catalog none.sqlite empty
says "... says what is looked for" "with names of BraTS or BIDS" err
is "what fails leaves no catalog" "$(ls none.sqlite 2>/dev/null)" ""

# --- round trips: a layout in, a run, the same layout out ---

# runs NAME PATH: scan, run, report of an archive, into a catalog and a folder of that name.
runs()
{
    exits "$1: scan" 0 timeout 60 "$NOC" scan --catalog "$1.sqlite" "$2"
    exits "$1: run" 0 timeout 300 "$NOC" run -m "$root/models/hippocampus" --device cpu --ranks 1 --progress none \
        --catalog "$1.sqlite" --results "$1.results"
    exits "$1: report" 0 "$NOC" report --csv --catalog "$1.sqlite" --results "$1.results"
    cp out "$1.csv"
}

ok "a data set of nnU-Net" helper demo "$root/demo/archive" "$work/set"
runs nn set
exits "export" 0 "$NOC" export --catalog nn.sqlite --results nn.results --format nnunet -o masks
is "... a file a case" "$(cd masks && echo *)" "dataset.json hippocampus_008.nii.gz hippocampus_015.nii.gz summary.json"
ok "... on the scan's grid, with the report's Dice" helper exported set/labelsTr masks nn.csv
is "... with its labels" "$(tr -d ' \n' <masks/dataset.json)" \
    '{"labels":{"background":0,"Anterior":1,"Posterior":2},"file_ending":".nii.gz"}'
exits "evaluate reads them" 0 "$NOC" evaluate masks set/labelsTr --summary evaluated.json
ok "... and finds the same" helper same masks/summary.json evaluated.json
peers=${PEERS_NNUNET:-$BUILD/peers}
if [ -x "$peers/bin/nnUNetv2_evaluate_simple" ]; then
    ok "nnU-Net evaluates them" "$peers/bin/nnUNetv2_evaluate_simple" set/labelsTr masks -l 1 2 -o own.json -np 1
    ok "... and finds the same" helper same masks/summary.json own.json
else
    skip "nnU-Net evaluates them, and finds the same" "no nnunetv2 in PEERS_NNUNET or the build folder's peers"
fi
cp -R masks before
# export_same: again, where no file can be made among the masks (a library that sanitizers do not go with).
export_same()
{
    set -- "$NOC" export --catalog nn.sqlite --results nn.results --format nnunet -o masks
    [ -n "${SAN:-}" ] || set -- env NOC_FAULT=create:masks/:EROFS:0:0 LD_PRELOAD="$BUILD/tests/shim_faults.so" "$@"
    "$@"
}
exits "the same again" 0 export_same
ok "... changes nothing" diff -r before masks
cp masks/hippocampus_008.nii.gz masks/hippocampus_015.nii.gz
exits "over a file that differs" 73 "$NOC" export --catalog nn.sqlite --results nn.results -o masks
says "... is refused" "--force replaces it" err
ok "... and leaves it" cmp masks/hippocampus_008.nii.gz masks/hippocampus_015.nii.gz
exits "with --force" 0 "$NOC" export --catalog nn.sqlite --results nn.results --force -o masks
ok "... it is replaced" diff -r before masks
echo mine >masks/dataset.json
exits "over somebody's dataset.json" 73 "$NOC" export --catalog nn.sqlite --results nn.results --format nnunet -o masks
is "... leaves it" "$(cat masks/dataset.json)" mine

cp nn.sqlite bare.sqlite
ok "studies without metrics" "$PYTHON" -c 'import sqlite3
with sqlite3.connect("bare.sqlite") as c:
    c.execute("DELETE FROM metric")'
exits "... are exported" 0 "$NOC" export --catalog bare.sqlite --results nn.results --format nnunet -o bare
tr -d ' \n' <bare/summary.json >bare/summary.tight
says "... as no cases of the summary" '"metric_per_case":[]' bare/summary.tight

exits "one key in BIDS" 0 "$NOC" export --catalog nn.sqlite --results nn.results --format bids -o other
is "... is a subject" "$(cd other/derivatives/nocturne && echo sub-*)" "sub-hippocampus008 sub-hippocampus015"

ok "a data set of BIDS" helper demo_bids "$root/demo/archive" "$work/raw"
runs raw raw
is "a session is a study" "$(cut -d, -f1 raw.csv | sort -u | tr '\n' ' ')" "key sub-01 sub-02_ses-a "
exits "export" 0 "$NOC" export --catalog raw.sqlite --results raw.results --format bids -o raw
d=raw/derivatives/nocturne
is "... beside the raw data" "$(cd $d && find . -type f | sort | tr '\n' ' ')" "./dataset_description.json ./dseg.tsv \
./sub-01/anat/sub-01_dseg.nii.gz ./sub-02/ses-a/anat/sub-02_ses-a_dseg.nii.gz "
is "... with its labels" "$(tr '\t\n' '  ' <$d/dseg.tsv)" "index name 0 background 1 Anterior 2 Posterior "
ok "... and what made them" "$PYTHON" -c 'import json, sys
d = json.load(open(sys.argv[1]))
assert d["DatasetType"] == "derivative" and d["GeneratedBy"][0]["Name"] == "nocturne" and d["GeneratedBy"][0]["Version"]
' $d/dataset_description.json
ok "... the same masks" cmp $d/sub-01/anat/sub-01_dseg.nii.gz before/hippocampus_008.nii.gz
exits "scan again" 0 "$NOC" scan --catalog raw.sqlite raw
says "... takes no derivative for a scan" "2 studies: 0 added, 0 changed, 2 unchanged"
exits "an unknown format" 64 "$NOC" export --format dicom -o masks
tap_end
