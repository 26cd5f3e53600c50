"""Take each position from a row or from its partner: the arithmetic of CutMix at any layer.

``own`` says which positions a row keeps, bool with as many dimensions as the state. Where it is
False, ``x[perm]`` is taken. No value that is not chosen is read, so that it may be infinite or NaN.
"""

import torch
from torch import Tensor

from manifold_mixup._interpolate import along_cycles, each_row, gather, rows_fill_threads


def select(x: Tensor, own: Tensor, other: Tensor | None, perm: Tensor) -> Tensor:
    """Take the rows where ``own`` and their partners where ``other``, and add the two.

    Args:
        x: the state, ``(batch, *features)``.
        own: which positions a row keeps.
        other: which positions its partner gives; None means the others.
        perm: the partners.
    """
    if torch.compiler.is_compiling():
        return select_in_one_expression(x, own, other, perm)
    eager = x.device.type == own.device.type == "cpu" and type(x) is type(own) is Tensor
    if eager and other is None and rows_fill_threads(x):
        return _row_by_row(x, own, perm)
    partners = gather(x, perm)
    if other is None:
        return torch.where(own, x, partners, out=partners)
    return partners.masked_fill_(~other, 0).add_(x.masked_fill(~own, 0))


def select_in_one_expression(x: Tensor, own: Tensor, other: Tensor | None, perm: Tensor) -> Tensor:
    """Select in one expression, which the compiler fuses."""
    partners = x.index_select(0, perm)
    if other is None:
        return torch.where(own, x, partners)
    return torch.where(own, x, 0) + torch.where(other, partners, 0)


def _row_by_row(x: Tensor, own: Tensor, perm: Tensor) -> Tensor:
    """Read both rows and write the selected row in one pass, without a gather."""
    mixed = torch.empty_like(x)
    rows, into, kept, partners = x.unbind(), mixed.unbind(), each_row(own, len(x)), perm.tolist()
    for row in along_cycles(partners):
        torch.where(kept[row], rows[row], rows[partners[row]], out=into[row])
    return mixed


IN_BACKWARD = (select, select_in_one_expression, _row_by_row)
"""The functions that the autograd engine calls, which the compiler sees as separate frames."""
