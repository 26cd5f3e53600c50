"""Matrices of the proof whose products take a small part of the time.

A thin matrix is an overlapping view of a few numbers: entry (o, i) is number ``step * o + i`` of a
pool (see `manifold_mixup._proof.thin`). Here the pool is a sum of waves and of single spikes:

- a wave is a matrix of rank 2, because ``cos(a + b)`` is ``cos a cos b - sin a sin b``;
- the spikes are a row's length apart, so that each row of the matrix has one, and each column where
  there are as many rows. They give the matrix full rank.

So a product with it is one with two narrow matrices, and a gather. It is that product, up to
rounding: any other operator finds the same numbers in the tensor itself.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_WAVES = 4
# Angles are multiples of a turn divided by this, so that integers tell them without rounding.
_TURN = 2**31 - 1
_ADDMM = torch.ops.aten.addmm.default
_MM = torch.ops.aten.mm.default

# For each column of a matrix, one row that has a spike there, and the spike.
Spikes = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Factors:
    """A matrix ``left @ right`` plus spikes, of shape (m, n).

    Attributes:
        left: its transpose, ``(2 * waves, m)``: so the product is made in the fastest order.
        right: ``(2 * waves, n)``.
        spikes: rows with spikes, for each column of the matrix; several if there are more rows.
    """

    left: Tensor
    right: Tensor
    spikes: tuple[Spikes, ...]

    def times(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``x @ matrix``, plus a bias."""
        narrow = (self.left @ x.t()).t()
        made = narrow @ self.right if bias is None else torch.addmm(bias, narrow, self.right)
        for rows, heights in self.spikes:
            made.addcmul_(x.gather(1, rows.expand(len(x), -1)), heights)
        return made


def draw(
    pool: Tensor, shape: torch.Size, step: int, generator: torch.Generator
) -> tuple[Factors, Factors]:
    """Draw the numbers of a matrix with variance 2 / columns, and return it and its transpose.

    Args:
        pool: the numbers, which are overwritten.
        shape: that of the matrix.
        step: by how many numbers a row is shifted against the one before, prime to the columns.
        generator: the generator to draw from.
    """
    rows, columns = shape
    given: Any = {"generator": generator, "device": "cpu"}
    speeds = torch.randint(1, _TURN, (_WAVES,), **given)
    starts = torch.randint(_TURN, (_WAVES,), **given)
    first = int(torch.randint(columns, (), **given))
    spikes = torch.arange(first, len(pool), columns, device="cpu")
    heights = 1 + (torch.rand(len(spikes), **given) - 0.5) / 2
    heights = torch.where(torch.rand(len(spikes), **given) < 0.5, heights, -heights).to(pool.dtype)
    size = math.sqrt(2 / _WAVES / columns)
    turn = torch.tensor(2 * math.pi / _TURN, dtype=torch.float64, device="cpu")

    def waves(places: Tensor) -> Tensor:
        """Return the part of a place in each wave's value at a sum of two places."""
        angles = (places * speeds[:, None] + starts[:, None]) % _TURN * turn
        return torch.cat([size * angles.cos(), -size * angles.sin()])

    by_column = torch.arange(columns, device="cpu") * speeds[:, None] % _TURN * turn
    right = torch.cat([by_column.cos(), by_column.sin()])
    by_piece = waves(torch.arange(0, len(pool), columns, device="cpu"))
    pool.copy_((by_piece.t() @ right).flatten()[: len(pool)])
    pool[spikes] += heights
    left = waves(step * torch.arange(rows, device="cpu")).to(pool.dtype)
    right = right.to(pool.dtype)
    of_row = step * torch.arange(rows, device="cpu")
    at = (first - of_row) % columns
    heights = heights[(of_row + at - first) // columns]
    matrix = Factors(left, right, tuple(_by_column(at, heights, columns)))
    return matrix, Factors(right, left, ((at, heights),))


def _by_column(at: Tensor, heights: Tensor, columns: int) -> Iterable[Spikes]:
    """Yield, for each column, a row with a spike there; as many rows as columns have one each."""
    for start in range(0, len(at), columns):
        rows = torch.arange(start, min(start + columns, len(at)), device="cpu")
        which, size = at.new_zeros(columns), heights.new_zeros(columns)
        which[at[rows]], size[at[rows]] = rows, heights[rows]
        yield which, size


class Products:
    """Computes products with thin matrices by their factors.

    Args:
        matrices: the parameters that may have factors.
    """

    def __init__(self, matrices: Iterable[Tensor]) -> None:
        self._known: dict[Any, tuple[Factors, Tensor, Tensor]] = {}
        for matrix in matrices:
            if (drawn := vars(matrix).get("_factors")) is not None:
                pool = vars(matrix)["_pool"]
                kept = pool.clone()
                for view, factors in zip((matrix, matrix.t()), drawn, strict=True):
                    self._known[_form(view)] = factors, pool, kept

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """Return the result of an operator; NotImplemented unless it is such a product."""
        if kwargs or not (func is _MM or (func is _ADDMM and len(args) == 3)):
            return NotImplemented
        known = self._known.get(_form(args[-1]))
        # Code may have written into the numbers.
        if known is None or not torch.equal(known[1], known[2]):
            return NotImplemented
        bias = args[0] if func is _ADDMM else None
        return known[0].times(args[-2], bias)


def _form(tensor: Tensor) -> Any:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
