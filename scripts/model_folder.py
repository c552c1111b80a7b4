"""A model folder as Python sees it: the manifest as a map, the tensors of its weights, and what they must be."""
import json
import os

import safetensors_file

MANIFEST, WEIGHTS = "model.yaml", "weights.safetensors"


class Model:
    """A folder that is read; needs PyYAML."""

    def __init__(self, folder):
        import yaml
        self.folder = folder
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
            self.manifest = yaml.safe_load(file)
        files = self.manifest["weights"]
        if isinstance(files, list) or self.manifest["window"].get("mirror"):
            raise SystemExit(f"{folder}: this script knows models of one file of weights without flips only")
        self.tensors = safetensors_file.read(os.path.join(folder, files))[0]

    def torch_network(self):
        import segformer3d_torch
        return segformer3d_torch.load(self.manifest["network"], self.tensors)


def manifest_text(manifest):
    """YAML: maps of the first two levels a line each key, what is below as JSON, which YAML is a superset of."""
    for key, value in manifest.items():
        if isinstance(value, dict):
            yield f"{key}:\n"
            yield from (f"  {below}: {json.dumps(inner)}\n" for below, inner in value.items())
        else:
            yield f"{key}: {json.dumps(value)}\n"


def write(folder, manifest, *folds):
    """`manifest` without format, family and weights, which are the same for each folder; tensors of one network or several."""
    name = {key: manifest[key] for key in ("name", "description", "license", "reference") if key in manifest}
    rest = {key: value for key, value in manifest.items() if key not in name}
    files = [WEIGHTS] if len(folds) == 1 else [f"fold_{i}.safetensors" for i in range(len(folds))]
    weights = files[0] if len(files) == 1 else files
    whole = {"format": "nocturne-model/1", **name, "family": "segformer3d", "weights": weights, **rest}
    os.makedirs(folder, exist_ok=True)
    for file, tensors in zip(files, folds):
        safetensors_file.write(os.path.join(folder, file), tensors)
    with open(os.path.join(folder, MANIFEST), "w", encoding="utf-8") as file:
        file.writelines(manifest_text(whole))


def triple(value):
    return tuple(value) if isinstance(value, (list, tuple)) else (value,) * 3


def shapes(network):
    """(name, shape) of every tensor of a `network` map, norms' variances included, in the order of the checkpoints."""
    def dense(name, *shape):
        return [(name + ".weight", shape), (name + ".bias", shape[:1])]

    def norm(name, width):
        return [(name + ".weight", (width,)), (name + ".bias", (width,))]

    def batch_norm(name, width):
        return norm(name, width) + [(name + ".running_mean", (width,)), (name + ".running_var", (width,))]

    encoder, decoder, below, fused = "segformer_encoder.", "segformer_decoder.", network["in_channels"], network["decoder_dim"]
    for s in range(4):
        width, reduction = network["embed_dims"][s], network["sr_ratios"][s]
        hidden = width * network["mlp_ratios"][s]
        yield from dense(f"{encoder}embed_{s + 1}.patch_embeddings", width, below, *triple(network["patch_kernel"][s]))
        yield from norm(f"{encoder}embed_{s + 1}.norm", width)
        for block in range(network["depths"][s]):
            name = f"{encoder}tf_block{s + 1}.{block}."
            yield from norm(name + "norm1", width)
            yield from dense(name + "attention.query", width, width)
            yield from dense(name + "attention.key_value", 2 * width, width)
            yield from dense(name + "attention.proj", width, width)
            if reduction > 1:
                yield from dense(name + "attention.sr", width, width, *triple(reduction))
                yield from norm(name + "attention.sr_norm", width)
            yield from norm(name + "norm2", width)
            yield from dense(name + "mlp.fc1", hidden, width)
            yield from dense(name + "mlp.dwconv.dwconv", hidden, 1, 3, 3, 3)
            yield from batch_norm(name + "mlp.dwconv.bn", hidden)
            yield from dense(name + "mlp.fc2", width, hidden)
        yield from norm(f"{encoder}norm{s + 1}", width)
        below = width
    for s in (4, 3, 2, 1):
        yield from dense(f"{decoder}linear_c{s}.proj", fused, network["embed_dims"][s - 1])
        yield from norm(f"{decoder}linear_c{s}.bn", fused)
    yield decoder + "linear_fuse.0.weight", (fused, 4 * fused, 1, 1, 1)
    yield from batch_norm(decoder + "linear_fuse.1", fused)
    yield from dense(decoder + "linear_pred", network["num_classes"], fused, 1, 1, 1)
