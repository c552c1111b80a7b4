"""An archive of files that are wrong in every way known, and good ones between them.

hostile.py make FOLDER                     files and FOLDER/list.csv
hostile.py crop FOLDER MODEL               FOLDER/crop: MODEL with a crop of 24 x 16 x 16 voxels
hostile.py measure FILE COMMAND...         the command's highest resident memory in MiB goes to FILE
hostile.py failures JSON [all] [KEY=TYPE...]   `report --json` has these studies (all: those of the list) with
                                           their types and a sentence each, or done where TYPE is empty
hostile.py attempts CATALOG RESULTS N KEY...   each study was tried N times in that result set
hostile.py silent FILE...                  no file holds what the scans' free text says
"""

import gzip
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import zlib

import numpy

import nifti_file
import stored

SECRET = "DOE^JANE"
SHAPE = (20, 24, 28)
AFFINE = numpy.diag((1.0, 1.5, 2.0, 1.0))
STUDIES = []  # key, wanted, how its files are made
random = numpy.random.default_rng(3)


def study(wanted):
    """Marks a function that writes the files of a study (stem -> image[, truth]) named as the function is."""

    def add(make):
        STUDIES.append((make.__name__, wanted, make))
        return make

    return add


def voxels(shape=SHAPE, channels=2, kind="f4"):
    size = tuple(shape) + ((channels,) if channels > 1 else ())
    return (
        random.uniform(-1, 1, size).astype(kind)
        if kind[0] == "f"
        else random.integers(0, 99, size).astype(kind)
    )


def header(version=1):
    """All free text that a header has says what must not be said again."""
    head = nifti_file.header(version)
    for field in ("descrip", "aux_file", "intent_name"):
        head[field] = SECRET
    if version == 1:
        head["db_name"] = SECRET
    return head


def write(
    stem,
    array=None,
    ending=".nii.gz",
    affine=AFFINE,
    head=None,
    edit=None,
    cut=None,
    more=b"",
    shape=None,
    **space,
):
    """One file. edit(head) comes last before the bytes are made; cut: bytes of the plain file that stay."""
    array = voxels() if array is None else array
    head = header() if head is None else head
    head.set_data_shape(array.shape if shape is None else shape)
    head.set_data_dtype(array.dtype)
    if affine is not None:
        nifti_file.set_space(head, affine, **space)
    if edit:
        edit(head)
    note = (SECRET + " was born here").encode().ljust(24)
    first, body = nifti_file.encode(
        head, array, extension=b"\1\0\0\0" + (32).to_bytes(4, "little") + b"\6\0\0\0" + note
    )
    nifti_file.write_bytes(stem + ending, ((first + body)[:cut]) + more)
    return stem + ending


def fields(**values):
    def edit(head):
        for name, value in values.items():
            head[name] = value

    return edit


def dims(*values):
    def edit(head):
        head["dim"] = list(values) + [1] * (8 - len(values))

    return edit


def zeros(blocks):
    """Deflated zeros without an end, 64 MiB a block."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (packer.compress(bytes(64 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)) * blocks


def bomb(path, first, blocks):
    """One gzip member of `first` and then zeros. Its checksum is wrong; nobody should get so far."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    begin = packer.compress(first) + packer.flush(zlib.Z_FULL_FLUSH)
    with open(path, "wb") as file:
        file.write(b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + begin + zeros(blocks) + b"\3\0" + bytes(8))
    return path


def plain_bytes(stem, **options):
    path = write(stem, ending=".nii", **options)
    with open(path, "rb") as file:
        data = file.read()
    os.remove(path)
    return data


def image_and_truth(stem, labels, affine=AFFINE, **options):
    return write(stem), write(stem + "_t", labels, affine=affine, **options)


def some_labels(kind="u1", values=(0, 1, 2)):
    return numpy.resize(numpy.array(values), SHAPE).astype(kind)


# ---- good ones ----


@study(None)
def good_plain(stem):
    return image_and_truth(stem, some_labels())


@study("unreadable")
def zero_bytes(stem):
    nifti_file.write_bytes(stem + ".nii", b"")
    return stem + ".nii"


@study("unreadable")
def zero_bytes_packed(stem):
    open(stem + ".nii.gz", "w").close()
    return stem + ".nii.gz"


@study("unreadable")
def empty_gzip(stem):
    nifti_file.write_bytes(stem + ".nii.gz", b"")
    return stem + ".nii.gz"


@study("unreadable")
def truncated_gzip(stem):
    path = write(stem)
    os.truncate(path, os.path.getsize(path) // 2)
    return path


@study("unreadable")
def truncated_header(stem):
    return write(stem, ending=".nii", cut=200)


@study("unreadable")
def truncated_plain(stem):
    return write(stem, ending=".nii", cut=20000)


@study("unreadable")
def damaged_gzip(stem):
    path = write(stem)
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) - 8)  # the checksum
        file.write(b"\xde\xad\xbe\xef")
    return path


@study(None)
def good_constant(stem):
    return write(stem, numpy.full(SHAPE + (2,), 7, "i2"))


@study("too_large")
def gzip_bomb(stem):
    return bomb(stem + ".nii.gz", plain_bytes(stem), 128)


@study("too_large")
def gzip_bomb_declared(stem):
    first = plain_bytes(stem, array=voxels((2, 2, 2), kind="u1"), edit=dims(4, 1600, 1600, 1600, 2))
    return bomb(stem + ".nii.gz", first, 122)


@study(None)
def good_bomb_behind(stem):
    """The voxels are a gzip member of their own: what comes behind is never unpacked."""
    path = write(stem)
    with open(path, "ab") as file:
        file.write(b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + zeros(64) + b"\3\0" + bytes(8))
    return path


@study("too_large")
def declared_too_large(stem):
    path = write(stem, voxels((2, 2, 2)), ending=".nii", edit=dims(4, 2000, 2000, 1000, 2))
    os.truncate(path, 33 << 30)  # sparse
    return path


@study("too_large")
def overflowing_dims(stem):
    return write(stem, ending=".nii", edit=dims(4, 32767, 32767, 32767, 2))


@study("too_large")
def overflowing_dims_2(stem):
    return write(stem, ending=".nii", head=header(2), edit=dims(4, 1 << 40, 1 << 40, 1 << 40, 2))


@study("too_large")
def overflowing_to_little(stem):
    """The product of these is 0 modulo 2^64."""
    return write(stem, ending=".nii", head=header(2), edit=dims(4, 1 << 31, 1 << 31, 1, 2))


@study("unreadable")
def random_bytes(stem):
    nifti_file.write_bytes(stem + ".nii", random.integers(0, 256, 5000).astype("u1").tobytes())
    return stem + ".nii"


@study("unreadable")
def random_bytes_packed(stem):
    nifti_file.write_bytes(stem + ".nii.gz", random.integers(0, 256, 5000).astype("u1").tobytes())
    return stem + ".nii.gz"


@study("unreadable")
def a_text(stem):
    nifti_file.write_bytes(stem + ".nii", f"This is the scan of {SECRET}.\n".encode() * 200)
    return stem + ".nii"


@study("unreadable")
def no_magic(stem):
    path = write(stem, ending=".nii")
    with open(path, "r+b") as file:
        file.seek(344)
        file.write(b"\0\0\0\0")
    return path


@study("unreadable")
def a_folder(stem):
    os.mkdir(stem + ".nii.gz")
    return stem + ".nii.gz"


@study("unreadable")
def missing(stem):
    return stem + ".nii.gz"


@study("unreadable")
def dangling_link(stem):
    os.symlink(stem + ".gone", stem + ".nii.gz")
    return stem + ".nii.gz"


@study("unreadable")
def link_to_itself(stem):
    os.symlink(stem + ".nii.gz", stem + ".nii.gz")
    return stem + ".nii.gz"


@study("unreadable")
def a_pipe(stem):
    os.mkfifo(stem + ".nii")
    return stem + ".nii"


@study("unreadable")
def a_device(stem):
    os.symlink("/dev/zero", stem + ".nii")
    return stem + ".nii"


@study("unreadable")
def pair_without_image(stem):
    path = stem + ".hdr"
    nifti_file.write(path, voxels(), AFFINE, header())
    os.remove(stem + ".img")
    return path


@study("unreadable")
def wrong_bitpix(stem):
    return write(stem, edit=fields(bitpix=16))


def moved_voxels(stem, offset):
    data = plain_bytes(stem)
    nifti_file.write_bytes(stem + ".nii", data[:108] + numpy.float32(offset).tobytes() + data[112:])
    return stem + ".nii"


@study("unreadable")
def offset_beyond(stem):
    return moved_voxels(stem, 200000)


@study("unreadable")
def offset_absurd(stem):
    return moved_voxels(stem, 2e9)


@study("too_large")
def offset_too_far(stem):
    return moved_voxels(stem, 6e8)


@study("geometry")
def dims_zero(stem):
    return write(stem, edit=dims(4, 20, 0, 28, 2))


@study("geometry")
def dims_negative(stem):
    return write(stem, edit=dims(4, 20, -24, 28, 2))


@study("geometry")
def no_axes(stem):
    return write(stem, edit=dims(0, 20, 24, 28, 2), head=header(2))


@study("unsupported")
def five_axes(stem):
    return write(stem, voxels(SHAPE + (2,), 3))


@study("unsupported")
def rgb(stem):
    return write(
        stem, voxels(kind="u1"), edit=fields(datatype=128, bitpix=24), more=bytes(2 * 2 * 20 * 24 * 28)
    )


@study("unsupported")
def complex_voxels(stem):
    return write(stem, voxels().astype("c8"))


@study("unsupported")
def quadruple_voxels(stem):
    return write(
        stem, voxels(kind="f8"), edit=fields(datatype=1536, bitpix=128), more=bytes(8 * 2 * 20 * 24 * 28)
    )


@study(None)
def good_flat(stem):
    return write(stem, voxels((20, 1, 28)))


@study(None)
def good_line(stem):
    return write(stem, voxels((1, 40, 1)))


@study(None)
def good_voxel(stem):
    return write(stem, voxels((1, 1, 1)))


@study("non_finite")
def nan_voxel(stem):
    array = voxels()
    array[3, 4, 5, 1] = numpy.nan
    return write(stem, array)


@study("non_finite")
def nan_in_second_file(stem):
    array = voxels(channels=1)
    array[3, 4, 5] = numpy.nan
    return write(stem, voxels(channels=1)) + ";" + write(stem + "_b", array)


@study("non_finite")
def infinite_voxel(stem):
    array = voxels(kind="f8")
    array[-1, -1, -1, -1] = -numpy.inf
    return write(stem, array)


@study("non_finite")
def infinite_by_slope(stem):
    array = voxels(kind="f8")
    array[0, 0, 0, 0] = 1e300
    return write(stem, array, edit=fields(scl_slope=1e30, scl_inter=0))


def odd_affine(stem, change):
    affine = AFFINE.copy()
    change(affine)
    head = header()
    nifti_file.set_space(head, AFFINE)
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        head[name] = affine[row]
    return write(stem, affine=None, head=head)


@study("geometry")
def affine_zero(stem):
    return odd_affine(stem, lambda a: a[:3].fill(0))


@study("geometry")
def affine_nan(stem):
    return odd_affine(stem, lambda a: a[1].fill(numpy.nan))


@study("geometry")
def affine_nan_origin(stem):
    return odd_affine(stem, lambda a: a[:3, 3].fill(numpy.nan))


@study("geometry")
def affine_infinite(stem):
    return odd_affine(stem, lambda a: a[0].fill(numpy.inf))


@study("geometry")
def affine_singular(stem):
    return odd_affine(stem, lambda a: a[:3, 2].__setitem__(slice(None), a[:3, 0] * 2))


@study("geometry")
def quaternion_nan(stem):
    return write(stem, sform_code=0, qform_code=1, edit=fields(quatern_b=numpy.nan))


@study("geometry")
def no_forms(stem):
    return write(stem, sform_code=0)


@study("channels")
def one_channel(stem):
    return write(stem, voxels(channels=1))


@study("channels")
def three_channels(stem):
    return write(stem, voxels(channels=3))


@study("channels")
def channels_of_other_sizes(stem):
    return write(stem, voxels(channels=1)) + ";" + write(stem + "_b", voxels((20, 24, 27), 1))


@study("channels")
def channels_of_other_affines(stem):
    return (
        write(stem, voxels(channels=1))
        + ";"
        + write(stem + "_b", voxels(channels=1), affine=AFFINE + 0.01 * numpy.eye(4))
    )


@study("unreadable")
def second_channel_missing(stem):
    return write(stem, voxels(channels=1)) + ";" + stem + "_b.nii"


@study(None)
def good_channels(stem):
    near = AFFINE.copy()
    near[:3, 3] += 0.0009
    return (
        write(stem, voxels(channels=1))
        + ";"
        + write(stem + "_b", voxels(channels=1, kind="i4"), ".nii", near)
    )


@study("truth_mismatch")
def truth_of_other_size(stem):
    return image_and_truth(stem, some_labels()[:, :-1])


@study("truth_mismatch")
def truth_transposed(stem):
    return image_and_truth(stem, some_labels().T)


@study("truth_mismatch")
def truth_of_other_affine(stem):
    return image_and_truth(stem, some_labels(), AFFINE @ numpy.diag((-1, 1, 1, 1)))


@study("truth_mismatch")
def truth_moved(stem):
    moved = AFFINE.copy()
    moved[2, 3] += 0.002
    return image_and_truth(stem, some_labels(), moved)


@study("truth_mismatch")
def truth_of_unknown_labels(stem):
    return image_and_truth(stem, some_labels(values=(0, 1, 2, 3)))


@study("truth_mismatch")
def truth_of_fractions(stem):
    return image_and_truth(stem, some_labels("f4", (0, 1, 1.5)))


@study("truth_mismatch")
def truth_negative(stem):
    return image_and_truth(stem, some_labels("i2", (0, 1, -1)))


@study("truth_mismatch")
def truth_nan(stem):
    return image_and_truth(stem, some_labels("f4", (0, 1, numpy.nan)))


@study("unreadable")
def truth_missing(stem):
    return write(stem), stem + "_t.nii"


@study(None)
def good_float_truth(stem):
    return image_and_truth(stem, some_labels("f8"))


@study(None)
def good_near_truth(stem):
    near = AFFINE + 0.0009 * numpy.eye(4)
    near[3, 3] = 1
    return image_and_truth(stem, some_labels("f4"), near)


@study(None)
def good_plain_2(stem):
    """The crop lies within this one, and within no other good one."""
    return write(stem, voxels((30, 31, 32)))


# ---- commands ----


def make(folder):
    with open(folder + "/list.csv", "w") as out:
        out.write("key,image,truth\n")
        for number, (key, _, maker) in enumerate(STUDIES):
            files = maker(f"{folder}/file{number:03}")
            image, truth = files if isinstance(files, tuple) else (files, "")
            out.write(f"{key},{image},{truth}\n".replace(folder + "/", ""))
    print(len(STUDIES), "studies,", sum(1 for _, wanted, _ in STUDIES if wanted), "of them bad")


def crop(folder, model):
    os.mkdir(folder + "/crop")
    with open(model + "/model.yaml") as file:
        text = file.read()
    weights = os.path.realpath(model + "/../../golden/tiny_weights.safetensors")
    text = text.replace("../../golden/tiny_weights.safetensors", weights).replace(
        "name: tiny", "name: cropped"
    )
    text = text.replace("prepare: []", "prepare: [{step: crop, start: [4, 8, 8], size: [24, 16, 16]}]")
    with open(folder + "/crop/model.yaml", "w") as file:
        file.write(text)


def measure(path, *command):
    code = subprocess.run(command, check=False).returncode
    with open(path, "w") as file:
        file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024))
    sys.exit(code)


def failures(complaints, path, *wanted_types):
    wanted = dict(text.split("=") for text in wanted_types if text != "all")
    if "all" in wanted_types:
        wanted = {**{key: type or "" for key, type, _ in STUDIES}, **wanted}
    with open(path) as file:
        rows = {row["key"]: row for row in json.load(file)["results"]}
    complaints.check(sorted(rows) == sorted(wanted), f"other studies: {set(rows) ^ set(wanted)}")
    for key, row in rows.items():
        type, sentence = row.get("failure", ""), row.get("sentence", "")
        is_right = (row["state"], type) == ("failed" if wanted.get(key) else "done", wanted.get(key))
        complaints.check(is_right, f"{key}: {row['state']} {type} ({sentence}), wanted {wanted.get(key)}")
        complaints.check(not type or len(sentence.split()) >= 3, f"{key}: no sentence: {sentence}")


def attempts(complaints, catalog, results, count, *keys):
    query = """SELECT study.key,
                      (SELECT count(*) FROM attempt a WHERE a.study_id = study.id AND a.set_id = s.id)
               FROM study, result_set s WHERE s.results LIKE '%/' || ?"""
    found = dict(sqlite3.connect(f"file:{catalog}?mode=ro", uri=True).execute(query, (results,)))
    complaints.check(len(found) > 0, "no such result set")
    for key in keys or found:
        complaints.check(found[key] == int(count), f"{key}: {found[key]} attempts, not {count}")


def silent(complaints, *paths):
    for path in paths:
        with open(path, "rb") as file:
            data = file.read()
        if path.endswith(".gz"):
            data = gzip.decompress(data)
        complaints.check(SECRET.encode() not in data, f"{path} holds free text")
        complaints.check(len(data) > 0 or path.endswith(("err", "-wal", ".log")), f"{path} is empty")


if __name__ == "__main__":
    command, arguments = sys.argv[1], sys.argv[2:]
    if command in ("make", "crop", "measure"):
        {"make": make, "crop": crop, "measure": measure}[command](*arguments)
    else:
        all_complaints = stored.Complaints()
        {"failures": failures, "attempts": attempts, "silent": silent}[command](all_complaints, *arguments)
        all_complaints.end()
