"""Scans of every kind, made with nibabel, and what a model must see of them.

    make(path, seed, size=(i, j, k), channels=1, dtype="int16", code=None, ...) -> the image as written
        an oblique scan whose axes point to code (three letters, random when None)
    seen(images, orientation="RAS") -> float64 (C, z, y, x)
    back(array, image, orientation="RAS") -> an array (z, y, x) in the image's stored order (i, j, k)
"""
import itertools

import nibabel
import numpy
from nibabel import orientations

CODES = ["".join(c) for axes in itertools.permutations(["RL", "AP", "SI"]) for c in itertools.product(*axes)]


def rotation(random, degrees):
    axis = random.normal(size=3)
    x, y, z = axis / numpy.linalg.norm(axis)
    a = numpy.radians(degrees)
    k = numpy.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return numpy.eye(3) + numpy.sin(a) * k + (1 - numpy.cos(a)) * k @ k


def affine_of(random, code, degrees=20):
    spacing = random.uniform(0.5, 3, 3)
    ornt = orientations.axcodes2ornt(code)
    matrix = numpy.zeros((3, 3))
    for j in range(3):
        matrix[int(ornt[j, 0]), j] = ornt[j, 1] * spacing[j]
    affine = numpy.eye(4)
    affine[:3, :3] = rotation(random, random.uniform(-degrees, degrees)) @ matrix
    affine[:3, 3] = random.uniform(-100, 100, 3)
    return affine


def make(path, seed, size=(20, 30, 25), channels=1, dtype="int16", code=None, slope=None, inter=0,
         forms=(0, 2), wide=False, degrees=20):
    random = numpy.random.RandomState(seed)
    code = code or CODES[random.randint(48)]
    shape = tuple(size) + ((channels,) if channels > 1 else ())
    data = random.randint(0, 120, shape) * (random.rand(*shape) > 0.2)
    if numpy.dtype(dtype).kind == "f":
        data = data * 0.37 - 5
    header = (nibabel.Nifti2Header if wide else nibabel.Nifti1Header)()
    if numpy.dtype(dtype).byteorder == ">":
        header = header.as_byteswapped(">")
    header.set_data_dtype(dtype)
    image = (nibabel.Nifti2Image if wide else nibabel.Nifti1Image)(
        data.astype(numpy.dtype(dtype).newbyteorder("=")), affine_of(random, code, degrees), header)
    image.set_sform(image.affine, code=forms[1])
    image.set_qform(image.affine, code=forms[0])
    image.header.set_xyzt_units("mm", "sec")
    if slope is not None:
        image.header.set_slope_inter(slope, inter)
    image.to_filename(path)
    if slope is not None:
        rescale(path, data.astype(numpy.dtype(dtype).newbyteorder("=")), slope, inter)
    return nibabel.load(path)


def rescale(path, stored, slope, inter):
    """nibabel scales what it writes; here the stored numbers are what was given."""
    image = nibabel.load(path)
    proxy = image.dataobj
    with open(path, "r+b") as file:
        header = image.header.copy()
        header.set_slope_inter(slope, inter)
        header["vox_offset"] = proxy.offset
        file.write(header.binaryblock)
        file.seek(proxy.offset)
        file.write(numpy.asfortranarray(stored).astype(header.get_data_dtype()).tobytes(order="F"))


def transform(image, orientation):
    """From the stored axes to the model's x, y, z."""
    return orientations.ornt_transform(orientations.io_orientation(image.affine),
                                       orientations.axcodes2ornt(orientation))


def values(image):
    proxy = image.dataobj
    data = numpy.asarray(proxy.get_unscaled()).astype(float)
    return data * proxy.slope + proxy.inter


def seen(images, orientation="RAS", slices=False):
    channels = []
    for image in images:
        data = values(image)
        for volume in [data] if data.ndim == 3 else numpy.moveaxis(data, 3, 0):
            if slices:
                low, high = volume.min((0, 1)), volume.max((0, 1))
                scale = 1 / numpy.where(high - low < 10 * 2.2e-16, 1, high - low)
                volume = volume * scale + (0 - low * scale)
            volume = orientations.apply_orientation(volume, transform(image, orientation))
            channels.append(volume.transpose(2, 1, 0))
    return numpy.stack(channels)


def back(array, image, orientation="RAS"):
    there = orientations.ornt_transform(orientations.axcodes2ornt(orientation),
                                        orientations.io_orientation(image.affine))
    return orientations.apply_orientation(array.transpose(2, 1, 0), there)
