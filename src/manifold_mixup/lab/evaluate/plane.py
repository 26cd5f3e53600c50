"""The predictions of a classifier over the plane, and over the states of a layer of two units."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from manifold_mixup.lab.evaluate.inference import in_eval_mode, logits
from manifold_mixup.lab.evaluate.neighbours import features

SURE = 0.95
"""A prediction with a greater probability counts as confident."""


class Plane(NamedTuple):
    """A square grid of points with the predicted probabilities.

    Attributes:
        low: the minimal coordinate of each axis, ``(2,)``.
        high: the maximal coordinate of each axis, ``(2,)``.
        points: the points, ``(side², 2)``; the second coordinate varies fastest.
        probabilities: the probabilities of the classes, ``(side², classes)``.
    """

    low: Tensor
    high: Tensor
    points: Tensor
    probabilities: Tensor

    @property
    def confident(self) -> float:
        """The share of the plane where the greatest probability is above `SURE`, in percent."""
        return 100 * (self.probabilities.max(1).values > SURE).double().mean().item()


def input_plane(model: nn.Module, x: Tensor, *, side: int = 200) -> Plane:
    """Classify a grid over the range of some inputs, extended by a tenth on each side.

    Args:
        model: returns logits for points, ``(n, 2)``.
        x: the inputs, ``(n, 2)``.
        side: number of points along an axis.
    """
    low, high, points = _grid(x, side)
    with in_eval_mode(model):
        return Plane(low, high, points, logits(model, points).double().softmax(1).cpu())


def hidden_plane(model: nn.Module, x: Tensor, layer: str, *, side: int = 200) -> Plane:
    """Classify a grid over the range of the hidden states of some inputs.

    Args:
        model: returns logits for ``x``.
        x: the inputs, ``(n, …)``.
        layer: a layer of two units.
        side: number of points along an axis.

    Raises:
        ValueError: the layer does not have two units, or there is no such layer.
    """
    states = features(model, x, layer=layer).cpu()
    if states.shape[1] != 2:
        raise ValueError(f"layer {layer!r} has {states.shape[1]} units. Expected two.")
    low, high, points = _grid(states, side)
    blank = torch.zeros(len(points), *x.shape[1:], dtype=x.dtype)
    with in_eval_mode(model), _replaced(model.get_submodule(layer), points):
        return Plane(low, high, points, logits(model, blank).double().softmax(1).cpu())


def _grid(x: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    low, high = x.min(0).values.cpu(), x.max(0).values.cpu()
    margin = 0.1 * (high - low)
    low, high = low - margin, high + margin
    axes = (torch.linspace(float(a), float(b), side) for a, b in zip(low, high, strict=True))
    return low, high, torch.cartesian_prod(*axes)


@contextmanager
def _replaced(layer: nn.Module, states: Tensor) -> Iterator[None]:
    """Replace the outputs of a layer by given states, the next rows at each call."""
    done = 0

    def replace(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        nonlocal done
        done += len(output)
        return states[done - len(output) : done].to(output)

    handle = layer.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
