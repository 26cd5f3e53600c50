"""`Data`: a task as tensors in memory, and functions that take subsets of it."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Data:
    """A task in memory: inputs with classes, or with numbers for regression.

    Attributes:
        name: its name in tables and files.
        x: training inputs: vectors ``(n, features)``, float32, or images ``(n, channels, height,
            width)``, uint8 or float32, or ids of tokens ``(n, length)``, int64, with `PADDING`
            after the last. `as_input` scales uint8 pixels to 0 to 1.
        y: training labels: classes from 0 to ``classes - 1``, ``(n,)``, int64, soft labels,
            ``(n, classes)``, float32, or the numbers of a regression, ``(n,)``, float32.
        x_test: test inputs, like ``x``.
        y_test: test labels.
        classes: number of classes; 0 for a regression.
        eps: size ε of the FGSM attack on these inputs.
        space: the unit of ``eps``, in words.
        bounds: minimal and maximal value of an attacked input, or ``None`` for no limits.
        mean: the mean that models subtract, one number per channel or feature, or one for all;
            ``None`` to compute it from the training inputs.
        std: the standard deviation that they divide by, likewise.
        unlabelled: further training inputs, like ``x``, for training without their labels.
        standardised: the mean that was subtracted from the inputs as they were read, and the
            deviation that they were divided by, arrays that broadcast to one input; ``None`` if
            inputs were not standardised.
    """

    name: str
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int
    eps: float
    space: str
    bounds: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    unlabelled: Tensor | None = None
    standardised: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    @property
    def regression(self) -> bool:
        """Whether the targets are numbers instead of classes."""
        return self.classes == 0

    @property
    def tokens(self) -> bool:
        """Whether the inputs are ids of tokens, which a model takes with their mask."""
        return is_tokens(self.x)

    @property
    def outputs(self) -> int:
        """The number of outputs of a model: one for each class, or a single number."""
        return self.classes or 1


PIXELS: dict[str, Any] = {"eps": 8 / 255, "space": "pixel space [0, 1]", "bounds": (0.0, 1.0)}
"""The settings of attacks on images."""


def as_input(x: Tensor) -> Tensor:
    """Convert stored inputs to the inputs of models: float32, with pixels from 0 to 1."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x


PADDING = 0
"""The id of padding, after the last token of a text."""


def is_tokens(x: Tensor) -> bool:
    """Return whether inputs are ids of tokens."""
    return x.dtype == torch.int64


def arguments(x: Tensor) -> tuple[Tensor, ...]:
    """Return the arguments of a model for a batch of inputs.

    They are the inputs; for tokens, the ids up to the longest text of the batch, and their mask,
    which is True where there is a token.

    Examples:
        >>> arguments(torch.tensor([[5, 6, 0, 0], [7, 0, 0, 0]]))
        (tensor([[5, 6],
                [7, 0]]), tensor([[ True,  True],
                [ True, False]]))
    """
    if not is_tokens(x):
        return (x,)
    mask = x != PADDING
    longest = int(mask.sum(1).max())
    return x[:, :longest], mask[:, :longest]


def in_units_of(data: Data, other: Data) -> Tensor:
    """Return the test inputs of ``other`` in the units of the inputs of ``data``.

    Inputs that were standardised when they were read, each file by itself, would otherwise all have
    the same mean and deviation.

    Raises:
        ValueError: only one of the two has bounds, as pixels have.
    """
    if data.bounds != other.bounds:
        raise ValueError(
            f"{other.name} has {_units(other)}, but {data.name} has {_units(data)}. Expected the "
            f"same. Images are pixels if they are uint8, or floating point numbers from 0 to 1."
        )
    x = other.x_test.double().numpy()
    if other.standardised is not None:
        mean, std = other.standardised
        x = x * std + mean
    if data.standardised is not None:
        mean, std = data.standardised
        x = (x - mean) / std
    changed = data.standardised is not None or other.standardised is not None
    return torch.from_numpy(x).float() if changed else other.x_test


def _units(data: Data) -> str:
    if data.bounds is None:
        return "inputs without bounds"
    return "inputs from {:g} to {:g}".format(*data.bounds)


def take(data: Data, count: int, *, seed: int = 0, unlabelled: bool = False) -> Data:
    """Keep ``count`` random training examples; the test set stays.

    Args:
        data: the data.
        count: the number of examples.
        seed: the seed of the choice.
        unlabelled: keep the others too, without their labels.

    Raises:
        ValueError: there are not that many.
    """
    if not 2 <= count <= len(data.x):
        raise ValueError(
            f"{count} training examples were requested, but {data.name} has {len(data.x)}. "
            f"Give a number from 2 to {len(data.x)}, or leave it out for the recipe's own number."
        )
    rows, rest = shuffled(len(data.x), seed).tensor_split([count])
    others = data.x[rest] if unlabelled else data.unlabelled
    return replace(data, x=data.x[rows], y=data.y[rows], unlabelled=others)


def take_per_class(data: Data, count: int, *, seed: int = 0) -> Data:
    """Keep at most ``count`` random training examples per class.

    Raises:
        ValueError: ``count`` is less than 1, or there are no classes.
    """
    if count < 1:
        raise ValueError(f"{count} examples per class were requested. Expected 1 or more.")
    if data.regression:
        raise ValueError(
            f"{count} examples per class were requested, but {data.name} has numbers as targets. "
            f"Give --examples."
        )
    rows = shuffled(len(data.x), seed)
    of_class = [rows[data.y[rows] == label][:count] for label in range(data.classes)]
    selected = torch.cat(of_class).sort().values
    return replace(data, x=data.x[selected], y=data.y[selected])


def take_tested(data: Data, count: int, *, seed: int = 0) -> Data:
    """Keep at most ``count`` random test examples; the training set stays."""
    rows = shuffled(len(data.x_test), seed)[:count].sort().values
    return replace(data, x_test=data.x_test[rows], y_test=data.y_test[rows])


def take_classes(data: Data, count: int, *, name: str) -> Data:
    """Keep the training and test examples of the first ``count`` classes."""
    in_train, in_test = data.y < count, data.y_test < count
    return replace(
        data,
        name=name,
        x=data.x[in_train],
        y=data.y[in_train],
        x_test=data.x_test[in_test],
        y_test=data.y_test[in_test],
        classes=count,
    )


def hold_out(data: Data, *, share: float = 0.2, seed: int = 0) -> Data:
    """Replace the test set by a share of the training examples.

    Settings are chosen on the result, which does not contain the true test set.

    Raises:
        ValueError: the share is less than one example, or leaves fewer than two.
    """
    rows = shuffled(len(data.x), seed)
    count = round(share * len(rows))
    if count < 1 or len(rows) - count < 2:
        raise ValueError(
            f"--validation {share:g} of {len(rows)} training examples holds out {count} and "
            f"leaves {len(rows) - count}. Expected at least 1 and 2. Give another share."
        )
    held_out, remaining = rows.split([count, len(rows) - count])
    return replace(
        data,
        name=f"{data.name} (validation)",
        x=data.x[remaining],
        y=data.y[remaining],
        x_test=data.x[held_out],
        y_test=data.y[held_out],
    )


def shuffled(count: int, seed: int) -> Tensor:
    """Return the numbers below ``count`` in an order that depends on the seed only."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
