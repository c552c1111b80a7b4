#!/bin/sh
# One scan and its truth stored in the 48 orientations and three oblique ones, as NIfTI-1 and -2, single files
# and pairs, either byte order, seven voxel types, sform, qform or both: the same anatomy comes out of each,
# on the grid of its file.
. "$(dirname "$0")/tap.sh"
tap_begin
images=$root/demo/archive/imagesTr labels=$root/demo/archive/labelsTr
model=$root/models/hippocampus
orientations()
{
    "$PYTHON" "$root/tests/orientations.py" "$@"
}

mkdir "$work/in"
ok "the files are made" \
    orientations make "$work/in" "$images/hippocampus_033.nii.gz" "$labels/hippocampus_033.nii.gz"
cd "$work" || exit 1
exits "they are scanned" 0 "$NOC" scan in/list.csv
says "all 51" "51 studies: 51 added"
says "each with a header" "0 without a readable header; 0 warnings"

# kind, then what it adds to the command
compare()
{
    kind=$1
    shift
    exits "$kind: run" 0 "$NOC" run -m "$model" --device cpu --results "$kind" "$@"
    exits "$kind: verify" 0 "$NOC" verify --results "$kind"
    ok "$kind: the same anatomy in every orientation, shape and affine of the file" \
        orientations masks in/list.csv "$kind"
    exits "$kind: export" 0 "$NOC" export --results "$kind" -o "$kind.masks"
    ok "$kind: exported with the voxels, dims, forms and units of the file" \
        orientations exported in/list.csv "$kind" "$kind.masks"
    exits "$kind: report" 0 "$NOC" report --csv --results "$kind"
    cp out "$kind.csv"
    ok "$kind: the same Dice in every orientation, equal to a count" \
        orientations report in/list.csv "$kind.masks" "$kind.csv" "$root/demo/expected.csv"
}
compare ranks
compare alone --ranks 1

for key in LPS oblique_PIR oblique_SLA; do
    file=$(find in -name "$key.nii*" -o -name "$key.hdr*")
    exits "infer $key" 0 "$NOC" infer -m "$model" --device cpu -o "$key.nii.gz" "$file"
    ok "infer $key: the bytes that export writes" cmp "$key.nii.gz" "ranks.masks/$key.nii.gz"
done
tap_end
