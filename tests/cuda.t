#!/bin/sh
# The program on an emulated GPU (tests/emulation): forward, masks that no batch and no number of ranks changes, errors.
. "$(dirname "$0")/tap.sh"
tap_begin
emulated=$BUILD/nocturne-emulated
if [ ! -x "$emulated" ]; then
    skip "an emulated GPU" "its build needs the headers of a CUDA toolkit and a C++ compiler"
    tap_end
    exit 0
fi
model=$root/models/hippocampus

. "$root/tests/cuda.sh"
tiny_goldens
EMU_ORDER=1 EMU_ASYNC=early
export EMU_ORDER EMU_ASYNC
golden tiny_37x45x29 f32 2e-5
golden tiny_32x32x32 f16 5e-3
unset EMU_ORDER EMU_ASYNC
if [ -n "$reference" ] && [ -z "${SAN:-}" ]; then
    golden brats_64x64x64 f16 5e-3
    golden brats_64x64x64 bf16 4e-2
    golden brats_legacy_64x64x64 f16 1e-2 # its scores are larger, so rounding them counts for more: 0.0069
else
    skip "the published widths at 64 x 64 x 64" "NOC_REFERENCE_DIR names no folder, or they take long with sanitizers"
fi

# run NAME LIST DEVICE FLAGS...: into catalog and folder $work/NAME; its exit code is in $code.
run()
{
    name=$1 list=$2 device=$3
    shift 3
    "$emulated" scan --catalog "$work/$name.catalog" "$list" >"$work/run.log" 2>&1
    timeout 900 "$emulated" run -m "$model" --device "$device" --catalog "$work/$name.catalog" \
        --results "$work/$name" --progress none "$@" >>"$work/run.log" 2>&1 </dev/null
    code=$?
}

# The demo's scans, and the first two of them.
demo=$work/demo.csv short=$work/short.csv
echo key,image,truth >"$demo"
for image in "$root"/demo/archive/imagesTr/hippocampus_*.nii.gz; do
    file=$(basename "$image")
    echo "${file%.nii.gz},$image,$root/demo/archive/labelsTr/$file" >>"$demo"
done
sed -n 1,3p "$demo" >"$short"

# masks NAME: what the run of that name made, the same as those of one window a batch.
masks()
{
    "$PYTHON" "$root/tests/masks.py" list "$work/$1" >"$work/$1.masks" && [ -s "$work/$1.masks" ] &&
        cmp "$work/one.masks" "$work/$1.masks"
}
run one "$short" cuda --precision f16 --threads 1 --window 24,32,24 --overlap 0.5 --ranks 1 --batch 1
is "batch 1: ends with 0" $code 0
ok "batch 1: masks" masks one
run three "$short" cuda --precision f16 --threads 2 --window 24,32,24 --overlap 0.5 --ranks 1 --batch 3
ok "batch 3: the same bits" masks three
run eight "$short" cuda --precision f16 --threads 1 --window 24,32,24 --overlap 0.5 --ranks 4 --batch 8
ok "batch 8, 2 workers on one GPU: the same bits" masks eight
gpu=GPU-00000000-0000-0000-0000-00000000000
says "... they are told that they share it" "share one GPU, ${gpu}0, " "$work/run.log"
ok "... the run's figures say so" grep -q "\"gpus\":{\"${gpu}0\":2}" "$work/eight/run.json"

# What goes to the GPU for a scan of 16 bits a voxel beside another: its voxels, once, when there is room for them; else its
# windows, which overlap. The masks are the same.
"$PYTHON" - "$(sed -n '3s/^[^,]*,\([^,]*\),.*/\1/p' "$demo")" "$work/whole.nii" <<'EOF'
import nibabel, numpy, sys
scan = nibabel.load(sys.argv[1])
nibabel.save(nibabel.Nifti1Image(numpy.asarray(scan.dataobj).astype("<i2"), scan.affine), sys.argv[2])
EOF
stored=$(($(wc -c <"$work/whole.nii") - 352))
sed -n 1,2p "$demo" >"$work/first.csv"
{ cat "$work/first.csv" && echo "whole,$work/whole.nii,"; } >"$work/both.csv"
same_masks()
{
    [ -s "$work/volumes.masks" ] && cmp "$work/volumes.masks" "$work/windows.masks"
}
# sent NAME KIB: runs with that much memory on the GPU; the bytes that the second scan adds are in $bytes.
sent()
{
    what=$1 kib=$2
    for scans in first both; do
        EMU_MEMORY=$kib EMU_COPIED=$work/${what}_$scans.copied
        export EMU_MEMORY EMU_COPIED
        run "${what}_$scans" "$work/$scans.csv" cuda --precision f16 --threads 1 --window 24,32,24 --overlap 0.5 --ranks 1 --batch 3
        unset EMU_MEMORY EMU_COPIED
        is "$what, $scans: ends with 0" $code 0
    done
    "$PYTHON" "$root/tests/masks.py" list "$work/${what}_both" >"$work/$what.masks"
    bytes=$(($(cat "$work/${what}_both.copied") - $(cat "$work/${what}_first.copied")))
}
sent volumes $((4 << 20))
# What else there is are lists of windows: the importance map, a window of floats, has come with the first scan.
ok "a volume is sent once: $bytes bytes for $stored stored" test "$bytes" -le $((stored + 4096))
sent windows 0
ok "windows cut by the host: $bytes bytes" test "$bytes" -ge $((8 * stored))
ok "windows cut by the host: the same masks" same_masks

# infer NAME CODE TEXT VARIABLE=VALUE...
scan=$(sed -n '2s/^[^,]*,\([^,]*\),.*/\1/p' "$demo")
infer()
{
    name=$1 code=$2 text=$3
    shift 3
    exits "$name: exit $code" "$code" env "$@" "$emulated" infer -m "$model" --device cuda -o "$work/m.nii.gz" "$scan"
    says "$name: says why" "$text" "$work/err"
}
infer "no driver" 69 "this machine has no NVIDIA driver" EMU_DRIVER=0
infer "an old driver" 69 "too old" EMU_DRIVER=11000
infer "no device" 69 "no CUDA device" EMU_DEVICES=0
infer "memory that is not there" 70 "out of memory" EMU_FAIL=cudaMalloc:5:2:sticky
infer "memory for half of the windows" 0 "memory for 4 windows at once, not for 8" EMU_FAIL=cudaMalloc:5:2
infer "a launch that fails" 69 "CUDA, running the network" EMU_FAIL=cudaLaunchKernelEx:40:719
exits "cuda:1 of one" 69 "$emulated" infer -m "$model" --device cuda:1 -o "$work/m.nii.gz" "$scan"
says "cuda:1 of one: says how many" "1 can be seen" "$work/err"
exits "doctor" 0 "$emulated" doctor
ok "doctor: the GPU" grep -q '^ok *cuda .*emulated.*GPU-.*sm_90' "$work/out"

# visible NAME LIST NUMBER: with three GPUs, of which the list shows some, NUMBER is the first.
visible()
{
    exits "$1" 0 env EMU_DEVICES=3 CUDA_VISIBLE_DEVICES="$2" "$emulated" doctor
    ok "... is the first" grep -q "^ok *cuda .*${gpu}$3" "$work/out"
}
visible "GPU 2 of 3, by its number" 2,0 2
visible "GPU 1 of 3, by its UUID" ${gpu}1 1

# Two workers, a GPU each; one of them breaks in its first study, the other does all that is left (a worker has four
# studies in hand, so of six each gets some).
six=$work/six.csv
sed -n 1,7p "$demo" >"$six"
run whole "$six" cuda --precision f32 --threads 1 --window 40,56,40 --ranks 1
EMU_DEVICES=2 EMU_FAIL_DEVICE=1 EMU_FAIL=cudaLaunchKernelEx:30:214:sticky
export EMU_DEVICES EMU_FAIL_DEVICE EMU_FAIL
run half "$six" cuda --precision f32 --threads 1 --window 40,56,40 --ranks 4
unset EMU_DEVICES EMU_FAIL_DEVICE EMU_FAIL
is "one of two GPUs breaks: ends with 0" $code 0
says "... it is told which worker" "the device of worker 3 failed, it gets no more work: CUDA, running the network: uncorrectable ECC" "$work/run.log"
ok "... a GPU each" grep -q "\"gpus\":{\"${gpu}0\":1,\"${gpu}1\":1}" "$work/half/run.json"
for name in whole half; do
    "$PYTHON" "$root/tests/masks.py" list "$work/$name" >"$work/$name.masks"
done
is "... all masks are there" "$(wc -l <"$work/half.masks")" 6
ok "... and the same" cmp "$work/whole.masks" "$work/half.masks"
cat >"$work/attempts.py" <<'EOF'
import os, sqlite3
attempts = list(sqlite3.connect(os.environ["work"] + "/half.catalog").execute("select rank, outcome, study_id from attempt"))
back = {study for rank, outcome, study in attempts if (rank, outcome) == (3, "given_back")}
assert back and back <= {study for rank, outcome, study in attempts if (rank, outcome) == (2, "done")}, attempts
EOF
ok "... what it had came back and was done by the other" "$PYTHON" "$work/attempts.py"

EMU_FAIL=cudaLaunchKernelEx:40:214:sticky
export EMU_FAIL
run broken "$short" cuda --ranks 1 --threads 1
unset EMU_FAIL
is "an ECC error in a run: exit code" $code 69
says "... its type and words" "uncorrectable ECC" "$work/run.log"

case ${SAN:-} in
'') ;;
*)
    skip "the demo's 16 scans on an emulated GPU" "they take long with sanitizers"
    tap_end
    exit 0
    ;;
esac
run gpu "$demo" cuda --precision f16 --ranks 1 --threads 2
is "16 scans in f16: ends with 0" $code 0
run cpu "$demo" cpu --precision f32 --ranks 1 --threads 2
is "16 scans on the CPU: ends with 0" $code 0
ok "16 scans: mean Dice within 0.001 of the CPU's" near_dice gpu cpu
tap_end
