"""Take each position from a row or from its partner: the arithmetic of CutMix at any layer.

``own`` says which positions a row keeps, bool with as many dimensions as the state. Where it is
False, ``x[perm]`` is taken. A value that is not taken has no effect, even if it is infinite or NaN.

On the CPU, half types are chosen by their bits. Other types are interpolated by weights of 0 and 1,
in a single pass, which is exact, but for the sign of a zero, unless a value that is not taken is
infinite or NaN. That makes NaN, which is looked for, and torch.where is used. Of a gradient that is
a sum, both parts are multiplied by 0 or 1 in their bits.
"""

import math

import torch
from torch import Tensor

from manifold_mixup import _bits
from manifold_mixup._interpolate import along_cycles, gather, in_layout, of_rows, rows_fill_threads
from manifold_mixup._operators import stored


def select(x: Tensor, own: Tensor, other: Tensor | None, perm: Tensor) -> Tensor:
    """Take the rows where ``own`` and their partners where ``other``, and add the two.

    Args:
        x: the state, ``(batch, *features)``.
        own: which positions a row keeps.
        other: which positions its partner gives; None means the others.
        perm: the partners.
    """
    eager = x.device.type == own.device.type == "cpu" and type(x) is type(own) is Tensor
    if eager and _bits.has_bits(x) and x.numel():
        by_row = rows_fill_threads(x)
        if other is None:
            return _choose_by_row(x, own, perm) if by_row else _choose(x, own, perm)
        return _add_by_row(x, own, other, perm) if by_row else _add(x, own, other, perm)
    partners = gather(x, perm)
    if other is None:
        return torch.where(own, x, partners, out=partners)
    return partners.masked_fill_(~other, 0).add_(x.masked_fill(~own, 0))


def select_in_one_expression(x: Tensor, own: Tensor, other: Tensor | None, perm: Tensor) -> Tensor:
    """Select in one expression, which the compiler fuses."""
    partners = x.index_select(0, perm)
    if other is None:
        return torch.where(stored(own), x, partners)
    return torch.where(stored(own), x, 0) + torch.where(stored(other), partners, 0)


def _choose(x: Tensor, own: Tensor, perm: Tensor) -> Tensor:
    box = _box_of(own) if len(own) == 1 and own.numel() < x[0].numel() else None
    if box is not None:
        return _choose_box(x, box, perm)
    mixed = gather(x, perm)
    if x.dtype in _bits.HALF:
        into = _bits.bits(mixed)
        _bits.choose(into, _bits.bits(x), into, in_layout(_bits.as_factor(~own, x), x))
    else:
        torch.lerp(mixed, x, in_layout(_bits.as_numbers(own, x.dtype), x), out=mixed)
        if _may_have_nan(mixed):
            torch.where(own, x, gather(x, perm), out=mixed)
    return mixed


def _box_of(own: Tensor) -> tuple[slice, ...] | None:
    """Return the positions that are not kept, if they are a box."""
    places = (~own).nonzero()
    if not len(places):
        return None
    least, most = (of.tolist() for of in places.aminmax(dim=0))
    if math.prod(high - low + 1 for low, high in zip(least, most, strict=True)) != len(places):
        return None
    return tuple(
        slice(None) if side == 1 else slice(low, high + 1)
        for low, high, side in zip(least, most, own.shape, strict=True)
    )


def _choose_box(x: Tensor, box: tuple[slice, ...], perm: Tensor) -> Tensor:
    """Copy the rows, and then the box: of small rows, that takes the least memory traffic."""
    mixed = x.clone()
    torch.index_select(x[box], 0, perm, out=mixed[box])
    return mixed


def _choose_by_row(x: Tensor, own: Tensor, perm: Tensor) -> Tensor:
    """Read both rows and write the selected row in one pass, without a gather."""
    mixed = torch.empty_like(x)
    partners = perm.tolist()
    if x.dtype in _bits.HALF:
        rows, into = _bits.bits(x).unbind(), _bits.bits(mixed).unbind()
        chosen = of_rows(_bits.as_factor(~own, x), x)
        for row in along_cycles(partners):
            _bits.choose(into[row], rows[row], rows[partners[row]], chosen(row))
        return mixed
    rows, into, weight_of = x.unbind(), mixed.unbind(), of_rows(_bits.as_numbers(own, x.dtype), x)
    for row in along_cycles(partners):
        mine, partner, weight = rows[row], rows[partners[row]], weight_of(row)
        if _may_have_nan(torch.lerp(partner, mine, weight, out=into[row])):
            torch.where(weight > 0, mine, partner, out=into[row])
    return mixed


def _may_have_nan(x: Tensor) -> bool:
    """Return True if there is a NaN; also if there are infinite numbers of both signs.

    The sum takes less time than the maximum.
    """
    return math.isnan(x.sum().item())


def _add(x: Tensor, own: Tensor, other: Tensor, perm: Tensor) -> Tensor:
    mixed, kept = gather(x, perm), torch.empty_like(x)
    _bits.keep(mixed, _bits.bits(mixed), _bits.as_factor(other, x))
    _bits.keep(kept, _bits.bits(x), _bits.as_factor(own, x))
    return mixed.add_(kept)


def _add_by_row(x: Tensor, own: Tensor, other: Tensor, perm: Tensor) -> Tensor:
    mixed, given = torch.empty_like(x), torch.empty_like(x[0])
    rows, into, partners = _bits.bits(x).unbind(), mixed.unbind(), perm.tolist()
    own_of, other_of = (of_rows(_bits.as_factor(part, x), x) for part in (own, other))
    for row in along_cycles(partners):
        _bits.keep(into[row], rows[row], own_of(row))
        _bits.keep(given, rows[partners[row]], other_of(row))
        into[row].add_(given)
    return mixed


IN_BACKWARD = (
    select, select_in_one_expression, _choose, _box_of, _choose_box, _choose_by_row, _may_have_nan,
    _add, _add_by_row, *_bits.IN_BACKWARD,
)  # fmt: skip
"""The functions that the autograd engine calls, which the compiler sees as separate frames."""
