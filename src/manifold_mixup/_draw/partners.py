"""Draw the partners of a batch."""

from typing import Any

import torch
from torch import Tensor

from manifold_mixup._draw.pairs import Near, Pairs, check_partners

PERMUTED = ("any", "same_class")
"""The rules whose partners are a permutation."""


def partners(pairs: Pairs, y: Any, batch: int, generator: torch.Generator) -> Tensor:
    """Draw the partners, int64 ``(batch,)``."""
    if pairs == "any":
        return permutation(batch, generator)
    if pairs == "same_class":
        return _partners_of_same_class(y, generator)
    if pairs == "other_class":
        return _partners_of_other_class(y, generator)
    if isinstance(pairs, Near):
        return torch.multinomial(pairs.weights(y), 1, generator=generator)[:, 0]
    return check_partners(pairs(y, generator), batch)


def permutation(batch: int, generator: torch.Generator) -> Tensor:
    """Draw a uniform permutation, int64 ``(batch,)``."""
    return torch.randperm(batch, generator=generator, device="cpu")


def _partners_of_same_class(y: Tensor, generator: torch.Generator) -> Tensor:
    """Permute the rows of each class, uniformly."""
    rows, others = (_shuffled_by_class(y, generator) for _ in range(2))
    perm = torch.empty_like(rows)
    perm[rows] = others
    return perm


def _shuffled_by_class(y: Tensor, generator: torch.Generator) -> Tensor:
    """Return all rows sorted by class, those of each class in random order."""
    order = permutation(len(y), generator)
    return order[y[order].long().argsort(stable=True)]


def _partners_of_other_class(y: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a row of another class for each row; a row keeps itself if there is none."""
    order = y.long().argsort(stable=True)
    _, inverse, counts = y.long().unique(return_inverse=True, return_counts=True)
    first = (counts.cumsum(0) - counts)[inverse]
    same_class = counts[inverse]
    others = len(y) - same_class
    drawn = torch.rand(len(y), dtype=torch.float64, generator=generator, device="cpu")
    place = (drawn * others).long().clamp(max=len(y) - 1)
    place = torch.where(place < first, place, place + same_class)  # skips the own class
    rows = torch.arange(len(y), device="cpu")
    return torch.where(others == 0, rows, order[place.clamp(max=len(y) - 1)])
