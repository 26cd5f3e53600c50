"""Two spirals in the plane, the task of the paper's Figures 1 and 2."""

import math

import torch
from torch import Tensor

from manifold_mixup.lab.data.arrays import Data

PER_CLASS = 200
"""Training points of a class; the paper does not say how many it drew."""


def load(
    *, per_class: int = PER_CLASS, held_out: int = 1000, noise: float = 0.5, seed: int = 0
) -> Data:
    """Draw two spirals of radius up to 13.6 that wind around each other.

    A point lies at angle and radius ``√u · 780°`` (in radians), with noise of 0 to ``noise`` on
    both coordinates; the other class is its mirror image. This is how the function ``twospirals``
    commonly draws them.

    Args:
        per_class: training points of a class.
        held_out: test points of a class.
        noise: the greatest shift of a coordinate; 0.5 is usual.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    (x, y), (x_test, y_test) = (_draw(count, noise, generator) for count in (per_class, held_out))
    return Data("two spirals", x, y, x_test, y_test, classes=2, eps=0.5, space="units of the plane")


def _draw(count: int, noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    turn = torch.rand(count, generator=generator).sqrt() * math.radians(780)
    shift = noise * torch.rand(count, 2, generator=generator)
    arm = torch.stack([-turn.cos() * turn, turn.sin() * turn], 1) + shift
    labels = torch.zeros(count, dtype=torch.long)
    return torch.cat([arm, -arm]), torch.cat([labels, labels + 1])
