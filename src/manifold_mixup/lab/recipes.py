"""A run as a value, and the settings that were chosen for each comparison.

No mixup, input mixup and manifold mixup differ in the values of a `Run` and in nothing else. How
the values were chosen, always on a part of the training set, stands in ``docs/compare.md``.
"""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Run:
    """Everything that decides what a training ends in.

    Attributes:
        method: what tables call it.
        data: name of the data set.
        model: name of the model.
        layers: where to mix; empty for no mixup, ``("input",)`` for input mixup.
        alpha: shape of the Beta distribution that λ comes from.
        epochs: passes over the training set.
        batch: examples in a step.
        lr: the greatest learning rate; it rises over the first tenth and then falls to nearly 0.
        optimizer: ``"adamw"``, or ``"sgd"`` with Nesterov momentum 0.9 as in the paper.
        weight_decay: of the optimizer; its scale differs between the two.
        width: units of a hidden layer, or channels of the first stage.
        examples: training examples drawn from the data set; ``None`` takes all.
        seed: of the initial weights, the order of the examples, and the mixing.
        device: where torch computes.
    """

    method: str = "no mixup"
    data: str = "mnist-1d"
    model: str = "mlp"
    layers: tuple[str, ...] = ()
    alpha: float = 1.0
    epochs: int = 60
    batch: int = 100
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 3e-3
    weight_decay: float = 1e-2
    width: int = 256
    examples: int | None = None
    seed: int = 0
    device: str = "cpu"


HIDDEN = {"mlp": ("input", "hidden1", "hidden2"), "cnn": ("input", "stage1", "stage2")}
"""The paper's S = {0, 1, 2} on each model: the input and the first two hidden layers."""


def input_mixup(plain: Run, *, alpha: float = 0.2, lr: float | None = None) -> Run:
    """Mix at the input only."""
    return replace(plain, method="input mixup", layers=("input",), alpha=alpha, lr=lr or plain.lr)


def manifold_mixup(plain: Run, *, alpha: float = 0.2, lr: float | None = None) -> Run:
    """Mix at the input or at one of the first two hidden layers."""
    layers = HIDDEN[plain.model]
    return replace(plain, method="manifold mixup", layers=layers, alpha=alpha, lr=lr or plain.lr)


def comparison(data: str, model: str) -> tuple[Run, ...]:
    """Return no mixup, input mixup and manifold mixup with the settings chosen for them."""
    chosen = {
        ("mnist-1d", "mlp"): _mnist1d_mlp,
        ("mnist-1d", "cnn"): _mnist1d_cnn,
        ("fashion-mnist", "mlp"): _fashion_mnist_mlp,
        ("fashion-mnist", "cnn"): _fashion_mnist_cnn,
    }
    return chosen[data, model]() if (data, model) in chosen else _anything(data, model)


def _mnist1d_mlp() -> tuple[Run, ...]:
    plain = Run(lr=1e-2)
    return plain, input_mixup(plain), manifold_mixup(plain)


def _mnist1d_cnn() -> tuple[Run, ...]:
    plain = Run(model="cnn", width=32, epochs=30, lr=3e-3)
    return plain, input_mixup(plain), manifold_mixup(plain)


def _fashion_mnist_mlp() -> tuple[Run, ...]:
    plain = Run(data="fashion-mnist", epochs=20, lr=1e-3, examples=10_000)
    return plain, input_mixup(plain), manifold_mixup(plain)


def _fashion_mnist_cnn() -> tuple[Run, ...]:
    plain = Run(data="fashion-mnist", model="cnn", width=16, epochs=10, lr=3e-3, examples=5_000)
    return plain, input_mixup(plain), manifold_mixup(plain)


def _anything(data: str, model: str) -> tuple[Run, ...]:
    """Serve a data set for which nothing was chosen."""
    plain = Run(data=data, model=model, width=256 if model == "mlp" else 16, epochs=50, lr=1e-3)
    return plain, input_mixup(plain), manifold_mixup(plain)
