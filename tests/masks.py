"""What a results folder and exported masks hold, for the program tests.

    masks.py list RESULTS                       a line a study of index.h5: key, shape, type, SHA-256 of the
                                                mask, instruction set
    masks.py dice MASKS TRUTHS REPORT.csv       counts and Dice of each row of the report, by numpy
    masks.py same A.nii.gz B.nii.gz...          pairs of files have the same voxels, affine and codes
    masks.py near EXPECTED.json REPORT.csv TOL  Dice of each study of EXPECTED.json within TOL
"""
import csv
import hashlib
import json
import os
import sys

import h5py
import nibabel
import numpy as np


def digest(mask):
    return hashlib.sha256(np.ascontiguousarray(mask).tobytes()).hexdigest()


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def masks(folder):
    """(key, group, mask) of each study that the index leads to, in key order."""
    with h5py.File(os.path.join(folder, "index.h5"), "r") as index:
        for key in sorted(index["studies"]):
            study = index["studies"][key]
            yield key, study, study["mask"][()]


def list_masks(folder):
    for key, study, mask in masks(folder):
        sha256 = digest(mask)
        if text(study.attrs["mask_sha256"]) != sha256:
            sys.exit(f"{key}: the mask is {sha256}, its attribute says {text(study.attrs['mask_sha256'])}")
        print(key, "x".join(map(str, mask.shape)), mask.dtype, sha256, text(study.attrs["isa"]))


def rows(report):
    with open(report, newline="") as file:
        return list(csv.DictReader(file))


def labels_of(path):
    return np.asarray(nibabel.load(path).dataobj).astype(np.int64)


def counts(mask, truth, label):
    predicted, true = mask == label, truth == label
    return {
        "tp": int(np.count_nonzero(predicted & true)),
        "fp": int(np.count_nonzero(predicted & ~true)),
        "fn": int(np.count_nonzero(~predicted & true)),
        "tn": int(np.count_nonzero(~predicted & ~true)),
    }


def check_dice(mask_folder, truth_folder, report):
    checked = 0
    for row in rows(report):
        name = row["key"] + ".nii.gz"
        mask, truth = labels_of(os.path.join(mask_folder, name)), labels_of(os.path.join(truth_folder, name))
        wanted = counts(mask, truth, int(row["label"]))
        if {name: int(row[name]) for name in wanted} != wanted:
            sys.exit(f"{row['key']}, label {row['label']}: {row}, counted {wanted}")
        dice = 2 * wanted["tp"] / (2 * wanted["tp"] + wanted["fp"] + wanted["fn"])
        if row["dice"] != f"{dice:#.9g}":
            sys.exit(f"{row['key']}, label {row['label']}: Dice {row['dice']}, counted {dice:#.9g}")
        checked += 1
    print(f"{checked} rows")


def check_same(paths):
    for a, b in zip(paths[::2], paths[1::2]):
        x, y = nibabel.load(a), nibabel.load(b)
        voxels = np.asarray(x.dataobj), np.asarray(y.dataobj)
        if voxels[0].dtype != voxels[1].dtype or not np.array_equal(*voxels):
            sys.exit(f"{a} and {b}: the voxels differ")
        if not np.array_equal(x.affine, y.affine) or any(
                int(x.header[code]) != int(y.header[code]) for code in ("qform_code", "sform_code")):
            sys.exit(f"{a} and {b}: the places in space differ")
        if not voxels[0].any():
            sys.exit(f"{a}: an empty mask proves nothing")


def dice_of(path):
    """Dice by (key, label), of a report or of a model's expected.json."""
    if path.endswith(".csv"):
        return {(row["key"], int(row["label"])): float(row["dice"]) for row in rows(path) if row["dice"]}
    with open(path) as file:
        return {(key, label): dice for key, study in json.load(file).items()
                for label, dice in enumerate(study["dice"], 1)}


def check_near(expected, report, tolerance):
    wanted, found = dice_of(expected), dice_of(report)
    worst = max((abs(found[place] - dice), *place) for place, dice in wanted.items())
    studies = len({key for key, _ in wanted})
    print(f"{studies} studies, the largest difference is {worst[0]:.6f} ({worst[1]}, label {worst[2]})")
    sys.exit(not worst[0] <= float(tolerance))


def main(command, *arguments):
    if command == "list":
        list_masks(*arguments)
    elif command == "dice":
        check_dice(*arguments)
    elif command == "same":
        check_same(arguments)
    elif command == "near":
        check_near(*arguments)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
