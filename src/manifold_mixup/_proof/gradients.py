"""Run backward through a whole graph, without the gradients of large parameters.

Nothing reads these gradients, and they take a third of the time of a pass, and the memory of the
largest parameter. All else runs: what comes in for the operator that a parameter belongs to is
computed, and so are the gradients of all small leaves.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from manifold_mixup._proof.thin import LARGE, pool_of

# The nodes of PyTorch's own operators with a weight; each has one result.
_WITH_WEIGHT = {"AddmmBackward0", "MmBackward0", "EmbeddingBackward0", "ConvolutionBackward0"}


def backward(ends: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    """Run backward from ``ends``, with their gradients ``weights``, to all leaves."""
    leaves = _leaves(ends)
    if leaves:
        torch.autograd.grad(ends, leaves, weights, allow_unused=True)
    else:
        torch.autograd.backward(ends, weights)


def _leaves(ends: Sequence[Tensor]) -> list[Any]:
    """List the small leaves, and where the gradients of thin ones would be computed.

    The list is empty if none is thin, if a large leaf belongs to another operator than PyTorch's
    own, or if there is a reentrant checkpoint, which runs to all leaves only.
    """
    stack = [end.grad_fn for end in ends]
    visited, found, thin = set(), [], False
    while stack:
        node = stack.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        following = [after for after, _ in node.next_functions if after is not None]
        if (leaf := getattr(node, "variable", None)) is not None:
            if leaf.numel() >= LARGE:
                return []
            found.append(leaf)
        elif "Checkpoint" in node.name():
            return []
        elif node.name() in _WITH_WEIGHT and any(map(_is_of_thin, following)):
            found.append(GradientEdge(node, 0))
            thin = True
            following = [after for after in following if not _is_of_thin(after)]
        stack += following
    return found if thin else []


def _is_of_thin(node: Any) -> bool:
    """Return whether a node leads to a thin parameter alone, maybe through its transpose."""
    if node.name() == "TBackward0":
        ((node, _),) = node.next_functions
    leaf = getattr(node, "variable", None)
    return leaf is not None and pool_of(leaf) is not None
