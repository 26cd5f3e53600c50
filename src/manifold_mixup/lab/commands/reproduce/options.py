"""Options of ``reproduce``, and the scale they ask for."""

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from manifold_mixup.lab.launch import processes
from manifold_mixup.lab.paper.scale import Scale, scale

SCALED = tyro.conf.arg(help_behavior_hint="(default: given by --scale)")
DEVICE = tyro.conf.arg(help_behavior_hint="(default: cuda if there is a GPU, else cpu)")
WORKERS = tyro.conf.arg(help_behavior_hint="(default: all cores, or 1 on an accelerator)")


@dataclass(frozen=True)
class Options:
    """Reproduce a table or figure of the paper; print the paper's numbers beside ours.

    Finished runs are reused, including those of other tables in the same folder. The same command
    resumes runs that were stopped.
    """

    table: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TABLE")]
    """table-1a, table-1b, table-2 to table-9, preact50, gradient-block, knn, low-data,
    label-noise, outliers, figure-1, figure-2, figure-5, figure-6, figure-7, or spectra; "list"
    describes them."""
    scale: str = "full"
    """Scale of the experiment: full, as in the paper; laptop, small enough for two CPU cores; or
    smoke, only to test that it runs."""
    seeds: int = 5
    """Number of seeds; the paper used 5."""
    rows: tuple[str, ...] = ()
    """Only rows whose label contains one of these words, such as preact-resnet18."""
    epochs: Annotated[int | None, SCALED] = None
    """Maximal number of passes over the training set; the schedule is shortened to fit."""
    width: Annotated[int | None, SCALED] = None
    """Channels of the first stage, or units of a perceptron's hidden layers."""
    examples: Annotated[int | None, SCALED] = None
    """Number of training examples, a fixed random subset."""
    test: Annotated[int | None, SCALED] = None
    """Number of test examples, a random subset that is the same for all runs."""
    tested: Annotated[int | None, SCALED] = None
    """Number of test examples for attacks, deformations, neighbours and outliers."""
    lr: Annotated[float | None, SCALED] = None
    """Peak learning rate. A short training may need another than the paper's."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Training precision."""
    compile: bool = False
    """Compile the model."""
    channels_last: bool = False
    """Store images in channels-last memory format."""
    root: Path = Path("~/.cache/manifold-mixup")
    """Folder of the data sets. Data sets that are not there are downloaded to it."""
    out: Path = Path("reproduce")
    """Folder for the table's .md and .json files and the runs. Finished runs in it are reused."""
    workers: Annotated[int | None, WORKERS] = None
    """Number of runs trained in parallel."""
    device: Annotated[str | None, DEVICE] = None
    """Device to train on."""
    on: processes.Place = "here"
    """Where to train: here, in processes of this machine; or ray, on the cluster at RAY_ADDRESS.
    On a cluster, --root and --out must be on storage that all nodes share."""
    gpus: float = 0.0
    """GPUs, or the fraction of a GPU, that Ray reserves for each run."""


def check_numbers(options: Options) -> None:
    """Raise `ValueError` if a number is out of range."""
    for name in ("seeds", "workers", *(part.name for part in fields(Scale))):
        value = getattr(options, name)
        if name != "lr" and value is not None and value < 1:
            raise ValueError(f"--{name} is {value}. Expected 1 or more.")
    if options.lr is not None and not (options.lr > 0 and math.isfinite(options.lr)):
        raise ValueError(f"--lr is {options.lr:g}. Expected a finite number above 0.")
    if options.gpus < 0:
        raise ValueError(f"--gpus is {options.gpus}. Expected 0 or more.")


def scale_of(options: Options) -> Scale:
    """Return the named scale of the table, with the options that were given."""
    options_of_scale = {part.name: getattr(options, part.name) for part in fields(Scale)}
    named = scale(options.scale, options.table)
    return replace(
        named, **{name: value for name, value in options_of_scale.items() if value is not None}
    )
