"""Makes a model folder of a SegFormer3D checkpoint: pytorch_model.bin, .pth, .pt (needs PyTorch) or safetensors (numpy alone).

    python3 scripts/convert_checkpoint.py CHECKPOINT [--fold CHECKPOINT]... FOLDER --heads 1,2,5,8 --attention-scale num_heads \\
        --channels FLAIR,T1w,T1gd,T2w --prepare minmax_slices --window 128,128,128 --blend constant \\
        --regions TC=2+3,WT=1+2+3,ET=3 [--verify] [--against IN.safetensors,OUT.safetensors]

What the shapes of the tensors tell is taken from them. What they cannot tell is asked for and never guessed: a wrong
number of heads or attention scale loads as well as the right one and gives other masks. `--against` is the way to know:
IN has `input` (C,D,H,W) and OUT the `logits` (K,D,H,W) that the checkpoint's own code gave for it. A checkpoint that was
pickled is read as tensors only; nothing in it is executed.
"""
import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile

import numpy

import model_folder
import safetensors_file

WRAPPERS = ("state_dict", "model_state_dict", "model", "ema_state_dict", "model_ema", "ema", "net", "network", "module")
PUBLISHED_PATCHES = ((7, 4, 3), (3, 2, 1))  # kernel, stride and padding: of the stem, of the other stages
OPTIONAL = (r"attention\.(query|key_value)\.bias$", r"mlp\.dwconv\.bn\.", r"linear_c[1-4]\.bn\.")
OTHER_NETWORK = ("encoders.", "transformer_blocks.", "decoder.linear_layers.")
TOLERANCE = 1e-4  # of the largest logit: f32 sums in another order differ by about 1e-6


class Refusal(Exception):
    """One sentence that says what to do."""


# Reading

def is_state(value):
    return isinstance(value, dict) and any(hasattr(tensor, "shape") for tensor in value.values())


def unwrapped(path, content, key):
    """The map of tensors in what a training script saved."""
    if key:
        if not isinstance(content, dict) or not is_state(content.get(key)):
            raise Refusal(f"{path} has no tensors under --key {key}; its keys: {', '.join(map(str, content))}")
        return content[key]
    if is_state(content):
        return content
    found = [name for name in WRAPPERS if isinstance(content, dict) and is_state(content.get(name))]
    if len(found) > 1:
        raise Refusal(f"{path} holds several sets of weights ({', '.join(found)}): choose one with --key")
    if not found:
        keys = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise Refusal(f"{path} holds no state dict that is known here ({keys}): name its key with --key")
    return content[found[0]]


def read_torch(path, key):
    try:
        import torch
    except ImportError as error:
        raise Refusal(f"{path}: reading this needs PyTorch (pip install torch); a safetensors file does not") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes it raise
        found = re.search(r"[Uu]nsupported (?:global: )?(?:GLOBAL|class) ([\w.]+)", str(error))
        if found:
            raise Refusal(f"{path} holds more than tensors ({found[1]}), which would be executed, and nothing was: save the "
                          "weights alone, torch.save(model.state_dict(), FILE), where you trust the file") from error
        raise Refusal(f"{path} cannot be read as a PyTorch checkpoint: it is damaged, was not copied whole, or is "
                      "something else") from error
    return {name: tensor.detach().to(torch.float64 if tensor.is_floating_point() else tensor.dtype).numpy()
            for name, tensor in unwrapped(path, content, key).items() if hasattr(tensor, "detach")}


def read(path, key):
    """{name: array} of a checkpoint, under the names that it has."""
    if not os.path.isfile(path):
        raise Refusal(f"{path}: there is no such file")
    with open(path, "rb") as file:
        head = file.read(16)
    if not head:
        raise Refusal(f"{path} is empty")
    if head[8:9] == b"{" or path.endswith(".safetensors"):
        return safetensors_file.read(path)[0]
    return read_torch(path, key)


def renamed(path, tensors):
    """Without the prefix that wrappers of modules leave (`module.`, `_orig_mod.`, `model.`)."""
    inside = {name: name.find("segformer_") for name in tensors}
    prefixes = {name[:at] for name, at in inside.items() if at >= 0}
    if not prefixes:
        if any(name.removeprefix("module.").startswith(OTHER_NETWORK) for name in tensors):
            raise Refusal(f"{path} is of the other network that goes by this name (keys `encoders.*`): it has no batch norm after "
                          "its depthwise convolution and its activation elsewhere, so these weights do not fit SegFormer3D")
        raise Refusal(f"{path} is no SegFormer3D: none of its {len(tensors)} tensors has a name with `segformer_encoder.`")
    if len(prefixes) > 1:
        raise Refusal(f"{path} holds several networks: {', '.join(sorted(map(repr, prefixes)))}")
    names = [name for name, at in inside.items() if at < 0]
    if names:
        raise Refusal(f"{path}: {names[0]} and {len(names) - 1} others are no part of SegFormer3D")
    return {name[inside[name]:]: array for name, array in tensors.items() if not name.endswith("num_batches_tracked")}


# What the shapes tell

def shape(tensors, name, axes):
    if name not in tensors:
        raise Refusal(f"{name} is missing: this is not a whole SegFormer3D")
    if tensors[name].ndim != axes:
        raise Refusal(f"{name} has {tensors[name].ndim} axes instead of {axes}")
    if 0 in tensors[name].shape:
        raise Refusal(f"{name} holds no values")
    return tensors[name].shape


def short(sides):
    return int(sides[0]) if len(set(sides)) == 1 else list(map(int, sides))


def inferred(tensors):
    """The `network` map but for heads, attention scale, strides and padding."""
    network = {"in_channels": 0, "num_classes": 0, "embed_dims": [], "num_heads": None, "depths": [], "sr_ratios": [],
               "mlp_ratios": [], "patch_kernel": []}
    for s in range(1, 5):
        width, below, *kernel = shape(tensors, f"segformer_encoder.embed_{s}.patch_embeddings.weight", 5)
        blocks = {int(found[1]) for found in (re.match(rf"segformer_encoder\.tf_block{s}\.(\d+)\.", name) for name in tensors) if found}
        if blocks != set(range(len(blocks))):
            raise Refusal(f"the blocks of stage {s} are {', '.join(map(str, sorted(blocks)))}: this is not a whole SegFormer3D")
        block = f"segformer_encoder.tf_block{s}.0."
        reduction = block + "attention.sr.weight"
        network["in_channels"] = network["in_channels"] or below
        network["embed_dims"].append(width)
        network["depths"].append(len(blocks))
        network["sr_ratios"].append(shape(tensors, reduction, 5)[-1] if reduction in tensors else 1)
        network["mlp_ratios"].append(max(shape(tensors, block + "mlp.fc1.weight", 2)[0] // width, 1))
        network["patch_kernel"].append(short(kernel))
    network["num_classes"], network["decoder_dim"] = shape(tensors, "segformer_decoder.linear_pred.weight", 5)[:2]
    return network


def checked(network, tensors):
    """The tensors of the network in order, f32; the optional groups may be absent as a whole."""
    wanted = dict(model_folder.shapes(network))
    for group in OPTIONAL:
        names = [name for name in wanted if re.search(group, name)]
        if not any(name in tensors for name in names):
            wanted = {name: size for name, size in wanted.items() if name not in names}
    for name in tensors:
        if name not in wanted:
            raise Refusal(f"{name} is no part of the SegFormer3D that the other tensors describe")
    result = {}
    for name, size in wanted.items():
        if shape(tensors, name, len(size)) != size:
            raise Refusal(f"{name} is {tensors[name].shape}, which does not fit the others: {size} expected")
        with numpy.errstate(over="ignore"):
            result[name] = tensors[name].astype("f4")
        if not numpy.isfinite(result[name]).all():
            raise Refusal(f"{name} holds values that are not finite: the training that wrote this had gone wrong")
    return result


# What only its owner knows

def numbers(text, flag, count=None):
    """`1,2,5,8`; an entry of three axes is `2x4x4`."""
    try:
        values = [short([int(side) for side in part.split("x")]) for part in text.split(",")]
    except ValueError:
        values = []
    sides = [side for value in values for side in model_folder.triple(value)]
    if not values or count not in (None, len(values)) or len(sides) != 3 * len(values) or min(sides) < 0:
        raise Refusal(f"{flag} {text}: {count} whole numbers with commas between them are expected")
    return values


def asked(value, flag, why):
    if value is None:
        raise Refusal(f"{flag} is missing: {why}")
    return value


def patches(network, options):
    """Strides and padding follow from the kernels of the published network, and from no others."""
    for flag, name, place in (("--patch-stride", "patch_stride", 1), ("--patch-padding", "patch_padding", 2)):
        given = getattr(options, name)
        known = [PUBLISHED_PATCHES[s > 0] for s in range(4)]
        odd = [s + 1 for s in range(4) if network["patch_kernel"][s] != known[s][0]]
        if odd and not given:
            raise Refusal(f"{flag} is missing: the patch kernels {network['patch_kernel']} are not the published ones "
                          "(7,3,3,3), and the tensors do not tell it; four numbers, e.g. 2,2,2,2 (2x4x4 for an axis each)")
        network[name] = numbers(given, flag, 4) if given else [entry[place] for entry in known]


def attention(network, options):
    heads = numbers(asked(options.heads, "--heads", "the tensors do not tell the attention heads of the four stages; the published "
                          "network has 1,2,5,8 (where in doubt, --against tells whether it is right)"), "--heads", 4)
    for width, count in zip(network["embed_dims"], heads):
        if not isinstance(count, int) or count < 1 or width % count:
            raise Refusal(f"--heads {options.heads}: {count} heads do not share out a width of {width}")
    network["num_heads"] = heads
    network["attention_scale"] = asked(
        options.attention_scale, "--attention-scale", "`num_heads` for the code published before December 2025 (all published weights), "
        "`head_dim` for later code; the tensors do not tell, and the wrong one gives other masks")


def step(text):
    """`zscore`, `clip_zscore low=-1 high=9 mean=2 std=3`, `crop start=13,56,56 size=128,128,128`."""
    name, *pairs = text.split() or [""]
    result = {"step": name}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise Refusal(f"--prepare {text}: {pair} is no KEY=VALUE")
        parts = [number(part) for part in value.split(",")]
        result[key] = parts if len(parts) > 1 else parts[0]
    return result


def number(text):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def output(network, options):
    classes, labels, regions = network["num_classes"], options.labels, options.regions
    if bool(labels) == bool(regions):
        raise Refusal(f"one of --labels and --regions is needed: the {classes} output channels are either labels (softmax, channel 0 the "
                      f"background: {classes - 1} names) or overlapping regions (sigmoid: {classes} times NAME=LABEL+LABEL)")
    if labels:
        names = labels.split(",")
        if len(names) != classes - 1:
            raise Refusal(f"--labels {labels}: {classes} output channels are the background and {classes - 1} labels")
        return {"kind": "labels", "labels": [{"index": i, "name": name} for i, name in enumerate(names, 1)]}
    parts = [re.fullmatch(r"([^=]+)=(\d+(?:\+\d+)*)", part) for part in regions.split(",")]
    if not all(parts) or len(parts) != classes:
        raise Refusal(f"--regions {regions}: {classes} times NAME=LABEL+LABEL with commas between them are expected")
    return {"kind": "regions",
            "regions": [{"name": part[1], "truth_labels": list(map(int, part[2].split("+")))} for part in parts]}


def manifest(network, options):
    names = asked(options.channels, "--channels", f"the names of the {network['in_channels']} input channels in their order").split(",")
    if len(names) != network["in_channels"]:
        raise Refusal(f"--channels {options.channels}: the network has {network['in_channels']}")
    steps = asked(options.prepare, "--prepare", "how scans were normalised for training, once for each step (none: not at all)")
    window = {"size": numbers(asked(options.window, "--window", "the size of the windows it was trained with, z,y,x"), "--window", 3)}
    window.update({key: getattr(options, key) for key in ("overlap", "blend") if getattr(options, key) is not None})
    if options.mirror:
        window["mirror"] = options.mirror.split(",")
    name = options.name or os.path.basename(os.path.abspath(options.folder))
    result = {"name": name, "network": network,
              "input": {"channels": names, "prepare": [] if steps == ["none"] else [step(text) for text in steps]},
              "window": window, "output": output(network, options)}
    return result


# Is it the same network?

def forward(nocturne, folder, tensor):
    """Logits of our engine."""
    with tempfile.TemporaryDirectory() as work:
        given, got = os.path.join(work, "in.safetensors"), os.path.join(work, "out.safetensors")
        safetensors_file.write(given, {"input": numpy.ascontiguousarray(tensor, "f4")})
        done = subprocess.run([nocturne, "forward", "-m", folder, "--input", given, "--output", got], capture_output=True,
                              text=True, check=False)
        if done.returncode:
            raise Refusal(f"nocturne forward: {done.stderr.strip() or done.returncode}")
        return safetensors_file.read(got)[0]["logits"]


def difference(got, wanted):
    """The largest, as a share of the largest value wanted."""
    return float(numpy.abs(got.astype("f8") - wanted).max() / max(numpy.abs(wanted).max(), 1e-30))


def flips(model):
    """Sets of axes of (B,C,D,H,W), as window.mirror has them."""
    axes = ["zyx".index(name) + 2 for name in model["window"].get("mirror", [])]
    return [chosen for count in range(len(axes) + 1) for chosen in itertools.combinations(axes, count)]


def verify(nocturne, folder, model, folds):
    try:
        import torch

        import segformer3d_torch
    except ImportError as error:
        raise Refusal("--verify needs PyTorch (pip install torch)") from error
    tensor = numpy.random.default_rng(1).standard_normal((model["network"]["in_channels"], *model["window"]["size"]), "f4")
    with torch.inference_mode():
        networks = [segformer3d_torch.load(model["network"], tensors) for tensors in folds]
        wanted = torch.stack([network(torch.from_numpy(tensor)[None].flip(axes)).flip(axes)[0]
                              for network in networks for axes in flips(model)]).mean(0).numpy()
    error = difference(forward(nocturne, folder, tensor), wanted)
    if error > TOLERANCE:
        raise Refusal(f"--verify: the engine's logits differ from PyTorch's by {error:.1e} of the largest")
    print(f"verified: engine and PyTorch differ by {error:.1e} of the largest logit")


def only_tensor(path, name):
    tensors = safetensors_file.read(path)[0]
    if name not in tensors and len(tensors) != 1:
        raise Refusal(f"{path} has no tensor `{name}`: {', '.join(tensors)}")
    array = tensors.get(name, next(iter(tensors.values()), None))
    if array.ndim == 5 and len(array) == 1:
        array = array[0]
    if array.ndim != 4:
        raise Refusal(f"{path}: {array.ndim} axes instead of the 4 of {'(C,D,H,W)' if name == 'input' else '(K,D,H,W)'}")
    return array


def alternatives(network):
    """Other heads and scales with which the tensors load as well."""
    widths, seen = network["embed_dims"], []
    for heads in (network["num_heads"], [1, 2, 5, 8], *([width // side for width in widths] for side in (8, 16, 32, 64)), [1, 2, 4, 8],
                  [1, 1, 1, 1], [2, 4, 5, 8], [2, 4, 8, 16], [4, 4, 4, 4], [8, 8, 8, 8]):
        for scale in ("head_dim", "num_heads"):
            choice = {"num_heads": heads, "attention_scale": scale}
            if choice not in seen and all(count and width % count == 0 for width, count in zip(widths, heads)):
                seen.append(choice)
                if any(network[key] != value for key, value in choice.items()):
                    yield choice


def against(nocturne, folder, model, folds, paths):
    files = paths.split(",")
    if len(files) != 2:
        raise Refusal(f"--against {paths}: two files are expected, IN.safetensors,OUT.safetensors")
    tensor, wanted = only_tensor(files[0], "input"), only_tensor(files[1], "logits")
    if not numpy.isfinite(wanted).all():
        raise Refusal(f"--against: {files[1]} holds values that are not finite")
    got = forward(nocturne, folder, tensor)
    if got.shape != wanted.shape:
        raise Refusal(f"--against: the engine gives {got.shape}, {files[1]} has {wanted.shape}: --patch-stride, --patch-padding or the "
                      "input are others")
    error = difference(got, wanted)
    if error <= TOLERANCE:
        print(f"compared: the engine and {files[1]} differ by {error:.1e} of the largest logit")
        return
    tried = []
    for choice in alternatives(model["network"]):
        with tempfile.TemporaryDirectory() as other:
            model_folder.write(other, {**model, "network": {**model["network"], **choice}}, *folds)
            tried.append((difference(forward(nocturne, other, tensor), wanted), choice))
    best, choice = min(tried, key=lambda entry: entry[0], default=(float("inf"), None))
    flags = choice and f"--heads {','.join(map(str, choice['num_heads']))} --attention-scale {choice['attention_scale']}"
    if best <= TOLERANCE:
        raise Refusal(f"--against: the logits differ by {error:.1e} of the largest; with {flags} they agree ({best:.1e})")
    raise Refusal(f"--against: the logits differ by {error:.1e} of the largest, and none of {len(tried)} other heads and scales fits "
                  f"(the nearest: {flags}, {best:.1e}): these are other weights or patch strides, or the input was "
                  "changed before the network saw it")


def trained(path, options):
    """Network and tensors of a checkpoint."""
    tensors = renamed(path, read(path, options.key))
    network = inferred(tensors)
    return network, checked(network, tensors)


def convert(options):
    if os.path.exists(options.folder):
        raise Refusal(f"{options.folder} is there already: name a folder that is not")
    network, tensors = trained(options.checkpoint, options)
    folds = [tensors]
    for path in options.fold:
        other, fold = trained(path, options)
        if other != network or list(fold) != list(tensors):
            raise Refusal(f"{path} is of another network than {options.checkpoint}: what is averaged are trainings of one")
        folds.append(fold)
    patches(network, options)
    attention(network, options)
    model = manifest(network, options)
    # Nothing stands under the name that was asked for until all that was asked for holds.
    unfinished = options.folder.rstrip("/") + ".unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        model_folder.write(unfinished, model, *folds)
        ready = subprocess.run([options.nocturne, "plan", "-m", unfinished], capture_output=True, text=True, check=False)
        if ready.returncode:
            raise Refusal(f"nocturne does not take it: {ready.stderr.strip().replace(unfinished, options.folder)}")
        if options.verify:
            verify(options.nocturne, unfinished, model, folds)
        if options.against:
            against(options.nocturne, unfinished, model, folds, options.against)
        os.rename(unfinished, options.folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    count = sum(array.size for name, array in tensors.items() if ".running_" not in name)
    print(f"{options.folder}: {count} parameters, {network['in_channels']} channels, {network['num_classes']} classes, "
          f"widths {network['embed_dims']}")


def main():
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser = argparse.ArgumentParser(description="makes a model folder of a SegFormer3D checkpoint")
    parser.add_argument("checkpoint")
    parser.add_argument("folder", help="the model folder to be made")
    parser.add_argument("--fold", action="append", default=[], metavar="CHECKPOINT",
                        help="another training of the network, whose logits are averaged with those of the first; repeat")
    parser.add_argument("--key", help="where the weights lie in what was saved, when several sets do")
    parser.add_argument("--heads", metavar="A,B,C,D", help="attention heads of the four stages")
    parser.add_argument("--attention-scale", choices=["head_dim", "num_heads"], help="q.k is divided by the root of which")
    parser.add_argument("--patch-stride", metavar="A,B,C,D", help="where the patch kernels are not 7,3,3,3")
    parser.add_argument("--patch-padding", metavar="A,B,C,D", help="likewise")
    parser.add_argument("--channels", metavar="NAME,...", help="input channels in order")
    parser.add_argument("--prepare", action="append", metavar="'STEP KEY=VALUE...'", help="a step of preparation; repeat; or none")
    parser.add_argument("--window", metavar="D,H,W")
    parser.add_argument("--overlap", type=float, help="of windows; 0.5 when left out")
    parser.add_argument("--blend", choices=["constant", "gaussian"], help="of windows; gaussian when left out")
    parser.add_argument("--mirror", metavar="z,y,x", help="axes over whose flips logits are averaged; none when left out")
    parser.add_argument("--labels", metavar="NAME,...", help="names of channels 1, 2, ... of a softmax network")
    parser.add_argument("--regions", metavar="NAME=L+L,...", help="name and truth labels of each channel of a sigmoid network")
    parser.add_argument("--name", help="of the model; the folder's when left out")
    parser.add_argument("--verify", action="store_true", help="compare the engine with PyTorch on a random window")
    parser.add_argument("--against", metavar="IN,OUT", help="compare the engine with logits of the checkpoint's own code")
    parser.add_argument("--nocturne", default=os.environ.get("NOC", os.path.join(here, "build", "nocturne")), help="the program")
    try:
        convert(parser.parse_args())
    except (Refusal, ValueError, OSError) as error:
        sys.exit(f"convert_checkpoint: {error}")


if __name__ == "__main__":
    main()
