"""Writes whole cases as BraTS has them (four int16 channels and labels of 240x240x155, without a skull) of seeded phantoms.

    python3 scripts/brats_phantoms.py FOLDER CASES 2021|2023

In the names of that year, FOLDER/BraTS2021_00000/BraTS2021_00000_flair.nii.gz or
FOLDER/BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz, with the enhancing tumour as label 4 or 3. Of each three cases the
second has no enhancing tumour. Each region of the tumour is bright in one channel alone.
"""
import os
import sys

import nibabel
import numpy

SHAPE = (240, 240, 155)
AFFINE = numpy.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
NECROSIS, OEDEMA = 1, 2
# Channels in the order FLAIR, T1w, T1gd, T2w.
NAMINGS = {"2021": ("BraTS2021_{:05}", "_", ("flair", "t1", "t1ce", "t2"), 4),
           "2023": ("BraTS-GLI-{:05}-000", "-", ("t2f", "t1n", "t1c", "t2w"), 3)}
BRAIN, TUMOUR, VESSEL = 0.35, 0.7, 1.0


def ellipsoid(centre, radii):
    """Distance from the centre, 1 on the surface."""
    axes = ((numpy.arange(n, dtype="f4") - c) / r for n, c, r in zip(SHAPE, centre, radii))
    return numpy.sqrt(sum(numpy.square(line).reshape(-1, *[1] * (2 - axis)) for axis, line in enumerate(axes)))


def waves(random, wavelength):
    """A smooth field between -1 and 1."""
    x, y, z = (numpy.sin(2 * numpy.pi * numpy.arange(n, dtype="f4") / wavelength + random.uniform(0, 6)) for n in SHAPE)
    return x[:, None, None] * y[:, None] * z


def case(random, enhancing):
    """Channels as int16 and labels as uint8; `enhancing` is the label of that tumour, or None without one."""
    brain = ellipsoid((120, 120, 76), (66, 84, 66)) < 1
    # Always on the right and in front, so that a turned or mirrored answer misses it.
    centre = (120 - random.uniform(24, 28), random.uniform(84, 100), random.uniform(86, 96))
    depth = ellipsoid(centre, random.uniform(20, 24, 3)) + 0.1 * waves(random, 25)
    inner = NECROSIS if enhancing is None else enhancing
    labels = numpy.select([depth < 0.35, depth < 0.7, depth < 1], [NECROSIS, inner, OEDEMA], 0).astype("u1") * brain
    bright = (labels > 0, None, (labels > 0) & (labels == enhancing), (labels == NECROSIS) | (labels == inner))
    texture = BRAIN * (1 + 0.15 * waves(random, 40))
    return [channel(random, brain, texture, region) for region in bright], labels


def channel(random, brain, texture, region):
    values = texture if region is None else numpy.where(region, texture + (TUMOUR - BRAIN), texture)
    values = values + 0.02 * random.standard_normal(SHAPE, "f4")
    # The brightest voxel of every slice, to which scaling by slices brings each slice alike.
    values[SHAPE[0] // 2, SHAPE[1] // 2] = VESSEL
    values = random.uniform(400, 2000) * numpy.clip(values, 0.01, VESSEL)
    return numpy.where(brain, values, 0).astype("i2")


def write(folder, count, naming):
    stem, separator, words, enhancing = NAMINGS[naming]
    for number in range(count):
        name = stem.format(number)
        os.makedirs(os.path.join(folder, name))
        channels, labels = case(numpy.random.default_rng((int(naming), number)), None if number % 3 == 1 else enhancing)
        for word, array in zip((*words, "seg"), (*channels, labels)):
            path = os.path.join(folder, name, f"{name}{separator}{word}.nii.gz")
            nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]), sys.argv[3])
