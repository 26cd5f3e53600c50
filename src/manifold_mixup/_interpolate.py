"""The arithmetic of a mix, each way where it is the fastest: ``own * x + other * x[perm]``.

All ways give the same numbers: at least float32, rounded once. An ``other`` of None is ``1 - own``.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

_SHARE = 2**15
"""Numbers that PyTorch gives a thread before it wakes another one."""

_CHUNK = 2**20
"""Numbers that are computed on at once where copies are needed: they stay in the cache."""


def interpolate(x: Tensor, own: Tensor, other: Tensor | None, perm: Tensor) -> Tensor:
    """Mix the rows of a state.

    Args:
        x: the state, ``(batch, *features)``.
        own: weight of each example, or of all, in the type of the arithmetic.
        other: weight of each partner, ``(batch,)``.
        perm: the partners.
    """
    if torch.compiler.is_compiling():
        return in_one_expression(x, own, other, perm)
    # A GPU would be waited for by each number that is read, and has no cache to stay in.
    eager = x.device.type == own.device.type == "cpu" and type(x) is type(own) is Tensor
    converted = x.dtype != own.dtype
    if eager and other is None and _rows_fill_threads(x):
        return _row_by_row(x, own, perm)
    if eager and other is None and converted and not own.ndim:
        return _gather(x, perm).lerp_(x, own.item())  # by a number, it computes in float32 itself
    if eager and converted and x.numel() > _CHUNK:
        return _in_chunks(x, own, other, perm)
    return _gather_and_mix(x, x, own, other, perm).to(x.dtype)


def in_one_expression(x: Tensor, own: Tensor, other: Tensor | None, perm: Tensor) -> Tensor:
    """Leave it to the compiler, which fuses it.

    What a Function changes in place, and a conversion to the type it has, cost the gradient in the
    compiler of PyTorch 2.11, in silence.
    """
    if x.dtype != own.dtype:
        return in_one_expression(x.to(own.dtype), own, other, perm).to(x.dtype)
    partner = x.index_select(0, perm)
    if other is None:
        return torch.lerp(partner, x, _over_rows(own, x))
    return torch.addcmul(partner * _over_rows(other, x), x, _over_rows(own, x))


def _rows_fill_threads(x: Tensor) -> bool:
    """Return whether all threads can share a row, at least two: then a call for each row pays."""
    return x.numel() > _SHARE * max(1, torch.get_num_threads() - 1) * len(x)


def _row_by_row(x: Tensor, own: Tensor, perm: Tensor) -> Tensor:
    """Read both rows and write the mixed one, in one pass: nothing is gathered first."""
    mixed = torch.empty_like(x)
    rows, into = x.unbind(), mixed.unbind()
    weights, partners = own.expand(len(x)).tolist(), perm.tolist()
    for row in _along_cycles(partners):
        torch.lerp(rows[partners[row]], rows[row], weights[row], out=into[row])
    return mixed


def _along_cycles(partners: list[int]) -> Iterator[int]:
    """Go from each row to its partner, which has just been read: the cache still holds it."""
    left = [True] * len(partners)
    for row in range(len(partners)):
        while left[row]:
            left[row] = False
            yield row
            row = partners[row]


def _in_chunks(x: Tensor, own: Tensor, other: Tensor | None, perm: Tensor) -> Tensor:
    """Compute some rows at a time, so that what is copied for it is small."""
    mixed = torch.empty_like(x)
    count = max(1, _CHUNK * len(x) // x.numel())
    for start in range(0, len(x), count):
        these = slice(start, start + count)
        own_here = own[these] if own.ndim else own
        other_here = None if other is None else other[these]
        mixed[these] = _gather_and_mix(x, x[these], own_here, other_here, perm[these])
    return mixed


def _gather_and_mix(
    x: Tensor, rows: Tensor, own: Tensor, other: Tensor | None, perm: Tensor
) -> Tensor:
    """Gather the partners of some rows and mix in place: one allocation in the type of ``own``."""
    partners, rows = _gather(x, perm).to(own.dtype), rows.to(own.dtype)
    if other is None:
        return partners.lerp_(rows, _over_rows(own, x))  # exact where both rows are equal
    return partners.mul_(_over_rows(other, x)).addcmul_(rows, _over_rows(own, x))


def _over_rows(weight: Tensor, x: Tensor) -> Tensor:
    return weight.view(-1, *(1 for _ in x.shape[1:])) if weight.ndim else weight


def _gather(x: Tensor, perm: Tensor) -> Tensor:
    """Return ``x[perm]``, laid out in memory as ``x`` is."""
    channels_last = _CHANNELS_LAST.get(x.ndim)
    if channels_last is None or not x.is_contiguous(memory_format=channels_last):
        return x.index_select(0, perm)
    shape = (len(perm), *x.shape[1:])
    gathered = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=channels_last)
    torch.index_select(x.movedim(1, -1), 0, perm, out=gathered.movedim(1, -1))
    return gathered


IN_BACKWARD = (
    interpolate, in_one_expression, _rows_fill_threads, _row_by_row, _along_cycles, _in_chunks,
    _gather_and_mix, _over_rows, _gather,
)  # fmt: skip
"""The functions that the autograd engine runs: frames of their own for the compiler."""
