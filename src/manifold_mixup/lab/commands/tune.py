"""``python -m manifold_mixup.lab.choose``: a grid search for the settings of a comparison.

Every method is trained with every learning rate and weight decay, and the methods that mix also
with every α. The scores are measured on examples outside the test set: MNIST-1D is generated
anew, and other data sets hold out a fifth of their training set.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Literal

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.data import Data, mnist1d
from manifold_mixup.lab.evaluate.measures import ERROR, FGSM, NLL
from manifold_mixup.lab.launch import processes
from manifold_mixup.lab.recipes.recipe import Recipe, three_methods
from manifold_mixup.lab.report.progress import Live
from manifold_mixup.lab.runs import provenance
from manifold_mixup.lab.runs.result import Result
from manifold_mixup.lab.terminal.console import Console

FRESH = 1000  # the first seed of generated data; no other part of the lab uses these seeds


@dataclass(frozen=True)
class Options:
    """Print a Markdown table of validation scores at the last epoch, averaged over the seeds.

    Every seed generates, or holds out, its own validation examples. Held-out examples are missing
    in training, and mixing helps more with fewer examples, so generated examples are the better
    judge.
    """

    data: str = "mnist-1d"
    """Data set, as for compare."""
    model: str = "mlp"
    """Model, as for compare."""
    lr: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Learning rates to try."""
    weight_decay: tuple[float, ...] = (1e-2,)
    """Weight decays to try."""
    alpha: tuple[float, ...] = (0.2, 0.5, 1.0)
    """Values of alpha to try."""
    methods: tuple[str, ...] = ("no mixup", "input mixup", "manifold mixup")
    """Methods to try."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Optimizer, for all methods."""
    seeds: int = 5
    """Number of seeds."""
    epochs: int | None = None
    """Passes over the training set; by default, those of the recipe."""
    root: Path = Path("~/.cache/manifold-mixup")
    """Folder of the data sets. Data sets that are not there are downloaded to it."""
    workers: int | None = None
    """Number of runs trained in parallel; by default, one per core."""


def run(options: Options) -> None:
    """Train every setting with every seed and print the means."""
    settings = list(_settings(options))
    results: dict[Recipe, list[Result]] = {run: [] for run in settings}
    workers = options.workers or provenance.usable_cores()
    for seed in range(options.seeds):
        held, tried = _validation(options, seed), [replace(run, seed=seed) for run in settings]
        with Live(tried, Console(stderr=True)) as live:
            for result in processes.train_all(
                tried, held, workers=workers, on_epoch=live.epoch, on_step=live.step
            ):
                live.finished(result)
                results[replace(result.run, seed=0)].append(result)
    measures = (ERROR, NLL, FGSM)
    titles = " | ".join(measure.title for measure in measures)
    print(f"| method | lr | weight decay | α | {titles} |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for run, found in results.items():
        means = " | ".join(
            f"{fmean(getattr(result.last, measure.key) for result in found):.{measure.digits}f}"
            for measure in measures
        )
        alpha = f"{run.alpha:g}" if run.layers else ""
        print(f"| {run.method} | {run.lr:g} | {run.weight_decay:g} | {alpha} | {means} |")


def _validation(options: Options, seed: int) -> Data:
    if options.data == "mnist-1d":
        return mnist1d.load(seed=FRESH + seed)
    run = next(_settings(options))
    data = datasets.load_for(run, root=options.root.expanduser())
    return datasets.hold_out(data, seed=seed)


def _settings(options: Options) -> Iterator[Recipe]:
    for chosen in three_methods(options.data, options.model):
        if chosen.method not in options.methods:
            continue
        alphas = options.alpha if chosen.layers else (chosen.alpha,)
        for lr, decay, alpha in product(options.lr, options.weight_decay, alphas):
            yield replace(
                chosen,
                lr=lr,
                weight_decay=decay,
                alpha=alpha,
                optimizer=options.optimizer,
                epochs=options.epochs or chosen.epochs,
            )
