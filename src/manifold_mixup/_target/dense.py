"""Select dense targets by the box that the state was cut by: maps, masks, a class per token."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manifold_mixup._front import back, front
from manifold_mixup._mix import is_continuous
from manifold_mixup._plan import MixPlan, Weight
from manifold_mixup._tree import leaves, map_leaves
from manifold_mixup._weigh import refined

Dense = bool | Sequence[int] | None
"""Whether a target has positions, or which of its dimensions they are; None finds out."""


def check_dense(dense: object) -> None:
    """Raise unless ``dense`` is True, False, None or different dimensions of a target.

    Raises:
        TypeError: it is something else.
        ValueError: dimensions are negative, missing or named twice.
    """
    if isinstance(dense, bool | None):
        return
    dims = dense if isinstance(dense, tuple | list) else (dense,)
    if dims is not dense or not all(type(dim) is int for dim in dims):
        raise TypeError(
            f"dense must be True, False, None or dimensions of the target, as in (1, 2), but is "
            f"{dense!r}."
        )
    if not dims or min(dims) < 0 or len(set(dims)) < len(dims):
        raise ValueError(f"dense must name different dimensions from 0 on, but is {dense!r}.")


def selected(
    value: Any,
    plan: MixPlan,
    *,
    dim: int = 0,
    dense: Dense = None,
    probabilities: bool = False,
) -> Any:
    """Return a target with each position from the example that gave it; None if it has none.

    Args:
        value: a tensor, or a container of tensors.
        plan: the plan.
        dim: the dimension that holds the batch.
        dense: whether the target has positions, or the dimensions that they are: one for each
            axis, or one that holds them row by row. None finds out.
        probabilities: whether floating targets are of classes, at dimension 1.

    Raises:
        TypeError: positions have a fraction of both targets.
        ValueError: some of its tensors have positions and others do not, or their sides are no
            multiples of the box's, or it is not clear which dimensions are positions.
    """
    if plan.weight is None or dense is False:
        return None
    value = front(value, dim)
    grid = _Grid(plan.weight, dense=dense, probabilities=probabilities, batch_dim=dim)
    dims = {
        path: grid.dims(leaf, repr(path) if path else "the target") for path, leaf in leaves(value)
    }
    if not any(dims.values()):
        return None
    if not all(dims.values()):
        has = next(path for path, found in dims.items() if found)
        none = next(path for path, found in dims.items() if not found)
        raise ValueError(
            f"{has!r} has positions, which are selected by the box that the state was cut "
            f"by, but {none!r} has none, and counts by its share. Give it a value for each "
            f"position too, or compute the losses apart, each with mixup.target(...)."
        )
    weight = plan.weight
    if not isinstance(weight, Tensor) or weight.dtype != torch.bool:
        raise TypeError(
            f"the target has positions, but each position of the state is partly of both examples, "
            f"by {'weights' if isinstance(weight, Tensor) else weight!r}. Use blend=Cut(), whose "
            f"positions are of one, or dense=False if the target has none."
        )
    return back(map_leaves(lambda path, leaf: _select(leaf, weight, plan, dims[path]), value), dim)


def _select(y: Tensor, own: Tensor, plan: MixPlan, dims: tuple[int, ...]) -> Tensor:
    own = own.to(y.device)
    own = own.flatten(1) if len(dims) < own.ndim - 1 else own  # positions row by row
    own = refined(own, [y.shape[dim] for dim in dims])
    shape = [own.shape[0], *(1 for _ in y.shape[1:])]
    for axis, dim in enumerate(dims):
        shape[dim] = own.shape[1 + axis]
    return torch.where(own.view(shape), y, y[plan.perm.to(y.device)])


class _Grid:
    """The positions at which a state was cut, and which dimensions of targets follow them.

    Args:
        weight: how the state was weighed.
        dense: see `selected`.
        probabilities: whether floating targets are of classes, at dimension 1.
        batch_dim: the dimension that held the batch, which is in front here.
    """

    def __init__(
        self, weight: Weight, *, dense: Dense, probabilities: bool, batch_dim: int
    ) -> None:
        known = isinstance(weight, Tensor)
        self.sides = tuple(weight.shape[1:]) if known else None  # type: ignore[union-attr]
        self.axes = len(self.sides or (0,))
        self.dense, self.probabilities, self.batch_dim = dense, probabilities, batch_dim

    def dims(self, y: Tensor, what: str) -> tuple[int, ...]:
        """Return the dimensions of a target that are positions; none if it has none."""
        if isinstance(self.dense, Sequence):
            return self._declared(self.dense, y, what)
        labels = self.probabilities or not is_continuous(y)
        lead = 2 if self.probabilities and is_continuous(y) else 1  # the batch, and classes
        spare = y.ndim - lead - self.axes
        if self.sides is None:
            return tuple(range(1, y.ndim)) if self.dense or spare >= (not labels) else ()
        blocks, flat = self._blocks(y, lead), self._flat(y, lead) if spare <= 0 else []
        if not self.dense and spare <= 0:
            values = not labels and self.axes == 1  # (batch, n), of any meaning
            if not flat and (spare < 0 or (values and (not blocks or self.sides == (1,)))):
                return ()
            if values or (spare < 0 and not labels):
                raise ValueError(self._unclear(y, what, [*blocks, *flat]))
        if spare < 0 and not flat:
            raise ValueError(
                f"dense=True, but {what} of shape {self._shape(y)} has not {self.axes} dimensions "
                f"of positions beside the batch."
            )
        return self._chosen(y, what, blocks, flat, sure=labels and spare <= 0)

    def _chosen(
        self,
        y: Tensor,
        what: str,
        blocks: list[tuple[int, ...]],
        flat: list[tuple[int, ...]],
        *,
        sure: bool,
    ) -> tuple[int, ...]:
        found = [*blocks, *flat]
        if not found:
            raise ValueError(self._unfit(y, what))
        if sure or math.prod(self.sides or ()) == 1:
            return found[0]
        even = [dims for dims in blocks if self._is_even(y, dims)]
        # A map has more positions on all axes alike; (batch, objects, 4) only by chance.
        if len(found) == 1 and (self.dense or even or y.ndim > 1 + self.axes):
            return found[0]
        if len(even) == 1 and not flat:
            return even[0]
        raise ValueError(self._unclear(y, what, found))

    def _blocks(self, y: Tensor, lead: int) -> list[tuple[int, ...]]:
        """List the blocks of dimensions that may be positions: the last, and the first.

        PyTorch's losses take (batch, classes, *positions); others (batch, *positions, ...).
        """
        starts = dict.fromkeys((y.ndim - self.axes, lead))
        blocks = [tuple(range(start, start + self.axes)) for start in starts if start >= lead]
        return [dims for dims in blocks if dims[-1] < y.ndim and self._fits(y, dims)]

    def _flat(self, y: Tensor, lead: int) -> list[tuple[int, ...]]:
        """List the dimensions that may hold the positions of several axes, row by row."""
        if self.axes == 1:
            return []
        dims = [(dim,) for dim in range(lead, y.ndim)]
        return [dim for dim in dims if self._fits(y, dim)]

    def _fits(self, y: Tensor, dims: Sequence[int]) -> bool:
        sides = self.sides or ()
        if len(dims) < len(sides):
            return bool(y.shape[dims[0]] == math.prod(sides))
        return all(y.shape[dim] % side == 0 for dim, side in zip(dims, sides, strict=True))

    def _is_even(self, y: Tensor, dims: Sequence[int]) -> bool:
        pairs = zip(dims, self.sides or (), strict=True)
        return len({y.shape[dim] // side for dim, side in pairs}) == 1

    def _declared(self, dense: Sequence[int], y: Tensor, what: str) -> tuple[int, ...]:
        """Return the dimensions that the user declared, with the batch in front."""
        at = self.batch_dim if y.ndim > self.batch_dim else 0
        dims = sorted(dim + 1 if dim < at else dim for dim in dense if dim != at)
        there = len(dims) == len(dense) and dims[-1] < y.ndim
        if not there or (self.sides is not None and len(dims) not in (1, self.axes)):
            raise ValueError(
                f"dense={tuple(dense)}, but {what} has shape {self._shape(y)}, the batch at "
                f"dimension {at}, and the state was cut along {self.axes} axes. Name as many of "
                f"its other dimensions, or one that holds all positions row by row."
            )
        if self.sides is not None and not self._fits(y, dims):
            raise ValueError(self._unfit(y, what))
        return tuple(dims)

    def _shape(self, y: Tensor) -> tuple[int, ...]:
        """Return the shape that the target had, before its batch was moved to the front."""
        return tuple(y.movedim(0, self.batch_dim).shape if y.ndim > self.batch_dim else y.shape)

    def _unfit(self, y: Tensor, what: str) -> str:
        return (
            f"{what} of shape {self._shape(y)} has positions, but its sides are no multiples of "
            f"the {self._cut_at()} positions at which the state was cut. Choose sizes that are, a "
            f"layer with others, or dense=False if it has no positions."
        )

    def _unclear(self, y: Tensor, what: str, found: Sequence[tuple[int, ...]]) -> str:
        at = self.batch_dim if y.ndim > self.batch_dim else 0
        named = sorted(tuple(dim - 1 if dim <= at else dim for dim in dims) for dims in found)
        return (
            f"{what} has shape {self._shape(y)}, and the state was cut at {self._cut_at()} "
            f"positions: which dimensions of the target are these? Pass "
            f"{' or '.join(f'dense={dims}' for dims in named)} to mixup.wrap or mixup.target, or "
            f"dense=False if none are."
        )

    def _cut_at(self) -> str:
        return " × ".join(map(str, self.sides or ()))
