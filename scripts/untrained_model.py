"""Writes a model folder with the published network for BraTS (4 channels, 3 regions, windows of 128^3) and seeded random
weights: what speed is measured with where no checkpoint of that size is at hand. Its masks mean nothing.

    python3 scripts/untrained_model.py FOLDER
"""
import os
import sys

import numpy

import safetensors_file

WIDTHS, HEADS, REDUCTIONS, RATIO = (32, 64, 160, 256), (1, 2, 5, 8), (4, 2, 1, 1), 4
KERNELS, CHANNELS, CLASSES, DECODER = (7, 3, 3, 3), 4, 3, 256

MANIFEST = """format: nocturne-model/1
name: untrained
description: SegFormer3D as published for BraTS with random weights, to measure speed with.
family: segformer3d
weights: weights.safetensors
network:
  in_channels: 4
  num_classes: 3
  embed_dims: [32, 64, 160, 256]
  num_heads: [1, 2, 5, 8]
  depths: [2, 2, 2, 2]
  sr_ratios: [4, 2, 1, 1]
  mlp_ratios: [4, 4, 4, 4]
  patch_kernel: [7, 3, 3, 3]
  patch_stride: [4, 2, 2, 2]
  patch_padding: [3, 1, 1, 1]
  decoder_dim: 256
  attention_scale: head_dim
input:
  channels: [FLAIR, T1w, T1gd, T2w]
  prepare:
    - step: zscore_nonzero
window:
  size: [128, 128, 128]
  blend: constant
output:
  kind: regions
  regions:
    - {name: TC, truth_labels: [2, 3]}
    - {name: WT, truth_labels: [1, 2, 3]}
    - {name: ET, truth_labels: [3]}
"""


def shapes():
    """(name, shape) of every tensor, `norm` scales and variances included, in the order of the checkpoints."""
    def dense(name, *shape):
        return [(name + ".weight", shape), (name + ".bias", shape[:1])]

    def norm(name, width):
        return [(name + ".weight", (width,)), (name + ".bias", (width,))]

    def batch_norm(name, width):
        return norm(name, width) + [(name + ".running_mean", (width,)), (name + ".running_var", (width,))]

    encoder, decoder, below = "segformer_encoder.", "segformer_decoder.", CHANNELS
    for s, (width, reduction, kernel) in enumerate(zip(WIDTHS, REDUCTIONS, KERNELS), 1):
        yield from dense(f"{encoder}embed_{s}.patch_embeddings", width, below, kernel, kernel, kernel)
        yield from norm(f"{encoder}embed_{s}.norm", width)
        for block in range(2):
            name = f"{encoder}tf_block{s}.{block}."
            yield from norm(name + "norm1", width)
            yield from dense(name + "attention.query", width, width)
            yield from dense(name + "attention.key_value", 2 * width, width)
            yield from dense(name + "attention.proj", width, width)
            if reduction > 1:
                yield from dense(name + "attention.sr", width, width, reduction, reduction, reduction)
                yield from norm(name + "attention.sr_norm", width)
            yield from norm(name + "norm2", width)
            yield from dense(name + "mlp.fc1", RATIO * width, width)
            yield from dense(name + "mlp.dwconv.dwconv", RATIO * width, 1, 3, 3, 3)
            yield from batch_norm(name + "mlp.dwconv.bn", RATIO * width)
            yield from dense(name + "mlp.fc2", width, RATIO * width)
        yield from norm(f"{encoder}norm{s}", width)
        below = width
    for s in (4, 3, 2, 1):
        yield from dense(f"{decoder}linear_c{s}.proj", DECODER, WIDTHS[s - 1])
        yield from norm(f"{decoder}linear_c{s}.bn", DECODER)
    yield decoder + "linear_fuse.0.weight", (DECODER, 4 * DECODER, 1, 1, 1)
    yield from batch_norm(decoder + "linear_fuse.1", DECODER)
    yield from dense(decoder + "linear_pred", CLASSES, DECODER, 1, 1, 1)


def values(random, name, shape):
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return random.uniform(0.5, 1.5, shape)
    return random.normal(0, numpy.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1, shape)


def main():
    folder = sys.argv[1]
    random = numpy.random.default_rng(1)
    os.makedirs(folder, exist_ok=True)
    tensors = {name: values(random, name, shape).astype("f4") for name, shape in shapes()}
    safetensors_file.write(os.path.join(folder, "weights.safetensors"), tensors)
    with open(os.path.join(folder, "model.yaml"), "w", encoding="utf-8") as file:
        file.write(MANIFEST)


if __name__ == "__main__":
    main()
