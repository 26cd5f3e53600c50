"""``manifold-mixup train``: one run from a recipe, any field of which can be overridden."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.table import Table

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab import models
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.data.label_noise import in_words
from manifold_mixup.lab.evaluate.measures import (
    BRIER,
    ECE,
    ERROR,
    FGSM,
    NLL,
    R2,
    RMSE,
    TOP5_ERROR,
)
from manifold_mixup.lab.launch.interrupt import ctrl_c
from manifold_mixup.lab.models.fresh import fresh_model, with_layers
from manifold_mixup.lab.recipes import catalog
from manifold_mixup.lab.recipes.check import check_recipe
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.report.progress import Live
from manifold_mixup.lab.runs import files, provenance
from manifold_mixup.lab.runs import folder as run_folder
from manifold_mixup.lab.runs.result import Result
from manifold_mixup.lab.terminal.console import Console
from manifold_mixup.lab.training.device import emulates_bf16, find_device, usual_device
from manifold_mixup.lab.training.loop import Stopped, train
from manifold_mixup.lab.training.method import check
from manifold_mixup.lab.training.states import States, check_states

NAMED = tyro.conf.arg(help_behavior_hint="(default: a folder in runs/ named after the recipe)")


@dataclass(frozen=True)
class Options:
    """Train one run and keep it in a folder: recipe, metrics, checkpoints, result.

    A recipe sets every option below; options that you give override it. The same command resumes
    a run that was stopped or killed, and reaches the same weights.
    """

    recipe: str = "modern"
    """Recipe to start from: modern (cross-entropy, warm-up and cosine, bfloat16), paper (the
    authors' protocol), compare (the settings of manifold-mixup compare), or fast (a target accuracy
    in the least time, for two tasks)."""
    mixing: str = "manifold"
    """How to mix: none, input, manifold, or another way, such as remix or c-mixup; "list" prints
    all."""
    out: Annotated[Path | None, NAMED] = None
    """Folder of the run. If it contains an unfinished run, that run is resumed."""
    root: Path = Path("~/.cache/manifold-mixup")
    """Folder of the data sets. Data sets that are not there are downloaded to it."""
    save_every: float = 60.0
    """Seconds between checkpoints."""
    states_every: int | None = None
    """Epochs between measurements of neural collapse and flatness, for the report; by default, they
    are not measured. The training stays the same."""
    run: tyro.conf.OmitArgPrefixes[Recipe] = field(default_factory=Recipe)
    """Settings of the run, which determine its result."""


@dataclass(frozen=True)
class Training:
    """Options that have been checked, ready for training."""

    run: Recipe
    data: Data
    folder: Path
    save_every: float
    states: States | None = None


def defaults(args: Sequence[str]) -> Options:
    """Return the defaults of the options, which are the values of the chosen recipe.

    Raises:
        ValueError: there is no such recipe, or no such kind of mixing.
    """
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    start = Options()
    for name, value in (
        ("recipe", start.recipe),
        ("mixing", start.mixing),
        ("data", "cifar-10"),
        ("model", "preact-resnet18"),
    ):
        peek.add_argument(f"--{name}", nargs="?", const=value, default=value)
    given, _ = peek.parse_known_args(args)
    run = catalog.recipe(
        given.recipe,
        given.mixing,
        given.data,
        given.model,
        target_std=datasets.target_std(given.data),
    )
    run = replace(run, device=usual_device())
    return replace(start, recipe=given.recipe, mixing=given.mixing, run=run)


def prepare(options: Options) -> Training:
    """Check the options before training, cheap checks first.

    Raises:
        ValueError: an option is out of range, or a name is unknown.
        OSError: a file cannot be read, or the folder cannot be written.
    """
    run = options.run
    if not options.save_every >= 0:
        raise ValueError(f"--save-every is {options.save_every:g}. Expected 0 or more.")
    check_recipe(run)
    if options.states_every is not None:
        check_states(run, options.states_every)
    models.check_name(run.model)
    datasets.check_name(run.data)
    find_device(run.device)
    data = datasets.load_for(run, root=options.root.expanduser())
    run = with_layers(run, data)
    check(run, data)
    folder = options.out or Path("runs") / run_folder.folder_name(run)
    files.writable_folder(folder)
    return Training(run, data, folder, options.save_every, _states(options, run, data))


def _states(options: Options, run: Recipe, data: Data) -> States | None:
    if options.states_every is None:
        return None
    return States(options.states_every, models.eligible(run.model, fresh_model(run, data), data.x))


def run(training: Training) -> bool:
    """Train, show the scores, and return whether the run finished.

    Raises:
        FloatingPointError: the run diverged.
        ValueError: the folder contains another run.
        OSError: a file could not be written.
    """
    finished = _trained(training)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Threads of the group that outlive the interpreter crash the process.
        torch.distributed.destroy_process_group()
    return finished


def _trained(training: Training) -> bool:
    run, console = training.run, Console(quiet=provenance.rank() != 0)
    console.print(_title(training), style="bold", markup=False, highlight=False)
    if run.precision == "bf16" and emulates_bf16(run.device):
        console.print(
            "This CPU emulates bfloat16 with float32, which makes a step many times slower. "
            "Use --precision float32 for faster training.",
            soft_wrap=True,
        )
    try:
        with Live([run], console) as live, ctrl_c() as stop:
            result = train(
                run,
                training.data,
                folder=training.folder,
                save_every=training.save_every,
                on_epoch=partial(live.epoch, run),
                on_step=partial(live.step, run),
                on_start=partial(live.start, run),
                stop=stop,
                states=training.states,
            )
            live.finished(result)
    except Stopped as stopped:
        command = shlex.join(["manifold-mixup", *sys.argv[1:]])
        console.print(f"{stopped} Resume with:\n  {command}", markup=False, soft_wrap=True)
        return False
    console.print(_scores(result, training.data))
    console.print(f"Saved in {training.folder}", markup=False, soft_wrap=True)
    return True


def _title(training: Training) -> str:
    run, data = training.run, training.data
    mixing = f", α = {run.alpha:g} at {', '.join(run.layers)}" if run.layers else ""
    return (
        f"{run.method}{mixing}: {run.model} on {data.name} ({len(data.x):,} training, "
        f"{len(data.x_test):,} test examples){in_words(run.label_noise)}, {run.epochs} "
        f"epoch{'' if run.epochs == 1 else 's'}, seed {run.seed}, {run.device}"
    )


def _scores(result: Result, data: Data) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("test set")
    table.add_column(f"last epoch ({result.run.epochs})", justify="right")
    table.add_column(f"best epoch ({result.best_epoch})", justify="right")
    attack = replace(FGSM, title=f"{FGSM.title}, ε = {data.eps:.3g} in {data.space}")
    shown = (RMSE, R2) if data.regression else (ERROR, TOP5_ERROR, NLL, ECE, BRIER, attack)
    for measure in shown:
        values = (getattr(scores, measure.key) for scores in (result.last, result.best))
        table.add_row(measure.title, *(f"{value:.{measure.digits}f}" for value in values))
    table.add_row("seconds of training", f"{result.seconds:.1f}")
    return table
