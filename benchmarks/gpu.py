"""All GPU tests and measurements in one call of under nine minutes: python -m benchmarks.gpu OUT.

The tests run first, since numbers of wrong code are worthless. Then it measures the mix compared
with a copy, steps with and without mixing, and an epoch of PreActResNet18 with the idle share of
the GPU and the model FLOPs utilisation. Each part is written to one JSON file as soon as it is
done. The file also names the parts for which there was no time. The same command goes on with them,
and with those that failed, as long as the code, the versions and the machine are the same.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import __main__ as all_parts
from benchmarks import training
from manifold_mixup.lab.data import Data, as_input
from manifold_mixup.lab.models.fresh import fresh_model
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs import files, provenance
from manifold_mixup.lab.training.loop import train

LIMIT = 8.5 * 60  # seconds; no part starts later
PEAK = {"H100": 989e12, "H200": 989e12}
"""Dense bfloat16 operations per second according to NVIDIA's data sheets (SXM)."""
Found = dict[str, Any]


def tests(device: str, quick: bool) -> Found:
    """Run the tests that need a GPU, or only list them for a rehearsal."""
    del device
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
    done = subprocess.run(
        [*command, *(["--collect-only"] if quick else [])],
        capture_output=True,
        text=True,
        timeout=240,
    )
    return {"status": done.returncode, "says": done.stdout.splitlines()[-30:]}


def copy_bandwidth(device: str, quick: bool) -> Found:
    """Measure the bandwidth of a copy in device memory, counting bytes read and written."""
    x = torch.empty((1 if quick else 256) * 2**20, device=device)
    y = torch.empty_like(x)
    seconds = []
    for _ in range(12):
        _wait(device)
        start = time.perf_counter()
        y.copy_(x)
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return {"bytes": 2 * x.nbytes, "GB_per_s": 2 * x.nbytes / sorted(seconds)[6] / 1e9}


def mix(device: str, quick: bool) -> Found:
    """Time the mix, eager and compiled."""
    sizes = (1.0,) if quick else (8.0, 64.0, 512.0)
    effort = replace(
        all_parts.Effort(), megabytes=sizes, seconds=0 if quick else 1, device=device,
        compiled=not quick,
    )  # fmt: skip
    return all_parts.mix(effort)


def steps(device: str, quick: bool) -> Found:
    """Time eager steps of five models."""
    effort = replace(all_parts.QUICK if quick else all_parts.Effort(), device=device)
    return all_parts.step(effort if quick else replace(effort, step_seconds=8))


def memory(device: str, quick: bool) -> Found:
    """Measure the peak memory of steps."""
    effort = all_parts.QUICK if quick else all_parts.Effort()
    return all_parts.peak(replace(effort, device=device))


def loops(device: str, quick: bool) -> Found:
    """Time the lab's training loop, a plain loop, and a ``DataLoader``."""
    effort = all_parts.QUICK if quick else replace(all_parts.Effort(), rounds=1, width=64)
    return all_parts.loops(replace(effort, device=device))


def epoch(device: str, quick: bool, *, cuda_graphs: bool = False) -> Found:
    """Train PreActResNet18 for an epoch with fast settings, with and without mixing."""
    data = training.images(500 if quick else 50_000)
    plain = Recipe(
        data=data.name, model="preact-resnet18", width=8 if quick else None, epochs=1, batch=128,
        optimizer="sgd", lr=0.05, schedule="constant", flip=True, crop=2, precision="bf16",
        channels_last=True, compile=not quick, device=device, cuda_graphs=cuda_graphs and not quick,
    )  # fmt: skip
    mixed = replace(plain, layers=("input", "layer1", "layer2"), alpha=2.0)
    found: Found = {"flops_of_an_epoch": flops(plain, data)}
    for name, run in {"no mixup": plain, "manifold mixup": mixed}.items():
        train(replace(run, examples=None), data)  # warm-up: graphs and memory stay in the process
        seconds = [train(run, data).seconds for _ in range(1 if quick else 3)]
        found[name] = {"seconds": seconds, "images_per_s": len(data.x) / min(seconds)}
        found[name]["TFLOPS"] = found["flops_of_an_epoch"] / min(seconds) / 1e12
        if device == "cuda":
            found[name]["idle_share"] = training.idle_share(run, data)
            found[name]["flops_utilisation"] = utilisation(found[name]["TFLOPS"])
    return found


def utilisation(tflops: float) -> float | None:
    """Return the share of the GPU's peak performance, or None if the peak is unknown."""
    name = torch.cuda.get_device_name()
    peak = next((peak for known, peak in PEAK.items() if known in name), None)
    return None if peak is None else 1e12 * tflops / peak


def flops(run: Recipe, data: Data) -> float:
    """Count the floating-point operations of an epoch, forward and backward."""
    model = fresh_model(replace(run, compile=False), data).to("cpu")
    x = as_input(data.x[:4])
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    return counter.get_total_flops() / len(x) * len(data.x)


PARTS: dict[str, Callable[[str, bool], Found]] = {
    "tests": tests,
    "copy": copy_bandwidth,
    "epoch": epoch,
    "epoch with CUDA graphs": partial(epoch, cuda_graphs=True),
    "mix": mix,
    "training": loops,
    "memory": memory,
    "steps": steps,
}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def begun(path: Path, about: Found) -> Found:
    """Return what an earlier call measured of the same code on the same machine."""
    known: Found = json.loads(path.read_text()) if path.exists() else {}
    if any(known.get(name) != value for name, value in about.items()):
        return dict(about)
    failed = [name for name, part in known.items() if name in PARTS and "failed" in part]
    return {name: value for name, value in known.items() if name not in failed}


def measure(path: Path, about: Found, device: str, *, quick: bool) -> None:
    """Run the parts that are not in a file, in order, until the time is up.

    Args:
        path: the file, which is written after each part.
        about: the code, the versions and the machine.
        device: what to measure on.
        quick: whether this is a rehearsal.
    """
    began, result = time.perf_counter(), begun(path, about)
    left = {name: part for name, part in PARTS.items() if name not in result}
    while left and time.perf_counter() - began < LIMIT:
        name, part = next(iter(left.items()))
        del left[name]
        print(f"{time.perf_counter() - began:5.0f} s  {name}", flush=True)
        try:
            result[name] = part(device, quick)
        except Exception as error:  # continue with the other parts
            result[name] = {"failed": f"{type(error).__name__}: {error}"}
        result["not_begun"] = list(left)
        result["seconds"] = time.perf_counter() - began
        text = json.dumps(result, indent=1, default=asdict)
        files.write(path, f"{text}\n".encode())
    print(f"{time.perf_counter() - began:5.0f} s  written: {path}")


def main(args: Sequence[str] | None = None) -> None:
    """Run the parts in order until the time is up."""
    parser = argparse.ArgumentParser("benchmarks.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder for gpu.json")
    parser.add_argument("--rehearse", action="store_true", help="try the script on the CPU, tiny")
    options = parser.parse_args(args)
    if not options.rehearse and not torch.cuda.is_available():
        parser.error("this PyTorch finds no GPU. Try the script with --rehearse.")
    device = "cpu" if options.rehearse else "cuda"
    options.out.mkdir(parents=True, exist_ok=True)
    about: Found = {**provenance.describe(), "device": device}
    if device == "cuda":
        about["gpu"] = {
            "name": torch.cuda.get_device_name(),
            "bytes": torch.cuda.get_device_properties(0).total_memory,
            "cuda": torch.version.cuda,
        }
    measure(options.out / "gpu.json", about, device, quick=options.rehearse)


if __name__ == "__main__":
    main()
