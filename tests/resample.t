#!/bin/sh
# Models that resample: a mask lies on the scan's grid, whatever its orientation, and is what the logits of the resampled
# volume come to there.
. "$(dirname "$0")/tap.sh"
tap_begin

tiny=$root/tests/data/models/tiny/model.yaml
"$PYTHON" "$root/tests/resample.py" make "$work"

# checked NAME SCAN STEPS CASE: prepares and segments both orientations of a scan.
checked()
{
    name=$1 scan=$2 case=$4
    mkdir -p "$work/$name"
    sed -e "s|\.\./\.\.|$root/tests/data|" -e "s|^  prepare:.*|  prepare: [$3]|" "$tiny" >"$work/$name/model.yaml"
    for i in "$scan" "${scan}_turned"; do
        exits "$name, $i: prepared" 0 "$NOC" prepare -m "$work/$name" --output "$work/$i.safetensors" "$work/$i.nii.gz"
        exits "$name, $i: segmented" 0 "$NOC" infer -m "$work/$name" --device cpu --threads 2 -o "$work/$i-mask.nii.gz" \
            "$work/$i.nii.gz"
    done
    ok "$name: both orientations are the same tensor" "$PYTHON" "$root/tests/resample.py" same \
        "$work/$scan.safetensors" "$work/${scan}_turned.safetensors"
    exits "$name: its logits" 0 "$NOC" forward -m "$work/$name" --sliding --device cpu --input "$work/$scan.safetensors" \
        --output "$work/logits.safetensors"
    for i in "$scan" "${scan}_turned"; do
        ok "$name, $i: the mask on the scan's grid" "$PYTHON" "$root/tests/resample.py" mask "$case" \
            "$work/logits.safetensors" "$work/$i-mask.nii.gz"
    done
}

checked cubic plain '{step: zscore}, {step: resample, spacing_mm: [1, 1, 1], order: 3}' \
    '{"box": [[0, 37], [0, 44], [0, 41]], "whole": [48, 35, 37], "start": [0, 0, 0], "nearest": [0, 0, 0]}'
checked nearest plain '{step: zscore_nonzero}, {step: resample, spacing_mm: [1, 1, 1], order: 1, back: nearest}' \
    '{"box": [[0, 37], [0, 44], [0, 41]], "whole": [48, 35, 37], "start": [0, 0, 0], "nearest": [1, 1, 1]}'
checked boxes plain '{step: foreground_crop}, {step: zscore, mask: filled}, {step: resample, spacing_mm: [0.9, 1, 1.2], order: 1}, {step: crop, start: [3, 0, 2], size: [40, 30, 24]}' \
    '{"box": [[2, 34], [0, 40], [5, 41]], "whole": [46, 32, 27], "start": [3, 0, 2], "nearest": [0, 0, 0]}'
checked thick thick '{step: percentile_zscore, low: 0.5, high: 99.5}, {step: resample, spacing_mm: [4, 1, 1], order: 3}' \
    '{"box": [[0, 14], [0, 44], [0, 41]], "whole": [14, 35, 37], "start": [0, 0, 0], "nearest": [1, 0, 0]}'
checked thin thick '{step: zscore}, {step: resample, spacing_mm: [1.5, 1, 1], order: 3}' \
    '{"box": [[0, 14], [0, 44], [0, 41]], "whole": [37, 35, 37], "start": [0, 0, 0], "nearest": [1, 0, 0]}'
checked never thick '{step: zscore}, {step: resample, spacing_mm: [1.5, 1, 1], order: 3, separate_axis: never}' \
    '{"box": [[0, 14], [0, 44], [0, 41]], "whole": [37, 35, 37], "start": [0, 0, 0], "nearest": [0, 0, 0]}'
tap_end
