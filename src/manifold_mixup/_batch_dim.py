"""Where a state holds the batch: at which dimension, and in which order of its rows."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manifold_mixup import _masks, _mix


@dataclass(frozen=True)
class BatchDim:
    """The dimension of a tensor that holds the batch.

    Attributes:
        dim: the dimension.
        folded: whether it holds several rows of each example, such as windows, channels or frames.
        grouped: whether folded rows are in the order of the groups, so that row ``k * batch + i``
            is of example ``i``; otherwise the rows of one example are neighbours.
    """

    dim: int = 0
    folded: bool = False
    grouped: bool = False

    def __str__(self) -> str:
        what = "several rows of each example" if self.folded else "the batch"
        return f"{what} at dimension {self.dim}"

    def fits(self, shape: tuple[int, ...], batch: int) -> bool:
        """Return whether a tensor of this shape holds such a batch."""
        if len(shape) <= self.dim:
            return False
        rows = shape[self.dim]
        return rows > 0 and rows % batch == 0 if self.folded else rows == batch

    def to_front(self, x: Tensor, batch: int) -> Tensor:
        """Return a view whose dimension 0 is the batch; folded rows get dimension 1."""
        if not self.folded:
            return x.movedim(self.dim, 0)
        groups = x.shape[self.dim] // batch
        sizes = (groups, batch) if self.grouped else (batch, groups)
        apart = x.view(*x.shape[: self.dim], *sizes, *x.shape[self.dim + 1 :])
        return apart.movedim(self._places(), (0, 1))

    def restore(self, x: Tensor) -> Tensor:
        """Undo `to_front`."""
        if not self.folded:
            return x.movedim(0, self.dim)
        return x.movedim((0, 1), self._places()).flatten(self.dim, self.dim + 1)

    def _places(self) -> tuple[int, int]:
        """Return where the examples and their rows are once they are apart."""
        return (self.dim + 1, self.dim) if self.grouped else (self.dim, self.dim + 1)

    def front_shape(self, shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
        """Return the shape of `to_front`."""
        others = shape[: self.dim] + shape[self.dim + 1 :]
        return (batch, *((shape[self.dim] // batch,) if self.folded else ()), *others)


def find(
    shape: tuple[int, ...], batch: int, resized: tuple[int, ...], other: int
) -> BatchDim | None:
    """Find the dimension that follows the batch size.

    Args:
        shape: the shape of a tensor for a batch of ``batch`` examples.
        batch: the number of examples.
        resized: its shape for another batch.
        other: the number of examples in that.

    Returns:
        the dimension, in the order of examples if it is folded; None if there is none, or several.
    """
    if len(shape) != len(resized):
        return None
    moved = [dim for dim, (one, two) in enumerate(zip(shape, resized, strict=True)) if one != two]
    if len(moved) != 1:
        return None
    (dim,) = moved
    if (shape[dim], resized[dim]) == (batch, other):
        return BatchDim(dim)
    groups = shape[dim] // batch
    if groups and (shape[dim], resized[dim]) == (groups * batch, groups * other):
        return BatchDim(dim, folded=True)
    return None


def mix_rows(
    x: Tensor,
    at: BatchDim | None,
    lam: Tensor,
    perm: Tensor,
    valid: Tensor | None = None,
    *,
    repeats: bool = False,
) -> Tensor:
    """Mix every example of a state with its partner.

    Args:
        x: the state.
        at: the dimension that holds the batch; None for dimension 0.
        lam: λ, ``()`` or ``(batch,)``.
        perm: the partners, ``(batch,)``.
        valid: the valid positions, ``(batch, time)``, if a padding mask is mixed too and ``x`` has
            positions.
        repeats: whether some examples are partners of several others.
    """
    if at is None:
        if valid is not None and x.shape[1:2] == valid.shape[1:]:
            return _masks.mix_states(x, lam, perm, valid, repeats=repeats)
        return _mix.apply(x, lam, perm, repeats=repeats)
    if valid is not None and at.front_shape(x.shape, perm.shape[0])[1:2] == valid.shape[1:]:
        front = at.to_front(x, perm.shape[0])
        mixed = _masks.mix_states(front, lam, perm, valid, repeats=repeats)
        return at.restore(mixed).contiguous()
    return _mix_within(x, at, lam, perm, repeats=repeats)


def _mix_within(x: Tensor, at: BatchDim, lam: Tensor, perm: Tensor, *, repeats: bool) -> Tensor:
    """Mix along a dimension as rows of dimension 0, so that the result is contiguous."""
    batch = perm.shape[0]
    outer, groups = math.prod(x.shape[: at.dim]), x.shape[at.dim] // batch
    if at.grouped:
        outer, groups = outer * groups, 1
    start = torch.arange(outer, device=perm.device)[:, None] * batch
    shares = lam.repeat(outer) if lam.ndim else lam
    rows = x.reshape(outer * batch, groups, *x.shape[at.dim + 1 :])
    mixed = _mix.apply(rows, shares, (start + perm).flatten(), repeats=repeats)
    return mixed.view(x.shape)
