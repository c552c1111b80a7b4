#!/bin/sh
# nocturne forward: logits and stages of the golden files, batches of errors with their exit codes.
. "$(dirname "$0")/tap.sh"
tap_begin

golden=${reference:-$root/tests/data}/golden
tiny=$root/tests/data/models/tiny

# golden NAME WEIGHTS [FLAGS...]: the file's network, stages and size.
golden()
{
    name=$1 weights=$2
    shift 2
    rm -rf "$work/model"
    ok "$name: made" "$PYTHON" "$root/tests/golden.py" network "$golden/$name.safetensors" \
        "$golden/${weights}_weights.safetensors" "$work/model"
    exits "$name: runs" 0 "$NOC" forward -m "$work/model" --input "$work/model/input.safetensors" \
        --output "$work/out.safetensors" --stages --device cpu "$@"
    ok "$name: within 2e-5" "$PYTHON" "$root/tests/golden.py" check_network "$golden/$name.safetensors" \
        "$work/out.safetensors"
}

golden tiny_32x32x32 tiny
golden tiny_37x45x29 tiny --isa portable
golden tiny_37x45x29 tiny --threads 1
if [ -n "$reference" ]; then
    golden tiny_48x40x56 tiny
    golden tiny_legacy_48x40x56 tiny
    for name in brats_64x64x64 brats_legacy_64x64x64 brats_128x128x128 brats_legacy_128x128x128 \
        brats_96x128x160 synapse_64x128x128 acdc_14x160x160; do
        golden $name ${name%%_*}
    done
else
    golden tiny_legacy_48x40x56_strided tiny
    skip "all golden files" "NOC_REFERENCE_DIR names no folder"
fi

# The model folders that come with a window of their own: one window of the input's size, whatever that is.
"$PYTHON" - <<'EOF'
import os, numpy, tensors
work = os.environ["work"]
def put(name, array, key="input"):
    tensors.write("%s/%s.safetensors" % (work, name), {key: array})
put("good", tensors.formula([2, 32, 32, 32]))
put("smallest", tensors.formula([2, 13, 13, 13]))
put("small", tensors.formula([2, 12, 12, 12]))
put("thin", tensors.formula([2, 40, 12, 40]))
put("channels", tensors.formula([3, 32, 32, 32]))
put("name", tensors.formula([2, 32, 32, 32]), "image")
put("axes", tensors.formula([2, 1, 32, 32, 32]))
put("integers", numpy.ones([2, 32, 32, 32], "<i4"))
put("empty", numpy.ones([2, 0, 32, 32], "<f4"))
put("nan", numpy.full([2, 32, 32, 32], numpy.nan, "<f4"))
put("half", tensors.formula([2, 32, 32, 32]).astype("<f2"))
put("rounded", tensors.formula([2, 32, 32, 32]).astype("<f2").astype("<f4"))
open(work + "/text.safetensors", "w").write("no tensors here")
open(work + "/nothing.safetensors", "w").close()
data = open(work + "/good.safetensors", "rb").read()
open(work + "/short.safetensors", "wb").write(data[:-100])
EOF

# forward NAME CODE FILE [FLAGS...]
forward()
{
    name=$1 code=$2 input=$3
    shift 3
    rm -f "$work/out.safetensors"
    exits "$name: exit $code" "$code" "$NOC" forward -m "$tiny" --input "$work/$input.safetensors" \
        --output "$work/out.safetensors" --device cpu "$@"
}

# refused NAME CODE FILE TEXT [FLAGS...]: one line on stderr that says so, nothing on stdout, no output file.
refused()
{
    name=$1 code=$2 input=$3 text=$4
    shift 4
    forward "$name" "$code" "$input" "$@"
    says "$name: says why" "$text" "$work/err"
    is "$name: one line, no output" \
        "$(wc -l <"$work/err") $(wc -c <"$work/out") $(ls "$work"/out.saf* 2>/dev/null)" "1 0 "
}

forward "the smallest input" 0 smallest
refused "12 voxels an axis" 65 small "12 x 12 x 12, the smallest it can is 13 x 13 x 13"
refused "one axis too small" 65 thin "40 x 12 x 40"
refused "3 channels for 2" 65 channels "has 3 channels, the model takes 2"
refused "no tensor named input" 65 name "no tensor named input"
refused "a batch axis" 65 axes "has 5 axes, expected (C, D, H, W)"
refused "integers" 65 integers "I32"
refused "an empty axis" 65 empty "empty axis"
refused "not a safetensors file" 65 text "text.safetensors"
refused "an empty file" 65 nothing "nothing.safetensors"
refused "a file cut short" 65 short "short.safetensors"
refused "a missing file" 66 missing "No such file"
refused "NaN in sliding windows" 65 nan "is NaN" --sliding
refused "a window that the network cannot take" 78 good "12 x 32 x 32" --sliding --window 12,32,32
refused "stages of several windows" 64 good "--stages" --sliding --stages
refused "an unknown flag" 64 good "--nonsense" --nonsense
refused "an overlap of 1" 64 good "overlap" --sliding --overlap 1
refused "an unknown device" 64 good "device" --device tpu
CUDA_VISIBLE_DEVICES=
export CUDA_VISIBLE_DEVICES
refused "no CUDA here" 69 good "CUDA" --device cuda
refused "an unknown instruction set" 64 good "isa" --isa mmx
forward "half floats" 0 half
mv "$work/out.safetensors" "$work/half.out"
forward "the same rounded floats" 0 rounded
ok "half floats are floats" cmp "$work/half.out" "$work/out.safetensors"

# forward_to NAME CODE TEXT ARGUMENTS...
forward_to()
{
    name=$1 code=$2 text=$3
    shift 3
    exits "$name: exit $code" "$code" "$NOC" forward "$@"
    says "$name: says why" "$text" "$work/err"
}
good=$work/good.safetensors
forward_to "no model" 64 "which model" --input "$good" --output "$work/x"
forward_to "no input" 64 "--input" -m "$tiny" --output "$work/x"
forward_to "no output" 64 "--output" -m "$tiny" --input "$good"
forward_to "a stray argument" 64 "takes no arguments" -m "$tiny" --input "$good" --output "$work/x" stray
forward_to "a missing model" 66 "$work/none" -m "$work/none" --input "$good" --output "$work/x"
forward_to "a missing output folder" 73 "cannot be created" -m "$tiny" --input "$good" --output "$work/none/x"
sed 's/^  num_classes: 3/  num_classes: 4/; s/two}/two}, {index: 3, name: three}/' "$tiny/model.yaml" |
    sed "s|\.\./\.\.|$root/tests/data|" >"$work/wide.yaml"
forward_to "weights that do not fit" 65 "linear_pred" -m "$work/wide.yaml" --input "$good" --output "$work/x"
echo "nonsense: 1" | cat "$tiny/model.yaml" - >"$work/odd.yaml"
forward_to "an unknown key" 78 "nonsense" -m "$work/odd.yaml" --input "$good" --output "$work/x"

# A file-size limit is a disk that fills up.
full()
{
    trap '' XFSZ
    ulimit -f 8
    "$NOC" forward -m "$tiny" --input "$good" --output "$work/full/x.safetensors"
}
mkdir "$work/full"
(full) >"$work/out" 2>"$work/err"
is "a full disk: exit 74" $? 74
says "a full disk: says why" "cannot be written" "$work/err"
is "a full disk: nothing is left" "$(ls -A "$work/full")" ""
tap_end
