"""Writes a model folder with the published network for BraTS (4 channels, 3 regions, windows of 128^3) and seeded random
weights: what speed is measured with where no checkpoint of that size is at hand. Its masks mean nothing.

    python3 scripts/untrained_model.py FOLDER
"""
import sys

import numpy

import model_folder

MANIFEST = {
    "name": "untrained",
    "description": "SegFormer3D as published for BraTS with random weights, to measure speed with.",
    "network": {
        "in_channels": 4, "num_classes": 3, "embed_dims": [32, 64, 160, 256], "num_heads": [1, 2, 5, 8],
        "depths": [2, 2, 2, 2], "sr_ratios": [4, 2, 1, 1], "mlp_ratios": [4, 4, 4, 4], "patch_kernel": [7, 3, 3, 3],
        "patch_stride": [4, 2, 2, 2], "patch_padding": [3, 1, 1, 1], "decoder_dim": 256, "attention_scale": "head_dim"},
    "input": {"channels": ["FLAIR", "T1w", "T1gd", "T2w"], "prepare": [{"step": "zscore_nonzero"}]},
    "window": {"size": [128, 128, 128], "blend": "constant"},
    "output": {"kind": "regions", "regions": [{"name": "TC", "truth_labels": [2, 3]},
                                              {"name": "WT", "truth_labels": [1, 2, 3]},
                                              {"name": "ET", "truth_labels": [3]}]},
}


def values(random, name, shape):
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return random.uniform(0.5, 1.5, shape)
    return random.normal(0, numpy.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1, shape)


def write(folder, manifest):
    random = numpy.random.default_rng(1)
    tensors = {name: values(random, name, shape).astype("f4") for name, shape in model_folder.shapes(manifest["network"])}
    model_folder.write(folder, manifest, tensors)


if __name__ == "__main__":
    write(sys.argv[1], MANIFEST)
