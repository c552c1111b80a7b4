"""Helpers of watch.t.

    watch.py mirror SCAN OUT       the scan reversed along its first axis, on the same grid: another mask
    watch.py model FOLDER OUT      a copy of a model whose weights differ in one number
    watch.py counts FILE STUDIES   lines of `status --json`, taken one after another during a run
    watch.py link RESULTS KEY      where index.h5 says that study is
    watch.py hold CATALOG FILE     locks the catalog as a run would, until the file is there
"""
import fcntl
import json
import os
import shutil
import struct
import sys
import time

import h5py
import nibabel
import numpy as np


def mirror(scan, out):
    image = nibabel.load(scan)
    voxels = np.ascontiguousarray(np.asarray(image.dataobj)[::-1])
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine, image.header), out)


def other_model(folder, out):
    shutil.copytree(folder, out)
    manifest = os.path.join(out, "model.yaml")
    with open(manifest) as file:
        lines = [line for line in file if not line.startswith("weights_sha256:")]
    with open(manifest, "w") as file:
        file.writelines(lines)
    with open(os.path.join(out, "weights.safetensors"), "r+b") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        begin = json.loads(file.read(size))["segformer_decoder.linear_pred.bias"]["data_offsets"][0]
        file.seek(8 + size + begin)
        bias = struct.unpack("<f", file.read(4))[0]
        file.seek(8 + size + begin)
        file.write(struct.pack("<f", bias + 1))


def check_counts(path, studies):
    with open(path) as file:
        answers = [json.loads(line) for line in file]
    before = 0
    for answer in answers:
        states = answer["studies"]
        if sorted(states) != ["done", "failed", "pending", "quarantined", "running", "written"]:
            sys.exit(f"other states: {answer}")
        if sum(states.values()) != int(studies) or states["done"] < before or answer["failures"]:
            sys.exit(f"after {before} done: {answer}")
        before = states["done"]
    between = sum(0 < a["studies"]["done"] < int(studies) for a in answers)
    if before != int(studies) or between == 0:
        sys.exit(f"{len(answers)} answers, {between} between the first study and the last, {before} done")


def link(results, key):
    with h5py.File(os.path.join(results, "index.h5"), "r") as index:
        target = index["studies"].get(key, getlink=True)
        print(target.filename, target.path)


def hold(catalog, let_go):
    with open(catalog + ".lock", "w") as file:
        whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(file, 37, whole)  # F_OFD_SETLK
        print("held", flush=True)
        while not os.path.exists(let_go):
            time.sleep(0.05)


if __name__ == "__main__":
    {"mirror": mirror, "model": other_model, "counts": check_counts, "link": link, "hold": hold}[sys.argv[1]](
        *sys.argv[2:])
