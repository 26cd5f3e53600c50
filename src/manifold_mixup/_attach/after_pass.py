"""What becomes of an output on the way from the forward pass to the criterion.

If its examples are reordered, they no longer belong to the targets that are mixed with theirs. If
data of the batch joins it that did not pass through the model, that is not mixed.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor


class AfterPass:
    """The operators between the forward passes of a model and an output.

    Args:
        tensors: the output, as the criterion is given it.
        dim: its dimension that holds the batch.
        rows: the number of examples.
        made: returns whether a forward pass of the model made the node with this number.
    """

    def __init__(
        self, tensors: Iterable[Tensor], dim: int, rows: int, made: Callable[[int], bool]
    ) -> None:
        self.dim, self.rows = dim, rows
        nodes = _nodes(tensors, made)
        self.outside = [node for node, number in nodes.items() if not made(number)]
        # Whether a pass made a node, or it was computed from what a pass made.
        self.inside: dict[Any, bool] = {}
        for node in sorted(nodes, key=nodes.__getitem__):  # what it was computed from comes before
            before = (self.inside.get(one) for one, _ in node.next_functions)
            self.inside[node] = made(nodes[node]) or any(before)

    def reordering(self, *, wait: bool) -> str:
        """Return the operator that reordered the examples; empty if none did.

        Args:
            wait: whether to read indices that are not on the CPU, which waits for the device.
        """
        on_the_way = (node for node in self.outside if self.inside[node])
        by = (node for node in on_the_way if _reorders(node, self.dim, self.rows, wait=wait))
        return next((str(node.name()) for node in by), "")

    def beside(self) -> str:
        """Return an operator on data of the batch that no pass was given; empty if there is none.

        Only what it kept for its gradient shows its data.
        """
        apart = (node for node in self.outside if not self.inside[node])
        return next((str(node.name()) for node in apart if self._has_batch(node)), "")

    def _has_batch(self, node: Any) -> bool:
        for name in dir(node):
            if name.startswith("_saved_"):
                with suppress(RuntimeError):  # released, or changed since
                    kept = getattr(node, name)
                    if any(map(self._is_batch, kept if isinstance(kept, tuple) else (kept,))):
                        return True
        return False

    def _is_batch(self, kept: Any) -> bool:
        if not isinstance(kept, Tensor) or kept.requires_grad or kept.ndim <= self.dim:
            return False
        return kept.shape[self.dim] == self.rows


def _nodes(tensors: Iterable[Tensor], made: Callable[[int], bool]) -> dict[Any, int]:
    """Return the nodes with their numbers from some tensors down to those of the pass."""
    found: dict[Any, int] = {}
    stack = [tensor.grad_fn for tensor in tensors]
    while stack:
        node = stack.pop()
        if node is None or node in found:
            continue
        found[node] = int(node._sequence_nr())
        if not made(found[node]):
            stack += [one for one, _ in node.next_functions]
    return found


def _reorders(node: Any, dim: int, rows: int, *, wait: bool) -> bool:
    """Return whether an operator gives another order to the rows of a dimension."""
    kind = node.name()
    if kind not in _KINDS:
        return False
    shape = node._input_metadata[0].shape
    if len(shape) <= dim or shape[dim] != rows:
        return False
    if kind == "IndexBackward0":
        indices = node._saved_indices
        return dim < len(indices) and _is_another_order(indices[dim], rows, wait=wait)
    if kind in ("FlipBackward0", "RollBackward0"):
        moved = kind == "FlipBackward0" or any(shift % rows for shift in node._saved_shifts)
        return moved and dim in [_signed(at) % len(shape) for at in node._saved_dims]
    here = node._saved_dim % len(shape) == dim
    if kind == "IndexSelectBackward0":
        return here and _is_another_order(node._saved_index, rows, wait=wait)
    return bool(here)


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
