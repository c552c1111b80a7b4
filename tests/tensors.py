"""Safetensors files and the golden files' input formula, by hand.

    read(path)             -> (metadata, {name: array})
    write(path, arrays)
    formula(shape, seed=0) -> float32 array (C, D, H, W)
    error(got, wanted)     -> largest difference over the largest |wanted|; inf where shapes or NaN differ
"""
import json

import numpy

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "|u1",
         "I8": "|i1"}


def read(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    metadata = header.pop("__metadata__", {})
    arrays = {}
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        arrays[name] = numpy.frombuffer(data[begin:end], TYPES[tensor["dtype"]]).reshape(tensor["shape"])
    return metadata, arrays


def write(path, arrays):
    header, data = {}, b""
    for name, array in arrays.items():
        dtype = next(name for name, code in TYPES.items() if numpy.dtype(code) == array.dtype)
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + data)


def formula(shape, seed=0):
    count = int(numpy.prod(shape))
    u = numpy.arange(count, dtype=numpy.uint64) + numpy.uint64(1000003 * seed)
    mask = numpy.uint64(0xFFFFFFFF)
    u = (u & mask) * numpy.uint64(2654435761) & mask
    u ^= u >> numpy.uint64(15)
    u = u * numpy.uint64(2246822519) & mask
    u ^= u >> numpy.uint64(13)
    return ((u >> numpy.uint64(8)).astype(numpy.float64) / 8388608 - 1).astype("<f4").reshape(shape)


def error(got, wanted):
    if got.shape != wanted.shape or not numpy.isfinite(got).all():
        return float("inf")
    got, wanted = got.astype(float), wanted.astype(float)
    return float(numpy.abs(got - wanted).max() / numpy.abs(wanted).max())
