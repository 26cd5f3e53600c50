"""The paper's main comparison on one GPU, as long as the time allows.

``python -m benchmarks.campaign OUT --root DATA``: no mixup, input mixup and manifold mixup train
PreActResNet18 on all of CIFAR-10 with paired seeds. The first call measures an epoch, with and
without CUDA graphs, and fixes the longest schedule, 200 epochs at most, with which all runs fit the
time that is given. Each call trains until its minutes are over; the same command resumes from the
last checkpoint. Each run is in OUT/results as soon as it is trained, and again after each part of
its evaluation, all but the weights. OUT/results is enough to go on with on another machine: what is
complete there is not trained again, and more ``--seeds`` add runs of the same schedule.
"""

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
ATTACKED = ("outliers", "confidence", "attacks", "robustness")
"""What is evaluated on a part of it, as attacks take long."""
_KEPT = ("*.json", "*.jsonl", "logits.safetensors")
_COMPLETE = "complete.json"
"""In a run's folder of results, once all parts were evaluated: which of them failed, and why."""
_FAILED = "failed.json"
"""In the folder of results: the runs that failed, and why; they are tried again, after others."""


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


def planned(
    base: Recipe, data: Data, *, seconds: float, seeds: int, epochs: int | None = None
) -> Plan:
    """Measure manifold mixup with each setting that the device has, and choose the schedule.

    Args:
        base: the settings that all runs share.
        data: the data.
        seconds: the time of all runs.
        seeds: the number of seeds.
        epochs: the schedule, whatever time it takes; by default the longest that fits.

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
    epochs = epochs or fastest.epochs(left, seeds * len(METHODS))
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


@dataclass(frozen=True)
class Evaluation:
    """On what a run is evaluated.

    Attributes:
        data: the data it was trained on, with the whole test set.
        tested: those with a part of the test set, for attacks.
        settings: among others, outliers by name.
    """

    data: Data
    tested: Data
    settings: Settings = field(default_factory=Settings)


def campaign(
    out: Path,
    base: Recipe,
    on: Evaluation,
    *,
    minutes: float,
    total: float,
    seeds: int,
    epochs: int | None = None,
) -> bool:
    """Train until the minutes are over, and write the table of what is finished.

    A run that fails, or a part of its evaluation, does not keep the others from being done.

    Args:
        out: the folder of the plan, of the runs, and of ``results``, which is small.
        base: the settings that all runs share.
        on: the data.
        minutes: the time of this call. Nothing begins later; a part of an evaluation may end later.
        total: the time of all calls, by which the first chooses the schedule.
        seeds: the number of seeds; a later call may give more.
        epochs: the schedule, which the first call fixes; by default by ``total``.

    Returns:
        Whether all runs are trained and evaluated.

    Raises:
        ValueError: the folder has the plan of another campaign, or not even one epoch fits.
    """
    end = time.monotonic() + 60 * minutes
    results = out / "results"
    files.writable_folder(results)
    plan = _plan(
        results / "plan.json",
        lambda: planned(base, on.data, seconds=60 * total, seeds=seeds, epochs=epochs),
        asked={"of": about(base, on.data)} | ({"epochs": epochs} if epochs else {}),
    )
    plan = replace(plan, seeds=seeds)
    runs = runs_of(plan, base)
    print(f"{len(runs)} runs of {plan.epochs} epochs, {plan.speed.epoch:.1f} s each", flush=True)
    failed = _failed(results)
    for run in sorted(runs, key=lambda one: folder_name(one) in failed):
        if _complete(results, run):
            continue
        if time.monotonic() > end:
            break
        try:
            result = train(
                run, on.data, folder=out / "runs" / folder_name(run),
                stop=lambda: time.monotonic() > end,
            )  # fmt: skip
        except Stopped as stopped:
            print(stopped, flush=True)
            break
        except Exception as error:  # such as a loss that is not finite: the other runs go on
            _note_failure(results, run, error)
            continue
        print(f"{run.method}, seed {run.seed}: {result.last.error:.2f} %", flush=True)
        _copy(out, run)
        _table(plan, runs, results, on.data)
        _evaluate(out, run, on, over=lambda: time.monotonic() > end)
    _table(plan, runs, results, on.data)
    return all(_complete(results, run) for run in runs)


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


def _complete(results: Path, run: Recipe) -> bool:
    """Return whether a run was trained and evaluated, on this machine or on an earlier one."""
    return (results / folder_name(run) / _COMPLETE).exists()


def _failed(results: Path) -> dict[str, str]:
    """Return why runs failed in earlier calls, by the names of their folders."""
    path = results / _FAILED
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return known


def _note_failure(results: Path, run: Recipe, error: Exception) -> None:
    why = f"{type(error).__name__}: {error}"
    print(f"{run.method}, seed {run.seed} failed: {why}", flush=True)
    files.write_json(results / _FAILED, _failed(results) | {folder_name(run): why})


def _evaluate(out: Path, run: Recipe, on: Evaluation, *, over: Callable[[], bool]) -> None:
    """Evaluate a trained run, part by part, and copy each; those of earlier calls are only read."""
    folder, failed = out / "runs" / folder_name(run), dict[str, str]()
    for parts, tested in ((CLEAN, on.data), *(((part,), on.tested) for part in ATTACKED)):
        if over():
            return
        try:
            evaluated(folder, on.data, "last", battery=parts, settings=on.settings, tested=tested)
        except Exception as error:  # such as too little memory: the other parts are worth having
            failed |= dict.fromkeys(parts, f"{type(error).__name__}: {error}")
        _copy(out, run)
    files.write_json(out / "results" / folder.name / _COMPLETE, {"failed": failed})
    results = out / "results"
    if folder.name in (known := _failed(results)):
        files.write_json(results / _FAILED, {k: v for k, v in known.items() if k != folder.name})


def _copy(out: Path, run: Recipe) -> None:
    """Copy all of a run but its weights; no file is ever seen in part."""
    folder, own = out / "runs" / folder_name(run), out / "results" / folder_name(run)
    files.writable_folder(own)
    for pattern in _KEPT:
        for path in folder.glob(pattern):
            files.write(own / path.name, path.read_bytes())


def _table(plan: Plan, runs: Sequence[Recipe], results: Path, data: Data) -> None:
    """Write the table of the seeds that all ways have finished."""
    of = [finished(results / folder_name(run)) for run in runs]
    done: list[Result] = [result for result in of if result is not None]
    methods = list(dict.fromkeys(run.method for run in runs))
    if not complete_seeds(done, methods):
        return
    rows = summarise(done, methods)
    title = f"{data.name}, {runs[0].model}, {plan.epochs} epochs"
    where = plan.on.get("gpu", "a CPU, a rehearsal whose numbers mean nothing")
    caption = f"Measured on {where}. {power_text(rows)}"
    text = markdown_table(rows, title=title, caption=caption)
    files.write(results / "table.md", text.encode())


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def outliers(name: str, root: Path) -> dict[str, Tensor]:
    """Return the test images of the other CIFAR, if they are at hand."""
    (other,) = {"cifar-10", "cifar-100"} - {name}
    try:
        return {other: datasets.load(other, root=root).x_test[:1000]}
    except OSError as error:
        print(f"no outliers of {other}: {error}", file=sys.stderr)
        return {}


def _options(args: Sequence[str] | None) -> argparse.Namespace:
    about, _, _ = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser("benchmarks.campaign", description=about)
    parser.add_argument("out", type=Path, help="folder of the plan, the runs and the results")
    parser.add_argument("--root", type=Path, default=Path("~/.cache/manifold-mixup"))
    parser.add_argument("--minutes", type=float, default=9.0, help="of this call")
    parser.add_argument("--total", type=float, default=24.0, help="minutes of all calls")
    parser.add_argument("--seeds", type=int, default=3, help="of all calls; later ones may add")
    parser.add_argument("--epochs", type=int, help="the schedule, instead of what fits the time")
    parser.add_argument("--data", choices=["cifar-10", "cifar-100"], default="cifar-10")
    parser.add_argument("--rehearse", action="store_true", help="try the script on the CPU, tiny")
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> int:
    """Run a call; return 0 if all runs are finished, 1 if the same command should go on, or 2."""
    options = _options(args)
    if not options.rehearse and not torch.cuda.is_available():
        print("this PyTorch finds no GPU. Try the script with --rehearse.", file=sys.stderr)
        return 2
    base = catalog.recipe("modern", "none", options.data, "preact-resnet18")
    if options.rehearse:
        torch.manual_seed(0)  # the same images in each call
        base, data = replace(base, width=4, device="cpu"), training.images(300)
        on = Evaluation(data, datasets.take_tested(data, 50))
    else:
        base = replace(base, compile=True, device="cuda")
        root = options.root.expanduser()
        data = datasets.load(options.data, root=root)
        settings = Settings(unknown=outliers(options.data, root))
        on = Evaluation(data, datasets.take_tested(data, 1000), settings)
    try:
        complete = campaign(
            options.out,
            base,
            on,
            minutes=options.minutes,
            total=options.total,
            seeds=options.seeds,
            epochs=options.epochs,
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("finished" if complete else "the same command resumes", flush=True)
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
