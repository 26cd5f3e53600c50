"""Cross-entropy of class indices, by far the most common loss: both ends from one log-softmax."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy, nll_loss

from manifold_mixup import _autograd
from manifold_mixup._module_hooks import has_no_hooks
from manifold_mixup._plan import MixPlan
from manifold_mixup._target.interpolation import interpolate_losses

_PLAIN = nn.CrossEntropyLoss()
_FORWARD = nn.CrossEntropyLoss.forward
_SMALL = 2**14
"""Scores of which copies take less time than an operator."""

_REDUCTIONS = ("mean", "sum", "none")


def cross_entropy_of(
    criterion: object, args: tuple[Any, ...], options: Mapping[str, Any]
) -> nn.CrossEntropyLoss | None:
    """Return the criterion if `loss` may give the loss of a call of it.

    It does for `torch.nn.CrossEntropyLoss`, and its function, of scores ``(batch, classes)`` and
    class indices ``(batch,)``, if nothing is hooked to it and nothing of PyTorch is replaced.
    """
    found = _PLAIN if criterion is cross_entropy else criterion
    if type(found) is not nn.CrossEntropyLoss or len(args) != 2 or options:
        return None
    if functional.cross_entropy is not cross_entropy or nn.CrossEntropyLoss.forward is not _FORWARD:
        return None
    if _autograd.in_transform() or _autograd.in_function_mode():
        return None
    output, y = args
    if not (type(output) is type(y) is Tensor) or output.ndim != 2 or y.ndim != 1:
        return None
    # Under autocast, the loss of other types may be computed in this one.
    if y.dtype != torch.int64 or output.dtype != torch.float32 or found.label_smoothing:
        return None
    if found.reduction not in _REDUCTIONS or not has_no_hooks(found):
        return None
    weight = found.weight
    return found if weight is None or weight.shape == output.shape[1:] else None


def fits(criterion: nn.CrossEntropyLoss, output: Tensor, y: Tensor, plan: MixPlan) -> bool:
    """Return whether `loss` gives the loss of a plan: both ends are reduced alike."""
    if not plan.perm.shape == y.shape == output.shape[:1]:
        return False
    if not plan.perm.device == y.device == output.device:
        return False
    lam = plan.label
    if lam is None:
        if plan.weight is not None:
            return False
        lam = plan.lam
    return lam.ndim == 0 or (criterion.weight is None and not plan.repeats)


def loss(criterion: nn.CrossEntropyLoss, output: Tensor, y: Tensor, plan: MixPlan) -> Tensor:
    """Return the loss at both ends, interpolated by the share of the targets.

    Args:
        criterion: the criterion.
        output: the scores, ``(batch, classes)``.
        y: the class indices, ``(batch,)``.
        plan: the plan.
    """
    logs, weight = output.log_softmax(1), criterion.weight
    lam = plan.lam if plan.label is None else plan.label
    if lam.ndim and output.is_cpu and output.numel() <= _SMALL:
        total = _of_weighted(criterion, logs, y, lam, plan.perm)
        if total is not None:
            return total
    reduction = criterion.reduction if lam.ndim == 0 else "none"
    options: Any = {"ignore_index": criterion.ignore_index, "reduction": reduction}
    own = nll_loss(logs, y, weight, **options)
    partner = nll_loss(logs, y.index_select(0, plan.perm), weight, **options)
    if reduction == criterion.reduction:
        return _between(own, partner, lam)
    return _reduced(criterion, own, partner, y, lam)


def _of_weighted(
    criterion: nn.CrossEntropyLoss, logs: Tensor, y: Tensor, lam: Tensor, perm: Tensor
) -> Tensor | None:
    """Return the loss with a λ for each row, which weighs its scores: the fewest operators.

    Both ends leave out as many rows, so that the sum of their means is the mean of all. None if the
    losses are not reduced, or if an infinite loss has the weight 0, which is no number here.
    """
    if criterion.reduction == "none":
        return None
    options: Any = {"ignore_index": criterion.ignore_index, "reduction": criterion.reduction}
    weighted = logs * lam.unsqueeze(1)
    own = nll_loss(weighted, y, **options)
    total = own + nll_loss(logs - weighted, y.index_select(0, perm), **options)
    return total if math.isfinite(total.item()) else None


def _between(own: Tensor, partner: Tensor, lam: Tensor) -> Tensor:
    if own.ndim == 0 and own.is_cpu and lam.is_cpu:
        mixed = torch.lerp(partner, own, lam.item())
        if math.isfinite(mixed.item()):
            return mixed
    return interpolate_losses(own, partner, lam)  # type: ignore[no-any-return]


def _reduced(
    criterion: nn.CrossEntropyLoss, own: Tensor, partner: Tensor, y: Tensor, lam: Tensor
) -> Tensor:
    """Return the sum or the mean of the rows' losses; the mean leaves ignored rows out."""
    total: Tensor | None = None
    if own.is_cpu:
        total = torch.lerp(partner, own, lam).sum()
        # A loss with weight 0 is ignored, even if it is infinite.
        total = total if math.isfinite(total.item()) else None
    if total is None:
        total = interpolate_losses(own, partner, lam).sum()
    if criterion.reduction == "sum":
        return total
    return total / (y != criterion.ignore_index).sum()
