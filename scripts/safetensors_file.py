"""Reading and writing safetensors files with numpy alone: 8 bytes of length, a JSON header, the tensors."""
import json
import math
import struct

import numpy

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}
NAMES = {numpy.dtype(code): name for name, code in TYPES.items()}


def decode(path, name, entry, data):
    """One tensor of a header's entry; BF16, which numpy lacks, is read as the f32 of the same value."""
    try:
        code, shape, (begin, end) = entry["dtype"], tuple(map(int, entry["shape"])), entry["data_offsets"]
        bits = numpy.dtype("<u2" if code == "BF16" else TYPES[code])
        fits = 0 <= begin <= end <= len(data) and math.prod(shape) * bits.itemsize == end - begin
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: what its header says of {name} cannot be understood") from error
    if not fits:
        raise ValueError(f"{path}: {name} does not fit into the file, which is damaged or was not copied whole")
    array = numpy.frombuffer(data[begin:end], bits).reshape(shape)
    return (array.astype("<u4") << 16).view("<f4") if code == "BF16" else array


def read(path):
    """The tensors of a file by name, and its __metadata__. ValueError says what is wrong with a file."""
    with open(path, "rb") as file:
        try:
            length = struct.unpack("<Q", file.read(8))[0]
            text = file.read(length) if length <= 1 << 27 else b""
            header = json.loads(text)
            metadata = header.pop("__metadata__", {})
        except (struct.error, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is no safetensors file, or its beginning is damaged") from error
        data = file.read()
    return {name: decode(path, name, entry, data) for name, entry in header.items()}, metadata


def write(path, tensors, metadata=None):
    header = {"__metadata__": metadata} if metadata else {}
    blocks, at = [], 0
    for name, tensor in tensors.items():
        block = numpy.ascontiguousarray(tensor)
        header[name] = {"dtype": NAMES[block.dtype], "shape": list(tensor.shape),
                        "data_offsets": [at, at + block.nbytes]}
        blocks.append(block.tobytes())
        at += block.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blocks))
