"""Options of ``compare``, and what follows from them alone."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from manifold_mixup.lab.commands.compare.comparison import DEFAULT
from manifold_mixup.lab.recipes import generated

CHOSEN = tyro.conf.arg(help_behavior_hint="(default: chosen per data set and model)")
ALL = tyro.conf.arg(help_behavior_hint="(default: all cores)")
THREE = tyro.conf.arg(help_behavior_hint="(default: none input manifold, or the ways of --tuned)")
CLEAN = tyro.conf.arg(help_behavior_hint="(default: 0, or that of --tuned)")
EVEN = tyro.conf.arg(help_behavior_hint="(default: 1, or that of --tuned)")
OWN = tyro.conf.arg(help_behavior_hint="(default: spiral-mlp for spirals, else mlp)")
ANEW = tyro.conf.arg(help_behavior_hint=f"(default: only for {DEFAULT})")


@dataclass(frozen=True)
class Options:
    """Train no mixup, input mixup, manifold mixup or others; compare them over seeds.

    Without options, it trains a perceptron on the paper's two spirals, which are drawn anew for
    each of 5 seeds. That takes less than a minute on two CPU cores. The default settings were
    chosen for each data set and model on a validation split.
    """

    data: str = DEFAULT
    """Data set, such as mnist-1d or fashion-mnist, or an .npz file with x_train, y_train, x_test
    and y_test; "list" prints all."""
    model: Annotated[str | None, OWN] = None
    """Model, such as mlp or cnn; "list" prints all."""
    methods: Annotated[tuple[str, ...] | None, THREE] = None
    """Methods to compare, as for train --mixing, in the order of the table; no mixup comes first.
    "list" prints all."""
    tuned: Path | None = None
    """Study of manifold-mixup tune: each method has the settings of its best trial there."""
    seeds: int = 5
    """Number of seeds. Every method trains once per seed."""
    redraw: Annotated[bool | None, ANEW] = None
    """Draw generated data (mnist-1d, spirals, spirals-100) anew for each seed, training and test
    examples, the same for all methods. The intervals then cover the draw too."""
    epochs: Annotated[int | None, CHOSEN] = None
    """Passes over the training set."""
    examples: Annotated[int | None, CHOSEN] = None
    """Number of training examples, a random subset that is the same for all runs on the same
    data."""
    imbalance: Annotated[float | None, EVEN] = None
    """How many times more training examples the first class has than the last, with an exponential
    profile between them. The test set stays as it is."""
    label_noise: Annotated[float | None, CLEAN] = None
    """Share of the training labels that are another class, drawn once for each seed, the same for
    all methods. The test set stays clean."""
    alpha: Annotated[float | None, CHOSEN] = None
    """Parameter α of the Beta(α, α) distribution of λ, for all methods that mix."""
    layers: Annotated[tuple[str, ...] | None, CHOSEN] = None
    """Layers that manifold mixup and other methods at hidden layers mix, such as input hidden1."""
    bandwidth: Annotated[float | None, CHOSEN] = None
    """Bandwidth of near pairs (C-Mixup), in the units of the targets."""
    lr: Annotated[float | None, CHOSEN] = None
    """Peak learning rate, for all methods."""
    weight_decay: Annotated[float | None, CHOSEN] = None
    """Weight decay, for all methods."""
    optimizer: Annotated[Literal["adamw", "sgd"] | None, CHOSEN] = None
    """Optimizer, for all methods. SGD has Nesterov momentum 0.9."""
    batch_norm: Annotated[bool | None, CHOSEN] = None
    """Whether the model has batch norms: True adds them to the MLP, False removes them from the
    CNN."""
    eps: Annotated[float | None, CHOSEN] = None
    """Size ε of the FGSM attack, in the unit stated below the table."""
    spirals: bool = True
    """Draw the decision boundaries on two spirals, of the first seed. If the data are others, this
    also trains the paper's Figure 1: no mixup, input mixup and manifold mixup, one seed. Not for
    regressions."""
    smoke: bool = False
    """Test in seconds that everything works: two seeds, two epochs, at most 500 examples. The
    numbers mean nothing."""
    root: Path = Path("~/.cache/manifold-mixup")
    """Folder of the data sets. Data sets that are not there are downloaded to it."""
    out: Path = Path("compare")
    """Folder for results.json, table.md, compare.png, compare.svg and the runs. Finished runs in
    it are reused."""
    workers: Annotated[int | None, ALL] = None
    """Number of runs trained in parallel, on one core each. It does not affect the results."""
    device: str = "cpu"
    """Device to train on, such as cuda."""


def check_numbers(options: Options) -> None:
    """Raise `ValueError` if a number is out of range."""
    for name in ("seeds", "epochs", "examples", "workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} is {value}. Expected 1 or more.")
    if options.imbalance is not None and not 1 <= options.imbalance < math.inf:
        raise ValueError(f"--imbalance is {options.imbalance}. Expected 1 or more.")
    _check_noise(options)
    if options.layers == ():
        raise ValueError("--layers names no layer. Leave it out for the recipe's own layers.")
    for name in ("lr", "eps", "alpha", "bandwidth"):
        value = getattr(options, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"--{name} is {value}. Expected a finite number above 0.")
    decay = options.weight_decay
    if decay is not None and not (decay >= 0 and math.isfinite(decay)):
        raise ValueError(f"--weight-decay is {decay}. Expected a finite number, 0 or more.")


def _check_noise(options: Options) -> None:
    if options.label_noise is not None and not 0 <= options.label_noise < 1:
        raise ValueError(
            f"--label-noise is {options.label_noise}. Expected 0 or more, and less than 1."
        )


def model_name(options: Options) -> str:
    """Return the name of the model, by default one that suits the data."""
    usual = "spiral-mlp" if generated.source(options.data) in generated.SPIRALS else "mlp"
    return options.model or usual


def draws_anew(options: Options) -> bool:
    """Return whether the data are drawn anew for each seed.

    Raises:
        ValueError: that was asked for, but the data are not generated, or are one draw.
    """
    if options.redraw and options.data not in generated.GENERATED:
        raise ValueError(
            f"--redraw draws generated data anew for each seed, but --data is {options.data}. "
            f"Leave out --redraw, or give --data {' or '.join(generated.GENERATED)}."
        )
    return options.data == DEFAULT if options.redraw is None else options.redraw


def data_names(options: Options, *, redraw: bool) -> list[str]:
    """Return the name of each seed's data."""
    seeds = range(2 if options.smoke else options.seeds)
    return [generated.with_seed(options.data, seed) if redraw else options.data for seed in seeds]


def method_names(options: Options) -> list[str] | None:
    """Return the methods' names that were given, no mixup first, each once."""
    if options.methods is None:
        return None
    given = [name for word in options.methods for name in word.split(",") if name]
    if not given:
        raise ValueError("--methods names no method. Leave it out for none, input and manifold.")
    return sorted(dict.fromkeys(given), key=lambda name: name != "none")
