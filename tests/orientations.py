"""One scan and its truth stored in every way that a file may run through space, and what must come of it.

orientations.py make FOLDER IMAGE TRUTH    files and FOLDER/list.csv
orientations.py masks LIST RESULTS         the stored masks
orientations.py exported LIST RESULTS DIR  the exported ones
orientations.py report LIST DIR CSV WANTED the scores against a count of the exported masks
"""

import csv
import itertools
import os
import sys

import nibabel
import numpy
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff

import nifti_file
import stored

ZOOMS = (1.1, 0.9, 1.3)
ENDINGS = (".nii.gz", ".nii", ".hdr", ".hdr.gz")
# name, NIfTI version, big-endian, axes of length 1 behind the third
LAYOUTS = (
    ("", 1, False, 0),
    ("2", 2, False, 0),
    ("b", 1, True, 0),
    ("2b", 2, True, 0),
    ("4", 1, False, 1),
    ("7", 2, False, 4),
)
# stored type, slope, inter: all give the same values
KINDS = (
    ("u1", 1, 0),
    ("i2", 1, 0),
    ("u2", 0.5, -12),
    ("f4", 1, 0),
    ("i4", 0.25, 3),
    ("f8", 0, 0),
    ("i8", 1, 0),
)
# sform code, qform code, whether the two say the same
FORMS = ((1, 0, True), (0, 1, True), (2, 1, True), (4, 2, False), (1, 3, True))
UNITS = (10, 2, 0, 18, 3)


def rotation(axis, degrees):
    a, b = (axis + 1) % 3, (axis + 2) % 3
    turn, angle = numpy.eye(4), numpy.radians(degrees)
    turn[a, a] = turn[b, b] = numpy.cos(angle)
    turn[a, b], turn[b, a] = -numpy.sin(angle), numpy.sin(angle)
    return turn


def all_codes():
    for axes in itertools.permutations(("LR", "PA", "IS")):
        for sides in itertools.product((1, 0), repeat=3):
            yield "".join(axis[side] for axis, side in zip(axes, sides))


def places():
    """Name, axis codes, and how the patient's axes are turned from the world's."""
    for code in sorted(all_codes(), key=lambda code: code != "RAS"):
        yield code, code, numpy.eye(4)
    oblique = rotation(0, 25) @ rotation(1, -17) @ rotation(2, 12)
    for code in ("RAS", "PIR", "SLA"):
        yield "oblique_" + code, code, oblique


def store(data, code, turn):
    """The array in file order and its affine."""
    ornt = nibabel.orientations.ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(code))
    base = turn @ numpy.array(numpy.diag(ZOOMS + (1,)))
    base[:3, 3] = (-31.5, 12.25, 40.75)
    return apply_orientation(data, ornt), base @ inv_ornt_aff(ornt, data.shape)


def write(path, array, affine, number):
    _, version, big_endian, extra = LAYOUTS[number % len(LAYOUTS)]
    kind, slope, inter = KINDS[number % len(KINDS)]
    sform, qform, is_same = FORMS[number % len(FORMS)]
    head = nifti_file.header(version, big_endian)
    head["xyzt_units"] = UNITS[number // 2 % len(UNITS)]
    values = array if slope == 0 else (array - inter) / slope
    assert (values == numpy.rint(values)).all()
    voxels = values.astype(kind).reshape(array.shape + (1,) * extra, order="F")
    nifti_file.write(
        path, voxels, affine, head, slope_inter=(slope, inter), sform_code=sform, qform_code=qform
    )
    if not is_same:  # the sform counts
        head.set_qform(rotation(2, 90) @ affine, qform)
        nifti_file.write(path, voxels, None, head)
    read = nibabel.load(path)
    assert numpy.array_equal(read.get_fdata().reshape(array.shape), array), path
    assert numpy.allclose(read.affine, affine, atol=1e-3), path  # a half turn costs a qform of floats so much


def make(folder, image, truth):
    scan = nibabel.load(image)
    assert nibabel.aff2axcodes(scan.affine) == ("R", "A", "S") and len(set(scan.shape)) == 3
    data, labels = scan.get_fdata(), stored.labels(truth)
    with open(folder + "/list.csv", "w") as out:
        out.write("key,image,truth\n")
        for number, (name, code, turn) in enumerate(places()):
            array, affine = store(data, code, turn)
            answer, _ = store(labels, code, turn)
            assert nibabel.aff2axcodes(affine) == tuple(code)
            file = name + ENDINGS[number % len(ENDINGS)]
            write(f"{folder}/{file}", array, affine, number)
            nifti_file.write(
                f"{folder}/{name}_truth.nii.gz", answer.astype(("u1", "f4", "i2")[number % 3]), affine
            )
            out.write(f"{name},{file},{name}_truth.nii.gz\n")


def read_list(path):
    folder = os.path.dirname(path)
    with open(path, newline="") as file:
        return [
            (row["key"], f"{folder}/{row['image']}", f"{folder}/{row['truth']}")
            for row in csv.DictReader(file)
        ]


def to_ras(array, affine):
    return apply_orientation(array, nibabel.io_orientation(affine))


def masks(complaints, list_path, results):
    file, studies = stored.studies(results)
    reference = studies["RAS"]["mask"][...].T
    for axes in [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]:
        complaints.check(
            not numpy.array_equal(numpy.flip(reference, axes), reference), "the mask is symmetric"
        )
    affines = {name: store(reference, code, turn)[1] for name, code, turn in places()}
    for key, path, _ in read_list(list_path):
        image, group = nibabel.load(path), studies[key]
        mask = group["mask"][...]
        complaints.check(mask.dtype == numpy.uint8, f"{key}: stored as {mask.dtype}")
        if mask.shape != image.shape[2::-1]:
            complaints.check(False, f"{key}: {mask.shape} for an image of {image.shape}")
            continue
        complaints.check(
            numpy.array_equal(to_ras(mask.T, image.affine), reference), f"{key}: another anatomy"
        )
        affine = group.attrs["affine"]
        is_exact = numpy.array_equal(affine, image.affine) or image.header["sform_code"] == 0
        complaints.check(
            is_exact and numpy.allclose(affine, affines[key], rtol=0, atol=1e-5), f"{key}: affine"
        )
        complaints.check(
            numpy.allclose(group.attrs["spacing_mm"], image.header["pixdim"][1:4], rtol=1e-7),
            f"{key}: spacing",
        )
    complaints.check(len(studies) == len(read_list(list_path)), f"{len(studies)} studies")
    file.close()


SAME_FIELDS = (
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
    "xyzt_units",
    "sizeof_hdr",
)


def exported(complaints, list_path, results, folder):
    file, studies = stored.studies(results)
    for key, path, _ in read_list(list_path):
        image, mask = nibabel.load(path), nibabel.load(f"{folder}/{key}.nii.gz")
        complaints.check(mask.shape == image.shape[:3], f"{key}: {mask.shape} for an image of {image.shape}")
        for field in SAME_FIELDS:
            complaints.check(
                numpy.array_equal(mask.header[field], image.header[field]),
                f"{key}: {field} is {mask.header[field]}, was {image.header[field]}",
            )
        complaints.check(
            numpy.array_equal(mask.header["pixdim"][:4], image.header["pixdim"][:4]), f"{key}: pixdim"
        )
        complaints.check(numpy.array_equal(mask.affine, image.affine), f"{key}: affine")
        complaints.check(mask.get_data_dtype() == numpy.uint8, f"{key}: {mask.get_data_dtype()}")
        complaints.check(
            numpy.array_equal(numpy.asarray(mask.dataobj).T, studies[key]["mask"][...]), f"{key}: voxels"
        )
    file.close()


def report(complaints, list_path, folder, table, wanted_path):
    rows = stored.report(table)
    with open(wanted_path, newline="") as file:
        wanted = {
            row["label"]: float(row["dice"])
            for row in csv.DictReader(file)
            if row["key"] == "hippocampus_033"
        }
    for key, _, truth_path in read_list(list_path):
        mask, truth = stored.labels(f"{folder}/{key}.nii.gz"), stored.labels(truth_path)
        complaints.check([row["label"] for row in rows.get(key, [])] == ["1", "2"], f"{key}: not two rows")
        for row in rows.get(key, []):
            label = int(row["label"])
            found = [int(row[name]) for name in ("tp", "fp", "fn", "tn")]
            complaints.check(
                found == stored.counts(mask == label, truth == label), f"{key}: counts of {label}"
            )
            complaints.check(
                abs(float(row["dice"]) - stored.dice(mask == label, truth == label)) < 1e-6, f"{key}: Dice"
            )
            complaints.check(
                abs(float(row["dice"]) - wanted[row["label"]]) < 0.002, f"{key}: Dice {row['dice']}"
            )
            complaints.check(row["dice"] == rows["RAS"][label - 1]["dice"], f"{key}: another Dice than RAS")


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(*sys.argv[2:])
    else:
        all_complaints = stored.Complaints()
        {"masks": masks, "exported": exported, "report": report}[sys.argv[1]](all_complaints, *sys.argv[2:])
        all_complaints.end()
