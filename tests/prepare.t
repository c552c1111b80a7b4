#!/bin/sh
# nocturne prepare: what the network sees of a scan, beside nibabel and golden values; what is refused.
. "$(dirname "$0")/tap.sh"
tap_begin

golden=${reference:-$root/tests/data}/golden
tiny=$root/tests/data/models/tiny/model.yaml

# model FOLDER CHANNELS STEPS [ORIENTATION]: the tiny network's manifest with another preparation.
model()
{
    mkdir -p "$work/$1"
    sed -e "s|\.\./\.\.|$root/tests/data|" -e "s|^  channels:.*|  channels: [$2]|" \
        -e "s|^  in_channels:.*|  in_channels: $(echo "$2" | tr ',' '\n' | grep -c .)|" \
        -e "s|^  prepare:.*|  orientation: ${4:-RAS}\n  prepare: [$3]|" "$tiny" >"$work/$1/model.yaml"
}

# prepare NAME CODE MODEL FILES...
prepare()
{
    name=$1 code=$2 model=$3
    shift 3
    rm -f "$work/out.safetensors"
    exits "$name: exit $code" "$code" "$NOC" prepare -m "$model" --output "$work/out.safetensors" "$@"
}

# --- golden values

if [ -n "$reference" ]; then
    for brain in lps ras permuted; do
        prepare "brain $brain" 0 "$reference/models/brats-untrained" "$golden/prepare/brain_$brain.nii.gz"
        ok "brain $brain: its sums and SHA-256" "$PYTHON" "$root/tests/golden.py" brain $brain \
            "$golden/prepare/brains.json" "$work/out.safetensors"
    done
else
    skip "three brains" "NOC_REFERENCE_DIR names no folder"
fi
model all a '{step: zscore}'
model nonzero a '{step: zscore, mask: nonzero}'
model short a '{step: zscore_nonzero}'
model filled a '{step: zscore, mask: filled}'
model own a '{step: percentile_zscore, low: 0.5, high: 99.5}'
model given a '{step: clip_zscore, low: -958, high: 327, mean: 82.92, std: 136.97}'
while read -r steps from to; do
    ok "$to: made" "$PYTHON" "$root/tests/golden.py" normalise "$golden/prepare/normalise.safetensors" \
        "$from" "$work/$from.nii.gz"
    prepare "$to by $steps" 0 "$work/$steps" "$work/$from.nii.gz"
    ok "$to by $steps: within 2e-6" "$PYTHON" "$root/tests/golden.py" check_normalise \
        "$golden/prepare/normalise.safetensors" "$to" "$work/out.safetensors"
done <<'EOF'
all mr mr_z_all
nonzero mr mr_z_nonzero
short mr mr_z_nonzero
filled mr mr_z_filled
given ct ct_given
own ct ct_own
EOF

# --- beside nibabel: oblique scans of every orientation, type, version, slope

"$PYTHON" - <<'EOF'
import os, scans
work = os.environ["work"]
types = ["uint8", "int16", ">i2", "uint16", "int32", ">u4", "float32", ">f8", "int8", "float64"]
for n, code in enumerate(scans.CODES):
    scans.make("%s/scan%d.nii" % (work, n), n, size=(9 + n % 3, 8, 7 + n % 2), channels=2, code=code,
               dtype=types[n % len(types)], wide=n % 5 == 0, forms=[(0, 2), (1, 0), (1, 1)][n % 3],
               slope=None if types[n % len(types)][-2] == "f" else [None, 0.5, -2][n % 3], inter=n,
               degrees=40)
EOF
model slices a,b '{step: minmax_slices}'
model plain a,b '' LPS
model crop a,b '{step: minmax_slices}, {step: crop, start: [1, 0, 2], size: [3, 5, 4]}' AIR
n=0
while [ $n -lt 48 ]; do
    case $((n % 3)) in 0) m=slices ;; 1) m=plain ;; 2) m=crop ;; esac
    "$NOC" prepare -m "$work/$m" --output "$work/scan$n.safetensors" "$work/scan$n.nii" >>"$work/log" 2>&1
    n=$((n + 1))
done
cat >"$work/compare.py" <<'EOF'
import os, sys, nibabel, numpy, scans, tensors
work, worst, odd = os.environ["work"], 0, []
for n in range(48):
    slices, orientation = [(True, "RAS"), (False, "LPS"), (True, "AIR")][n % 3]
    wanted = scans.seen([nibabel.load("%s/scan%d.nii" % (work, n))], orientation, slices)
    if n % 3 == 2:
        wanted = wanted[:, 1:4, 0:5, 2:6]
    got = tensors.read("%s/scan%d.safetensors" % (work, n))[1]["input"]
    error = tensors.error(got, wanted)
    worst = max(worst, error)
    if not error <= 1e-7:
        odd.append(scans.CODES[n])
sys.exit("differ from nibabel's: %s, worst %g" % (odd, worst) if odd else 0)
EOF
ok "48 orientations are nibabel's" "$PYTHON" "$work/compare.py"

# One file a channel is the scan of two channels.
"$PYTHON" - <<'EOF'
import os, nibabel
work = os.environ["work"]
image = nibabel.load(work + "/scan5.nii")
for c in range(2):
    nibabel.save(nibabel.Nifti1Image(image.dataobj[..., c], image.affine), "%s/channel%d.nii.gz" % (work, c))
nibabel.save(nibabel.Nifti1Image(image.dataobj[1:, ..., 1], image.affine), work + "/other_grid.nii")
EOF
prepare "a scan of two channels" 0 "$work/slices" "$work/scan5.nii"
mv "$work/out.safetensors" "$work/whole.safetensors"
prepare "a file a channel" 0 "$work/slices" "$work/channel0.nii.gz" "$work/channel1.nii.gz"
ok "a file a channel is the same tensor" "$PYTHON" -c "
import sys, tensors
one, two = [tensors.read('$work/%s.safetensors' % n)[1]['input'] for n in ('out', 'whole')]
sys.exit(tensors.error(one, two) > 1e-7)"

# --- what is refused

# refused NAME CODE MODEL TEXT FILES...
refused()
{
    name=$1 code=$2 model=$3 text=$4
    shift 4
    prepare "$name" "$code" "$model" "$@"
    says "$name: says why" "$text" "$work/err"
    is "$name: one line, no tensor" "$(wc -l <"$work/err") $(ls "$work"/out.saf* 2>/dev/null)" "1 "
}

"$PYTHON" - <<'EOF'
import os, numpy, nibabel
work = os.environ["work"]
data = numpy.arange(60, dtype="f4").reshape(3, 4, 5)
def put(name, image):
    nibabel.save(image, "%s/%s.nii.gz" % (work, name))
put("good", nibabel.Nifti1Image(data, numpy.eye(4)))
image = nibabel.Nifti1Image(data, None)
image.set_sform(None), image.set_qform(None)
put("nowhere", image)
data = data.copy()
data[1, 2, 3] = numpy.nan
put("nan", nibabel.Nifti1Image(data, numpy.eye(4)))
put("five", nibabel.Nifti1Image(numpy.ones((2, 2, 2, 1, 3), "f4"), numpy.eye(4)))
open(work + "/text.nii", "w").write("no scan" * 100)
EOF
model one a ''
model beyond a '{step: crop, start: [0, 0, 0], size: [3, 4, 5]}'
good=$work/good.nii.gz
refused "no scan" 64 "$work/one" "which scan"
refused "a missing scan" 66 "$work/one" "No such file" "$work/none.nii"
refused "no NIfTI" 65 "$work/one" "is not NIfTI" "$work/text.nii"
refused "two channels for one" 65 "$work/one" "2 channels, the model tiny wants 1" "$work/scan5.nii"
refused "one channel for two" 65 "$work/slices" "1 channel, the model tiny wants 2" "$good"
refused "channels on other grids" 65 "$work/slices" "another grid" "$work/channel0.nii.gz" \
    "$work/other_grid.nii"
refused "a crop beyond the scan" 65 "$work/beyond" "crop" "$good"
refused "NaN" 65 "$work/one" "voxel (1, 2, 3)" "$work/nan.nii.gz"
refused "five axes" 65 "$work/one" "axis 5" "$work/five.nii.gz"
refused "no orientation" 65 "$work/one" "both 0" "$work/nowhere.nii.gz"
prepare "no orientation, assumed" 0 "$work/one" --assume-ras "$work/nowhere.nii.gz"
refused "a missing model" 66 "$work/none" "$work/none" "$good"
exits "a missing output folder: exit 73" 73 "$NOC" prepare -m "$work/one" --output "$work/none/x" "$good"
says "a missing output folder: says why" "cannot be created" "$work/err"

"$PYTHON" - <<'EOF'
import os, numpy, nibabel
data = numpy.full((3, 4, 5), 1e300)
data[0, 0, 0] = -1e300
nibabel.save(nibabel.Nifti1Image(data, numpy.eye(4)), os.environ["work"] + "/huge.nii")
EOF
model fine a '{step: resample, spacing_mm: [0.5, 0.5, 0.5], order: 3}'
refused "values beyond single precision" 65 "$work/fine" "too large" "$work/huge.nii"
model dense a '{step: resample, spacing_mm: [1e-9, 1e-9, 1e-9], order: 1}'
refused "a spacing beyond memory" 65 "$work/dense" "beyond this machine" "$good"
model zero a '{step: resample, spacing_mm: [0, 1, 1], order: 1}'
refused "a spacing of 0" 78 "$work/zero" "spacing_mm must be numbers above 0" "$good"
model late a '{step: zscore}, {step: minmax_slices}'
refused "minmax_slices must come first" 78 "$work/late" "minmax_slices" "$good"
model unknown a '{step: magic}'
refused "an unknown step" 78 "$work/unknown" "magic" "$good"
tap_end
