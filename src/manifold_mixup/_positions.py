"""Positions: the dimensions of a state that are places, in time or in space."""

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Positions:
    """The dimensions of a tensor that are positions, such as height and width, or tokens.

    Attributes:
        dims: the dimensions, in the tensor's own order, in which its batch dimension counts; empty
            if it has none. A dimension of length 1 is none.
        grid: the sides of the grid of patches that tokens were made of, row by row; None for
            anything else. Only tokens, a single dimension, may have one.
        first: the number of tokens before the patches: class tokens, registers. Tokens after the
            patches belong to none of them either.
    """

    dims: tuple[int, ...]
    grid: tuple[int, ...] | None = None
    first: int = 0

    @property
    def axes(self) -> int:
        """Number of axes of a box of positions."""
        return len(self.dims if self.grid is None else self.grid)

    def moved(self, source: int, to: int) -> "Positions":
        """Return the same for a tensor of which one dimension, no position, is moved elsewhere."""
        ndim = max(self.dims, default=0) + max(source, to) + 1
        order = [dim for dim in range(ndim) if dim != source]
        order.insert(to, source)
        return replace(self, dims=tuple(sorted(order.index(dim) for dim in self.dims)))

    def sides(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the number of positions along each axis, for a tensor of this shape.

        Args:
            shape: the tensor's shape, including its batch dimension.

        Raises:
            ValueError: the tensor lacks one of the dimensions, or has too few tokens for the grid.
        """
        if any(dim >= len(shape) for dim in self.dims):
            raise ValueError(
                f"dimensions {self.dims} are the positions, but the state has shape {shape}"
            )
        if self.grid is None:
            return tuple(shape[dim] for dim in self.dims)
        tokens, least = shape[self.dims[0]], self.first + math.prod(self.grid)
        if tokens < least:
            sides = " × ".join(map(str, self.grid))
            raise ValueError(
                f"a grid of {sides} patches after {self.first} other tokens needs at least {least} "
                f"tokens, but dimension {self.dims[0]} of the state of shape {shape} has {tokens}. "
                f"Inspect the model with inputs of this size"
            )
        return self.grid
