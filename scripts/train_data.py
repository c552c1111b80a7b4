"""Scans and truths for training: found in three layouts, prepared by the program itself, cut into augmented windows.

Every random choice is drawn from (seed, step, place in the batch), so that a training which goes on from a checkpoint sees
what an undisturbed one would have seen, without any generator's state having been kept.
"""
import hashlib
import json
import os
import subprocess

import numpy
import torch
from torch.nn import functional

import model_folder
import safetensors_file

GEOMETRY = ("crop",)  # steps that change the grid, which the truth goes through too
UNKNOWN = ("foreground_crop", "resample")
LABELS = 256  # a truth's values are below
BRATS = ("flair", "t1", "t1ce", "t2")


class Problem(Exception):
    """One sentence that says what to do."""


def nocturne(program, *arguments, codes=(0,)):
    """What the program prints."""
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise Problem(f"{program} cannot be started ({error.strerror}): build it, or name it with --nocturne") from error
    if done.returncode not in codes:
        raise Problem(f"nocturne {arguments[0]}: {done.stderr.strip()[-500:] or f'it ended with code {done.returncode}'}")
    return done.stdout


# Layouts: (key, [image of each channel, or one with all], truth)

def described(folder):
    try:
        with open(os.path.join(folder, "dataset.json"), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise Problem(f"{folder}/dataset.json cannot be read: {error}") from error


def msd(folder, _):
    for entry in described(folder)["training"]:
        yield entry["image"].rsplit("/")[-1].split(".")[0], [os.path.join(folder, entry["image"])], os.path.join(folder, entry["label"])


def nnunet(folder, _):
    about = described(folder)
    ending, count = about.get("file_ending", ".nii.gz"), len(about["channel_names"])
    for name in sorted(os.listdir(os.path.join(folder, "labelsTr"))):
        if name.endswith(ending):
            key = name.removesuffix(ending)
            yield key, [os.path.join(folder, "imagesTr", f"{key}_{i:04}{ending}") for i in range(count)], os.path.join(folder, "labelsTr", name)


def brats(folder, files):
    """A folder a case with CASE_flair.nii.gz, ..., CASE_seg.nii.gz; `files` names other channels than the usual four."""
    for key in sorted(os.listdir(folder)):
        start = os.path.join(folder, key, key)
        if os.path.isfile(start + "_seg.nii.gz"):
            yield key, [f"{start}_{name}.nii.gz" for name in files or BRATS], start + "_seg.nii.gz"


LAYOUTS = {"msd": msd, "nnunet": nnunet, "brats": brats}


def studies(data, folder):
    """(for training, for validation), by data.validation: a list of keys, or a share of all drawn by data.split_seed."""
    if data["layout"] not in LAYOUTS:
        raise Problem(f"data.layout {data['layout']}: one of {', '.join(LAYOUTS)} is expected")
    try:
        found = list(LAYOUTS[data["layout"]](folder, data.get("files")))
    except (KeyError, TypeError, AttributeError, OSError) as error:
        raise Problem(f"{folder} is not in the layout {data['layout']}: {error}") from error
    for key, images, truth in found:
        for path in (*images, truth):
            if not os.path.isfile(path):
                raise Problem(f"{key}: there is no {path}")
    chosen = data["validation"]
    if isinstance(chosen, list):
        missing = set(chosen) - {key for key, _, _ in found}
        if missing:
            raise Problem(f"data.validation names {sorted(missing)[0]}, which is not in {folder}")
    else:
        keys = sorted(key for key, _, _ in found)
        order = numpy.random.default_rng(data.get("split_seed", 1)).permutation(len(keys))
        chosen = [keys[i] for i in order[:max(1, round(len(keys) * chosen))]]
    train, held_out = ([study for study in found if (study[0] in chosen) == is_held_out] for is_held_out in (False, True))
    if not train:
        raise Problem(f"{folder}: no scan is left for training ({len(found)} found, {len(held_out)} for validation)")
    return train, held_out


# Preparation: `nocturne prepare`, so the network sees in training what it will see in a run

def view(folder, model, channels, steps):
    """A folder with a manifest that has these steps; `prepare` needs no weights."""
    network = {**model["network"], "in_channels": len(channels)}
    model_folder.write(folder, {**model, "network": network, "input": {**model["input"], "channels": channels, "prepare": steps}}, {})
    return folder


def prepared(program, folder, files, path):
    nocturne(program, "prepare", "-m", folder, "--output", path, *files)
    array = safetensors_file.read(path)[0]["input"]
    os.remove(path)
    return array


def step_name(step):
    """None of what is no step, which the program refuses."""
    return step.get("step") if isinstance(step, dict) else None


class Archive:
    """The prepared scans of a list of studies, in files that the system keeps in memory while there is room."""

    def __init__(self, program, model, found, folder):
        self.model, self.keys = model, [key for key, _, _ in found]
        steps = model["input"]["prepare"]
        for name in map(step_name, steps):
            if name in UNKNOWN:
                raise Problem(f"input.prepare: training knows no {name}: bring the scans onto their grid beforehand")
        told = json.dumps([model["input"], found], sort_keys=True)
        self.folder = os.path.join(folder, "prepared-" + hashlib.sha256(told.encode()).hexdigest()[:12])
        os.makedirs(self.folder, exist_ok=True)
        image = view(os.path.join(self.folder, "image"), model, model["input"]["channels"], steps)
        truth = view(os.path.join(self.folder, "truth"), model, ["truth"], [step for step in steps if step_name(step) in GEOMETRY])
        work = os.path.join(self.folder, "work.safetensors")
        self.arrays = []
        for key, images, label in found:
            try:
                if not os.path.isfile(self.path(key, "truth")):
                    self.put(key, "image", prepared(program, image, images, work))
                    self.put(key, "truth", self.labels(prepared(program, truth, [label], work)[0]))
                self.arrays.append(self.both(key))
            except Problem as problem:
                raise Problem(f"{key}: {problem}") from problem

    def both(self, key):
        try:
            image, truth = (numpy.load(self.path(key, kind), mmap_mode="r") for kind in ("image", "truth"))
        except (EOFError, ValueError) as error:
            raise Problem(f"its files are damaged: remove {self.folder}, which is then made anew") from error
        if image.shape[1:] != truth.shape:
            raise Problem(f"the truth is on another grid, {truth.shape} instead of {image.shape[1:]}")
        return image, truth

    def path(self, key, kind):
        return os.path.join(self.folder, f"{key}.{kind}.npy")

    def put(self, key, kind, array):
        with open(self.path(key, kind) + ".part", "wb") as file:
            numpy.save(file, array)
        os.replace(self.path(key, kind) + ".part", self.path(key, kind))

    def labels(self, values):
        output = self.model["output"]
        if not numpy.array_equal(values, values.round()) or values.min() < 0 or values.max() >= LABELS:
            raise Problem("its truth has values that are no labels")
        unknown = set(numpy.unique(values).astype(int).tolist()) - set(range(self.model["network"]["num_classes"]))
        if output["kind"] == "labels" and unknown:
            raise Problem(f"its truth has the label {min(unknown)}, which output.labels does not name")
        return values.astype("u1")


# Windows

def rotation(angles):
    """About z, y and x, in radians."""
    result = numpy.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [i for i in range(3) if i != axis]
        turn = numpy.eye(3)
        turn[a, a] = turn[b, b] = numpy.cos(angle)
        turn[a, b], turn[b, a] = -numpy.sin(angle), numpy.sin(angle)
        result = result @ turn
    return result


def centre(random, truth, window, foreground):
    """Of a window in voxels: where a run's windows lie on an axis that is shorter, anywhere else, by a share of `foreground`
    about a voxel of a label."""
    around = None
    if foreground and any(length > side for length, side in zip(truth.shape, window)) and random.random() < foreground:
        inside = numpy.flatnonzero(truth)
        if len(inside):
            around = numpy.unravel_index(inside[random.integers(len(inside))], truth.shape)
    result = []
    for axis, (length, side) in enumerate(zip(truth.shape, window)):
        if length <= side:
            low = -((side - length) // 2)
        elif around is None:
            low = random.integers(length - side + 1)
        else:
            low = min(max(around[axis] - side // 2, 0), length - side)
        result.append(low + (side - 1) / 2)
    return numpy.array(result)


def spatial(random, augment):
    """The matrix from offsets in the window to offsets in the scan, and the shift."""
    angles = numpy.deg2rad(model_folder.triple(augment.get("rotate", 0))) * random.uniform(-1, 1, 3)
    low, high = augment.get("scale", (1, 1))
    sizes = numpy.exp(random.uniform(numpy.log(low), numpy.log(high), 3))
    flips = [-1 if axis in augment.get("flip", []) and random.random() < 0.5 else 1 for axis in "zyx"]
    shift = augment.get("shift", 0) * random.uniform(-1, 1, 3)
    return rotation(angles) @ numpy.diag(sizes * flips), shift


def resampled(array, matrix, middle, window, mode):
    """(C, D, H, W) read at middle + matrix (voxel - window's middle), 0 outside; only the box that is needed is touched."""
    half = (numpy.array(window) - 1) / 2
    reach = numpy.abs(matrix) @ half + 1
    low = numpy.clip(numpy.floor(middle - reach), 0, numpy.array(array.shape[1:]) - 1).astype(int)
    high = numpy.clip(numpy.ceil(middle + reach) + 1, low + 1, array.shape[1:]).astype(int)
    box = numpy.ascontiguousarray(array[(slice(None), *map(slice, low, high))], "f4")
    # grid_sample's coordinates are x, y, z from -1 to 1 between the middles of the first and the last voxel, which must be two.
    box = numpy.pad(box, [(0, 0), *((0, int(length == 1)) for length in box.shape[1:])])
    to_unit = 2 / (numpy.array(box.shape[1:]) - 1)
    theta = numpy.concatenate([to_unit[:, None] * matrix * half, (to_unit * (middle - low) - 1)[:, None]], 1)
    theta = numpy.concatenate([theta[::-1, 2::-1], theta[::-1, 3:]], 1)
    grid = functional.affine_grid(torch.from_numpy(theta.copy()).float()[None], (1, 1, *window), align_corners=True)
    return functional.grid_sample(torch.from_numpy(box)[None], grid, mode=mode, padding_mode="zeros", align_corners=True)[0]


def intensity(random, x, augment):
    for channel in x:
        channel.mul_(1 + augment.get("gain", 0) * random.uniform(-1, 1)).add_(augment.get("offset", 0) * random.uniform(-1, 1))
        power = numpy.exp(augment.get("gamma", 0) * random.uniform(-1, 1))
        if power != 1:
            low, high = channel.min(), channel.max()
            channel.sub_(low).div_((high - low).clamp_min(1e-8)).pow_(power).mul_(high - low).add_(low)
    sigma = augment.get("noise", 0) * random.random()
    if sigma:
        x.add_(torch.from_numpy(random.standard_normal(x.shape, "f4")), alpha=sigma)
    return x


def sample(random, image, truth, model, settings):
    """A window (C, D, H, W) f32 and its labels (D, H, W) int64."""
    window, augment = model["window"]["size"], settings.get("augment", {})
    pad = model["window"].get("pad_value", 0)
    middle = centre(random, truth, window, settings.get("foreground", 0))
    matrix, shift = spatial(random, augment)
    middle = middle + shift
    labels = resampled(truth[None], matrix, middle, window, "nearest")[0].long()
    if pad:  # what lies outside is 0 to grid_sample
        image = numpy.subtract(image, pad)
    x = resampled(image, matrix, middle, window, "bilinear")
    return intensity(random, x + pad if pad else x, augment), labels


def batch(archive, model, settings, step):
    """The windows of a step. Every scan comes once before any comes again."""
    count, size, seed = len(archive.keys), settings["batch"], settings["seed"]
    parts = []
    for place in range(size):
        turn, at = divmod(step * size + place, count)
        index = numpy.random.default_rng([seed, 1, turn]).permutation(count)[at]
        parts.append(sample(numpy.random.default_rng([seed, 2, step, place]), *archive.arrays[index], model, settings))
    return tuple(torch.stack(stack) for stack in zip(*parts))
