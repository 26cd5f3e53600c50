"""Notice that examples of an output were reordered or moved between model and criterion.

They then no longer belong to the targets that are mixed with theirs.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor


def reordering(output: Tensor, dim: int, made: Callable[[int], bool], *, wait: bool) -> str:
    """Return the operator that reordered the examples of what a model returned; empty if none did.

    Only an operator right after the model is looked at. Further on, an order may be restored, or
    rows may be something else than examples.

    Args:
        output: the output, as the criterion is given it.
        dim: its dimension that holds the batch.
        made: returns whether a forward pass of the model made the node with this number.
        wait: whether to read indices that are not on the CPU, which waits for the device.
    """
    node: Any = output.grad_fn
    if node is None or node.name() not in _KINDS or output.ndim <= dim:
        return ""
    before = node.next_functions[0][0]
    if before is None or not made(int(before._sequence_nr())):
        return ""
    # What an operator kept cannot be read after backward, nor everywhere.
    with suppress(RuntimeError, NotImplementedError):
        if _reorders(node, dim, output.shape, wait=wait):
            return str(node.name())
    return ""


def batch_moved_to(output: Tensor, dim: int, made: Callable[[int], bool]) -> int:
    """Return the dimension of an output that holds the batch, after what transposed it.

    Args:
        output: the output, as the criterion is given it.
        dim: the dimension of what the model returned that holds the batch.
        made: returns whether a forward pass of the model made the node with this number.

    Returns:
        ``dim`` if it was not transposed, or if something happened to it that is not followed.
    """
    node: Any = output.grad_fn
    came_from = list(range(output.ndim))  # by dimension of the output, that of the node's result
    while node is not None and not made(int(node._sequence_nr())):
        operands = [(before, place) for before, place in node.next_functions if before is not None]
        if node.name() in _TRANSPOSING:
            order = _order_of(node, output.ndim)
            came_from = [order[place] for place in came_from]
        elif len(operands) != 1 or not _keeps_shape(node, *operands[0]):
            return dim
        node = operands[0][0]
    return came_from.index(dim) if node is not None and dim in came_from else dim


_TRANSPOSING = {"TransposeBackward0", "PermuteBackward0", "TBackward0"}


def _order_of(node: Any, ndim: int) -> list[int]:
    """Return which dimension each dimension of a transposed tensor was."""
    if node.name() == "PermuteBackward0":
        return [_signed(one) % ndim for one in node._saved_dims]
    order = list(range(ndim))
    one, other = 0, ndim - 1
    if node.name() == "TransposeBackward0":
        one, other = _signed(node._saved_dim0) % ndim, _signed(node._saved_dim1) % ndim
    order[one], order[other] = order[other], order[one]
    return order


def _keeps_shape(node: Any, before: Any, place: int) -> bool:
    """Return whether a result has the shape of the operand."""
    shapes = node._input_metadata[0].shape, before._input_metadata[place].shape
    return bool(shapes[0] == shapes[1])


def _reorders(node: Any, dim: int, shape: torch.Size, *, wait: bool) -> bool:
    """Return whether an operator gives another order to the rows of a dimension."""
    kind, rows = node.name(), shape[dim]
    if kind in ("FlipBackward0", "RollBackward0"):
        moved = kind == "FlipBackward0" or any(shift % rows for shift in node._saved_shifts)
        return moved and dim in [_signed(at) % len(shape) for at in node._saved_dims]
    if node._saved_self_sym_sizes[dim] != rows:  # another number of rows is refused elsewhere
        return False
    if kind == "IndexBackward0":
        indices = node._saved_indices
        return dim < len(indices) and _is_another_order(indices[dim], rows, wait=wait)
    here = bool(node._saved_dim % len(shape) == dim)
    if kind == "IndexSelectBackward0":
        return here and _is_another_order(node._saved_index, rows, wait=wait)
    return here


_KINDS = {
    "IndexBackward0", "IndexSelectBackward0", "FlipBackward0", "RollBackward0", "SortBackward0",
    "TopkBackward0",
}  # fmt: skip


def _signed(number: int) -> int:
    """Return a number that PyTorch shows as one without a sign."""
    return number - 2**64 if number >= 2**63 else number


def _is_another_order(index: Tensor | None, rows: int, *, wait: bool) -> bool:
    """Return whether an index takes other rows than the first, the second, and so on."""
    if index is None or index.dtype != torch.int64 or index.numel() != rows:
        return False
    if not (index.is_cpu or wait):
        return False
    return not torch.equal(index.flatten(), torch.arange(rows, device=index.device))
