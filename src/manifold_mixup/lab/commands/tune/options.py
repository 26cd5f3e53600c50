"""Options of ``tune``, and what follows from them alone."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.launch import processes
from manifold_mixup.lab.recipes import catalog
from manifold_mixup.lab.search.sampling import Sampler
from manifold_mixup.lab.search.trials import METRICS
from manifold_mixup.lab.search.ways import SearchValues
from manifold_mixup.lab.suggest import unknown

CHOSEN = tyro.conf.arg(help_behavior_hint="(default: that of the recipe)")
AROUND = tyro.conf.arg(help_behavior_hint="(default: around that of the recipe)")
ALL = tyro.conf.arg(help_behavior_hint="(default: all cores)")
BY = tyro.conf.arg(help_behavior_hint="(default: error, or rmse if the data are numbers)")
BUDGET = tyro.conf.arg(help_behavior_hint="(default: 20)")
SPLIT = tyro.conf.arg(help_behavior_hint="(default: the data's own validation set, or else 0.2)")
STUDY = tyro.conf.arg(help_behavior_hint="(default: runs/tune-DATA-MODEL.db)")
BASE = next(iter(catalog.MIXING))  # no mixup


@dataclass(frozen=True)
class Options:
    """Search the best settings of each way of mixing, against no mixup with the same budget.

    Every way has the same number of trials. A trial trains with some settings and several seeds,
    and is measured on validation examples. Learning rate and weight decay are searched for every
    way; α and the layers for those that mix. At the end, the best trial of each way is trained
    with fresh seeds, the best way is compared with no mixup, and both are measured once on the test
    set.

    The same command resumes a search that was stopped or killed. No trial is stopped early, since
    mixing learns more slowly and gains late.
    """

    data: str = "mnist-1d"
    """Data set, such as mnist-1d or fashion-mnist, a folder of images, or an .npz file; "list"
    prints all."""
    model: str = "mlp"
    """Model, such as mlp or cnn; "list" prints all."""
    ways: tuple[str, ...] = tuple(catalog.MIXING)[:3]
    """Ways of mixing; no mixup is always among them. "list" prints all."""
    recipe: str = "compare"
    """Recipe to start from; "list" prints all. Its settings are the first trial of each way."""
    trials: Annotated[int | None, BUDGET] = None
    """Number of trials of each way, those that diverge included."""
    seeds: int = 3
    """Number of seeds of a trial. Its value is their mean."""
    final_seeds: int = 5
    """Number of fresh seeds for the best trial of each way, and for the look at the test set."""
    metric: Annotated[str | None, BY] = None
    """Metric to choose by, at the last epoch: error, nll or brier; of numbers, rmse."""
    validation: Annotated[float | None, SPLIT] = None
    """Share of the training set to hold out, drawn anew for each seed."""
    sampler: Sampler = "tpe"
    """How settings are drawn: tpe learns from the trials before, random does not. grid tries every
    combination of the values given, so ways with more settings have more trials."""
    epochs: Annotated[int | None, CHOSEN] = None
    """Passes over the training set."""
    examples: Annotated[int | None, CHOSEN] = None
    """Number of training examples, a random subset that is the same for all runs. The way ict also
    learns from the others, without their labels."""
    imbalance: float = 1.0
    """How many times more training examples the first class has than the last, with an exponential
    profile between them. Validation and test examples stay as they are."""
    label_noise: float = 0.0
    """Share of the training and validation labels that are another class, drawn once for each seed,
    the same for all ways. The test set stays clean."""
    optimizer: Annotated[Literal["adamw", "adam", "sgd"] | None, CHOSEN] = None
    """Optimizer, for all ways."""
    lr: Annotated[tuple[float, ...], AROUND] = ()
    """Learning rates: the values of a grid, or the bounds of a range, searched on a log scale."""
    weight_decay: Annotated[tuple[float, ...], AROUND] = ()
    """Weight decays, likewise. A single value is not searched."""
    alpha: Annotated[tuple[float, ...], AROUND] = ()
    """Values of alpha, likewise."""
    layers: Annotated[tuple[str, ...], AROUND] = ()
    """Sets of layers for hidden mixing, such as input+hidden1 hidden1."""
    bandwidth: Annotated[tuple[float, ...], AROUND] = ()
    """Bandwidths of near pairs (c-mixup), in the units of the targets, as for --lr."""
    share: Annotated[tuple[float, ...], AROUND] = ()
    """Shares of a state that PatchUp's blocks cover, as for --lr."""
    ict_weight: Annotated[tuple[float, ...], AROUND] = ()
    """Greatest weights of the consistency on unlabelled examples (ict), as for --lr."""
    ema: Annotated[tuple[float, ...], AROUND] = ()
    """Decays of the mean teacher (ict), as for --lr."""
    seed: int = 0
    """Seed of the search."""
    together: int = 1
    """Number of trials of each way that are drawn at once, for many processes or machines."""
    test: bool = True
    """Look at the test set at the end. Without, the same command with --test looks later."""
    study: Annotated[Path | None, STUDY] = None
    """File of the trials, an Optuna study. Runs and tables are kept beside it."""
    root: Path = Path("~/.cache/manifold-mixup")
    """Folder of the data sets. Data sets that are not there are downloaded to it."""
    workers: Annotated[int | None, ALL] = None
    """Number of runs trained in parallel, on one core each. It does not affect the results."""
    device: str = "cpu"
    """Device to train on, such as cuda."""
    on: processes.Place = "here"
    """Where to train: here, in processes of this machine; or ray, on the cluster at RAY_ADDRESS.
    On a cluster, --root and --study must be on storage that all nodes share."""
    gpus: float = 0.0
    """GPUs, or the fraction of a GPU, that Ray reserves for each run."""


def check_numbers(options: Options) -> None:
    """Raise `ValueError` if a number is out of range, or of no use with the others."""
    for name in ("trials", "seeds", "final_seeds", "epochs", "examples", "workers", "together"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{_flag(name)} is {value}. Expected 1 or more.")
    if not 1 <= options.imbalance < math.inf:
        raise ValueError(f"--imbalance is {options.imbalance}. Expected 1 or more.")
    if not 0 <= options.label_noise < 1:
        raise ValueError(
            f"--label-noise is {options.label_noise}. Expected 0 or more, and less than 1."
        )
    search_values(options).check()
    if options.sampler == "grid" and options.trials is not None:
        raise ValueError(
            f"--trials is {options.trials}, but --sampler grid tries every combination of the "
            f"values given. Leave out --trials, or use --sampler random."
        )
    if options.metric is not None and options.metric not in METRICS:
        raise ValueError(f"{unknown('metric', options.metric, METRICS)}.")
    if options.gpus < 0:
        raise ValueError(f"--gpus is {options.gpus}. Expected 0 or more.")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def search_values(options: Options) -> SearchValues:
    """Return the values to search, where options give them."""
    return SearchValues(
        lr=options.lr,
        weight_decay=options.weight_decay,
        alpha=options.alpha,
        layers=options.layers,
        bandwidth=options.bandwidth,
        share=options.share,
        ict_weight=options.ict_weight,
        ema=options.ema,
        grid=options.sampler == "grid",
    )


def way_names(options: Options) -> list[str]:
    """Return the names of the ways, no mixup first, each once."""
    for name in options.ways:
        if name not in catalog.MIXING:
            raise ValueError(f"{unknown('kind of mixing', name, catalog.MIXING)}.")
    return list(dict.fromkeys([BASE, *options.ways]))


def default_study(options: Options) -> Path:
    """Return the file of the trials if no option names one."""
    words = (datasets.short_name(options.data).removesuffix(".npz"), options.model)
    name = "-".join("".join(c if c.isalnum() else "-" for c in word) for word in words)
    return Path("runs") / f"tune-{name}.db"
