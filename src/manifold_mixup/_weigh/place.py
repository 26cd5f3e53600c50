"""Where a tensor holds positions, and how its dimensions follow the grid that is cut."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from manifold_mixup._batch_dim import BatchDim
from manifold_mixup._positions import Positions


@dataclass(frozen=True)
class Place:
    """Where a tensor holds positions, and how they follow the grid that is cut.

    Attributes:
        positions: its positions.
        factor: on each axis, how many of its positions are one of the grid.
        several: whether other tensors with positions are mixed with it.
    """

    positions: Positions
    factor: tuple[int, ...]
    several: bool = False

    def grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the sides of the grid for a tensor of this shape.

        Raises:
            ValueError: its sides are no multiples of the factor.
        """
        sides = self.positions.sides(shape)
        pairs = list(zip(sides, self.factor, strict=True))
        if any(side % factor for side, factor in pairs):
            raise ValueError(
                f"a state with sides {sides} is mixed with one that is coarser by the factors "
                f"{self.factor}, which do not divide its sides. Choose sizes of the input for "
                f"which they do, or another layer."
            )
        return tuple(side // factor for side, factor in pairs)


def require_place(place: Place | None, x: Tensor, at: BatchDim | None) -> Place:
    """Return the place.

    Raises:
        ValueError: it is not known, or the state has no positions, or one of them is the batch.
    """
    if place is None or not place.positions.dims:
        raise ValueError(
            f"the plan weighs positions, but of the state of shape {tuple(x.shape)} it is not "
            f"known which dimensions those are. Attach with blend=Cut(dims=...), or choose a layer "
            f"with positions."
        )
    batch = 0 if at is None else at.dim
    if batch in place.positions.dims:
        raise ValueError(
            f"dims={place.positions.dims} are said to be positions, but dimension {batch} of the "
            f"state of shape {tuple(x.shape)} holds the batch. Name the others in Cut(dims=...)."
        )
    return place


def least_grid(sides: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """Return the coarsest of several grids; None if it does not divide the others."""
    least = tuple(min(of) for of in zip(*sides, strict=True))
    divides = all(
        side % coarse == 0 for of in sides for side, coarse in zip(of, least, strict=True)
    )
    return least if divides and math.prod(least) else None


def tokens_of(x: Tensor, at: BatchDim | None, place: Place, batch: int) -> Tensor:
    """Return a state as ``(batch, positions, features)``, class tokens included."""
    front = x if at is None else at.to_front(x, batch)
    dims = [in_front(dim, at) for dim in place.positions.dims]
    others = [dim for dim in range(1, front.ndim) if dim not in dims]
    moved = front.permute(0, *dims, *others)
    return moved.reshape(batch, math.prod(moved.shape[1 : 1 + len(dims)]), -1)


def patches_of(tokens: Tensor, place: Place) -> Tensor:
    """Return the tokens that are positions, without class tokens and registers."""
    grid, first = place.positions.grid, place.positions.first
    return tokens if grid is None else tokens[:, first : first + math.prod(grid)]


def dims_of(shape: Sequence[int], place: Place, at: BatchDim | None) -> tuple[list[int], list[int]]:
    """Return which dimensions of a state are positions, and which are features, batch first."""
    dims = [in_front(dim, at) for dim in place.positions.dims]
    return dims, [dim for dim in range(1, len(shape)) if dim not in dims]


def features_of(shape: Sequence[int], place: Place, at: BatchDim | None) -> list[int]:
    return [shape[dim] for dim in dims_of(shape, place, at)[1]]


def in_front(dim: int, at: BatchDim | None) -> int:
    """Return where a dimension is once the batch is in front."""
    return dim if at is None or dim > at.dim else dim + 1


def refined(own: Tensor, sides: Sequence[int]) -> Tensor:
    """Repeat weights of a coarser grid.

    Raises:
        ValueError: the sides are no multiples of the grid's.
    """
    first = own.ndim - len(sides)
    grid = own.shape[first:]
    for axis, (side, coarse) in enumerate(zip(sides, grid, strict=True)):
        if side % coarse:
            raise ValueError(
                f"the plan's weights have sides {tuple(grid)}, which do not divide those of the "
                f"state, {tuple(sides)}."
            )
        if side != coarse:
            own = own.repeat_interleave(side // coarse, first + axis)
    return own
