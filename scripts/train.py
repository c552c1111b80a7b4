"""Trains a SegFormer3D and leaves a model folder for `nocturne run`, with its Dice on scans that it never saw.

    python3 scripts/train.py configs/train_hippocampus.yaml --data FOLDER --out FOLDER [--minutes N]
    python3 scripts/train.py ... --compare-memory 200 [none attention,decoder attention,decoder,bf16 ...]
                                                           what each way to save memory costs and gives, over so many steps

The YAML file says all: `data` (layout, which scans are held out), `model` (a manifest without its weights), `train`. The same
command goes on where it stopped: after --minutes, Ctrl-C, SIGTERM (exit code 75) or a kill, and ends with what an undisturbed
training would have ended with, to the bit. OUT gets `checkpoint.pt`, `prepared-*` (may be removed), `model` and
`validation.csv`. Needs PyTorch, PyYAML and the program (build/nocturne, or $NOC, or --nocturne).
"""
import argparse
import csv
import fcntl
import hashlib
import json
import math
import os
import shutil
import signal
import sys
import time

import numpy
import torch
import yaml
from torch import nn
from torch.nn import functional

import markdown_table
import model_folder
import segformer3d_torch
import train_data
import train_memory
from train_data import Problem



def is_number(value, low=0, high=math.inf):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def are(kind, *counts):
    return lambda value: isinstance(value, list) and (not counts or len(value) in counts) and all(map(kind, value))


# What a setting must be: in words, and as a test.
TEXT = "text", lambda value: isinstance(value, str)
TEXTS = "a list of text", are(TEXT[1])
MAP = "a map of keys", lambda value: isinstance(value, dict)
WHOLE = "a whole number from 0 on", lambda value: is_number(value) and isinstance(value, int)
COUNT = "a whole number from 1 on", lambda value: is_number(value, 1) and isinstance(value, int)
NUMBER = "a number from 0 on (YAML takes 1e-3 for text: 1.0e-3)", is_number
SHARE = "a number from 0 to 1", lambda value: is_number(value, 0, 1)
KEYS = {"": {"data": MAP, "model": MAP, "train": MAP},
        "data": {"layout": TEXT, "files": TEXTS, "split_seed": WHOLE,
                 "validation": ("a list of scans or a share from 0 to 1", lambda value: SHARE[1](value) or TEXTS[1](value))},
        "model": {**dict.fromkeys(("name", "description", "license", "reference"), TEXT),
                  **dict.fromkeys(("network", "input", "window", "output"), MAP)},
        "train": {"seed": WHOLE, "steps": COUNT, "batch": COUNT, "learning_rate": NUMBER, "warmup_steps": WHOLE, "weight_decay": NUMBER,
                  "clip": NUMBER, "ema": SHARE, "precision": ("f32 or bf16", ("f32", "bf16").__contains__), "memory": TEXTS,
                  "foreground": SHARE, "augment": MAP, "save_minutes": NUMBER, "validate_every": WHOLE},
        "train.augment": {**dict.fromkeys(("shift", "gain", "offset", "gamma", "noise"), NUMBER),
                          "flip": ("a list of axes, z, y or x", are(lambda axis: axis in ("z", "y", "x"))),
                          "rotate": ("degrees, or [z, y, x]", lambda value: is_number(value) or are(is_number, 3)(value)),
                          "scale": ("[smallest, largest] factor", lambda value: are(is_number, 2)(value) and 0 < value[0] <= value[1])}}
EXACT = "attention,decoder"
COMPARED = ("none", "attention", "decoder", EXACT, *(f"{EXACT},{way}" for way in (
    "recompute", "quantized", "recompute,quantized", *train_memory.LOCAL, "bf16")))


def check_memory(where, memory):
    for option in memory:
        if option not in train_memory.OPTIONS:
            raise Problem(f"{where} {option}: one of {', '.join(train_memory.OPTIONS)} is expected")
    if len(train_memory.LOCAL.keys() & set(memory)) > 1:
        raise Problem(f"{where}: only one of {', '.join(train_memory.LOCAL)} is possible")


def check(path, part, given):
    for key, value in given.items():
        name = f"{part}.{key}".removeprefix(".")
        if key not in KEYS[part]:
            raise Problem(f"{path}: there is no {name}")
        words, is_right = KEYS[part][key]
        if not is_right(value):
            raise Problem(f"{path}: {name} {json.dumps(value, default=str)}: {words} is expected")


def read_config(path):
    try:
        with open(path, encoding="utf-8") as file:
            config = yaml.safe_load(file)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise Problem(f"{path} cannot be read as settings of a training: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise Problem(f"{path} cannot be read as settings of a training: it holds no map of keys")
    check(path, "", config)
    for part in KEYS[""]:
        if part not in config:
            raise Problem(f"{path}: {part} is missing")
        check(path, part, config[part])
    check(path, "train.augment", config["train"].get("augment", {}))
    check_memory(f"{path}: train.memory", config["train"].get("memory", []))
    return config


# Loss

def overlap_loss(probability, truth):
    """1 - Dice of the whole batch, mean over classes (B, K, D, H, W)."""
    axes = (0, 2, 3, 4)
    both = (probability * truth).sum(axes)
    return 1 - ((2 * both + 1) / (probability.sum(axes) + truth.sum(axes) + 1)).mean()


def labels_loss(logits, labels):
    """Cross entropy and Dice of all classes but the background."""
    truth = functional.one_hot(labels, logits.shape[1]).movedim(-1, 1)[:, 1:]
    return functional.cross_entropy(logits, labels) + overlap_loss(logits.softmax(1)[:, 1:], truth)


class RegionsLoss:
    """Binary cross entropy and Dice of each region."""

    def __init__(self, regions):
        self.table = torch.zeros(train_data.LABELS, len(regions))
        for i, region in enumerate(regions):
            if max(region["truth_labels"]) >= len(self.table):
                raise Problem(f"output.regions: {region['name']}: truth labels below {len(self.table)} are expected")
            self.table[region["truth_labels"], i] = 1

    def __call__(self, logits, labels):
        truth = self.table[labels].movedim(-1, 1)
        return functional.binary_cross_entropy_with_logits(logits, truth) + overlap_loss(logits.sigmoid(), truth)


def initialise(network):
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, (nn.Linear, nn.Conv3d)) and module.bias is not None:
            nn.init.zeros_(module.bias)


class Trainer:
    """Network, its running average and optimizer: all that a checkpoint holds."""

    def __init__(self, config):
        self.model, self.settings = config["model"], config["train"]
        torch.manual_seed(self.settings["seed"])
        network = segformer3d_torch.SegFormer3D(self.model["network"])
        initialise(network)
        output = self.model["output"]
        loss = labels_loss if output["kind"] == "labels" else RegionsLoss(output["regions"])
        self.step = train_memory.Step(network, self.model["network"], loss, self.settings.get("memory", []),
                                      self.settings.get("precision") == "bf16")
        self.ema = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        decayed = [p for p in self.step.parameters() if p.ndim > 1]
        others = [p for p in self.step.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": self.settings.get("weight_decay", 0.01)},
                                            {"params": others, "weight_decay": 0}], self.settings["learning_rate"], fused=True)
        self.done = 0

    def learning_rate(self):
        """Linear warm-up, then half a cosine down to 0."""
        warmup, steps = self.settings.get("warmup_steps", 0), self.settings["steps"]
        if self.done < warmup:
            return self.settings["learning_rate"] * (self.done + 1) / warmup
        return self.settings["learning_rate"] * (1 + math.cos(math.pi * (self.done - warmup) / max(steps - warmup, 1))) / 2

    def train(self, x, labels):
        # Rounding in 8 bits is random too, and must not depend on where the training was interrupted.
        torch.manual_seed(self.settings["seed"] * 1_000_003 + self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.zero_grad()
        loss = self.step.backward(x, labels)
        nn.utils.clip_grad_norm_(self.step.parameters(), self.settings.get("clip", 5))
        self.optimizer.step()
        self.done += 1
        # Young averages forget the beginning quickly.
        keep = min(self.settings.get("ema", 0.995), self.done / (self.done + 10))
        with torch.no_grad():
            for name, tensor in self.step.network.state_dict().items():
                if tensor.is_floating_point():
                    self.ema[name].lerp_(tensor, 1 - keep)
        if not math.isfinite(loss):
            raise Problem(f"the loss is no longer finite at step {self.done}: a smaller train.learning_rate may help")
        return loss

    def state(self):
        return {"done": self.done, "step": self.step.state_dict(), "ema": self.ema, "optimizer": self.optimizer.state_dict()}

    def restore(self, state):
        self.step.load_state_dict(state["step"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema, self.done = state["ema"], state["done"]

    def write(self, folder):
        """The model folder of the average; whatever was there before is replaced."""
        tensors = {name: tensor.numpy() for name, tensor in self.ema.items() if not name.endswith("num_batches_tracked")}
        shutil.rmtree(folder + ".new", ignore_errors=True)
        model_folder.write(folder + ".new", self.model, tensors)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(folder + ".new", folder)


# Checkpoints

def identity(config):
    """What a checkpoint must have been trained with to be gone on with."""
    told = {"model": config["model"], "data": config["data"],
            "train": {k: v for k, v in config["train"].items() if k not in ("save_minutes", "validate_every")}}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def save(path, content):
    """Whole or not at all, also after a power cut."""
    try:
        with open(path + ".part", "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".part", path)
    except (OSError, RuntimeError) as error:  # PyTorch's own, where a write fails on its way
        raise Problem(f"{path} cannot be written: {error}") from error
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def resume(trainer, path, config):
    if not os.path.isfile(path):
        return
    try:
        state = torch.load(path, weights_only=True)
        is_same = state["identity"] == identity(config)
        if is_same:
            trainer.restore(state)
    except Exception as error:  # whatever a damaged file makes it raise
        raise Problem(f"{path} is damaged or no checkpoint of a training: move it away to begin anew") from error
    if not is_same:
        raise Problem(f"{path} is of a training with other settings: give those, or another --out")
    print(f"goes on at step {trainer.done}", flush=True)


# Validation: our own program on the scans that were held out

def validate(program, model, held_out, folder, report):
    """Mean Dice of each label; the report goes to a file. None without scans."""
    if not held_out:
        return None
    work = os.path.join(folder, "validation")
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    path = os.path.join(work, "list.csv")
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "image", "truth"])
        writer.writerows((key, ";".join(map(os.path.abspath, images)), os.path.abspath(truth)) for key, images, truth in held_out)
    where = ["--catalog", os.path.join(work, "catalog.sqlite"), "--results", os.path.join(work, "results")]
    train_data.nocturne(program, "scan", path, *where)
    some_failed = (0, 1)
    train_data.nocturne(program, "run", "-m", model, "--ranks", "1", "--device", "cpu", *where, codes=some_failed)
    text = train_data.nocturne(program, "report", "--csv", *where, codes=some_failed)
    with open(report, "w", encoding="utf-8") as file:
        file.write(text)
    shutil.rmtree(work)
    scores = {}
    for row in csv.DictReader(text.splitlines()):
        if row["state"] != "done":
            raise Problem(f"{row['key']} was not segmented: {row['failure']}")
        scores.setdefault(row["name"], []).append(float(row["dice"]))
    return {name: float(numpy.nanmean(values)) for name, values in scores.items()}


def told(scores):
    return "no scans were held out" if scores is None else "Dice " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items())


# The loop

class Stop:
    """--minutes, Ctrl-C and SIGTERM end a training after the step in hand."""

    def __init__(self, minutes):
        self.end = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.is_asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.ask)

    def ask(self, *_):
        self.is_asked = True

    def is_due(self):
        return self.is_asked or time.monotonic() >= self.end


def train(trainer, archive, stop, checkpoint, validation):
    """True when all steps are done."""
    settings, steps = trainer.settings, trainer.settings["steps"]
    save_s, every = 60 * settings.get("save_minutes", 5), settings.get("validate_every", 0)
    began = saved = printed = time.monotonic()
    first, losses = trainer.done, []
    while trainer.done < steps and not stop.is_due():
        losses.append(trainer.train(*train_data.batch(archive, trainer.model, settings, trainer.done)))
        now, is_last = time.monotonic(), trainer.done == steps
        if now - printed >= 10 or is_last:
            pace = (now - began) / (trainer.done - first)
            print(f"step {trainer.done}/{steps}  loss {numpy.mean(losses):.4f}  {pace:.2f} s a step  "
                  f"{pace * (steps - trainer.done) / 60:.0f} min left", flush=True)
            printed, losses = now, []
        if now - saved >= save_s and not is_last:
            checkpoint()
            saved = now
        if every and trainer.done % every == 0 and not is_last:
            print(f"step {trainer.done}  {told(validation())}", flush=True)
    checkpoint()
    return trainer.done >= steps


def compared(words):
    """(steps, [options of a row]) of what --compare-memory is given."""
    steps, *ways = words
    if not steps.isdecimal() or not int(steps):
        raise Problem(f"--compare-memory {steps}: how many steps, then the rows, if not all: {', '.join(COMPARED[:4])}, ...")
    ways = [[] if way == "none" else way.split(",") for way in ways or COMPARED]
    for way in ways:
        check_memory("--compare-memory", [option for option in way if option != "bf16"])
    return int(steps), ways


def compare_memory(config, archive, held_out, options, rows):
    """Each way over the same steps from the same beginning. `saved`: bytes of the unique storages that autograd holds for the way
    back, at their most, parameters left out (saved_tensors_hooks). `peak`: the most that a step has allocated above what network
    and optimizer hold (PyTorch's profiler, every allocation)."""
    (steps, ways), table = rows, []
    head = ["memory", "saved, MiB", "peak, MiB", "s a step", "loss", *(["Dice"] if held_out else [])]
    for way in ways:
        memory = [option for option in way if option != "bf16"]
        precision = "bf16" if "bf16" in way else "f32"
        trainer = Trainer({**config, "train": {**config["train"], "steps": steps, "memory": memory, "precision": precision}})
        stacks, losses, seconds = [], [], []
        while trainer.done < steps:
            stacks = train_data.batch(archive, trainer.model, trainer.settings, trainer.done)
            begin = time.perf_counter()
            losses.append(trainer.train(*stacks))
            seconds.append(time.perf_counter() - begin)
        model = os.path.join(options.out, "compared")
        trainer.write(model)
        scores = validate(options.nocturne, model, held_out, options.out, os.path.join(options.out, "compared.csv"))
        trainer.step.zero_grad()
        peak = train_memory.peak_bytes(lambda: trainer.step.backward(*stacks))
        table.append([", ".join(way) or "none", f"{trainer.step.saved.peak / 2**20:.1f}", f"{peak / 2**20:.1f}",
                      f"{numpy.median(seconds):.2f}", f"{numpy.mean(losses[-20:]):.4f}",
                      *([f"{numpy.mean(list(scores.values())):.4f}"] if held_out else [])])
        print("  ".join(table[-1]), flush=True)
    with open(os.path.join(options.out, "memory.md"), "w", encoding="utf-8") as file:
        file.write(markdown_table.text(head, table))


def lock(folder):
    file = open(os.path.join(folder, "lock"), "w", encoding="utf-8")  # held until the process ends
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise Problem(f"another training is at work in {folder}") from error
    return file


def main(options):
    config = read_config(options.config)
    rows = compared(options.compare_memory) if options.compare_memory else None
    torch.set_num_threads(options.threads)
    found, held_out = train_data.studies(config["data"], options.data)
    os.makedirs(options.out, exist_ok=True)
    held = lock(options.out)  # noqa: F841
    archive = train_data.Archive(options.nocturne, config["model"], found, options.out)
    print(f"{len(found)} scans for training, {len(held_out)} held out", flush=True)
    if options.compare_memory:
        compare_memory(config, archive, held_out, options, rows)
        return 0
    trainer = Trainer(config)
    checkpoint, model = (os.path.join(os.path.abspath(options.out), name) for name in ("checkpoint.pt", "model"))
    resume(trainer, checkpoint, config)

    def validation():
        trainer.write(model)
        return validate(options.nocturne, model, held_out, options.out, os.path.join(options.out, "validation.csv"))

    if not train(trainer, archive, Stop(options.minutes), lambda: save(checkpoint, {**trainer.state(), "identity": identity(config)}),
                 validation):
        print(f"stopped at step {trainer.done}: the same command goes on", flush=True)
        return 75
    print(told(validation()))
    print(f"{model} is ready: nocturne run -m {model}")
    return 0


def count(text):
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: a whole number from 1 on is expected")
    return int(text)


def arguments():
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser = argparse.ArgumentParser(description="trains a SegFormer3D into a model folder")
    parser.add_argument("config", help="YAML file, see configs/train_hippocampus.yaml")
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.add_argument("--out", required=True, help="folder of this training; the same one goes on")
    parser.add_argument("--minutes", type=float, help="stop orderly after so long")
    parser.add_argument("--threads", type=count, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--compare-memory", nargs="+", metavar=("STEPS", "ROW"),
                        help="a table of memory and Dice of each saving, or of those named: none, attention,decoder,bf16, ...")
    parser.add_argument("--nocturne", default=os.environ.get("NOC", os.path.join(here, "build", "nocturne")), help="the program")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main(arguments()))
    except Problem as problem:
        sys.exit(f"train: {problem}")
    except OSError as error:
        sys.exit(f"train: {error}")
    except KeyError as missing:
        sys.exit(f"train: the settings lack {missing}")
