"""Notice that the losses of the examples are weighted differently after a wrapped criterion."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from torch import Tensor

from manifold_mixup import _autograd
from manifold_mixup._target.interpolation import holds_batch
from manifold_mixup._warn import warn

_SAME = 1e-3
"""By how much gradients differ that are the same but for rounding, relative to the largest."""


def watch(loss: Any, batch: int, dim: int, warned: Callable[[], bool]) -> None:
    """Warn in the backward pass if the losses of the examples count differently.

    Weights and masks of the examples make them do so. They would be the examples' own for the
    partners' targets too. What depends on the losses alone, such as a mean of the largest, is none
    of the examples' data: it makes no loss count more than a larger one, or none than a smaller.

    Args:
        loss: what a wrapped criterion returned for a mixed output.
        batch: the number of examples.
        dim: the dimension of outputs and targets that holds the batch.
        warned: notes the warning, and returns whether there was one before.
    """
    if not isinstance(loss, Tensor) or loss.grad_fn is None or loss.numel() < 2 or batch < 2:
        return
    if not holds_batch(loss.shape, batch, dim) or _autograd.in_transform():
        return
    losses, rows = loss.detach(), dim if loss.ndim > dim else 0

    def look(grad: Tensor) -> None:
        uneven = False
        with suppress(RuntimeError, NotImplementedError):  # of tensors that cannot be compared
            uneven = _uneven(grad.detach(), losses, rows)
        if uneven and not warned():
            warn(_UNEVEN)

    loss.register_hook(look)


def _uneven(grad: Tensor, losses: Tensor, rows: int) -> bool:
    """Return whether gradients differ between the rows, and not by the size of the losses."""
    limit = float(grad.abs().max()) * _SAME
    if float((grad - grad.narrow(rows, 0, 1)).abs().max()) <= limit:
        return False
    rising = grad.flatten()[losses.flatten().argsort(stable=True)].diff()
    return bool((rising > limit).any()) and bool((rising < -limit).any())


_UNEVEN = (
    "a wrapped criterion returned a loss for each example, and these were then weighted "
    "differently. Weights or masks of the examples belong in the criterion, because the loss for a "
    "partner's target needs the partner's: mixup.wrap(lambda output, target, weight: (criterion("
    "output, target) * weight).mean(), with_target='weight'). If they are the same for both "
    "examples of every pair, or were computed from the loss or the output, nothing is wrong."
)
