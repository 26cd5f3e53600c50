"""The settings of a run as a value, and the settings chosen for each comparison.

No mixup, input mixup and manifold mixup differ only in the values of a `Recipe`.
``docs/compare.md`` explains how the values were chosen, always on part of the training set.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from manifold_mixup.lab.suggest import closest


@dataclass(frozen=True)
class Recipe:
    """All settings that determine the result of a training.

    Attributes:
        method: name in tables and reports; what is mixed depends on the layers alone.
        data: name of the data set, or a path; "list" prints all.
        model: name of the model; "list" prints all.
        layers: layers to mix: none for no mixup, input for input mixup.
        alpha: parameter α of the Beta(α, α) distribution of λ.
        per_sample: draw a λ for every example instead of one per batch.
        block_gradient: stop the gradient of the mixed batch at the mixed layer, so that earlier
            layers do not learn from it.
        loss: loss function: cross_entropy, or softmax_bce as in the authors' code.
        label_smoothing: share of the target that is spread evenly over the classes.
        epochs: passes over the training set.
        batch: examples per optimizer step.
        lr: peak learning rate.
        schedule: learning rate schedule. one-cycle warms up over the first tenth, then follows a
            cosine down to nearly 0; cosine has no warm-up; steps divides by ten at the milestones;
            constant keeps the learning rate.
        milestones: epochs after which the schedule "steps" divides the learning rate by ten.
        optimizer: the optimizer: adamw, adam, or sgd with Nesterov momentum 0.9 as in the paper.
        weight_decay: weight decay. Its effect differs between optimizers.
        ema: decay per step of averaged weights, which are then evaluated; 0 turns averaging off.
        width: units of a hidden layer, or channels of the first stage; None for the model's own.
        dropout: dropout probability, in models that have dropout.
        batch_norm: True adds batch norms to perceptrons, False removes the model's batch norms,
            None keeps the model as it is.
        noise: standard deviation of Gaussian noise on the standardised input.
        flip: mirror images at random.
        crop: maximal random shift of images in pixels, padded with zeros.
        cutout: side length of a random square that is blanked in every image.
        examples: number of training examples, a random subset; None takes all.
        per_class: number of training examples per class; None takes all.
        validation: share of the training set to hold out; it is evaluated after every epoch instead
            of the test set.
        precision: training precision: float32, or bf16 or fp16 with autocast.
        accumulate: number of parts a batch is split into, whose gradients are accumulated.
        compile: compile the model.
        cuda_graphs: record the compiled graphs as CUDA graphs, so that the GPU does not wait for
            Python.
        channels_last: store images in channels-last memory format.
        seed: seed of the initial weights, the order of the examples, and the mixing.
        device: device to train on.
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
bottleneck. For other models, `find_layers` chooses them."""

FOUND = ("found",)
"""Placeholder for the layers that `find_layers` chooses."""


_MIXED = ("no mixup", "input mixup", "manifold mixup")


def input_mixup(plain: Recipe, *, alpha: float = 0.2) -> Recipe:
    """Return the recipe with input mixup."""
    return replace(plain, method="input mixup", layers=("input",), alpha=alpha)


def manifold_mixup(plain: Recipe, *, alpha: float = 0.2) -> Recipe:
    """Return the recipe with manifold mixup at the model's eligible layers."""
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
    """Return settings for a data set and a model without chosen ones."""
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
    """Raise a `ValueError` if the method's name contradicts the layers that are mixed."""
    says = run.method.lower()
    short = {"none": "no mixup", "input": "input mixup", "manifold": "manifold mixup"}
    near = [short[says]] if says in short else closest(says, _MIXED, cutoff=0.7)
    if near and not says.startswith(tuple(_MIXED)):
        raise ValueError(
            f"method is {run.method!r}, but it is only the name in tables. Did you mean "
            f"{near[0]!r}? Choose what is mixed with --mixing none, input or manifold."
        )
    kind = "input" if run.layers == ("input",) else "manifold" if run.layers else "no"
    told = says.split(" ")[0]
    if says.startswith(tuple(_MIXED)) and told != kind:
        raise ValueError(
            f"method is {run.method!r}, but with layers {' '.join(run.layers) or '(none)'} it is "
            f"{kind} mixup. Choose with --mixing none, input or manifold, or give another --method."
        )


def _check_execution(run: Recipe) -> None:
    if run.batch < run.accumulate:
        raise ValueError(
            f"a batch of {run.batch} cannot be split into {run.accumulate} parts. Expected "
            f"accumulate to be at most the batch size."
        )
    if run.cuda_graphs and not run.compile:
        raise ValueError("cuda_graphs needs a compiled model: set compile too (--compile).")
    if run.cuda_graphs and not run.device.startswith("cuda"):
        raise ValueError(f"cuda_graphs needs a GPU, but the device is {run.device!r}.")
