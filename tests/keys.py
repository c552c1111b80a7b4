"""Scans with odd names, and what must be known of them.

keys.py make FOLDER          scans, lists and a dataset.json
keys.py check RESULTS KEY... the results folder holds these studies and no other
"""

import os
import sys

import numpy

import nifti_file
import stored

NAMES = [
    "one/scan.nii.gz",
    "two/scan.nii.gz",
    "two/deep/scan.nii",
    "a b (c), d.nii.gz",
    'say "hi".nii',
    "t1;t2.nii",
    "BraTS.2021.x.nii.gz",
    "größe.nii",
    "-m.nii",
    "..nii.gz",
    "x" * 200 + ".nii.gz",
    "pair.hdr",
    "sp ace/scan.nii.gz",
    "first_a.nii",
    "first_b.nii.gz",
]


def make(folder):
    random = numpy.random.default_rng(11)
    for name in NAMES:
        os.makedirs(os.path.dirname(f"{folder}/{name}"), exist_ok=True)
        shape = (9, 8, 7) if name.startswith("first_") else (9, 8, 7, 2)
        nifti_file.write(f"{folder}/{name}", random.uniform(-1, 1, shape).astype("f4"), numpy.eye(4))
    nifti_file.write(
        folder + "/truth, of all.nii", random.integers(0, 3, (9, 8, 7)).astype("u1"), numpy.eye(4)
    )


def check(complaints, results, *keys):
    file, studies = stored.studies(results)
    complaints.check(sorted(studies) == sorted(keys), f"{sorted(studies)}, wanted {sorted(keys)}")
    for key, group in studies.items():
        complaints.check(group["mask"].shape == (7, 8, 9), f"{key}: {group['mask'].shape}")
        complaints.check(group.attrs["key"].decode() == key, f"{key}: {group.attrs['key']}")
        print(key, group.attrs["source"].decode())
    file.close()


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(sys.argv[2])
    else:
        all_complaints = stored.Complaints()
        check(all_complaints, *sys.argv[2:])
        all_complaints.end()
