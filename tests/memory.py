"""memory.py FOLDER: small scans and two that fit into no memory given them (but are small on disk), and FOLDER/list.csv."""

import gzip
import os
import sys

import numpy

import nifti_file

SIDE = 1 << 11  # int16: 8 GiB of voxels in 2048 x 2048 x 1024
STRETCH = 1 << 26

folder = sys.argv[1]
random = numpy.random.default_rng(5)


def at(name):
    return os.path.join(folder, name)


def large_header():
    head = nifti_file.header()
    head.set_data_shape((SIDE, SIDE, SIDE // 2))
    head.set_data_dtype(numpy.int16)
    nifti_file.set_space(head, numpy.eye(4))
    return nifti_file.encode(head, numpy.zeros(0, numpy.int16))[0]


with open(at("list.csv"), "w") as lines:
    print("key,image", file=lines)
    for name in ("large_plain.nii", "small_1.nii.gz", "small_2.nii.gz", "large_packed.nii.gz", "small_3.nii.gz"):
        print(f"{name.split('.')[0]},{name};{name}", file=lines)
for number in (1, 2, 3):
    stored = random.integers(0, 99, (24, 20, 28)).astype(numpy.int16)
    nifti_file.write(at(f"small_{number}.nii.gz"), stored, numpy.eye(4))
first = large_header()
with open(at("large_plain.nii"), "wb") as file:
    file.write(first)
    file.truncate(len(first) + SIDE**3)
with open(at("large_packed.nii.gz"), "wb") as file:
    zeros = gzip.compress(bytes(STRETCH), 6, mtime=0)
    file.write(gzip.compress(first, 6, mtime=0) + zeros * (SIDE**3 // STRETCH))
