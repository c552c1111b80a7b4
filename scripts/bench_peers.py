"""Seconds a window beside other engines that run the same network, all in one run and by turns.

    python3 scripts/bench_peers.py MODEL [--nocturne PROGRAM] [--threads N] [--rounds N] [--peers NAME,...] [--tables FOLDER]

Every engine gets the same tensor; its logits are compared with PyTorch's in f32 before a time counts. What is not
installed is left out and named. One window, batch 1, host memory to host memory; a figure is the best of all rounds.
"""
import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings

import numpy

import markdown_table
import safetensors_file
from model_folder import Model


class Nocturne:
    def __init__(self, job, precision="f32"):
        self.job, self.precision = job, precision
        self.name = f"Nocturne {precision}"

    def logits(self):
        out = os.path.join(self.job.folder, "logits.safetensors")
        self.call("forward", "--input", self.job.input_file, "--output", out)
        return safetensors_file.read(out)[0]["logits"]

    def seconds(self):
        answer = json.loads(self.call("bench", "engine", "--json", "--repeats", str(self.job.repeats),
                                      "--window", ",".join(map(str, self.job.window))))
        self.name = f"Nocturne {answer['precision']} ({answer['isa']})"
        return answer["seconds_per_window"]

    def call(self, *words):
        return subprocess.run([self.job.nocturne, *words, "-m", self.job.model, "--device", "cpu", "--precision",
                               self.precision, "--threads", str(self.job.threads)], check=True,
                              stdout=subprocess.PIPE, text=True).stdout


class Peer:
    """An engine in this process: `run` takes the input [1, C, D, H, W] and gives the logits."""

    def logits(self):
        return numpy.asarray(self.run(), dtype="f4")[0]

    def seconds(self):
        best = float("inf")
        self.run()
        for _ in range(self.job.repeats):
            begin = time.perf_counter()
            self.run()
            best = min(best, time.perf_counter() - begin)
        return best


class Torch(Peer):
    def __init__(self, job, is_compiled=False, is_bf16=False):
        import torch
        torch.set_num_threads(job.threads)
        self.job, self.torch, self.is_bf16 = job, torch, is_bf16
        self.name = f"PyTorch {torch.__version__.split('+')[0]} {'compiled' if is_compiled else 'eager'}"
        self.name += " bf16" if is_bf16 else " f32"
        self.network = job.network.torch_network()
        if is_compiled:
            self.network = torch.compile(self.network, mode="max-autotune")
        self.input = torch.from_numpy(job.input[None])

    def run(self):
        with self.torch.inference_mode(), self.torch.autocast("cpu", self.torch.bfloat16, self.is_bf16):
            return self.network(self.input).float().numpy()


class OnnxRuntime(Peer):
    def __init__(self, job):
        import onnxruntime
        self.job, self.name = job, f"ONNX Runtime {onnxruntime.__version__} f32"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job.threads
        self.session = onnxruntime.InferenceSession(job.onnx_file(), options, providers=["CPUExecutionProvider"])

    def run(self):
        return self.session.run(None, {"input": self.job.input[None]})[0]


class OpenVino(Peer):
    def __init__(self, job, precision="f32"):
        import openvino
        self.job, self.name = job, f"OpenVINO {openvino.__version__.split('-')[0]} {precision}"
        settings = {"INFERENCE_NUM_THREADS": job.threads, "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": precision}
        self.model = openvino.Core().compile_model(job.onnx_file(), "CPU", settings)

    def run(self):
        return self.model(self.job.input[None])[0]


ENGINES = {
    "nocturne": ("", Nocturne),
    "nocturne-bf16": ("", lambda job: Nocturne(job, "bf16")),
    "eager": ("torch", Torch),
    "compile": ("torch", lambda job: Torch(job, is_compiled=True)),
    "onnxruntime": ("onnxruntime", OnnxRuntime),
    "openvino": ("openvino", OpenVino),
    "eager-bf16": ("torch", lambda job: Torch(job, is_bf16=True)),
    "compile-bf16": ("torch", lambda job: Torch(job, is_compiled=True, is_bf16=True)),
    "openvino-bf16": ("openvino", lambda job: OpenVino(job, "bf16")),
}


class Job:
    """What all engines share: the tensor, the network, the settings."""

    def __init__(self, options, folder):
        self.model, self.nocturne, self.folder = options.model, options.nocturne, folder
        self.threads, self.repeats = options.threads, options.repeats
        self.network = Model(options.model)
        self.window = self.network.manifest["window"]["size"]
        random = numpy.random.default_rng(1)
        self.input = random.uniform(-1, 1, (self.network.manifest["network"]["in_channels"], *self.window)).astype("f4")
        self.input_file = os.path.join(folder, "input.safetensors")
        safetensors_file.write(self.input_file, {"input": self.input})

    def onnx_file(self):
        import torch
        path = os.path.join(self.folder, "network.onnx")
        if not os.path.exists(path):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the tracer's: this file is for one size of input
                torch.onnx.export(self.network.torch_network(), (torch.from_numpy(self.input[None]),), path, dynamo=False,
                                  opset_version=17, input_names=["input"], output_names=["logits"])
        return path


def open_engines(job, names):
    engines = []
    for name in names:
        module, make = ENGINES[name]
        if module and not importlib.util.find_spec(module):
            print(f"{name}: {module} is not installed, left out", file=sys.stderr)
            continue
        try:
            engines.append(make(job))
        except Exception as error:  # an engine that does not open here must not end the others' measurement
            print(f"{name}: left out: {str(error).splitlines()[0]}", file=sys.stderr)
    return engines


def check(job, engines):
    """Largest difference from PyTorch in f32 as a share of the largest logit, or None without PyTorch."""
    reference = next((e for e in engines if isinstance(e, Torch) and " eager f32" in e.name), None)
    wanted = reference.logits() if reference else engines[0].logits()
    errors = {}
    for engine in engines:
        print(f"logits: {engine.name}", file=sys.stderr)
        errors[engine] = float(numpy.abs(engine.logits() - wanted).max() / numpy.abs(wanted).max())
        bound = 0.1 if "bf16" in engine.name else 1e-4
        if errors[engine] > bound:
            raise SystemExit(f"{engine.name}: its logits differ by {errors[engine]:.1e} of the largest: not the same network")
    return errors


def measure(job, engines, rounds):
    best = {engine: float("inf") for engine in engines}
    for number in range(rounds):
        for engine in engines:
            print(f"round {number + 1} of {rounds}: {engine.name}", file=sys.stderr)
            best[engine] = min(best[engine], engine.seconds())
    return best


def table(engines, best, errors):
    rows = []
    for engine in engines:
        own = next((e for e in engines if isinstance(e, Nocturne) and e.precision in engine.name), engines[0])
        ratio = "" if isinstance(engine, Nocturne) else f"{best[engine] / best[own]:.2f}x"
        rows.append([engine.name, f"{best[engine] * 1e3:.1f}", ratio, f"{errors[engine]:.1e}"])
    return markdown_table.text(["engine", "ms a window", "Nocturne is faster by", "difference of logits"], rows)


def main():
    parser = argparse.ArgumentParser(description="seconds a window beside other engines")
    parser.add_argument("model", help="a model folder")
    parser.add_argument("--nocturne", default="build/nocturne")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", default=",".join(ENGINES), help="of: " + ", ".join(ENGINES))
    parser.add_argument("--tables", metavar="FOLDER", help="write the table to FOLDER/peers-N-threads.md too")
    options = parser.parse_args()
    caption = markdown_table.machine(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(options, folder)
        engines = open_engines(job, options.peers.split(","))
        errors = check(job, engines)
        best = measure(job, engines, options.rounds)
        markdown_table.publish([f"One window; {caption}\n", table(engines, best, errors)],
                               options.tables, f"peers-{options.threads}-threads")


if __name__ == "__main__":
    main()
