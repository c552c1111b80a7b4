"""Checkpoints as training scripts leave them, sound and damaged, made of the golden tiny network's tensors.

    checkpoints.py make GOLDEN FOLDER       safetensors
    checkpoints.py pickled GOLDEN FOLDER    what torch.save writes (needs PyTorch)
    checkpoints.py same GOLDEN MODEL        the model folder holds the golden tensors
"""
import os
import sys

import numpy
import tensors


def put(folder, name, arrays):
    tensors.write(f"{folder}/{name}.safetensors", arrays)


def make(golden, folder):
    whole = tensors.read(golden)[1]
    put(folder, "good", whole)
    put(folder, "module", {"module." + name: array for name, array in whole.items()})
    put(folder, "lightning", {"model._orig_mod." + name: array for name, array in whole.items()})
    put(folder, "f64", {name: array.astype("f8") if array.dtype == "f4" else array for name, array in whole.items()})
    put(folder, "no_bias", {name: array for name, array in whole.items()
                            if not name.endswith(("query.bias", "key_value.bias")) and "dwconv.bn" not in name})
    put(folder, "partly", {name: array for name, array in whole.items() if not name.endswith("tf_block3.1.attention.query.bias")})
    pred = "segformer_decoder.linear_pred."
    put(folder, "missing", {name: array for name, array in whole.items() if name != pred + "bias"})
    put(folder, "misshapen", {**whole, pred + "bias": numpy.zeros(7, "f4")})
    put(folder, "nan", {**whole, pred + "bias": numpy.full_like(whole[pred + "bias"], numpy.nan)})
    put(folder, "foreign", {**whole, "loss.weight": numpy.zeros(3, "f4")})
    put(folder, "unexpected", {**whole, pred + "scale": numpy.zeros(3, "f4")})
    put(folder, "two", {**{"a." + name: array for name, array in whole.items()}, **whole})
    put(folder, "other", {"encoders.0.patch_embed.weight": numpy.zeros(3, "f4")})
    put(folder, "unet", {"conv.weight": numpy.zeros(3, "f4")})
    stem = "segformer_encoder.embed_1.patch_embeddings.weight"
    put(folder, "hollow", {**whole, stem: numpy.zeros((0, 2, 7, 7, 7), "f4")})
    block = "segformer_encoder.tf_block1."
    put(folder, "flat", {**whole, block + "0.attention.sr.weight": numpy.zeros((), "f4")})
    put(folder, "gap", {**whole, block + "99999999.norm1.weight": numpy.zeros(8, "f4")})
    put(folder, "nan_logits", {"logits": numpy.full((3, 32, 32, 32), numpy.nan, "f4")})
    put(folder, "stem", {**whole, stem: numpy.ascontiguousarray(whole[stem][:, :, 2:5, 1:6, 1:6])})
    with open(f"{folder}/good.safetensors", "rb") as file:
        data = file.read()
    for name, part in (("short", data[:-1000]), ("head", data[:200]), ("empty", b""), ("noise", data[-4000:])):
        with open(f"{folder}/{name}.safetensors", "wb") as file:
            file.write(part)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def pickled(golden, folder):
    import argparse

    import torch
    state = {name: torch.from_numpy(array.copy()) for name, array in tensors.read(golden)[1].items()}
    for name, content in {
            "plain": state, "wrapped": {"state_dict": state, "optimizer": {"state": {}}, "epoch": 3},
            "module": {"model_state_dict": {"module." + key: tensor for key, tensor in state.items()}},
            "half": {"model": {key: t.bfloat16() if t.is_floating_point() else t for key, t in state.items()}},
            "several": {"state_dict": state, "ema": state}, "unknown": {"weights_of_mine": state}, "list": [1, 2],
            "malicious": {"state_dict": state, "extra": Payload(folder + "/executed")},
            "arguments": {"state_dict": state, "args": argparse.Namespace(lr=1)}}.items():
        torch.save(content, f"{folder}/{name}.pth")
    torch.save(state, f"{folder}/old.bin", _use_new_zipfile_serialization=False)
    torch.save(Payload(folder + "/executed"), f"{folder}/malicious_old.bin", _use_new_zipfile_serialization=False)
    with open(f"{folder}/plain.pth", "rb") as file:
        data = file.read()
    with open(f"{folder}/short.pth", "wb") as file:
        file.write(data[:len(data) // 2])
    with open(f"{folder}/noise.pth", "wb") as file:
        file.write(data[5000:9000])


def same(golden, model):
    wanted = {name: array for name, array in tensors.read(golden)[1].items() if not name.endswith("num_batches_tracked")}
    got = tensors.read(model + "/weights.safetensors")[1]
    if wanted.keys() != got.keys() or not all(numpy.array_equal(got[name], wanted[name]) for name in wanted):
        sys.exit("other tensors")


if __name__ == "__main__":
    {f.__name__: f for f in (make, pickled, same)}[sys.argv[1]](*sys.argv[2:])
