"""Two spirals in the plane, the task of the paper's Figures 1 and 2."""

import math

import torch
from torch import Tensor

from manifold_mixup.lab.data.arrays import Data

PER_CLASS = 200
"""Training points per class; the paper does not state its number."""


def load(
    *, per_class: int = PER_CLASS, held_out: int = 1000, noise: float = 0.5, seed: int = 0
) -> Data:
    """Draw two spirals of radius up to 13.6 that wind around each other.

    A point has angle and radius ``√u · 780°`` (in radians) for a uniform ``u``, plus uniform noise
    from 0 to ``noise`` on both coordinates. The other class is the point reflection. This follows
    the widely used function ``twospirals``.

    Args:
        per_class: training points per class.
        held_out: test points per class.
        noise: the maximal shift of a coordinate; usually 0.5.
        seed: seed of the points.
    """
    generator = torch.Generator().manual_seed(seed)
    (x, y), (x_test, y_test) = (_draw(count, noise, generator) for count in (per_class, held_out))
    return Data("Two spirals", x, y, x_test, y_test, classes=2, eps=0.5, space="units of the plane")


def _draw(count: int, noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    turn = torch.rand(count, generator=generator).sqrt() * math.radians(780)
    shift = noise * torch.rand(count, 2, generator=generator)
    arm = torch.stack([-turn.cos() * turn, turn.sin() * turn], 1) + shift
    labels = torch.zeros(count, dtype=torch.long)
    return torch.cat([arm, -arm]), torch.cat([labels, labels + 1])
