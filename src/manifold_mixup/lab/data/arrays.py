"""`Data`: a classification task as tensors in memory, and ways to make it smaller."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Data:
    """A classification task in memory.

    Attributes:
        name: what tables and files call it.
        x: training inputs: vectors ``(n, features)``, float32, or images ``(n, channels, height,
            width)``, uint8 or float32. Bytes are pixels; `as_input` makes them 0 to 1.
        y: training labels, ``(n,)``, int64, each from 0 to ``classes - 1``, or soft ones, ``(n,
            classes)``, float32.
        x_test: test inputs, shaped like ``x`` but for the count.
        y_test: test labels.
        classes: how many classes there are.
        eps: the strength of the FGSM attack on these inputs.
        space: the unit of ``eps``, in words.
        bounds: the values an attacked input may have, or ``None`` for any.
        mean: what models subtract from their input, one number a channel, or one for all; ``None``
            has it computed from the training inputs.
        std: what they divide it by, likewise.
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


PIXELS: dict[str, Any] = {"eps": 8 / 255, "space": "pixel space [0, 1]", "bounds": (0.0, 1.0)}
"""How attacks on images are stated."""


def as_input(x: Tensor) -> Tensor:
    """Turn stored inputs into what models take: float32, pixels in 0 to 1."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x


def take(data: Data, count: int, *, seed: int = 0) -> Data:
    """Keep ``count`` training examples, drawn by ``seed``; the test set stays.

    Raises:
        ValueError: there are not that many.
    """
    if not 2 <= count <= len(data.x):
        raise ValueError(
            f"{count} training examples were asked for, {data.name} has {len(data.x)}. "
            f"Choose from 2 to {len(data.x)}, or leave it out for the recipe's own number."
        )
    rows = _shuffled(len(data.x), seed)[:count]
    return replace(data, x=data.x[rows], y=data.y[rows])


def take_per_class(data: Data, count: int, *, seed: int = 0) -> Data:
    """Keep at most ``count`` training examples of every class, drawn by ``seed``.

    Raises:
        ValueError: ``count`` is less than 1.
    """
    if count < 1:
        raise ValueError(f"{count} examples of each class were asked for. Ask for 1 or more.")
    rows = _shuffled(len(data.x), seed)
    of_class = [rows[data.y[rows] == label][:count] for label in range(data.classes)]
    kept = torch.cat(of_class).sort().values
    return replace(data, x=data.x[kept], y=data.y[kept])


def take_tested(data: Data, count: int, *, seed: int = 0) -> Data:
    """Keep ``count`` test examples at most, drawn by ``seed``; the training set stays."""
    rows = _shuffled(len(data.x_test), seed)[:count].sort().values
    return replace(data, x_test=data.x_test[rows], y_test=data.y_test[rows])


def take_classes(data: Data, count: int, *, name: str) -> Data:
    """Keep the examples of the first ``count`` classes, for training and for testing."""
    kept, kept_test = data.y < count, data.y_test < count
    return replace(
        data,
        name=name,
        x=data.x[kept],
        y=data.y[kept],
        x_test=data.x_test[kept_test],
        y_test=data.y_test[kept_test],
        classes=count,
    )


def hold_out(data: Data, *, share: float = 0.2, seed: int = 0) -> Data:
    """Put a share of the training examples in the place of the test set.

    Settings are chosen on the result; the true test set is not in it.
    """
    rows = _shuffled(len(data.x), seed)
    held, kept = rows.split([round(share * len(rows)), len(rows) - round(share * len(rows))])
    return replace(
        data,
        name=f"{data.name} (validation)",
        x=data.x[kept],
        y=data.y[kept],
        x_test=data.x[held],
        y_test=data.y[held],
    )


def _shuffled(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
