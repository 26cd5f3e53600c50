"""Notice that partners were drawn by the targets of another batch than the loss has."""

from typing import Any

import torch
from torch import Tensor


def are_of_another_batch(given: Any, y: Any) -> bool:
    """Return whether the targets of a loss cannot be those that partners were drawn by.

    Partners may follow coarser classes than the loss has, or numbers in other units: what they were
    drawn by is then a function of the targets of the loss, one that rises or falls if they are
    numbers. Two batches are seldom related like that.

    Args:
        given: the targets that partners were drawn by, on the CPU.
        y: the targets of the loss.

    Returns:
        False if it is unknown, as of several targets in a tuple.
    """
    if not (isinstance(given, Tensor) and isinstance(y, Tensor)) or len(given) != len(y):
        return False
    y = y.detach().cpu()
    if given.is_floating_point():
        return given.shape == y.shape and any(map(_not_monotone, _columns(given), _columns(y)))
    if y.is_floating_point() and y.ndim == 2 and bool((y.sum(1) - 1).abs().max() < 1e-3):
        y = y.argmax(1)  # probabilities
    if given.ndim != 1 or y.ndim != 1 or y.is_floating_point():
        return False
    order = y.argsort(stable=True)
    same = y[order].diff() == 0
    return bool((same & (given[order].diff() != 0)).any())


def _columns(numbers: Tensor) -> tuple[Tensor, ...]:
    return numbers.reshape(len(numbers), -1).unbind(1)


def _not_monotone(given: Tensor, y: Tensor) -> bool:
    change = given[y.argsort(stable=True)].diff()
    small = torch.finfo(given.dtype).eps * 8 * given.abs().max()
    return bool((change > small).any()) and bool((change < -small).any())
