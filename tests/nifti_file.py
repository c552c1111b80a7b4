"""NIfTI files to the byte, also ones that no library would write: a header of nibabel's, voxels behind it."""

import gzip

import nibabel
import numpy


def header(version=1, big_endian=False):
    kind = nibabel.Nifti1Header if version == 1 else nibabel.Nifti2Header
    return kind(endianness=">" if big_endian else "<")


def set_space(head, affine, sform_code=1, qform_code=0, zooms=None):
    """The affine in the forms whose code is not 0. qform first: it sets the zooms by itself."""
    if qform_code:
        head.set_qform(affine, qform_code)
    else:
        columns = numpy.sqrt((affine[:3, :3] ** 2).sum(axis=0))
        head["pixdim"][1:4] = columns if zooms is None else zooms
    head.set_sform(affine if sform_code else None, sform_code)


def encode(head, stored, is_pair=False, extension=b"\0\0\0\0"):
    """Header bytes and voxel bytes. Fields that the caller has set to odd values stay as they are."""
    head["vox_offset"] = 0 if is_pair else head.template_dtype.itemsize + len(extension)
    version = b"1" if head.template_dtype.itemsize == 348 else b"2"
    magic = (b"ni" if is_pair else b"n+") + version + (b"\0" if version == b"1" else b"\0\r\n\032\n")
    head["magic"] = magic[: head["magic"].dtype.itemsize]
    voxels = stored.astype(stored.dtype.newbyteorder(head.endianness)).tobytes(order="F")
    return head.binaryblock + (b"" if is_pair else extension), voxels


def write_bytes(path, data):
    """Compressed when the name ends in .gz, always to the same bytes."""
    with open(path, "wb") as file:
        file.write(gzip.compress(data, 1, mtime=0) if path.endswith(".gz") else data)


def write(path, stored, affine=None, head=None, shape=None, slope_inter=None, **space):
    """One image: .nii, .nii.gz, or .hdr(.gz) with its .img(.gz) beside it."""
    head = header() if head is None else head
    head.set_data_shape(stored.shape if shape is None else shape)
    head.set_data_dtype(stored.dtype)
    if affine is not None:
        set_space(head, affine, **space)
    if slope_inter:
        head["scl_slope"], head["scl_inter"] = slope_inter
    is_pair = ".hdr" in path
    first, voxels = encode(head, stored, is_pair)
    if is_pair:
        write_bytes(path, first)
        write_bytes(path.replace(".hdr", ".img"), voxels)
    else:
        write_bytes(path, first + voxels)
