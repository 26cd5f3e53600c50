"""Detect whether a criterion reads something of each example that it is not given."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from manifold_mixup._mix import is_continuous
from manifold_mixup._target.arguments import Call, Key, Roles
from manifold_mixup._target.interpolation import holds_batch
from manifold_mixup._tree import leaves, map_leaves

# A sum in another order is rounded: relative, and absolute where positive and negative cancel.
_SAME = {torch.float64: (1e-6, 1e-12), torch.float32: (1e-3, 1e-5)}
_LARGEST_OUTPUT = 2**24


def order_matters(
    run: Callable[[Call], Any],
    call: Call,
    roles: Roles,
    target: dict[Key, Any],
    batch: int,
    dim: int,
) -> bool:
    """Return whether the loss changes if examples are reordered with all that belongs to them.

    A criterion that holds the weights of the examples, in an attribute or a variable of the
    enclosing function, reads them in the order of the batch. So does one that takes some rows.

    Args:
        run: evaluates the criterion for a call.
        call: the call with the examples' own targets.
        roles: the roles of its arguments.
        target: the arguments that belong to the target.
        batch: the number of examples.
        dim: the dimension of outputs and targets that holds the batch.

    Returns:
        False if it does not, or if it is unknown: two evaluations differ, as with random numbers,
        or one fails.
    """
    order = torch.arange(batch).flip(0)
    keys = dict.fromkeys((roles.output, *roles.outputs, *target))
    values = [call[key] for key in keys]
    if batch < 2 or not _small_and_exact(values):
        return False

    def reordered(_: str, leaf: Tensor) -> Tensor:
        if not holds_batch(leaf.shape, batch, dim):
            return leaf
        return leaf.index_select(dim if leaf.ndim > dim else 0, order.to(leaf.device))

    try:
        other = call.replace({key: map_leaves(reordered, call[key]) for key in keys})
        with torch.no_grad(), _unchanged_generators(values):
            # Always as many, whatever they are: a criterion may wait for those of other processes.
            first, second, again = run(call), run(other), run(call)
        changes = not (_alike(map_leaves(reordered, first), second) or _alike(first, second))
        return changes and _alike(first, again)
    except Exception:  # as of a criterion that takes a derivative, or an output that has no copy
        return False


@contextmanager
def _unchanged_generators(values: list[Any]) -> Iterator[None]:
    """Restore the global random generators of PyTorch, Python and NumPy."""
    devices = {leaf.device for value in values for _, leaf in leaves(value) if leaf.is_cuda}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(list(devices)))
        stack.callback(random.setstate, random.getstate())
        if (numpy := sys.modules.get("numpy.random")) is not None:
            stack.callback(numpy.set_state, numpy.get_state())
        yield


def _small_and_exact(values: list[Any]) -> bool:
    tensors = [leaf for value in values for _, leaf in leaves(value)]
    exact = all(leaf.dtype in _SAME for leaf in tensors if is_continuous(leaf))
    return exact and sum(leaf.numel() for leaf in tensors) <= _LARGEST_OUTPUT


def _alike(one: Any, other: Any) -> bool:
    """Return whether two results are the same but for rounding."""
    pairs = zip(leaves(one), leaves(other), strict=True)
    return all(_close(left, right) for (_, left), (_, right) in pairs)


def _close(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape or left.dtype not in _SAME:
        return True  # unknown
    if not left.numel():
        return True
    relative, absolute = _SAME[left.dtype]
    scale = float(torch.maximum(left.abs(), right.abs()).nan_to_num().max())
    apart = float((left - right).abs().nan_to_num().max())
    return apart <= relative * scale + absolute
