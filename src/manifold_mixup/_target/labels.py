"""Class labels: mixed soft labels, and the accuracy against both targets."""

from typing import Any

import torch
from torch import Tensor

from manifold_mixup import _html, _mix
from manifold_mixup._mix import is_continuous
from manifold_mixup._plan import MixPlan
from manifold_mixup._target.interpolation import weighted_sum
from manifold_mixup._target.shares import Shares
from manifold_mixup._tree import leaves

_SHOWN = 8  # number of examples in a table
# Slightly more than the rounding error of labels in bfloat16.
_NEAR = 0.01


def soft(
    y: Tensor, plan: MixPlan | None, shares: Shares | None, num_classes: int, *, asked: bool
) -> Tensor:
    """Return the mixed soft labels; see `MixedTarget.soft`.

    Args:
        y: classes or soft labels.
        plan: the plan; None if nothing was mixed.
        shares: the share that each position keeps; None if there are no positions.
        num_classes: the number of classes.
        asked: whether the user asked to mix floating point targets.
    """
    added = 0 if is_continuous(y) else 1  # the dimension of the classes
    if added:
        y = _one_hot(y, num_classes)
    else:
        _require_soft(y, num_classes, asked)
    if plan is None:
        return y
    if shares is not None:
        return shares.mixed(y, [dim + added for dim in shares.places[""].dims])
    return _mix.apply(y, plan.target_lam, plan.perm, repeats=plan.repeats)


def _require_soft(y: Tensor, num_classes: int, asked: bool) -> None:
    if y.isnan().any():
        raise ValueError(
            "the target holds NaN, which cannot be averaged. Interpolate the losses instead: "
            "mixed.loss(criterion, output)."
        )
    if asked:
        return
    least, most = _range(y)
    if num_classes != 1 and num_classes not in y.shape[1:]:
        raise ValueError(
            f"soft labels of {num_classes} classes must have shape (batch, {num_classes}, "
            f"*positions), but the target has shape {tuple(y.shape)}. Convert classes in floating "
            f"point with y.long(). {_MIX}"
        )
    if not (least >= -_NEAR and most <= 1 + _NEAR):
        raise ValueError(
            f"soft labels must be between 0 and 1, but the target has values from {least:.4g} to "
            f"{most:.4g}. Their average may be meaningless: they may be logarithms, signs, or a "
            f"number that marks a missing value. mixed.loss(criterion, output) is correct for "
            f"these too. {_MIX}"
        )


_MIX = "For regression targets, use targets='mix' or mix(y, plan)."


def as_html(y: Any, plan: MixPlan | None, caption: str) -> str:
    """Return a table of the first examples, their partners and λ, for a notebook."""
    head = ("example", "its target", "λ", "partner", "its target")
    examples = range(0 if plan is None else min(_SHOWN, plan.batch))
    return _html.table(head, [_row_of(y, plan, index) for index in examples if plan], caption)


def _row_of(y: Any, plan: MixPlan, example: int) -> tuple[str, ...]:
    share = plan.target_lam
    lam = share if share.ndim == 0 else share[example]
    partner = int(plan.perm[example])
    own, other = _target_of(y, example), _target_of(y, partner)
    return str(example), own, f"{lam.item():.3f}", str(partner), other


def _target_of(y: Any, example: int) -> str:
    """Return the target of an example as text: a number's value, or a tensor's shape."""
    parts = []
    for path, leaf in leaves(y):
        target = leaf[example].detach()
        value = f"{target.item():.4g}" if target.numel() == 1 else f"shape {tuple(target.shape)}"
        parts.append(f"{path}: {value}" if path else value)
    return ", ".join(parts)


def accuracy(
    y: Tensor, plan: MixPlan | None, shares: Shares | None, output: Tensor, ignore_index: int
) -> Tensor:
    """Return the accuracy weighted by λ; see `MixedTarget.accuracy`."""
    wanted = output.shape if is_continuous(y) else output.shape[:1] + output.shape[2:]
    if output.ndim < 2 or output.shape[1] < 2 or y.shape != wanted:
        raise ValueError(
            f"accuracy needs scores (batch, classes, *positions) with at least two classes, and "
            f"classes (batch, *positions) or soft labels, but the output has shape "
            f"{tuple(output.shape)} and the target {tuple(y.shape)}."
        )
    if is_continuous(y):
        senseless, classes = _no_labels(y), y.argmax(1)
    else:
        classes = y
        senseless = ((y < 0) | (y >= output.shape[1])) & (y != ignore_index)
    value = _shared(output.argmax(1), classes, plan, shares, ignore_index)
    if value.device.type != "cpu":  # do not synchronise with the device
        return torch.where(senseless.any(), torch.nan, value)
    if senseless.any():
        raise ValueError(_senseless(y, output.shape[1], ignore_index))
    return value


def _shared(
    predicted: Tensor,
    classes: Tensor,
    plan: MixPlan | None,
    shares: Shares | None,
    ignore_index: int,
) -> Tensor:
    hit, counts = _hits(predicted, classes, ignore_index)
    if plan is not None:
        partners = classes[plan.perm.to(classes.device)]
        other, others = _hits(predicted, partners, ignore_index)
        lam = plan.target_lam if shares is None else shares.for_losses(hit, accuracy)
        hit, counts = weighted_sum(hit, other, lam), weighted_sum(counts, others, lam)
    return hit.sum() / counts.sum()


def _hits(predicted: Tensor, classes: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return where a prediction is right, and where it counts, as numbers 0 and 1."""
    counts = classes != ignore_index
    return ((predicted == classes) & counts).float(), counts.float()


def _no_labels(y: Tensor) -> Tensor:
    """Return where floating point targets are not soft labels of one class."""
    outside = ~((y >= -_NEAR) & (y <= 1 + _NEAR)).all(1)  # true for NaN
    sure = (y >= 1 - _NEAR).sum(1) > 1
    return outside | sure | (y <= _NEAR / y.shape[1]).all(1)


def _senseless(y: Tensor, classes: int, ignore_index: int) -> str:
    least, most = _range(y)
    if is_continuous(y):
        return (
            f"this target, with values from {least:.4g} to {most:.4g}, has no accuracy: soft "
            f"labels must be between 0 and 1, and each example needs one most likely class. "
            f"Multi-label targets, logarithms, signs and missing values have none."
        )
    return (
        f"classes must be from 0 to {classes - 1}, or {ignore_index}, which is ignored, but the "
        f"target has values from {least} to {most}. If another value marks positions to ignore, "
        f"pass accuracy(output, ignore_index=...)."
    )


def _one_hot(y: Tensor, num_classes: int) -> Tensor:
    least, most = _range(y)
    if least < 0 or most >= num_classes:
        raise ValueError(
            f"soft labels need classes from 0 to {num_classes - 1}, but the target has values from "
            f"{least} to {most}."
        )
    return torch.nn.functional.one_hot(y.long(), num_classes).movedim(-1, 1).float()


def _range(y: Tensor) -> tuple[float, float]:
    return (y.min().item(), y.max().item()) if y.numel() else (0, 0)
