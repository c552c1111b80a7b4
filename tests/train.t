#!/bin/sh
# scripts/train.py: each layout, a training that was interrupted, ways to save memory, and a model that the program takes.
. "$(dirname "$0")/tap.sh"
tap_begin
python=$(torch_python)
[ -n "$python" ] || { echo "1..0 # SKIP no Python with PyTorch (make peers)"; exit 0; }
"$python" -c 'import yaml, nibabel' || { echo "1..0 # SKIP that Python lacks PyYAML or nibabel (make peers)"; exit 0; }
export OMP_NUM_THREADS=1
program=$NOC
cd "$work" || exit 1

# train SETTINGS DATA OUT FLAGS...
train()
{
    settings=$1 data=$2 out=$3
    shift 3
    timeout 300 "$python" "$root/scripts/train.py" "$settings.yaml" --data "$data" --out "$out" --threads 1 --nocturne "$NOC" "$@"
}

ok "scans" "$python" "$root/tests/trainings.py" make .
ok "windows" "$python" "$root/tests/trainings.py" sees
ok "gradients and bytes of each way to save memory" "$python" "$root/tests/trainings.py" exact
ok "regions of random reconstruction" "$python" "$root/tests/trainings.py" regions
for layout in msd nnunet brats; do
    exits "$layout" 0 train $layout $layout out-$layout
    says "... its scans" "2 scans for training, 1 held out"
    says "... a Dice of our own program" "Dice "
    ok "... a report" grep -q case_ out-$layout/validation.csv
    exits "... a model" 0 "$NOC" plan -m out-$layout/model
done

# Killed without a word (it saves after each step here), gone on with, and never disturbed: the same bits.
for way in learns quantized local; do
    "$python" "$root/scripts/train.py" $way.yaml --data msd --out out-$way-2 --threads 1 --nocturne "$NOC" >log 2>&1 &
    process=$!
    turns=6000
    until [ -e out-$way-2/checkpoint.pt ] || [ $turns = 0 ]; do
        turns=$((turns - 1))
        sleep 0.02
    done
    kill -KILL $process
    { wait $process; } 2>/dev/null
    exits "$way: goes on after a kill" 0 train $way msd out-$way-2
    ok "... where it was" grep -q "goes on at step [1-9]" out
    exits "$way: undisturbed" 0 train $way msd out-$way
    ok "... to the same model" "$python" "$root/tests/trainings.py" same out-$way/model out-$way-2/model
done
exits "--minutes" 75 train msd msd out-stopped --minutes 0.0001
says "... stops orderly" "the same command goes on"
exits "other settings" 1 train nnunet nnunet out-msd
says "... are refused" "is of a training with other settings" err

# It learns bright boxes, and the program gives the masks that PyTorch gives.
ok "learns: Dice above 0.5" "$PYTHON" -c "
import csv; row, = csv.DictReader(open('out-learns/validation.csv')); assert float(row['dice']) > 0.5, row"
exits "infer" 0 "$NOC" infer -m out-learns/model -o mask.nii.gz msd/imagesTr/case_0.nii.gz
ok "... gives PyTorch's mask" "$python" "$root/tests/trainings.py" mask out-learns/model msd/imagesTr/case_0.nii.gz mask.nii.gz

exits "a table of memory" 0 train msd msd out-memory --compare-memory 2
ok "... with each way" test "$(grep -c '^| ' out-memory/memory.md)" = 13
exits "... of rows that are named" 0 train msd msd out-memory --compare-memory 1 none attention,rfr2,bf16
ok "... and no others" test "$(grep -c '^| ' out-memory/memory.md)" = 3
ok "... under their names" grep -q '^| attention, rfr2, bf16 |' out-memory/memory.md
exits "... of a row that is not known" 1 train msd msd out-memory --compare-memory 1 none,fast
says "... is refused" "--compare-memory none: one of attention" err

# What is wrong is said.
# wrong NAME SENTENCE SETTINGS DATA
wrong()
{
    exits "$1" 1 train "$3" "$4" out-wrong
    says "... with a sentence" "$2" err
}
wrong "another layout" "is not in the layout brats" brats nothing
wrong "a label without a name" "its truth has the label 2" few nnunet
sed 's/"seed"/"sead"/' msd.yaml >typo.yaml
wrong "a key that is not known" "there is no train.sead" typo msd
sed 's/"validation": 0.34/"validation": ["case_9"]/' msd.yaml >nobody.yaml
wrong "a scan that is not there" "case_9, which is not in" nobody msd
sed 's/"step": "zscore"/"step": "foreground_crop"/' msd.yaml >crop.yaml
wrong "a preparation that training does not know" "training knows no foreground_crop" crop msd
wrong "no settings" "cannot be read as settings" nothing msd
echo '[' >open.yaml
wrong "no YAML" "cannot be read as settings" open msd
sed 's/"train": {/"trian": {/' msd.yaml >part.yaml
wrong "a part that is not known" "there is no trian" part msd
sed 's/"learning_rate": 0.01/"learning_rate": 1e-3/' msd.yaml >text.yaml
wrong "a number that YAML takes for text" 'train.learning_rate "1e-3": a number' text msd
sed 's/"batch": 2/"batch": 0/' msd.yaml >none.yaml
wrong "no windows in a batch" "train.batch 0: a whole number from 1 on" none msd
sed 's/"scale": \[0.9/"scale": [0/' msd.yaml >scale.yaml
wrong "a factor of 0" "train.augment.scale [0, 1.1]" scale msd
sed 's/"decoder"\]/"local2", "rfr4"]/' msd.yaml >locals.yaml
wrong "two ways to part the network" "only one of local2, local4, rfr2, rfr4" locals msd
sed 's/"truth_labels": \[4\]/"truth_labels": [400]/' brats.yaml >label.yaml
wrong "a truth label that no truth has" "core: truth labels below 256" label brats
mkdir list && echo '["a"]' >list/dataset.json
wrong "another dataset.json" "is not in the layout msd" msd list
wrong "a voxel without a value" "case_1: nocturne prepare" msd nan
NOC=$work/nothing
wrong "no program" "nothing cannot be started" nnunet nnunet
NOC=$program
: >file
exits "a file for --out" 1 train msd msd file
says "... is told" "File exists: 'file'" err
(flock -n 9 && train msd msd out-msd) 9>>out-msd/lock >out 2>err
says "a second start in a folder" "another training is at work in out-msd" err
mkdir out-full && ln -s /dev/full out-full/checkpoint.pt.part
exits "a full disk" 1 train msd msd out-full
says "... is told" "checkpoint.pt cannot be written" err
head -c 9000 out-msd/checkpoint.pt >out-full/checkpoint.pt
exits "a damaged checkpoint" 1 train msd msd out-full
says "... is told" "checkpoint.pt is damaged" err
for file in out-full/prepared-*/case_*.npy; do
    : >"$file"
done
exits "damaged files of a scan" 1 train msd msd out-full
says "... are told" "case_1: its files are damaged: remove out-full/prepared-" err
tap_end
