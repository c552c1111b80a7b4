"""Small trainings for tests/train.t.

    trainings.py make FOLDER          scans of bright boxes in each layout, and settings for them
    trainings.py same A B             two model folders have the same tensors, to the bit
    trainings.py sees                 windows without augmentation are the scan's voxels; flips and boxes (needs PyTorch)
    trainings.py exact                ways to save memory: the same gradients where that is promised (needs PyTorch)
    trainings.py regions              the regions that random reconstruction compares (needs PyTorch)
    trainings.py mask MODEL SCAN MASK the mask of `nocturne infer` is PyTorch's (needs PyTorch)
"""
import json
import os
import sys

import nibabel
import numpy
import tensors

sys.path.insert(0, os.path.join(os.environ["root"], "scripts"))

NETWORK = {"in_channels": 1, "num_classes": 2, "embed_dims": [4, 8, 8, 8], "num_heads": [1, 2, 2, 2], "depths": [1, 1, 1, 1],
           "sr_ratios": [2, 2, 1, 1], "mlp_ratios": [2, 2, 2, 2], "patch_kernel": [3, 3, 3, 3], "patch_stride": [2, 2, 2, 2],
           "patch_padding": [1, 1, 1, 1], "decoder_dim": 8, "attention_scale": "head_dim"}
TRAIN = {"seed": 3, "steps": 6, "batch": 2, "learning_rate": 0.01, "warmup_steps": 2, "memory": ["attention", "decoder"], "foreground": 0.5, "save_minutes": 0,
         "augment": {"flip": ["x"], "rotate": 10, "scale": [0.9, 1.1], "shift": 1, "gain": 0.1, "offset": 0.1, "gamma": 0.1, "noise": 0.1}}


def write(path, array, affine):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def scan(random, channels):
    """Channels (x, y, z) and truth: a box that is bright, and a brighter one within."""
    size = random.integers(14, 24, 3)
    truth = numpy.zeros(size, "u1")
    truth[3:11, 3:11, 3:11] = 1
    truth[5:8, 5:8, 5:8] = 2
    return [(100 + 60 * truth + 5 * random.standard_normal(size)).astype("f4") for _ in range(channels)], truth


def settings(folder, name, layout, channels, output, classes, **train):
    data = {"layout": layout, "validation": 0.34}
    model = {"name": name, "network": {**NETWORK, "in_channels": len(channels), "num_classes": classes},
             "input": {"channels": channels, "prepare": [{"step": "zscore"}]},
             "window": {"size": [16, 16, 16], "overlap": 0.5, "blend": "gaussian"}, "output": output}
    with open(f"{folder}/{name}.yaml", "w", encoding="utf-8") as file:
        json.dump({"data": data, "model": model, "train": {**TRAIN, **train}}, file)  # JSON is YAML too


def make(folder):
    random = numpy.random.default_rng(1)
    affine = numpy.diag([-1.0, 1, 2, 1])
    for i in range(3):
        images, truth = scan(random, 1)
        write(f"{folder}/msd/imagesTr/case_{i}.nii.gz", images[0], affine)
        write(f"{folder}/msd/labelsTr/case_{i}.nii.gz", (truth > 0).astype("u1"), affine)
        write(f"{folder}/nan/imagesTr/case_{i}.nii.gz", numpy.where(truth == 2, numpy.nan, images[0]), affine)
        write(f"{folder}/nan/labelsTr/case_{i}.nii.gz", (truth > 0).astype("u1"), affine)
        images, truth = scan(random, 2)
        for c, image in enumerate(images):
            write(f"{folder}/nnunet/imagesTr/case_{i}_{c:04}.nii.gz", image, affine)
        write(f"{folder}/nnunet/labelsTr/case_{i}.nii.gz", truth, affine)
        images, truth = scan(random, 4)
        for name, image in zip(("flair", "t1", "t1ce", "t2"), images):
            write(f"{folder}/brats/case_{i}/case_{i}_{name}.nii.gz", image, affine)
        write(f"{folder}/brats/case_{i}/case_{i}_seg.nii.gz", truth * 2, affine)
    entries = [{"image": f"./imagesTr/case_{i}.nii.gz", "label": f"./labelsTr/case_{i}.nii.gz"} for i in range(3)]
    for name, content in (("msd", {"training": entries}), ("nan", {"training": entries}),
                          ("nnunet", {"channel_names": {"0": "a", "1": "b"}, "labels": {"background": 0, "box": 1, "core": 2},
                                      "file_ending": ".nii.gz", "numTraining": 3})):
        with open(f"{folder}/{name}/dataset.json", "w", encoding="utf-8") as file:
            json.dump(content, file)
    box, core = {"index": 1, "name": "box"}, {"index": 2, "name": "core"}
    regions = [{"name": "whole", "truth_labels": [2, 4]}, {"name": "core", "truth_labels": [4]}]
    settings(folder, "msd", "msd", ["a"], {"kind": "labels", "labels": [box]}, 2)
    settings(folder, "learns", "msd", ["a"], {"kind": "labels", "labels": [box]}, 2, steps=60, augment={})
    settings(folder, "quantized", "msd", ["a"], {"kind": "labels", "labels": [box]}, 2, steps=30, memory=["attention", "recompute", "quantized"])
    settings(folder, "local", "msd", ["a"], {"kind": "labels", "labels": [box]}, 2, steps=30, memory=["decoder", "local4"], precision="bf16")
    settings(folder, "nnunet", "nnunet", ["a", "b"], {"kind": "labels", "labels": [box, core]}, 3)
    settings(folder, "few", "nnunet", ["a", "b"], {"kind": "labels", "labels": [box]}, 2)
    settings(folder, "brats", "brats", ["FLAIR", "T1w", "T1gd", "T2w"], {"kind": "regions", "regions": regions}, 2)


def same(one, other):
    a, b = (tensors.read(f"{folder}/weights.safetensors")[1] for folder in (one, other))
    if a.keys() != b.keys() or not all(numpy.array_equal(a[name], b[name]) for name in a):
        sys.exit("other tensors")


def sees():
    import train_data
    random = numpy.random.default_rng(1)
    image = random.standard_normal((2, 5, 20, 1), "f4")
    truth = random.integers(0, 3, (5, 20, 1)).astype("u1")
    model = {"window": {"size": [8, 8, 3], "pad_value": -3}}
    for _ in range(5):
        x, labels = train_data.sample(random, image, truth, model, {})
        at = [low for low in range(13) if numpy.array_equal(labels[1:6, :, 1], truth[:, low:low + 8, 0])]
        assert len(at) == 1, "no window of the truth"
        wanted = numpy.full((2, 8, 8, 3), -3, "f4")
        wanted[:, 1:6, :, 1] = image[:, :, at[0]:at[0] + 8, 0]
        assert numpy.allclose(x, wanted, atol=1e-5), "no window of the scan"
    cube, label = random.standard_normal((1, 8, 8, 8), "f4"), random.integers(0, 2, (8, 8, 8)).astype("u1")
    seen = {train_data.sample(random, cube, label, {"window": {"size": [8, 8, 8]}}, {"augment": {"flip": ["x"]}})[0].numpy().tobytes()
            for _ in range(20)}
    seen = [numpy.frombuffer(data, "f4").reshape(cube.shape) for data in seen]
    assert len(seen) == 2 and all(numpy.allclose(s, cube, atol=1e-4) or numpy.allclose(s, cube[..., ::-1], atol=1e-4) for s in seen), "flips"
    turned = train_data.rotation(numpy.deg2rad([90, 0, 0]))
    assert numpy.allclose(turned @ turned.T, numpy.eye(3)) and numpy.allclose(turned @ [1, 0, 0], [1, 0, 0]), "a rotation about z"


def exact():
    import copy

    import torch

    import segformer3d_torch
    import train_memory
    torch.set_num_threads(1)
    torch.manual_seed(1)
    config = {**NETWORK, "patch_stride": [[1, 2, 2], 2, 2, 2]}
    whole = segformer3d_torch.SegFormer3D(config).double()
    x, labels = torch.randn(2, 1, 16, 22, 32).double(), torch.randint(0, 2, (2, 16, 22, 32))
    grads, peaks = {}, {}
    for options in ([], ["attention"], ["decoder"], ["attention", "decoder"], ["attention", "decoder", "recompute"], ["quantized"],
                    *([way] for way in train_memory.LOCAL)):
        torch.manual_seed(2)
        network = copy.deepcopy(whole)
        step = train_memory.Step(network, config, torch.nn.functional.cross_entropy, options).double()
        step.backward(x, labels)
        name = "+".join(options)
        grads[name] = torch.cat([p.grad.flatten() for p in network.parameters()])
        # Also what forward passes leave behind.
        norm = network.segformer_encoder.tf_block1[0].mlp.dwconv.bn
        assert int(norm.num_batches_tracked) == 1 and step.saved.bytes == 0, name
        grads[name + " statistics"] = norm.running_mean
        peaks[name] = step.saved.peak

    def error(name):
        return float((grads[name].double() - grads[""]).norm() / grads[""].norm())

    plain = copy.deepcopy(whole)
    torch.nn.functional.cross_entropy(plain(x), labels).backward()
    wanted = torch.cat([p.grad.flatten() for p in plain.parameters()])
    # All in f64, but a step takes its loss of logits in f32.
    assert (grads[""] - wanted).norm() < 1e-6 * wanted.norm(), "the plain network"
    for name in ("attention", "decoder", "attention+decoder", "attention+decoder+recompute"):
        assert error(name) < 1e-6, f"{name}: {error(name)}"
        assert torch.allclose(grads[name + " statistics"], grads[" statistics"], atol=1e-12), name
    # Rounding is random without a bias: means of several gradients are nearer.
    step = train_memory.Step(copy.deepcopy(whole), config, torch.nn.functional.cross_entropy, ["quantized"]).double()
    for _ in range(9):
        step.backward(x, labels)
    grads["mean"] = torch.cat([p.grad.flatten() for p in step.network.parameters()]) / 9
    assert 0 < error("quantized") < 0.3 and error("mean") < 0.6 * error("quantized"), f"{error('quantized')} {error('mean')}"
    assert all(error(way) > 0.01 for way in train_memory.LOCAL), "no gradient flows between modules"
    assert not torch.equal(grads["rfr2"], grads["local2"]), "another reconstruction"
    for less, more in (("attention", ""), ("decoder", ""), ("attention+decoder+recompute", "attention+decoder"), ("quantized", ""),
                       ("local2", ""), ("local4", "local2"), ("rfr2", ""), ("rfr4", "")):
        assert peaks[less] < peaks[more], f"{less}: {peaks}"


def regions():
    """A unit without its convolutions, on ramps: what it up-samples lies where it looks in what the module was given."""
    import torch

    import train_memory
    factors, given = (1, 2, 3), torch.stack(torch.meshgrid(*map(torch.arange, (9, 17, 25)), indexing="ij"))[None].float()
    x = given[:, :, ::1, ::2, ::3].repeat(2, 1, 1, 1, 1).requires_grad_()  # 9, 9 and 9 voxels, the last ones beyond a whole factor
    unit = train_memory.RandomReconstruction(3, 3, factors)
    while len(unit):
        del unit[0]
    given = given.repeat(2, 1, 1, 1, 1)
    for seed in range(20):
        torch.manual_seed(seed)
        made, wanted = unit.regions(x, given)
        assert made.shape == (20, 3, 3, 3, 3) and wanted.shape == (20, 3, 3, 6, 9), wanted.shape
        assert torch.equal(made[:, :, 0, 0, 0], wanted[:, :, 0, 0, 0]), "another place"
        assert len({tuple(corner) for corner in made[:, :, 0, 0, 0].tolist()}) > 5, "one place"
        # Of 3 voxels up-sampled to 3, 6 and 9 between the middles of the first and the last: 0, 0.5 and 1 apart in the mean.
        torch.manual_seed(seed)
        loss = unit(x, given)
        assert abs(loss.item() - 0.5) < 1e-5, loss
    loss.backward()
    share = float((x.grad != 0).any(1).float().mean())
    assert 0 < share < 0.4, f"{share} of the voxels"
    small = train_memory.RandomReconstruction(3, 3, (4, 4, 4))
    assert torch.isfinite(small(torch.ones(2, 3, 1, 1, 1), torch.ones(2, 3, 3, 3, 3))), "a window that is smaller than the factor"


def mask(model, path, got):
    import torch

    import segment_torch
    from model_folder import Model
    torch.set_num_threads(1)
    image = nibabel.load(path)
    logits = segment_torch.Segmenter(Model(model)).logits(segment_torch.prepare(image))
    wanted = segment_torch.on_grid(logits.argmax(0).numpy(), image)
    values = numpy.asarray(nibabel.load(got).dataobj)
    close = segment_torch.on_grid(((logits[0] - logits[1]).abs() < 1e-3).numpy(), image)
    assert values.any() and not values.all(), "a mask of one value"
    assert numpy.array_equal(values[~close], wanted[~close]), "another mask"


if __name__ == "__main__":
    {f.__name__: f for f in (make, same, sees, exact, regions, mask)}[sys.argv[1]](*sys.argv[2:])
