"""Ensembles, for views.t.

    views.py make MODEL FOLDER          a model of two files of weights, MODEL's and others near them, mirrored along z
                                        and x; FOLDER/0 and FOLDER/1: each by itself, not mirrored
    views.py input FILE D,H,W SEED      a tensor for forward
    views.py mean NOCTURNE FOLDER IN OUT  OUT has the logits that forward gives for IN with the whole model: they are the
                                        mean of those of each by itself, of IN flipped, flipped back
    views.py near A B MOST              logits of two files
"""
import os
import re
import subprocess
import sys
import tempfile

import numpy

import tensors

AXES = (1, 3)  # z and x of (C, D, H, W)


def make(model, folder):
    with open(os.path.join(model, "model.yaml"), encoding="utf-8") as file:
        manifest = re.sub(r"(?m)^weights_sha256:.*\n", "", file.read())
    file = re.search(r"(?m)^weights: *(.*)$", manifest)[1]
    weights = tensors.read(os.path.join(model, file))[1]
    generator = numpy.random.default_rng(1)
    other = {name: (array * generator.uniform(0.8, 1.2, array.shape)).astype(array.dtype) if array.dtype == "f4" else array
             for name, array in weights.items()}
    for name, text, files in (("0", "w.safetensors", [weights]), ("1", "w.safetensors", [other]),
                              ("", "[0/w.safetensors, 1/w.safetensors]", [])):
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        changed = re.sub(r"(?m)^weights:.*$", f"weights: {text}", manifest)
        if not name:
            changed = re.sub(r"(?m)^window:$", "window:\n  mirror: [z, x]", changed)
            assert changed.count("mirror") == 1
        with open(os.path.join(folder, name, "model.yaml"), "w", encoding="utf-8") as out:
            out.write(changed)
        for arrays in files:
            tensors.write(os.path.join(folder, name, "w.safetensors"), arrays)


def forward(nocturne, model, array):
    with tempfile.TemporaryDirectory() as work:
        given, got = os.path.join(work, "in"), os.path.join(work, "out")
        tensors.write(given, {"input": numpy.ascontiguousarray(array)})
        subprocess.run([nocturne, "forward", "-m", model, "--device", "cpu", "--input", given, "--output", got], check=True)
        return tensors.read(got)[1]["logits"].copy()


def near(a, b, most):
    error = tensors.error(a, b)
    if not error <= most:
        sys.exit(f"the logits differ by {error:.2e} of the largest")


def mean(nocturne, folder, given, got):
    array = tensors.read(given)[1]["input"]
    views = [numpy.flip(forward(nocturne, os.path.join(folder, fold), numpy.flip(array, axes)), axes)
             for fold in "01" for axes in ((), AXES[:1], AXES[1:], AXES)]
    logits = tensors.read(got)[1]["logits"]
    near(logits, numpy.mean(views, 0, "f8"), 1e-6)
    assert tensors.error(logits, views[0]) > 0.01, "it is what a single network says"


def main(verb, *arguments):
    if verb == "make":
        make(*arguments)
    elif verb == "input":
        path, size, seed = arguments
        tensors.write(path, {"input": tensors.formula((1, *map(int, size.split(","))), int(seed))})
    elif verb == "mean":
        mean(*arguments)
    else:
        a, b = (tensors.read(path)[1]["logits"] for path in arguments[:2])
        near(a, b, float(arguments[2]))


main(*sys.argv[1:])
