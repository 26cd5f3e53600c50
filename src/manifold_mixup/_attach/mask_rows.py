"""Follow which example each element of a mask belongs to, when each example has its own λ.

A module may move the batch of a mask to another dimension, or give each head a copy of its own.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manifold_mixup._interpolate import over_rows

_WAY_OUT = "Set per_sample=False, or keep the batch of the mask at dimension 0."

_SLICES = {"__getitem__", "select", "narrow", "index_select", "unbind", "split", "chunk", "flip"}
_SHAPES = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as"}
_SHAPES |= {"reshape_as", "expand", "expand_as", "broadcast_to", "repeat", "repeat_interleave"}
_ORDERS = {"transpose", "permute", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "tile"}
_ORDERS |= {f"{name}_" for name in ("transpose", "swapaxes", "swapdims", "t", "squeeze")}
_ORDERS |= {"unsqueeze_", "roll"}
_GETTERS = {getattr(Tensor.T, "__get__"), getattr(Tensor.mT, "__get__")}  # noqa: B009 (mypy)
_MOVES = _SLICES | _SHAPES | _ORDERS
_REDUCTIONS = {"any", "all", "sum", "amax", "amin", "mean", "prod", "argmax", "max", "min"}


def rows_by(mask: Tensor, batch_dim: int = 0) -> Tensor:
    """Return the example of each element of a mask, whose dimension ``batch_dim`` is the batch."""
    front = mask.movedim(batch_dim, 0)
    numbers = torch.arange(len(front), device=mask.device)
    return over_rows(numbers, front).expand(front.shape).movedim(0, batch_dim)


def moves(func: Any) -> bool:
    """Return whether a function only moves the elements of its first argument."""
    return getattr(func, "__name__", "") in _MOVES or func in _GETTERS


def permutes(args: Sequence[Any]) -> bool:
    """Return whether ``einsum`` only reorders the dimensions of one tensor, as "ij->ji" does."""
    if len(args) != 2 or not isinstance(args[0], str):
        return False
    before, _, after = args[0].replace(" ", "").partition("->")
    return len(set(before)) == len(before) and sorted(before) == sorted(after)


def rows_after(func: Any, given: Sequence[Tensor], shape: torch.Size, options: Any) -> Tensor:
    """Return the example of each element of what a function computes from masks.

    Args:
        func: a function that does not only move elements; see `moves`.
        given: the examples of the elements of the masks it is given.
        shape: the shape of its result.
        options: its further positional arguments and its keyword arguments.

    Raises:
        RuntimeError: an element of the result may belong to several examples.
    """
    name = getattr(func, "__name__", str(func))
    rows = _same(name, torch.broadcast_tensors(*given))
    if not shape:
        return rows.flatten()[0]  # a number, which is only ever compared with the partner's
    if name in _REDUCTIONS and rows.shape != shape:
        return _reduced(name, rows, *options)
    try:
        return rows.expand(shape)
    except RuntimeError:
        raise RuntimeError(
            f"{name!r} makes {tuple(shape)} of a padding mask {tuple(rows.shape)}, and it cannot "
            f"be followed which λ belongs where. {_WAY_OUT}"
        ) from None


def _same(name: str, given: Sequence[Tensor]) -> Tensor:
    first, *others = given
    if not torch.compiler.is_compiling() and not all(torch.equal(first, other) for other in others):
        raise RuntimeError(f"{name!r} combines the padding masks of different examples. {_WAY_OUT}")
    return first


def _reduced(name: str, rows: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    dim = kwargs.get("dim", args[0] if args else None)
    keepdim = bool(kwargs.get("keepdim", args[1] if len(args) > 1 else False))
    dims = tuple(range(rows.ndim)) if dim is None else dim
    least, most = rows.amin(dims, keepdim), rows.amax(dims, keepdim)
    if not torch.compiler.is_compiling() and not torch.equal(least, most):
        raise RuntimeError(f"{name!r} reduces a padding mask over its examples. {_WAY_OUT}")
    return most
