"""Models of overlapping regions: bits, paint and counts by numpy.

regions.py make FOLDER WEIGHTS                       scans, FOLDER/list.csv and two models beside them
regions.py check FOLDER MODEL RESULTS CSV            against FOLDER/MODEL.KEY.logits.safetensors
regions.py brains RESULTS CSV EXPECTED               the three brains against the reference values
"""

import json
import sys

import h5py
import nibabel
import numpy
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

import nifti_file
import stored

# name, threshold, regions (name, truth labels), paint (region, label) in order
MODELS = {
    "nested": (0.5, [("TC", (2, 3)), ("WT", (1, 2, 3)), ("ET", (3,))], [("WT", 1), ("TC", 2), ("ET", 3)]),
    # the last painted hides the others, one region is not painted, labels do not follow the order
    "other": (0.54, [("a", (7,)), ("b", (1, 7)), ("c", (2,))], [("c", 9), ("a", 4)]),
}
TRUTHS = {"nested": (0, 1, 2, 3), "other": (0, 1, 2, 7)}
SHAPE = (37, 29, 41)

MANIFEST = """format: nocturne-model/1
name: {name}
family: segformer3d
weights: {weights}
network:
  in_channels: 2
  num_classes: 3
  embed_dims: [8, 16, 40, 64]
  num_heads: [1, 2, 5, 8]
  depths: [2, 2, 2, 2]
  sr_ratios: [4, 2, 1, 1]
  mlp_ratios: [4, 4, 4, 4]
  patch_kernel: [7, 3, 3, 3]
  patch_stride: [4, 2, 2, 2]
  patch_padding: [3, 1, 1, 1]
  decoder_dim: 32
  attention_scale: head_dim
input: {{channels: [a, b], orientation: RAS, prepare: []}}
window: {{size: [32, 32, 32], overlap: 0.5, blend: gaussian}}
output:
  kind: regions
  threshold: {threshold}
  regions: [{regions}]
  paint: [{paint}]
"""


def manifest(name, weights):
    threshold, regions, paint = MODELS[name]
    return MANIFEST.format(
        name=name,
        weights=weights,
        threshold=threshold,
        regions=", ".join(f"{{name: {region}, truth_labels: {list(labels)}}}" for region, labels in regions),
        paint=", ".join(f"{{region: {region}, label: {label}}}" for region, label in paint),
    )


def blocks(random, values):
    """A label image of boxes, some of which overlap."""
    labels = numpy.zeros(SHAPE, "u1")
    for value in values[1:]:
        corner = [random.integers(0, n // 2) for n in SHAPE]
        labels[tuple(slice(c, c + 18) for c in corner)] = value
    return labels


def store(array, code):
    ornt = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(code))
    affine = numpy.diag((1.0, 1.5, 2.0, 1.0)) @ inv_ornt_aff(ornt, array.shape[:3])
    return apply_orientation(array, ornt), affine


def make(folder, weights):
    import os

    random = numpy.random.default_rng(7)
    lists = {}
    for name in MODELS:
        os.mkdir(f"{folder}/{name}")
        with open(f"{folder}/{name}/model.yaml", "w") as out:
            out.write(manifest(name, weights))
        lists[name] = open(f"{folder}/{name}.csv", "w")
        lists[name].write("key,image,truth\n")
    for key, code, is_split in (
        ("plain", "RAS", False),
        ("turned", "PIL", False),
        ("split", "SAL", True),
        ("untold", "LPS", False),
    ):
        data = random.uniform(-1, 1, SHAPE + (2,)).astype("f4")
        array, affine = store(data, code)
        files = [f"{key}_a.nii", f"{key}_b.nii"] if is_split else [f"{key}.nii.gz"]
        for file, part in zip(files, [array[..., 0], array[..., 1]] if is_split else [array]):
            nifti_file.write(f"{folder}/{file}", part, affine)
        for name, out in lists.items():
            truth = "" if key == "untold" else f"{key}_{name}_truth.nii.gz"
            if truth:
                nifti_file.write(f"{folder}/{truth}", store(blocks(random, TRUTHS[name]), code)[0], affine)
            out.write(f"{key},{';'.join(files)},{truth}\n")
    for out in lists.values():
        out.close()


def tensor(path, name):
    """One f32 tensor of a safetensors file."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        about = json.loads(file.read(size))[name]
        file.seek(8 + size + about["data_offsets"][0])
        count = (about["data_offsets"][1] - about["data_offsets"][0]) // 4
        return numpy.frombuffer(file.read(4 * count), "<f4").reshape(about["shape"])


def painted(bits, regions, paint):
    mask = numpy.zeros(bits.shape, "u1")
    names = [name for name, _ in regions]
    for region, label in paint:
        mask[(bits >> names.index(region) & 1) == 1] = label
    return mask


def check_bits(complaints, key, bits, logits, affine, threshold):
    """Where a logit is not within rounding of the threshold, its bit is the comparison."""
    ras = apply_orientation(bits.T, io_orientation(affine))
    limit = numpy.log(threshold / (1 - threshold))
    for number, logit in enumerate(logits):
        logit = logit.T
        is_sure = abs(logit - limit) > 2e-6 * abs(logits).max()
        above = (logit >= limit).sum()
        complaints.check(100 < above < logit.size - 100, f"{key}: region {number} has {above} voxels")
        complaints.check(is_sure.mean() > 0.999, f"{key}: too few logits are off the threshold")
        wrong = ((ras >> number & 1) != (logit >= limit)) & is_sure
        complaints.check(not wrong.any(), f"{key}: {wrong.sum()} bits of region {number} are wrong")
    complaints.check(int(bits.max()) < 1 << len(logits), f"{key}: bits of regions that are not there")


def check_rows(complaints, key, rows, regions, bits, truth):
    wanted = [("+".join(map(str, labels)), name) for name, labels in regions]
    found = [(row["label"], row["name"]) for row in rows]
    complaints.check(found == wanted, f"{key}: rows {found}, wanted {wanted}")
    for number, row in enumerate(rows):
        counts = [row[name] for name in ("tp", "fp", "fn", "tn")]
        if truth is None:
            complaints.check(counts == [""] * 4 and row["dice"] == "", f"{key}: counts without a truth")
            continue
        prediction, answer = (bits >> number & 1) == 1, numpy.isin(truth, regions[number][1])
        complaints.check(
            list(map(int, counts)) == stored.counts(prediction, answer), f"{key}: counts of {row['name']}"
        )
        complaints.check(abs(float(row["dice"]) - stored.dice(prediction, answer)) < 1e-6, f"{key}: Dice")


def check_metrics(complaints, results, rows):
    """The table of the parts says what the report says."""
    with h5py.File(results + "/part-000001.h5", "r") as part:
        table = part["metrics"][...]
    complaints.check(len(table) == sum(map(len, rows.values())), f"{len(table)} rows of /metrics")
    for entry in table:
        key, label = entry["key"].decode(), entry["label"].decode()
        match = [
            row
            for row in rows.get(key, [])
            if row["label"] == label and row["name"] == entry["name"].decode()
        ]
        complaints.check(len(match) == 1, f"{key}: region {label} of /metrics")
        for row in match:
            complaints.check(
                not row["tp"]
                or [int(row[n]) for n in ("tp", "fp", "fn", "tn")]
                == [int(entry[n]) for n in ("tp", "fp", "fn", "tn")],
                f"{key}: /metrics of {label}",
            )


def check(complaints, folder, model, results, table):
    threshold, regions, paint = MODELS[model]
    rows = stored.report(table)
    file, studies = stored.studies(results)
    complaints.check(sorted(studies) == ["plain", "split", "turned", "untold"], f"studies {sorted(studies)}")
    for key, group in studies.items():
        bits, mask = group["regions"][...], group["mask"][...]
        complaints.check(
            bits.dtype == numpy.uint8 and bits.shape == mask.shape, f"{key}: {bits.dtype} {bits.shape}"
        )
        check_bits(
            complaints,
            key,
            bits,
            tensor(f"{folder}/{model}.{key}.logits", "logits"),
            group.attrs["affine"],
            threshold,
        )
        complaints.check(numpy.array_equal(mask, painted(bits, regions, paint)), f"{key}: painted otherwise")
        truth = None if key == "untold" else stored.labels(f"{folder}/{key}_{model}_truth.nii.gz").T
        check_rows(complaints, key, rows.get(key, []), regions, bits, truth)
    check_metrics(complaints, results, rows)
    file.close()


BRAIN = [("TC", "2+3"), ("WT", "1+2+3"), ("ET", "3")]


def is_near(found, wanted, share=2e-4):
    return abs(found - wanted) <= share * wanted


def brain_rows(complaints, key, rows, bits, regions):
    complaints.check([(row["name"], row["label"]) for row in rows] == BRAIN, f"{key}: rows of the report")
    for number, row in enumerate(rows):
        wanted = regions[row["name"]]
        found = {name: int(row[name]) for name in ("tp", "fp", "fn")}
        found["voxels"] = int((bits >> number & 1).sum())
        found["truth_voxels"] = found["tp"] + found["fn"]
        complaints.check(
            found["voxels"] == found["tp"] + found["fp"], f"{key}: {row['name']} bits and counts"
        )
        # A voxel that changes sides changes tp, fp and fn alike: a share of the region, not of small counts.
        for name, value in found.items():
            complaints.check(
                abs(value - wanted[name]) <= 2e-4 * wanted["voxels"], f"{key}: {row['name']} {name} {value}"
            )
        complaints.check(found["truth_voxels"] == wanted["truth_voxels"], f"{key}: {row['name']} truth")
        complaints.check(
            abs(float(row["dice"]) - wanted["dice"]) <= 2e-5, f"{key}: {row['name']} Dice {row['dice']}"
        )
        print(key, row["name"], found, row["dice"], "wanted", wanted)


def brain_mask(complaints, key, mask, wanted):
    complaints.check(list(mask.shape[::-1]) == wanted["mask_shape_ijk"], f"{key}: shape {mask.shape}")
    for label, voxels in wanted["painted_voxels"].items():
        at = mask == int(label)
        complaints.check(
            is_near(int(at.sum()), voxels), f"{key}: {at.sum()} voxels of label {label}, not {voxels}"
        )
        print(key, "label", label, int(at.sum()), "wanted", voxels)
        if label == "0":
            continue
        centre = numpy.array(numpy.nonzero(at)[::-1]).mean(axis=1)
        complaints.check(
            abs(centre - wanted["painted_centre_of_mass_ijk"][label]).max() <= 0.01, f"{key}: {centre}"
        )


def brains(complaints, results, table, expected):
    rows = stored.report(table)
    with open(expected) as file:
        wanted = json.load(file)
    file, studies = stored.studies(results)
    complaints.check(sorted(studies) == sorted(wanted), f"studies {sorted(studies)}")
    for key in wanted:
        bits, mask = studies[key]["regions"][...], studies[key]["mask"][...]
        brain_rows(complaints, key, rows.get(key, []), bits, wanted[key]["regions"])
        brain_mask(complaints, key, mask, wanted[key])
    file.close()


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(*sys.argv[2:])
    else:
        all_complaints = stored.Complaints()
        {"check": check, "brains": brains}[sys.argv[1]](all_complaints, *sys.argv[2:])
        all_complaints.end()
