"""Find the positions of dense targets, which follow the state's: maps, masks, a class per token."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from manifold_mixup._batch_first import batch_first
from manifold_mixup._holes import Holes
from manifold_mixup._mix import is_continuous
from manifold_mixup._plan import MixPlan, Weight
from manifold_mixup._target.shares import Shares, TargetPositions
from manifold_mixup._transport import Transport
from manifold_mixup._tree import leaves

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


def shares_of(
    value: Any,
    plan: MixPlan,
    *,
    dim: int = 0,
    dense: Dense = None,
    probabilities: bool = False,
) -> Shares | None:
    """Return the share that each position of a target keeps; None if it has no positions.

    Args:
        value: a tensor, or a container of tensors.
        plan: the plan.
        dim: the dimension that holds the batch.
        dense: whether the target has positions, or the dimensions that they are: one for each
            axis, or one that holds them row by row. None finds out.
        probabilities: whether floating targets are of classes, at dimension 1.

    Raises:
        TypeError: the plan moves positions.
        ValueError: some of its tensors have positions and others do not, or their sides are no
            multiples of the state's, or it is not clear which dimensions are positions.
        RuntimeError: the plan does not tell the shares.
    """
    if plan.weight is None or dense is False:
        return None
    grid = _Grid(_sides(plan.weight), dense=dense, probabilities=probabilities, batch_dim=dim)
    places = {
        path: TargetPositions(
            tuple(leaf.shape), grid.dims(leaf, repr(path) if path else "the target")
        )
        for path, leaf in leaves(batch_first(value, dim))
    }
    if not any(place.dims for place in places.values()):
        return None
    if not all(place.dims for place in places.values()):
        has = next(path for path, place in places.items() if place.dims)
        none = next(path for path, place in places.items() if not place.dims)
        raise ValueError(
            f"{has!r} has positions, which follow those of the state, but {none!r} has none, and "
            f"counts by the share of the example. Give it a value for each position too, or "
            f"compute the losses apart, each with mixup.target(...)."
        )
    return Shares(_own(plan), places, plan, dim)


def _sides(weight: Weight) -> tuple[int, ...] | None:
    """Return the sides of the state's grid, if the weights tell."""
    if isinstance(weight, Holes) and weight.drawn is not None:
        return tuple(weight.drawn.shape[2:])
    return tuple(weight.shape[1:]) if isinstance(weight, Tensor) else None


def _own(plan: MixPlan) -> Tensor:
    """Return the share that each position of the state keeps."""
    weight = plan.weight
    if isinstance(weight, Tensor):
        return weight
    if isinstance(weight, Holes) and weight.drawn is not None:
        return weight.shares(plan.lam)
    if isinstance(weight, Transport):
        raise TypeError(
            f"the target has positions, but those of the state were moved onto others, by "
            f"{weight!r}, so none is at the place of its target. Use blend=PatchUp() or Cut(), "
            f"whose positions stay, or dense=False, which counts the whole target by λ."
        )
    raise RuntimeError(
        f"the target has positions, whose shares follow from the state at {plan.layer!r}, by "
        f"{weight!r}, but the plan does not hold them: no pass has completed it, or it has a "
        f"label= of its own, so that no pass does. Use mixup.plan after the forward pass, and no "
        f"label=; or dense=False, which counts the whole target by its share."
    )


class _Grid:
    """The positions at which a state was weighed, and which dimensions of targets follow them.

    Args:
        sides: the sides of the grid by which the state was weighed; None if they are not known.
        dense: see `shares_of`.
        probabilities: whether floating targets are of classes, at dimension 1.
        batch_dim: the dimension that held the batch, which is in front here.
    """

    def __init__(
        self,
        sides: tuple[int, ...] | None,
        *,
        dense: Dense,
        probabilities: bool,
        batch_dim: int,
    ) -> None:
        self.sides, self.axes = sides, len(sides or (0,))
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
                f"dimension {at}, and the state was mixed along {self.axes} axes. Name as many of "
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
            f"the {self._grid()} positions at which the state was mixed. Choose sizes that are, a "
            f"layer with others, or dense=False if it has no positions."
        )

    def _unclear(self, y: Tensor, what: str, found: Sequence[tuple[int, ...]]) -> str:
        at = self.batch_dim if y.ndim > self.batch_dim else 0
        named = sorted(tuple(dim - 1 if dim <= at else dim for dim in dims) for dims in found)
        return (
            f"{what} has shape {self._shape(y)}, and the state was mixed at {self._grid()} "
            f"positions: which dimensions of the target are these? Pass "
            f"{' or '.join(f'dense={dims}' for dims in named)} to mixup.wrap or mixup.target, or "
            f"dense=False if none are."
        )

    def _grid(self) -> str:
        return " × ".join(map(str, self.sides or ()))
