"""Take a box of positions from the partners, by copies alone: CutMix of small rows.

Nothing is computed, so every number of the result is one of the state's, bit for bit. Large rows
are selected by weights, see `_select`: to copy a box of them takes longer, because it is copied in
many short pieces. So are states in compiled code and in transforms.
"""

from typing import Any

import torch
from torch import Tensor

from manifold_mixup import _autograd
from manifold_mixup._interpolate import rows_fill_threads

Places = tuple[slice, ...]
"""The box in a state, one slice for each dimension, all rows included."""


def can_cut(x: Tensor, perm: Tensor) -> bool:
    """Return whether `cut` takes this state: of small rows on the CPU, outside of transforms."""
    return (
        not torch.compiler.is_compiling()  # first: compiled code cannot ask for the threads
        and type(x) is Tensor
        and not rows_fill_threads(x)
        and x.device.type == perm.device.type == "cpu"
        and x.layout is torch.strided
        and not _autograd.in_forward_mode()
        and not _autograd.in_transform()
    )


def cut(x: Tensor, box: Places, perm: Tensor, *, repeats: bool = False) -> Tensor:
    """Take the box of each row from its partner.

    Args:
        x: the state, ``(batch, *features)``.
        box: the box.
        perm: the partners, ``(batch,)``.
        repeats: whether some rows are partners of several others.
    """
    if x.requires_grad and torch.is_grad_enabled():
        return _Cut.apply(x, box, perm, None, repeats)  # type: ignore[no-any-return]
    return _copied(x, box, perm)


class _Cut(torch.autograd.Function):
    """Its gradient is cut in the same box, by the inverse permutation, or scattered there."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, box: Places, perm: Tensor, inverse: Tensor | None, repeats: bool
    ) -> Tensor:
        ctx.box, ctx.repeats = box, repeats
        ctx.save_for_backward(perm, inverse)
        return _copied(x, box, perm)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        perm, inverse = ctx.saved_tensors
        if ctx.repeats:
            return _scattered(grad, ctx.box, perm), None, None, None, None
        if inverse is None:
            inverse = perm.argsort()
        if torch.compiler.is_compiling():
            return _in_one_expression(grad, ctx.box, inverse), None, None, None, None
        if torch.is_grad_enabled():  # higher derivatives
            return _Cut.apply(grad, ctx.box, inverse, perm, False), None, None, None, None
        return _copied(grad, ctx.box, inverse), None, None, None, None


def _copied(x: Tensor, box: Places, perm: Tensor) -> Tensor:
    mixed = x.clone()
    torch.index_select(x[box], 0, perm, out=mixed[box])
    return mixed


def _scattered(grad: Tensor, box: Places, perm: Tensor) -> Tensor:
    """Give each row what is outside of its box, and the boxes of all rows whose partner it is."""
    kept, inside = grad.clone(), grad[box]
    exact = torch.promote_types(grad.dtype, torch.float32)
    kept[box] = torch.zeros_like(inside, dtype=exact).index_add(0, perm, inside.to(exact)).to(grad)
    return kept


def _in_one_expression(x: Tensor, box: Places, perm: Tensor) -> Tensor:
    inside = torch.zeros(1, *x.shape[1:], dtype=torch.bool, device=x.device)
    inside[box] = True
    return torch.where(inside, x.index_select(0, perm), x)


IN_BACKWARD = (_Cut.backward, _copied, _scattered, _in_one_expression)
"""The functions that the autograd engine calls, which the compiler sees as separate frames."""
