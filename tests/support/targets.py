"""Targets and outputs drawn for the tests of losses, and criteria to try on them."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from states import randn

BATCH, CLASSES = 6, 5
IGNORE = -100
WEIGHT = torch.tensor([0.5, 1.0, 2.0, 0.1, 3.0])
SHAPES = [(BATCH,), (BATCH, 4), (BATCH, 3, 2)]
EACH_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=["classes", "tokens", "masks"])


def classes_of(shape, *, seed=2, ignored=False):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, shape, generator=generator)
    if ignored:
        y = torch.where(torch.rand(shape, generator=generator) < 0.3, IGNORE, y)
    return y


def scores_of(shape, *, seed=3):
    """Return (batch, classes, *positions)."""
    return randn(shape[0], CLASSES, *shape[1:], seed=seed).requires_grad_()


def assert_same_loss(ours, expected, output):
    torch.testing.assert_close(ours, expected)
    grads = [
        torch.autograd.grad(loss.sum(), output, retain_graph=True) for loss in (ours, expected)
    ]
    torch.testing.assert_close(*grads)


class Argument(nn.Module):
    """A criterion that takes its reduction as an argument."""

    def forward(self, output, target, reduction="mean"):
        return F.cross_entropy(output, target, weight=WEIGHT, reduction=reduction)


@dataclass(frozen=True)
class Unchanging:
    """A criterion whose attributes cannot be set."""

    reduction: str = "mean"

    def __call__(self, output, target):
        return F.cross_entropy(output, target, weight=WEIGHT, reduction=self.reduction)


class Focal(nn.Module):
    """A user's criterion with a standard reduction."""

    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, output, target):
        nll = F.cross_entropy(output, target, reduction="none")
        focal = (1 - torch.exp(-nll)) ** 2 * nll
        return {"mean": focal.mean, "sum": focal.sum, "none": lambda: focal}[self.reduction]()
