"""Golden files and the program: makes what a command reads, compares what it wrote.

    golden.py network GOLDEN WEIGHTS FOLDER     of a network: FOLDER/model.yaml and FOLDER/input.safetensors
    golden.py check_network GOLDEN OUTPUT [LIMIT]  logits and stages within 2e-5
    golden.py windows GOLDEN WEIGHTS FOLDER     the same of sliding windows; also FOLDER/flags, and the model
                                                FOLDER/other/model.yaml that needs them
    golden.py check_windows GOLDEN OUTPUT       logits within 2e-5, masks equal but where a logit may be off
    golden.py brain NAME BRAINS.JSON OUTPUT     sums and hash of a prepared brain
    golden.py normalise GOLDEN TENSOR SCAN      a tensor as a NIfTI file
    golden.py check_normalise GOLDEN TENSOR OUTPUT
"""
import hashlib
import json
import os
import sys

import numpy
import tensors

LIMIT = 2e-5


def write_model(path, network, scale, weights, window, overlap, blend, prepare="[]"):
    classes = network["num_classes"]
    labels = "[" + ", ".join("{index: %d, name: n%d}" % (i, i) for i in range(1, classes)) + "]"
    channels = ["c%d" % i for i in range(network["in_channels"])]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write("format: nocturne-model/1\nname: golden\nfamily: segformer3d\n")
        file.write("weights: %s\nnetwork:\n" % os.path.abspath(weights))
        for key, value in network.items():
            file.write("  %s: %s\n" % (key, json.dumps(value)))
        file.write("  attention_scale: %s\ninput:\n" % scale)
        file.write("  channels: %s\n  prepare: %s\n" % (json.dumps(channels), prepare))
        file.write("window:\n  size: %s\n  overlap: %r\n  blend: %s\n" % (list(window), overlap, blend))
        file.write("output:\n  kind: labels\n  labels: %s\n" % labels)


def size_of(golden):
    name = os.path.basename(golden).split(".")[0].replace("_strided", "")
    return [int(n) for n in name.split("_")[-1].split("x")]


def network(golden, weights, folder):
    metadata, arrays = tensors.read(golden)
    config, size = json.loads(metadata["config"]), size_of(golden)
    scale = metadata["attention_scale"]
    write_model(folder + "/model.yaml", config, scale, weights, [32, 32, 32], 0.5, "gaussian")
    data = tensors.formula([config["in_channels"]] + size)
    assert "input" not in arrays or (arrays["input"] == data).all()
    tensors.write(folder + "/input.safetensors", {"input": data})


def sampled(array, wanted):
    """As the golden tensor is: every stride-th voxel of each axis."""
    stride = -(-array.shape[3] // wanted.shape[3])
    return array[:, ::stride, ::stride, ::stride]


def check(name, got, wanted, failures, limit=LIMIT):
    error = tensors.error(sampled(got, wanted), wanted)
    print("%s %s error %.2g" % (name, "x".join(map(str, got.shape)), error))
    if not error <= limit:
        failures.append(name)


def check_network(golden, output, limit=LIMIT):
    metadata, wanted = tensors.read(golden)
    _, got = tensors.read(output)
    failures, logits, limit = [], got["logits"], float(limit)
    assert list(logits.shape) == json.loads(metadata["logits_shape"]), logits.shape
    check("logits", logits, wanted.get("logits", wanted.get("logits_strided")), failures, limit)
    for stage in ["c1", "c2", "c3", "c4"]:
        if stage in wanted:
            check(stage, got[stage], wanted[stage], failures, limit)
    if "positive_voxels" in wanted:
        voxels = logits[0].size
        largest = float(numpy.abs(logits).max())
        flat = logits.astype(float).reshape(len(logits), -1)
        assert numpy.abs(flat.mean(1) - wanted["logits_mean"]).max() <= limit * largest
        assert numpy.abs(flat.std(1) - wanted["logits_std"]).max() <= limit * largest
        positive = (flat >= 0).sum(1)
        assert numpy.abs(positive - wanted["positive_voxels"]).max() <= voxels * max(1e-4, limit), positive
    return failures


def tiny():
    return {"in_channels": 2, "num_classes": 3, "embed_dims": [8, 16, 40, 64], "num_heads": [1, 2, 5, 8],
            "depths": [2, 2, 2, 2], "sr_ratios": [4, 2, 1, 1], "mlp_ratios": [4, 4, 4, 4],
            "patch_kernel": [7, 3, 3, 3], "patch_stride": [4, 2, 2, 2], "patch_padding": [3, 1, 1, 1],
            "decoder_dim": 32}


def windows(golden, weights, folder):
    case = json.loads(tensors.read(golden)[0]["case"])
    roi, overlap, mode, scale = case["roi"], case["overlap"], case["mode"], case["attention_scale"]
    write_model(folder + "/model.yaml", tiny(), scale, weights, roi, overlap, mode)
    other = "gaussian" if mode == "constant" else "constant"
    write_model(folder + "/other/model.yaml", tiny(), scale, weights, [64, 64, 64], 0.1, other)
    data = tensors.formula([2] + case["size"], case["input_seed"])
    tensors.write(folder + "/input.safetensors", {"input": data})
    with open(folder + "/flags", "w") as file:
        file.write("--window %d,%d,%d --overlap %r --blend %s" % (*roi, overlap, mode))


def check_windows(golden, output):
    metadata, wanted = tensors.read(golden)
    case, got = json.loads(metadata["case"]), tensors.read(output)[1]["logits"]
    assert list(got.shape) == [3] + case["size"], got.shape
    stride, largest = case["logits_stride"], case["largest_abs_logit"]
    error = numpy.abs(got[:, ::stride, ::stride, ::stride].astype(float) - wanted["logits"]).max() / largest
    print("logits error %.2g" % error)
    failures = [] if error <= LIMIT else ["logits"]
    if "mask_bits" in wanted:
        bits = sum((got[c] >= 0).astype("u1") << c for c in range(3))
        odd = int((bits != wanted["mask_bits"]).sum()), int((got.argmax(0) != wanted["mask_argmax"]).sum())
        allowed = case["voxels_within_2e5_of_zero"], case["voxels_within_2e5_of_argmax_tie"]
        print("mask voxels that differ: %d of bits, %d of labels; at most %d, %d" % (odd + allowed))
        failures += ["masks"] if odd[0] > allowed[0] or odd[1] > allowed[1] else []
    return failures


def brain(name, brains, output):
    with open(brains) as file:
        entry = next(b for b in json.load(file) if b["name"] == name)["input"]
    data = tensors.read(output)[1]["input"]
    assert list(data.shape) == entry["shape"] and data.dtype == numpy.dtype("<f4")
    wide = data.astype(float)
    print("sum %r, wanted %r" % (wide.sum(), entry["sum"]))
    assert abs(wide.sum() - entry["sum"]) <= 1e-9 * entry["sum"]
    assert abs((wide * wide).sum() - entry["sum_of_squares"]) <= 1e-9 * entry["sum_of_squares"]
    assert (wide.min(), wide.max()) == (entry["min"], entry["max"])
    got = hashlib.sha256(data.tobytes()).hexdigest()
    print("sha256 %s, wanted %s" % (got, entry["sha256"]))
    return [] if got == entry["sha256"] else ["sha256"]


def normalise(golden, tensor, scan):
    import nibabel

    array = tensors.read(golden)[1][tensor]
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), numpy.diag([1.0, 1, 1, 1])), scan)


def check_normalise(golden, tensor, output):
    wanted, got = tensors.read(golden)[1][tensor], tensors.read(output)[1]["input"]
    assert got.shape == (1,) + wanted.shape
    error = float(numpy.abs(got[0].astype(float) - wanted).max())
    print("error %.2g" % error)
    return [] if error <= 2e-6 else [tensor]


if __name__ == "__main__":
    problems = globals()[sys.argv[1]](*sys.argv[2:])
    if problems:
        sys.exit("beyond the limit: " + ", ".join(problems))
