"""Masks of which only the largest components are kept, against those of the same model that keeps all.

    largest.py scans FOLDER COUNT       scans of two channels with truths, and their list.csv
    largest.py model FOLDER labels|regions LINE...     the tiny model with that output and these lines more in it
    largest.py check PLAIN KEPT         results folders: each mask of KEPT is that of PLAIN with the rest cleared
"""
import os
import sys

import h5py
import nibabel
import numpy

SIZE = (37, 41, 34)
TINY = os.path.join(os.environ["root"], "tests/data/models/tiny/model.yaml")
REGIONS = """  kind: regions
  regions:
    - {name: inner, truth_labels: [3]}
    - {name: outer, truth_labels: [3, 2, 1]}
    - {name: middle, truth_labels: [2, 3]}
  paint: [{region: outer, label: 1}, {region: middle, label: 2}, {region: inner, label: 3}]
"""
# As the models here ask for: labels; bits of regions, with those of the regions within them, from outer to inner.
LABELS, BITS = (2,), ((2, 7), (1, 1))


def blur(noise):
    for axis in range(3):
        noise = sum(numpy.roll(noise, shift, axis) for shift in range(-2, 3))
    return noise


def scans(folder, count):
    random = numpy.random.default_rng(7)
    os.makedirs(folder)
    with open(f"{folder}/list.csv", "w") as table:
        print("key,image,truth", file=table)
        for number in range(int(count)):
            names = [f"{number}{part}.nii.gz" for part in ("a", "b", "_truth")]
            for name in names:
                values = blur(random.normal(size=SIZE))
                values = (values > 4).astype("u1") + (values > 8) if "truth" in name else values.astype("f4")
                nibabel.save(nibabel.Nifti1Image(values, numpy.diag((1.5, 2, 1, 1))), f"{folder}/{name}")
            print(f"case{number},{names[0]};{names[1]},{names[2]}", file=table)


def model(folder, kind, *lines):
    with open(TINY) as file:
        text = file.read().replace("../../golden", os.path.join(os.path.dirname(TINY), "../../golden"))
    head, labels = text.split("output:\n")
    os.makedirs(folder)
    with open(f"{folder}/model.yaml", "w") as file:
        file.write(head + "output:\n" + (labels if kind == "labels" else REGIONS) + "".join(f"{line}\n" for line in lines))


def components(there):
    """Sets of voxels that share a corner at least, in the order of their first voxels."""
    left = {tuple(int(x) for x in at): None for at in numpy.argwhere(there)}
    while left:
        found = [next(iter(left))]
        del left[found[0]]
        for k, j, i in found:
            for at in numpy.ndindex(3, 3, 3):
                near = (k + at[0] - 1, j + at[1] - 1, i + at[2] - 1)
                if near in left:
                    del left[near]
                    found.append(near)
        yield found


def strays(there):
    out = numpy.zeros_like(there)
    parts = sorted(components(there), key=len, reverse=True)  # stable
    for part in parts[1:]:
        out[tuple(zip(*part))] = True
    return out


def check(plain, kept):
    changed = 0
    with h5py.File(f"{plain}/index.h5") as before, h5py.File(f"{kept}/index.h5") as after:
        assert list(before["studies"]) == list(after["studies"])
        for key, study in before["studies"].items():
            mask, found = study["mask"][()], after["studies"][key]["mask"][()]
            if "regions" in study:
                bits = study["regions"][()]
                for bit, cleared in BITS:
                    bits[strays(bits & bit != 0)] &= 255 - cleared
                assert numpy.array_equal(after["studies"][key]["regions"][()], bits), f"{key}: regions"
                wanted = numpy.zeros_like(mask)
                for bit, label in ((2, 1), (4, 2), (1, 3)):
                    wanted[bits & bit != 0] = label
            else:
                wanted = mask.copy()
                for label in LABELS:
                    wanted[strays(mask == label)] = 0
            assert numpy.array_equal(found, wanted), f"{key}: {numpy.count_nonzero(found != wanted)} voxels"
            changed += numpy.count_nonzero(mask != wanted)
    assert changed, "there was nothing to clear"
    print(f"{changed} voxels cleared")


if __name__ == "__main__":
    {"scans": scans, "model": model, "check": check}[sys.argv[1]](*sys.argv[2:])
