"""Resampled models: scans, and the way back of logits to the scan's grid, written down a second time.

    resample.py make FOLDER                 plain.nii.gz (R A S), turned.nii.gz (the same voxels, stored otherwise)
    resample.py same ONE TWO                two prepared tensors have the same bits
    resample.py mask CASE LOGITS MASK       a mask is what the logits come to on the scan's grid
"""
import json
import sys

import nibabel
import numpy
import tensors

SIZE, SPACING = (37, 44, 41), (1.3, 0.8, 0.9)  # z, y, x
MARGIN = ((2, 3), (0, 4), (5, 0))  # zeros around the foreground


def scan(size):
    data = tensors.formula([2] + list(size)) * 40 + 100
    z, y, x = numpy.indices(size)
    data += 60 * numpy.sin(z / 5.0) * numpy.cos(y / 7.0) + 50 * numpy.sin(x / 6.0)
    outside = numpy.ones(size, bool)
    outside[tuple(slice(low, n - high) for (low, high), n in zip(MARGIN, size))] = False
    data[:, outside] = 0
    return data.astype("i2")


def make(folder):
    for name, spacing in ("plain", SPACING), ("thick", (4.0, 0.8, 0.9)):
        size = SIZE if name == "plain" else (14,) + SIZE[1:]
        data = scan(size).transpose(3, 2, 1, 0)  # x, y, z, channel
        affine = numpy.diag([spacing[2], spacing[1], spacing[0], 1.0])
        image = nibabel.Nifti1Image(data, affine)
        nibabel.save(image, "%s/%s.nii.gz" % (folder, name))
        wanted = nibabel.orientations.axcodes2ornt("PSL")
        nibabel.save(image.as_reoriented(wanted), "%s/%s_turned.nii.gz" % (folder, name))


def same(one, two):
    a, b = [tensors.read(path)[1]["input"] for path in (one, two)]
    return [] if a.shape == b.shape and a.tobytes() == b.tobytes() else ["tensors"]


def along(values, axis, native, whole, start, nearest):
    """Values of native voxels of an axis, and which of them the prepared volume has."""
    x = whole / native * (numpy.arange(native) + 0.5) - 0.5
    at = numpy.clip(numpy.floor(x + 0.5), 0, whole - 1).astype(int) - start
    last = values.shape[axis] - 1
    inside = (at >= 0) & (at <= last)
    if nearest:
        return values.take(numpy.clip(at, 0, last), axis), inside
    low = numpy.floor(x).astype(int) - start
    shape = [1] * values.ndim
    shape[axis] = native
    share = (x - numpy.floor(x)).reshape(shape)
    return (values.take(numpy.clip(low, 0, last), axis) * (1 - share)
            + values.take(numpy.clip(low + 1, 0, last), axis) * share), inside


def mask(case, logits, path):
    """case: JSON of box (native, from and to), whole (resampled size), start (of a crop), nearest (an axis each)."""
    case = json.loads(case)
    values = tensors.read(logits)[1]["logits"].astype(float)
    inside = []
    for axis in range(3):
        low, high = case["box"][axis]
        values, there = along(values, axis + 1, high - low, case["whole"][axis], case["start"][axis],
                              case["nearest"][axis])
        inside.append(there)
    there = inside[0][:, None, None] & inside[1][None, :, None] & inside[2][None, None, :]
    best = numpy.sort(values, 0)
    sure = (best[-1] - best[-2] > 1e-4 * numpy.abs(values).max()) | ~there
    wanted = numpy.where(there, values.argmax(0), 0)
    image = nibabel.as_closest_canonical(nibabel.load(path))
    got = numpy.asarray(image.dataobj).transpose(2, 1, 0)
    box = tuple(slice(*b) for b in case["box"])
    odd = int(((got[box] != wanted) & sure).sum())
    outside = got.copy()
    outside[box] = 0
    print("%d voxels, %d unsure, %d odd, %d labelled outside; labels %s" % (
        wanted.size, (~sure).sum(), odd, (outside != 0).sum(), numpy.bincount(wanted.ravel())))
    assert (~sure).mean() < 0.01 and len(numpy.unique(wanted)) > 1
    return ["mask"] if odd or outside.any() else []


if __name__ == "__main__":
    problems = globals()[sys.argv[1]](*sys.argv[2:])
    if problems:
        sys.exit("differ: " + ", ".join(problems))
