"""Reading and writing safetensors files with numpy alone: 8 bytes of length, a JSON header, the tensors."""
import json
import struct

import numpy

TYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}
NAMES = {numpy.dtype(code): name for name, code in TYPES.items()}


def read(path):
    """The tensors of a file by name, and its __metadata__."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = numpy.frombuffer(data[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata


def write(path, tensors, metadata=None):
    header = {"__metadata__": metadata} if metadata else {}
    blocks, at = [], 0
    for name, tensor in tensors.items():
        block = numpy.ascontiguousarray(tensor)
        header[name] = {"dtype": NAMES[block.dtype], "shape": list(block.shape),
                        "data_offsets": [at, at + block.nbytes]}
        blocks.append(block.tobytes())
        at += block.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blocks))
