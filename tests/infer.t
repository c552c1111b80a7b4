#!/bin/sh
# nocturne infer: the mask of one scan lies on the scan's grid, voxel for voxel what the tensor's logits say.
. "$(dirname "$0")/tap.sh"
tap_begin

tiny=$root/tests/data/models/tiny

"$PYTHON" - <<'EOF'
import os, scans
work = os.environ["work"]
kinds = [("RAS", (1, 1)), ("LPI", (1, 0)), ("SLA", (0, 4)), ("AIR", (3, 2)), ("PSR", (2, 2))]
for n, (code, forms) in enumerate(kinds):
    scans.make("%s/scan%d.nii" % (work, n), n, size=(36 + n, 40 - n, 33), channels=2, code=code, forms=forms,
               dtype=["int16", "uint8", ">i2", "float32", "int16"][n], slope=0.5 if n == 0 else None,
               wide=n == 4)
EOF
cat >"$work/check.py" <<'EOF'
import sys, nibabel, numpy, scans, tensors
scan, mask = nibabel.load(sys.argv[1]), nibabel.load(sys.argv[2])
logits = tensors.read(sys.argv[3])[1]["logits"]
wanted = scans.back(logits.argmax(0).astype("u1"), scan)
got = numpy.asarray(mask.dataobj.get_unscaled())
assert got.dtype == numpy.uint8 and got.shape == scan.shape[:3], (got.dtype, got.shape)
assert len(numpy.unique(wanted)) == 3
assert (got == wanted).all(), "%d voxels differ" % (got != wanted).sum()
a, b = scan.header, mask.header
assert type(a) is type(b) and (mask.affine == scan.affine).all()
for key in ["qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d",
            "qoffset_x", "qoffset_y", "qoffset_z"]:
    assert (a[key] == b[key]).all(), key
assert (a["pixdim"][:4] == b["pixdim"][:4]).all() and (a["dim"][1:4] == b["dim"][1:4]).all()
assert b["dim"][0] == 3 and b["intent_code"] == 1002 and b.get_xyzt_units()[0] == "mm"
assert bytes(b["descrip"].item()).startswith(b"nocturne "), b["descrip"]
EOF
for n in 0 1 2 3 4; do
    exits "scan $n" 0 "$NOC" infer -m "$tiny" -o "$work/mask$n.nii.gz" "$work/scan$n.nii" --device cpu
    "$NOC" prepare -m "$tiny" --output "$work/in.safetensors" "$work/scan$n.nii" 2>"$work/err" &&
        "$NOC" forward --sliding -m "$tiny" --input "$work/in.safetensors" \
            --output "$work/logits.safetensors" --device cpu 2>"$work/err"
    is "scan $n as a tensor" "$(cat "$work/err")" ""
    ok "scan $n: grid and voxels" "$PYTHON" "$work/check.py" "$work/scan$n.nii" "$work/mask$n.nii.gz" \
        "$work/logits.safetensors"
done

# infer NAME [FLAGS...]: the same bytes as the first time.
infer()
{
    name=$1
    shift
    exits "$name" 0 "$NOC" infer -m "$tiny" -o "$work/again.nii.gz" --device cpu "$@" "$work/scan2.nii"
    ok "$name: the same mask" cmp "$work/again.nii.gz" "$work/mask2.nii.gz"
}
infer "batch 7" --batch 7
infer "one thread" --threads 1
infer "two threads, batch 3" --threads 2 --batch 3
exits "without compression" 0 "$NOC" infer -m "$tiny" -o "$work/again.nii" "$work/scan2.nii"
ok "without compression: the same mask" sh -c 'gzip -dc "$work/mask2.nii.gz" | cmp - "$work/again.nii"'
exits "as JSON" 0 "$NOC" infer --json -m "$tiny" -o "$work/again.nii" "$work/scan2.nii"
ok "as JSON: windows and voxels are counted" "$PYTHON" -c "
import json, nibabel, numpy
out, mask = json.load(open('$work/out')), numpy.asarray(nibabel.load('$work/again.nii').dataobj)
assert [l['voxels'] for l in out['labels']] == [int((mask == n).sum()) for n in (1, 2)], out
assert [l['name'] for l in out['labels']] == ['one', 'two']
assert out['windows'] >= 8 and len(out['mask_sha256']) == 64"

# refused NAME CODE TEXT ARGUMENTS...
refused()
{
    name=$1 code=$2 text=$3
    shift 3
    exits "$name: exit $code" "$code" "$NOC" infer "$@"
    says "$name: says why" "$text" "$work/err"
}
scan=$work/scan0.nii
head -c 5000 "$scan" >"$work/short.nii"
refused "no model" 64 "which model" -o "$work/m.nii" "$scan"
refused "no output" 64 "--output" -m "$tiny" "$scan"
refused "an output of another kind" 64 "must end in .nii" -m "$tiny" -o "$work/m.png" "$scan"
refused "no scan" 64 "which scan" -m "$tiny" -o "$work/m.nii"
refused "a missing model" 66 "$work/none" -m "$work/none" -o "$work/m.nii" "$scan"
refused "a missing scan" 66 "No such file" -m "$tiny" -o "$work/m.nii" "$work/none.nii"
refused "a scan cut short" 65 "cut short" -m "$tiny" -o "$work/m.nii" "$work/short.nii"
refused "two scans for two channels" 65 "channels" -m "$tiny" -o "$work/m.nii" "$scan" "$work/scan1.nii"
refused "a missing output folder" 73 "cannot be created" -m "$tiny" -o "$work/none/m.nii" "$scan"
ok "no mask where a scan was refused" test ! -e "$work/m.nii"
tap_end
