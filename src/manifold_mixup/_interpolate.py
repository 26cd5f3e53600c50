"""The arithmetic of mixing, ``own * x + other * x[perm]``, by the fastest way for each case.

All ways give the same result: computed in at least float32, rounded once. An ``other`` of None
means ``1 - own``.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from manifold_mixup import _bits
from manifold_mixup._operators import stored

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

_SHARE = 2**15
"""Elements that PyTorch gives one thread before it starts another."""

_GATHERED, _SORTED = 2**14, 256
"""Elements from which on, and rows up to which, sorting and gathering is faster than scattering."""

_CHUNK = 2**20
"""Elements per chunk where copies are needed, so that the copies stay in the cache."""


def interpolate(
    x: Tensor, own: Tensor, other: Tensor | None, perm: Tensor, inside: Tensor | None = None
) -> Tensor:
    """Mix the rows of a state.

    Args:
        x: the state, ``(batch, *features)``.
        own: weight of each example, or one for all, in the dtype of the arithmetic; or with as many
            dimensions as ``x``, a weight of each position.
        other: weight of each partner, with as many dimensions.
        perm: the partners.
        inside: where rows are mixed, if they keep the rest: bool, ``(1, *features)``.
    """
    if other is None and inside is None and is_small(x, own):  # nothing below pays
        return mix_small(x, own, perm)
    # On a GPU, reading a number would synchronise, and there is no cache to stay in.
    eager = x.device.type == own.device.type == "cpu" and type(x) is type(own) is Tensor
    exact = x.dtype == own.dtype
    numbers = other is None and own.ndim < 2  # which lerp takes in any dtype
    restorable = inside is None or _bits.has_bits(x)
    if eager and restorable and (exact or numbers) and rows_fill_threads(x):
        return _row_by_row(x, own, other, perm, inside)
    if eager and other is None and not exact and not own.ndim:
        mixed = gather(x, perm).lerp_(x, own.item())  # a number: lerp_ computes in float32
    elif eager and not exact and x.numel() > _CHUNK:
        mixed = _in_chunks(x, own, other, perm)
    else:
        mixed = _gather_and_mix(x, x, own, other, perm).to(x.dtype)
    return mixed if inside is None else _restored(mixed, x, inside, by_bits=eager and restorable)


def is_small(x: Tensor, own: Tensor) -> bool:
    """Return whether a state is so small that operators take longer than their arithmetic."""
    if own.ndim > 1 or own.dtype != x.dtype or x.numel() > _SHARE or type(x) is not Tensor:
        return False
    return x.ndim < 4 or x.is_contiguous()


def mix_small(x: Tensor, own: Tensor, perm: Tensor) -> Tensor:
    """Mix the rows of a small state; see `interpolate`."""
    return x.index_select(0, perm).lerp_(x, over_rows(own, x) if own.ndim else own)


def mix_back(grad: Tensor, own: Tensor, perm: Tensor) -> Tensor:
    """Return the gradient of a small state from that of the mixed one."""
    if grad.numel() >= _GATHERED and len(grad) <= _SORTED:
        return _gather_back(grad, own, perm.argsort())
    if not own.ndim:
        return torch.empty_like(grad).index_copy_(0, perm, grad).lerp_(grad, own)
    own = over_rows(own, grad)
    partners = grad * (1 - own)
    return torch.empty_like(grad).index_copy_(0, perm, partners).addcmul_(grad, own)


def _gather_back(grad: Tensor, own: Tensor, inverse: Tensor) -> Tensor:
    """Return the gradient of a state without a copy besides it.

    Args:
        grad: the gradient of the mixed state.
        own: weight of each example, or one for all.
        inverse: the inverse of the permutation.
    """
    back = grad.index_select(0, inverse)
    if not own.ndim:
        return back.lerp_(grad, own)
    own = over_rows(own, grad)
    return back.mul_((1 - own).index_select(0, inverse)).addcmul_(grad, own)


def in_one_expression(x: Tensor, own: Tensor, other: Tensor | None, perm: Tensor) -> Tensor:
    """Mix in one expression, which the compiler fuses.

    The compiler of PyTorch 2.11 silently loses the gradient if a Function writes in place or
    converts to the dtype that a tensor already has.
    """
    if x.dtype != own.dtype:
        return in_one_expression(x.to(own.dtype), own, other, perm).to(x.dtype)
    partner, own = x.index_select(0, perm), stored(own)
    if other is None:
        return torch.lerp(partner, x, over_rows(own, x))
    return torch.addcmul(partner * over_rows(stored(other), x), x, over_rows(own, x))


def rows_fill_threads(x: Tensor) -> bool:
    """Return whether a row is large enough for all threads (at least two) to share it."""
    return x.numel() > _SHARE * max(1, torch.get_num_threads() - 1) * len(x)


def _row_by_row(
    x: Tensor, own: Tensor, other: Tensor | None, perm: Tensor, inside: Tensor | None
) -> Tensor:
    """Read both rows and write the mixed row in one pass, without a gather."""
    mixed = torch.empty_like(x)
    rows, into, partners = x.unbind(), mixed.unbind(), perm.tolist()
    mix_row = _by_one_weight(own, x) if other is None else _by_two_weights(own, other, x)
    restore = None if inside is None else _restoring(x, mixed, inside)
    for row in along_cycles(partners):
        mix_row(row, rows[row], rows[partners[row]], into[row])
        if restore is not None:
            restore(row)
    return mixed


def _by_one_weight(own: Tensor, x: Tensor) -> Callable[..., Tensor]:
    """Return a function that mixes a row, by its number, with its partner into a third."""
    of: Any = of_rows(own, x) if own.ndim > 1 else own.expand(len(x)).tolist().__getitem__
    return lambda row, x, partner, into: torch.lerp(partner, x, of(row), out=into)


def _by_two_weights(own: Tensor, other: Tensor, x: Tensor) -> Callable[..., Tensor]:
    mine, theirs = of_rows(own, x), of_rows(other, x)
    return lambda row, x, partner, into: torch.mul(partner, theirs(row), out=into).addcmul_(
        x, mine(row)
    )


def _restored(mixed: Tensor, x: Tensor, inside: Tensor, *, by_bits: bool) -> Tensor:
    """Give a mixed state its own numbers back where it is not ``inside``, and return it."""
    if not by_bits:
        return torch.where(inside, mixed, x, out=mixed)
    into = _bits.bits(mixed)
    _bits.choose(into, _bits.bits(x), into, in_layout(_bits.as_factor(inside, x), x))
    return mixed


def _restoring(x: Tensor, mixed: Tensor, inside: Tensor) -> Callable[[int], object]:
    """Return a function that does so for a row, by its number."""
    if x.dtype in _bits.HALF:
        rows, into = _bits.bits(x).unbind(), _bits.bits(mixed).unbind()
        factor = in_layout(_bits.as_factor(inside, x), x)[0]
        return lambda row: _bits.choose(into[row], rows[row], into[row], factor)
    rows, into = x.unbind(), mixed.unbind()
    weight = in_layout(_bits.as_numbers(inside, x.dtype), x)[0]
    return lambda row: torch.lerp(rows[row], into[row], weight, out=into[row])


def of_rows(weight: Tensor, x: Tensor) -> Callable[[int], Tensor]:
    """Return a function that gives the weight of a row, by its number, until the next call.

    Args:
        weight: ``(1, ...)`` or ``(batch, ...)``; or of whole rows, ``(batch,)``.
        x: the state.
    """
    if weight.ndim > 1 and len(weight) == 1:
        row = in_layout(weight, x)[0]
        return lambda _: row
    rows = weight.unbind()
    if weight.ndim == 1 or _is_aligned(weight, x):
        return rows.__getitem__
    one = torch.empty_like(x[0], dtype=weight.dtype)
    return lambda row: one.copy_(rows[row])


def in_layout(weight: Tensor, x: Tensor) -> Tensor:
    """Return a weight of all rows alike in the memory layout of a row; others as they are.

    PyTorch takes one number at a time if the layouts differ, or if a weight broadcasts along the
    dimension that is contiguous in memory.
    """
    if len(weight) > 1 or _is_aligned(weight, x):
        return weight
    return torch.empty_like(x[:1], dtype=weight.dtype).copy_(weight)


def _is_aligned(weight: Tensor, x: Tensor) -> bool:
    # The arithmetic of complex numbers in another layout rounds in another way.
    return x.is_complex() or (x.is_contiguous() and weight.shape[-1] == x.shape[-1])


def along_cycles(partners: list[int]) -> Iterator[int]:
    """Visit each row, then its partner, which was just read and is still in the cache."""
    left = [True] * len(partners)
    for row in range(len(partners)):
        while left[row]:
            left[row] = False
            yield row
            row = partners[row]


def _in_chunks(x: Tensor, own: Tensor, other: Tensor | None, perm: Tensor) -> Tensor:
    """Mix a few rows at a time, so that the copies stay small."""
    mixed = torch.empty_like(x)
    count = max(1, _CHUNK * len(x) // x.numel())
    for start in range(0, len(x), count):
        these = slice(start, start + count)
        own_here = own[these] if own.ndim and len(own) > 1 else own
        other_here = None if other is None else other[these]
        mixed[these] = _gather_and_mix(x, x[these], own_here, other_here, perm[these])
    return mixed


def copies_are_large(x: Tensor) -> bool:
    """Return whether copies of a whole state would not stay in the cache, on the CPU."""
    return x.ndim > 1 and x.device.type == "cpu" and x.numel() > _CHUNK


def column_chunks(x: Tensor) -> Iterator[slice]:
    """Divide dimension 1 so that all rows of a part together are one chunk."""
    count = max(1, _CHUNK * x.shape[1] // x.numel())
    for start in range(0, x.shape[1], count):
        yield slice(start, start + count)


def _gather_and_mix(
    x: Tensor, rows: Tensor, own: Tensor, other: Tensor | None, perm: Tensor
) -> Tensor:
    """Gather the partners of some rows and mix in place: one allocation in the dtype of ``own``."""
    partners, rows = gather(x, perm).to(own.dtype), rows.to(own.dtype)
    if other is None:
        return partners.lerp_(rows, over_rows(own, x))  # exact where both rows are equal
    return partners.mul_(over_rows(other, x)).addcmul_(rows, over_rows(own, x))


def over_rows(weight: Tensor, x: Tensor) -> Tensor:
    """Reshape weights ``()`` or ``(batch,)`` to broadcast over the rows of ``x``."""
    return weight.view(-1, *(1,) * (x.ndim - 1)) if weight.ndim == 1 else weight


def gather(x: Tensor, perm: Tensor) -> Tensor:
    """Return ``x[perm]``, in the memory format of ``x``."""
    if not is_channels_last(x):
        return x.index_select(0, perm)
    shape, form = (len(perm), *x.shape[1:]), _CHANNELS_LAST[x.ndim]
    gathered = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=form)
    torch.index_select(x.movedim(1, -1), 0, perm, out=gathered.movedim(1, -1))
    return gathered


def is_channels_last(x: Tensor) -> bool:
    """Return whether the channels of a state are next to each other in memory.

    A state with one channel has both formats. If it were taken for channels-last, so would be the
    convolutions after it, and a `view` in the model would fail.
    """
    form = _CHANNELS_LAST.get(x.ndim)
    return form is not None and not x.is_contiguous() and x.is_contiguous(memory_format=form)


IN_BACKWARD = (
    interpolate, is_small, mix_small, mix_back, _gather_back, in_one_expression, rows_fill_threads,
    _row_by_row, _by_one_weight, _by_two_weights, _restored, _restoring, of_rows, in_layout,
    _is_aligned, along_cycles, _in_chunks, _gather_and_mix, over_rows, gather, is_channels_last,
    copies_are_large, column_chunks, *_bits.IN_BACKWARD,
)  # fmt: skip
"""The functions that the autograd engine calls, which the compiler sees as separate frames."""
