"""The paper's main comparison on one GPU, as long as the time allows.

``python -m benchmarks.campaign OUT --root DATA``: no mixup, input mixup and manifold mixup train
PreActResNet18 on all of CIFAR-10 with paired seeds. The first call measures an epoch, with and
without CUDA graphs, and fixes the longest schedule, 200 epochs at most, with which all runs fit the
time that is given. Each call trains until its minutes are over; the same command resumes from the
last checkpoint. After each run, all but the weights and the table are in OUT/results, so that they
survive the machine.
"""

import argparse
import itertools
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import training
from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.evaluate import Settings
from manifold_mixup.lab.recipes import catalog
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.report.power import power_text
from manifold_mixup.lab.report.summary import complete_seeds, summarise
from manifold_mixup.lab.report.table import markdown_table
from manifold_mixup.lab.runs import files, provenance
from manifold_mixup.lab.runs.evaluation import evaluated
from manifold_mixup.lab.runs.folder import finished, folder_name
from manifold_mixup.lab.runs.result import Epoch, Result
from manifold_mixup.lab.training.loop import Stopped, train

METHODS = ("none", "input", "manifold")
MOST = 200
"""Epochs of the recipe; a longer schedule would be another protocol."""
_RESERVED = 0.1  # share of the time for evaluations, and for what goes wrong
CLEAN = ("clean", "calibration", "selective")
"""What is evaluated on the whole test set."""
ATTACKED = ("confidence", "robustness")
"""What is evaluated on a part of it, as attacks take long."""
_KEPT = ("*.json", "*.jsonl", "logits.safetensors")


@dataclass(frozen=True)
class Speed:
    """The time of a run.

    Attributes:
        epoch: seconds of an epoch, with its evaluation.
        start: seconds before the first, for compilation.
        cuda_graphs: whether the compiled graphs are recorded.
    """

    epoch: float
    start: float
    cuda_graphs: bool

    def epochs(self, seconds: float, runs: int) -> int:
        """Return the longest schedule with which so many runs fit a time, 200 epochs at most.

        Raises:
            ValueError: not even one epoch fits.
        """
        found = min(MOST, math.floor((seconds / runs - self.start) / self.epoch))
        if found < 1:
            raise ValueError(
                f"{runs} runs in {seconds:.0f} s leave {seconds / runs:.0f} s each, but a run "
                f"takes {self.start:.0f} s to start and {self.epoch:.1f} s for an epoch. Give more "
                f"--total minutes, or fewer --seeds."
            )
        return found


@dataclass(frozen=True)
class Plan:
    """What all calls train; fixed by the first.

    Attributes:
        epochs: the length of the schedule.
        seeds: the number of paired seeds.
        speed: what it was chosen by.
        of: the data, the network and the device.
        tried: what else was measured, or why it failed.
        on: the machine and the versions.
    """

    epochs: int
    seeds: int
    speed: Speed
    of: dict[str, Any]
    tried: list[dict[str, Any]] = field(default_factory=list)
    on: dict[str, Any] = field(default_factory=dict)


def measured(run: Recipe, data: Data, *, epochs: int = 3) -> Speed:
    """Time the epochs of a short run; the first counts as its start."""
    began, ends = time.perf_counter(), list[float]()

    def tell(_: Epoch) -> None:
        _wait(run.device)
        ends.append(time.perf_counter())

    train(replace(run, epochs=epochs), data, on_epoch=tell)
    gaps = sorted(later - one for one, later in itertools.pairwise(ends))
    epoch = gaps[len(gaps) // 2]
    return Speed(epoch, max(0.0, ends[0] - began - epoch), run.cuda_graphs)


def planned(base: Recipe, data: Data, *, seconds: float, seeds: int) -> Plan:
    """Measure manifold mixup with each setting that the device has, and choose the schedule.

    Raises:
        ValueError: not even one epoch fits.
        RuntimeError: no setting trains.
    """
    began, tried, speeds = time.perf_counter(), list[dict[str, Any]](), list[Speed]()
    for graphs in (True, False) if base.device == "cuda" else (False,):
        run = replace(recipe(base, "manifold", seed=0), cuda_graphs=graphs)
        try:
            speeds.append(measured(run, data))
            tried.append(asdict(speeds[-1]))
        except Exception as error:  # CUDA graphs may fail where plain ones train
            tried.append({"cuda_graphs": graphs, "failed": f"{type(error).__name__}: {error}"})
    if not speeds:
        raise RuntimeError(f"no setting trains: {tried}.")
    fastest = min(speeds, key=lambda one: one.epoch)
    left = (seconds - (time.perf_counter() - began)) * (1 - _RESERVED)
    epochs = fastest.epochs(left, seeds * len(METHODS))
    gpu = {"gpu": torch.cuda.get_device_name()} if base.device == "cuda" else {}
    on = {**provenance.describe(), **gpu}
    return Plan(epochs, seeds, fastest, about(base, data), tried, on)


def about(base: Recipe, data: Data) -> dict[str, Any]:
    """Return what a plan is for, so that no other campaign follows it."""
    sha256 = provenance.fingerprint(data)
    return {"model": base.model, "width": base.width, "device": base.device, "data": sha256}


def recipe(base: Recipe, way: str, *, seed: int) -> Recipe:
    """Return the run of a way of mixing and a seed, with the settings of ``base``."""
    usual = catalog.recipe("modern", way, base.data, base.model)
    return replace(base, method=usual.method, layers=usual.layers, alpha=usual.alpha, seed=seed)


def runs_of(plan: Plan, base: Recipe) -> list[Recipe]:
    """Return all runs, seed by seed, so that what a machine leaves unfinished is one seed."""
    fixed = replace(base, epochs=plan.epochs, cuda_graphs=plan.speed.cuda_graphs)
    return [recipe(fixed, way, seed=seed) for seed in range(plan.seeds) for way in METHODS]


def campaign(
    out: Path, base: Recipe, data: Data, *, minutes: float, total: float, seeds: int, tested: int
) -> bool:
    """Train until the minutes are over, and write the table of what is finished.

    Args:
        out: the folder of the plan, of the runs, and of ``results``, which is small.
        base: the settings that all runs share.
        data: the data.
        minutes: the time of this call.
        total: the time of all calls, by which the first chooses the schedule.
        seeds: the number of seeds, which the first call fixes.
        tested: the number of test examples that are attacked.

    Returns:
        Whether all runs are finished.

    Raises:
        ValueError: the folder has the plan of another campaign, or not even one epoch fits.
    """
    end = time.monotonic() + 60 * minutes
    results = out / "results"
    files.writable_folder(results)
    plan = _plan(
        results / "plan.json",
        lambda: planned(base, data, seconds=60 * total, seeds=seeds),
        asked={"seeds": seeds, "of": about(base, data)},
    )
    runs = runs_of(plan, base)
    print(f"{len(runs)} runs of {plan.epochs} epochs, {plan.speed.epoch:.1f} s each", flush=True)
    for run in runs:
        folder = out / "runs" / folder_name(run)
        if time.monotonic() > end and finished(folder) is None:
            break
        try:
            result = train(run, data, folder=folder, stop=lambda: time.monotonic() > end)
        except Stopped as stopped:
            print(stopped, flush=True)
            break
        _keep(folder, data, results, tested)
        print(f"{run.method}, seed {run.seed}: {result.last.error:.2f} %", flush=True)
        _table(plan, runs, out, data)
    return all(finished(out / "runs" / folder_name(run)) is not None for run in runs)


def _plan(path: Path, make: Callable[[], Plan], *, asked: dict[str, Any]) -> Plan:
    """Return the plan of an earlier call, or make it.

    Raises:
        ValueError: the plan is another's.
    """
    if path.exists():
        known = json.loads(path.read_text())
        if (there := {name: known[name] for name in asked}) != asked:
            raise ValueError(
                f"{path} is the plan of another campaign: {there}, not {asked}. Give another "
                f"folder, or the same options."
            )
        return Plan(**{**known, "speed": Speed(**known["speed"])})
    plan = make()
    files.write_json(path, asdict(plan))
    return plan


def _keep(folder: Path, data: Data, results: Path, tested: int) -> None:
    """Evaluate a finished run, and copy all but its weights."""
    attacked = datasets.take_tested(data, tested)
    evaluated(folder, data, "last", battery=CLEAN, settings=Settings())
    evaluated(folder, data, "last", battery=ATTACKED, settings=Settings(), tested=attacked)
    own = results / folder.name
    files.writable_folder(own)
    for pattern in _KEPT:
        for path in folder.glob(pattern):
            shutil.copy2(path, own)


def _table(plan: Plan, runs: Sequence[Recipe], out: Path, data: Data) -> None:
    """Write the table of the seeds that all ways have finished."""
    of = [finished(out / "runs" / folder_name(run)) for run in runs]
    done: list[Result] = [result for result in of if result is not None]
    methods = list(dict.fromkeys(run.method for run in runs))
    if not complete_seeds(done, methods):
        return
    rows = summarise(done, methods)
    title = f"{data.name}, {runs[0].model}, {plan.epochs} epochs"
    where = plan.on.get("gpu", "a CPU, a rehearsal whose numbers mean nothing")
    caption = f"Measured on {where}. {power_text(rows)}"
    text = markdown_table(rows, title=title, caption=caption)
    files.write(out / "results" / "table.md", text.encode())


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _options(args: Sequence[str] | None) -> argparse.Namespace:
    about, _, _ = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser("benchmarks.campaign", description=about)
    parser.add_argument("out", type=Path, help="folder of the plan, the runs and the results")
    parser.add_argument("--root", type=Path, default=Path("~/.cache/manifold-mixup"))
    parser.add_argument("--minutes", type=float, default=9.0, help="of this call")
    parser.add_argument("--total", type=float, default=24.0, help="minutes of all calls")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rehearse", action="store_true", help="try the script on the CPU, tiny")
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> int:
    """Run a call; return 0 if all runs are finished, 1 if the same command should go on, or 2."""
    options = _options(args)
    if not options.rehearse and not torch.cuda.is_available():
        print("this PyTorch finds no GPU. Try the script with --rehearse.", file=sys.stderr)
        return 2
    base = catalog.recipe("modern", "none", "cifar-10", "preact-resnet18")
    if options.rehearse:
        torch.manual_seed(0)  # the same images in each call
        base, data = replace(base, width=4, device="cpu"), training.images(300)
    else:
        base = replace(base, compile=True, device="cuda")
        data = datasets.load("cifar-10", root=options.root.expanduser())
    try:
        complete = campaign(
            options.out,
            base,
            data,
            minutes=options.minutes,
            total=options.total,
            seeds=options.seeds,
            tested=50 if options.rehearse else 1000,
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("finished" if complete else "the same command resumes", flush=True)
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
