"""Segments a labelled archive with PyTorch, as one would write it in an afternoon: what `nocturne run` is timed beside.

    python3 scripts/segment_torch.py MODEL ARCHIVE OUT [--threads N] [--precision f32|bf16] [--part I/N] [--tensors FOLDER]

ARCHIVE is a folder in the Decathlon layout. One scan after the other: read, normalised, segmented by windows (MONAI's
rules), scored against its truth, written as OUT/KEY.nii.gz. OUT/result.json holds the seconds of that loop, without
imports and loading, and each scan's Dice. For models of labels whose preparation is one zscore.
"""
import argparse
import itertools
import json
import os
import time

import numpy

import safetensors_file
from model_folder import Model


def studies(archive):
    """(key, image, truth) of each labelled scan."""
    with open(os.path.join(archive, "dataset.json"), encoding="utf-8") as file:
        for entry in json.load(file)["training"]:
            image, truth = (os.path.join(archive, entry[name]) for name in ("image", "label"))
            yield os.path.basename(image).removesuffix(".nii.gz"), image, truth


def prepare(image):
    """The normalised scan as the network sees it: f32 (1, z, y, x), axes towards RAS."""
    import nibabel
    values = nibabel.as_closest_canonical(image).get_fdata()
    values = (values - values.mean()) / max(values.std(), 1e-8)
    return numpy.ascontiguousarray(values.T[None], dtype="f4")


def on_grid(mask, image):
    """A mask (z, y, x) in the voxel order of the scan's file."""
    from nibabel import orientations
    stored = orientations.io_orientation(image.affine)
    back = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), stored)
    return orientations.apply_orientation(mask.T, back)


def starts(size, window, overlap):
    """Corners of the windows over a volume of at least a window's size: the last on each axis is moved back to the end."""
    axes = []
    for length, side in zip(size, window):
        step = max(int(side * (1 - overlap)), 1)
        axes.append([min(i * step, length - side) for i in range(-(-(length - side) // step) + 1)])
    return itertools.product(*axes)


def importance(window, blend):
    """Weights of a window's voxels, f32."""
    if blend == "constant":
        return numpy.ones(window, "f4")
    axes = [numpy.arange(side, dtype="f4") - (side - 1) / 2 for side in window]
    bells = [numpy.exp(-x * x / (2 * (side / 8) ** 2)) for x, side in zip(axes, window)]
    weights = bells[0][:, None, None] * bells[1][:, None] * bells[2]
    return numpy.maximum(weights, max(weights.min(), 1e-3)).astype("f4")


def padding(size, window):
    """Voxels (before, after) each axis that is shorter than the window."""
    missing = [max(side - length, 0) for length, side in zip(size, window)]
    return [(m // 2, m - m // 2) for m in missing]


class Segmenter:
    def __init__(self, model, is_bf16=False):
        import torch
        self.torch, self.is_bf16 = torch, is_bf16
        self.network, window = model.torch_network(), model.manifest["window"]
        self.window, self.overlap, self.pad_value = window["size"], window.get("overlap", 0.5), window.get("pad_value", 0)
        self.weights = torch.from_numpy(importance(self.window, window.get("blend", "gaussian")))
        self.labels = [label["index"] for label in model.manifest["output"]["labels"]]

    def logits(self, volume):
        """Blended logits (K, D, H, W), a tensor, of an array (C, D, H, W)."""
        torch, size = self.torch, volume.shape[1:]
        pads = padding(size, self.window)
        x = torch.nn.functional.pad(torch.from_numpy(volume)[None], [n for pair in reversed(pads) for n in pair],
                                    value=self.pad_value)
        total = weight = None
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, self.is_bf16):
            for corner in starts(x.shape[2:], self.window, self.overlap):
                box = tuple(slice(at, at + side) for at, side in zip(corner, self.window))
                one = self.network(x[(..., *box)])[0].float()
                if total is None:
                    total, weight = torch.zeros(len(one), *x.shape[2:]), torch.zeros(x.shape[2:])
                total[(..., *box)] += self.weights * one
                weight[box] += self.weights
            inside = [slice(low, low + length) for (low, _), length in zip(pads, size)]
            return (total / weight)[(..., *inside)]


def dice(mask, truth, labels):
    scores = []
    for label in labels:
        a, b = mask == label, truth == label
        both = int(a.sum()) + int(b.sum())
        scores.append(2 * int((a & b).sum()) / both if both else float("nan"))
    return scores


def segment(segmenter, study, out):
    """Writes the mask of a study; its Dice of each label, and what the network saw and gave."""
    import nibabel
    key, path, truth = study
    image = nibabel.load(path)
    volume = prepare(image)
    logits = segmenter.logits(volume)
    mask = on_grid(logits.argmax(0).to(segmenter.torch.uint8).numpy(), image)
    nibabel.save(nibabel.Nifti1Image(mask, image.affine), os.path.join(out, key + ".nii.gz"))
    return dice(mask, numpy.asarray(nibabel.load(truth).dataobj), segmenter.labels), volume, logits


def load(options):
    import nibabel  # noqa: F401: that a package is read from disk is no part of the time
    import torch
    torch.set_num_threads(options.threads)
    model = Model(options.model)
    seen = model.manifest["input"]
    if seen["prepare"] != [{"step": "zscore"}] or seen.get("orientation", "RAS") != "RAS" or len(seen["channels"]) > 1:
        raise SystemExit(f"{options.model}: this script knows one channel, RAS and zscore only")
    segmenter = Segmenter(model, options.precision == "bf16")
    segmenter.logits(numpy.zeros((1, *segmenter.window), "f4"))
    return segmenter


def main():
    parser = argparse.ArgumentParser(description="segments a labelled archive with PyTorch")
    parser.add_argument("model")
    parser.add_argument("archive")
    parser.add_argument("out")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--part", default="0/1", metavar="I/N", help="every N-th scan from the I-th on")
    parser.add_argument("--tensors", metavar="FOLDER", help="keep each scan's `input` and `logits` there, untimed")
    options = parser.parse_args()
    first, step = map(int, options.part.split("/"))
    todo = list(studies(options.archive))[first::step]
    os.makedirs(options.out, exist_ok=True)
    segmenter = load(options)
    result = {"version": segmenter.torch.__version__.split("+")[0], "seconds": 0, "cpu_seconds": 0, "dice": {}}
    for study in todo:
        begin, cpu = time.perf_counter(), time.process_time()
        result["dice"][study[0]], volume, logits = segment(segmenter, study, options.out)
        result["seconds"] += time.perf_counter() - begin
        result["cpu_seconds"] += time.process_time() - cpu
        if options.tensors:
            safetensors_file.write(os.path.join(options.tensors, study[0] + ".safetensors"),
                                   {"input": volume, "logits": logits.numpy()})
    with open(os.path.join(options.out, "result.json"), "w", encoding="utf-8") as file:
        json.dump(result, file)
    means = numpy.nanmean(list(result["dice"].values()), 0).round(4)
    print(f"{len(todo)} scans in {result['seconds']:.1f} s, mean Dice {means}")


if __name__ == "__main__":
    main()
