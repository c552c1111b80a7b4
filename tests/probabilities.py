"""Probabilities beside masks, by h5py and nibabel.

probabilities.py exported RESULTS MASKS              exported ones are those of the results
probabilities.py damage KIND RESULTS CATALOG         spoils those of hippocampus_020
probabilities.py logits KIND FILE LOGITS             FILE.nii is the softmax (regions: sigmoid) of FILE.safetensors
"""

import os
import sqlite3
import sys

import h5py
import nibabel
import numpy

import scans
import stored
import tensors

KEY = "hippocampus_020"


def exported(results, masks):
    complaints = stored.Complaints()
    file, studies = stored.studies(results)
    with file:
        complaints.check(len(studies) == 16, f"{len(studies)} studies")
        for key, study in studies.items():
            data = study["probabilities"]
            image, mask = (nibabel.load(f"{masks}/{folder}{key}.nii.gz") for folder in ("probabilities/", ""))
            complaints.check([name.decode() for name in data.attrs["classes"]] == ["background", "Anterior", "Posterior"],
                             f"{key}: classes {data.attrs['classes']}")
            values = numpy.asarray(image.dataobj)
            complaints.check(values.dtype == numpy.float32 and image.shape == mask.shape + (3,), f"{key}: {image.shape}")
            complaints.check((image.affine == mask.affine).all(), f"{key}: affine")
            complaints.check((values.T == data[()].astype("f4")).all(), f"{key}: values")
            labels = numpy.asarray(mask.dataobj)
            chosen = numpy.take_along_axis(values, labels[..., None].astype("i8"), 3)[..., 0]
            complaints.check((values.max(3) - chosen).max() < 1e-3, f"{key}: the mask is not where they are largest")
    complaints.end()


def damage(kind, results, catalog):
    path = f"{results}/part-000001.h5"
    with h5py.File(path, "r+") as part:
        study = part["studies"][KEY]
        values = study["probabilities"][()]
        if kind == "value":
            study["probabilities"][1, 20, 20, 20] = numpy.nextafter(values[1, 20, 20, 20], numpy.float16(0.5))
        elif kind == "hash":
            study.attrs.modify("probabilities_sha256", b"0" * 64)
        else:
            attributes = dict(study["probabilities"].attrs)
            del study["probabilities"]
            if kind == "type":
                study["probabilities"] = values.astype("f4")
                study["probabilities"].attrs.update(attributes)
    database = sqlite3.connect(catalog)
    with database:
        folder = os.path.abspath(results)
        database.execute("UPDATE result_set SET results = ?", (folder,))
        database.execute("UPDATE part SET bytes = ? WHERE number = 1", (os.path.getsize(path),))
    database.close()


def logits(kind, path, tensor):
    complaints = stored.Complaints()
    image = nibabel.load(path)
    values = numpy.asarray(image.dataobj).astype(float)
    raw = tensors.read(tensor)[1]["logits"].astype(float)
    wanted = 1 / (1 + numpy.exp(-raw))
    if kind == "labels":
        wanted = numpy.exp(raw - raw.max(0))
        wanted /= wanted.sum(0)
    for number, plane in enumerate(wanted):
        far = abs(values[..., number] - scans.back(plane, image)).max()
        complaints.check(far < 2.5e-4, f"class {number}: {far} away")  # half a step of f16 below 1, and f32
    complaints.check(values.shape[3] == len(wanted), f"{values.shape[3]} classes")
    complaints.end()


{"exported": exported, "damage": damage, "logits": logits}[sys.argv[1]](*sys.argv[2:])
