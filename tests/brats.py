"""A model that sees the phantoms of scripts/brats_phantoms.py, and what a run makes of them.

brats.py model FOLDER 2021|2023                            a model folder
brats.py check 2021|2023 ARCHIVE MASKS REPORT.csv          exported masks: place, labels, Dice of each region by numpy
brats.py truths ARCHIVE FOLDER                             links to the truths, named by case
brats.py same REPORT.csv JSON nnunet|brats                 evaluate --json has the report's counts and Dice
"""
import json
import os
import sys

import nibabel
import numpy
import stored

sys.path.insert(0, os.path.join(os.environ["root"], "scripts"))
import model_folder  # noqa: E402

ENHANCING = {"2021": 4, "2023": 3}
AFFINE = [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]]
# Off the middle, where the tumours are: a crop in the middle would hide that a scan was mirrored.
CROP = [13, 100, 104]
# The channel in which a region is bright, and from which share of the slice's largest value on.
CHANNELS = ["FLAIR", "T1w", "T1gd", "T2w"]
SEEN = {"TC": ("T2w", 0.53), "WT": ("FLAIR", 0.5), "ET": ("T1gd", 0.56)}


def regions(naming):
    """Truth labels by region; painted in this order a label covers what it lies in."""
    enhancing = ENHANCING[naming]
    return {"WT": (1, 2, enhancing), "TC": (1, enhancing), "ET": (enhancing,)}


def manifest(naming):
    truth_labels = regions(naming)
    return {
        "name": "brightness-" + naming,
        "network": {"in_channels": 4, "num_classes": 3, "embed_dims": [8, 8, 8, 8], "num_heads": [1, 1, 1, 1],
                    "depths": [1, 1, 1, 1], "sr_ratios": [4, 2, 1, 1], "mlp_ratios": [1, 1, 1, 1],
                    "patch_kernel": [7, 3, 3, 3], "patch_stride": [4, 2, 2, 2], "patch_padding": [3, 1, 1, 1],
                    "decoder_dim": 8, "attention_scale": "head_dim"},
        "input": {"channels": CHANNELS,
                  "prepare": [{"step": "minmax_slices"}, {"step": "crop", "start": CROP, "size": [128] * 3}]},
        "window": {"size": [128] * 3, "blend": "constant"},
        "output": {"kind": "regions", "regions": [{"name": name, "truth_labels": truth_labels[name]} for name in SEEN],
                   "paint": [{"region": name, "label": label}
                             for name, label in (("WT", 2), ("TC", 1), ("ET", ENHANCING[naming]))]},
    }


def model(folder, naming):
    """Blocks add nothing; a region's logit is the mean of its channel in a token's 4^3 voxels, less the threshold. Each
    value stands there with both signs, so that norms scale it but never move it across 0."""
    made = manifest(naming)
    tensors = {name: numpy.zeros(shape, "f4") for name, shape in model_folder.shapes(made["network"])}
    for name, array in tensors.items():
        if name.endswith("running_var") or (array.ndim == 1 and name.endswith("weight")):
            array[:] = 1
    decoder, stem = "segformer_decoder.", "segformer_encoder.embed_1.patch_embeddings."
    for number, (channel, threshold) in enumerate(SEEN.values()):
        for value, sign in ((2 * number, 1), (2 * number + 1, -1)):
            tensors[stem + "weight"][value, CHANNELS.index(channel), 3:, 3:, 3:] = sign / 64
            tensors[stem + "bias"][value] = -sign * threshold
            tensors[decoder + "linear_pred.weight"][number, value] = sign
    tensors[decoder + "linear_c1.proj.weight"][:] = numpy.eye(8)
    tensors[decoder + "linear_fuse.0.weight"][:, -8:, 0, 0, 0] = numpy.eye(8)  # stage 1 is the last of the four
    model_folder.write(folder, made, tensors)


def check(naming, archive, masks, table):
    complaints, rows = stored.Complaints(), stored.report(table)
    cases, truth_labels = sorted(os.listdir(archive)), regions(naming)
    complaints.check(sorted(rows) == cases == sorted(name[:-7] for name in os.listdir(masks)), f"cases {sorted(rows)}")
    for key in cases:
        image, truth = nibabel.load(f"{masks}/{key}.nii.gz"), truth_of(archive, key)
        complaints.check(image.shape == (240, 240, 155) and numpy.array_equal(image.affine, AFFINE), f"{key}: its grid")
        mask, truth = stored.labels(f"{masks}/{key}.nii.gz"), stored.labels(truth)
        complaints.check(numpy.array_equal(numpy.unique(mask), numpy.unique(truth)), f"{key}: labels {numpy.unique(mask)}")
        complaints.check([row["name"] for row in rows[key]] == list(SEEN), f"{key}: rows of the report")
        for row in rows[key]:
            check_region(complaints, row, mask, truth, truth_labels[row["name"]])
    complaints.end()


def check_region(complaints, row, mask, truth, labels):
    where = f"{row['key']} {row['name']}"
    prediction, answer = numpy.isin(mask, labels), numpy.isin(truth, labels)
    complaints.check(row["label"] == "+".join(map(str, labels)), f"{where}: label {row['label']}")
    counts, dice = stored.counts(prediction, answer), stored.dice(prediction, answer)
    complaints.check([int(row[name]) for name in ("tp", "fp", "fn", "tn")] == counts, f"{where}: {row}, counted {counts}")
    complaints.check(row["dice"] == f"{dice:#.9g}", f"{where}: Dice {row['dice']}, counted {dice:#.9g}")
    complaints.check(dice > 0.85 or not answer.any(), f"{where}: Dice {dice}, the region is elsewhere")


def truth_of(archive, key):
    return next(f"{archive}/{key}/{name}" for name in os.listdir(f"{archive}/{key}") if name.endswith("seg.nii.gz"))


def truths(archive, folder):
    os.makedirs(folder)
    for key in os.listdir(archive):
        os.symlink(os.path.abspath(truth_of(archive, key)), f"{folder}/{key}.nii.gz")


def same(table, path, convention):
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    rows = stored.report(table)
    assert found["convention"] == convention and sorted(found["cases"]) == sorted(rows)
    empty = 0
    for row in sum(rows.values(), []):
        case, dice = found["cases"][row["key"]][row["label"]], float(row["dice"])
        assert [case[name] for name in ("tp", "fp", "fn", "tn")] == [int(row[name]) for name in ("tp", "fp", "fn", "tn")], row
        if numpy.isnan(dice):
            empty += 1
            dice = 1.0 if convention == "brats" else dice
        assert numpy.isclose(float(case["dice"]), dice, rtol=1e-8, atol=0, equal_nan=True), (row, case["dice"])
    assert empty == 1, f"{empty} regions that neither mask has, wanted the enhancing tumour of one case"


if __name__ == "__main__":
    {f.__name__: f for f in (model, check, truths, same)}[sys.argv[1]](*sys.argv[2:])
