"""A run as a value, and the settings that were chosen for each comparison.

No mixup, input mixup and manifold mixup differ in the values of a `Recipe` and in nothing else. How
the values were chosen, always on a part of the training set, stands in ``docs/compare.md``.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from manifold_mixup.lab.suggest import closest


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training ends in.

    Attributes:
        method: its name in tables; what is mixed is decided by the layers.
        data: name of the data set, or a path; "list" shows what there is.
        model: name of the model; "list" shows what there is.
        layers: where to mix: none for no mixup, input for input mixup.
        alpha: shape of the Beta distribution that λ comes from.
        per_sample: draw a λ for every example instead of one for the batch.
        block_gradient: let nothing before the mixed layer learn from the mixed batch.
        loss: cross_entropy, or softmax_bce as in the authors' code.
        label_smoothing: share of the target spread evenly over the classes.
        epochs: passes over the training set.
        batch: examples in a step.
        lr: the greatest learning rate.
        schedule: one-cycle rises over the first tenth and then falls as cosine does to nearly 0;
            steps divides by ten after every epoch of the milestones; constant stays.
        milestones: epochs after which the schedule "steps" divides the learning rate by ten.
        optimizer: adamw, adam, or sgd with Nesterov momentum 0.9 as in the paper.
        weight_decay: of the optimizer; its scale differs between them.
        ema: decay, a step, of the averaged weights that are evaluated; 0 evaluates the weights.
        width: units of a hidden layer, or channels of the first stage; None is the model's own.
        dropout: share of the units that are dropped, where the model has a place for it.
        batch_norm: False takes the model's batch norms out, True puts them into perceptrons;
            None leaves it as it is.
        noise: standard deviation of Gaussian noise on the standardised input.
        flip: mirror images at random.
        crop: pixels by which images are shifted at most, with zeros coming in.
        cutout: side of the square that is blanked in every image.
        examples: training examples drawn from the data set; None takes all.
        per_class: training examples of each class; None takes all.
        validation: share of the training set that is held out, and evaluated after every epoch in
            the place of the test set.
        precision: float32, or bf16 or fp16 by autocast.
        accumulate: batches whose gradients are summed up for one step.
        compile: whether the model is compiled.
        cuda_graphs: whether the compiled graphs are recorded and replayed as CUDA graphs, so that a
            GPU does not wait for Python at every operator.
        channels_last: whether images lie in memory with the channels last.
        seed: of the initial weights, the order of the examples, and the mixing.
        device: where torch computes.
    """

    method: str = "no mixup"
    data: str = "mnist-1d"
    model: str = "mlp"
    layers: tuple[str, ...] = ()
    alpha: float = 1.0
    per_sample: bool = False
    block_gradient: bool = False
    loss: Literal["cross_entropy", "softmax_bce"] = "cross_entropy"
    label_smoothing: float = 0.0
    epochs: int = 100
    batch: int = 100
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 3e-3
    schedule: Literal["one-cycle", "cosine", "steps", "constant"] = "one-cycle"
    milestones: tuple[int, ...] = ()
    weight_decay: float = 1e-2
    ema: float = 0.0
    width: int | None = 256
    dropout: float = 0.0
    batch_norm: bool | None = None
    noise: float = 0.0
    flip: bool = False
    crop: int = 0
    cutout: int = 0
    examples: int | None = None
    per_class: int | None = None
    validation: float = 0.0
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    accumulate: int = 1
    compile: bool = False
    cuda_graphs: bool = False
    channels_last: bool = False
    seed: int = 0
    device: str = "cpu"


HIDDEN = {
    "mlp": ("input", "hidden1", "hidden2"),
    "cnn": ("input", "stage1", "stage2"),
    "factor-cnn": ("input", "stage1", "stage2"),
    **{f"preact-resnet{depth}": ("input", "layer1", "layer2") for depth in (18, 34, 50, 152)},
    **{f"wrn-28-{widen}": ("input", "layer1") for widen in (2, 10)},
    **{f"mnist-mlp-{kind}": ("bottleneck",) for kind in ("2", "12", "30", "30-early")},
    "spiral-mlp": ("bottleneck",),
}
"""The eligible layers S of each model, as in the paper: the input and the first stages, or the
bottleneck. Other models have theirs found."""

FOUND = ("found",)
"""Stands for the layers that `find_layers` chooses."""


_MIXED = ("no mixup", "input mixup", "manifold mixup")


def input_mixup(plain: Recipe, *, alpha: float = 0.2) -> Recipe:
    """Mix at the input only."""
    return replace(plain, method="input mixup", layers=("input",), alpha=alpha)


def manifold_mixup(plain: Recipe, *, alpha: float = 0.2) -> Recipe:
    """Mix at one of the model's eligible layers."""
    layers = HIDDEN.get(plain.model, FOUND)
    return replace(plain, method="manifold mixup", layers=layers, alpha=alpha)


def three_methods(data: str, model: str) -> tuple[Recipe, ...]:
    """Return no mixup, input mixup and manifold mixup with the settings chosen for them."""
    chosen = {
        ("mnist-1d", "mlp"): _mnist1d_mlp,
        ("mnist-1d", "cnn"): _mnist1d_cnn,
        ("fashion-mnist", "mlp"): _fashion_mnist_mlp,
        ("fashion-mnist", "cnn"): _fashion_mnist_cnn,
    }
    return chosen[data, model]() if (data, model) in chosen else _anything(data, model)


def _mnist1d_mlp() -> tuple[Recipe, ...]:
    plain = Recipe(lr=1e-1, batch=200, epochs=80, batch_norm=True)
    return plain, input_mixup(plain, alpha=0.1), manifold_mixup(plain)


def _mnist1d_cnn() -> tuple[Recipe, ...]:
    plain = Recipe(model="cnn", width=32, epochs=30, lr=3e-3)
    return plain, input_mixup(plain), manifold_mixup(plain)


def _fashion_mnist_mlp() -> tuple[Recipe, ...]:
    plain = Recipe(data="fashion-mnist", epochs=20, lr=1e-3, examples=10_000)
    return plain, input_mixup(plain), manifold_mixup(plain)


def _fashion_mnist_cnn() -> tuple[Recipe, ...]:
    plain = Recipe(data="fashion-mnist", model="cnn", width=16, epochs=10, lr=3e-3, examples=5_000)
    return plain, input_mixup(plain), manifold_mixup(plain)


def _anything(data: str, model: str) -> tuple[Recipe, ...]:
    """Serve a data set and a model for which nothing was chosen."""
    plain = Recipe(data=data, model=model, width=None, epochs=50, lr=1e-3)
    return plain, input_mixup(plain), manifold_mixup(plain)


def check_recipe(run: Recipe) -> None:
    """Raise a `ValueError` if a number of a recipe is out of range."""
    least = {"epochs": 1, "batch": 1, "accumulate": 1, "crop": 0, "cutout": 0, "weight_decay": 0}
    for name in ("width", "examples", "per_class"):
        least |= {name: 1} if getattr(run, name) is not None else {}
    for name, bound in least.items():
        value = getattr(run, name)
        if not (value >= bound and math.isfinite(value)):
            raise ValueError(f"{name} is {value}. Expected {bound} or more.")
    if not (run.lr > 0 and math.isfinite(run.lr)):
        raise ValueError(f"lr is {run.lr}. Expected a finite number above 0.")
    if run.layers and not (run.alpha > 0 and math.isfinite(run.alpha)):
        raise ValueError(f"alpha is {run.alpha}. Expected a finite number above 0.")
    _check_method(run)
    for name in ("label_smoothing", "ema", "dropout", "validation"):
        value = getattr(run, name)
        if not 0 <= value < 1:
            raise ValueError(f"{name} is {value}. Expected 0 or more, and less than 1.")
    _check_execution(run)


def _check_method(run: Recipe) -> None:
    """Refuse a name in tables that says something else than what is mixed."""
    says = run.method.lower()
    short = {"none": "no mixup", "input": "input mixup", "manifold": "manifold mixup"}
    near = [short[says]] if says in short else closest(says, _MIXED, cutoff=0.7)
    if near and not says.startswith(tuple(_MIXED)):
        raise ValueError(
            f"method is {run.method!r}, only a name in tables. Did you mean {near[0]!r}? What is "
            f"mixed is chosen by --mixing none, input or manifold."
        )
    kind = "input" if run.layers == ("input",) else "manifold" if run.layers else "no"
    told = says.split(" ")[0]
    if says.startswith(tuple(_MIXED)) and told != kind:
        raise ValueError(
            f"method is {run.method!r}, but with layers {' '.join(run.layers) or '(none)'} it is "
            f"{kind} mixup. Choose by --mixing none, input or manifold, or give another --method."
        )


def _check_execution(run: Recipe) -> None:
    if run.batch < run.accumulate:
        raise ValueError(
            f"a batch of {run.batch} cannot be cut into {run.accumulate} parts. Expected "
            f"accumulate to be at most the batch."
        )
    if run.cuda_graphs and not run.compile:
        raise ValueError("cuda_graphs records what is compiled: set compile too (--compile).")
    if run.cuda_graphs and not run.device.startswith("cuda"):
        raise ValueError(f"cuda_graphs needs a GPU, but the device is {run.device!r}.")
