"""The loss functions of recipes."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def build(name: str, *, label_smoothing: float = 0.0) -> nn.Module:
    """Return a loss function by name.

    Raises:
        ValueError: there is no such loss.
    """
    if name == "cross_entropy":
        return nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    if name == "softmax_bce":
        return SoftmaxBCE(label_smoothing=label_smoothing)
    if name == "mse":
        return nn.MSELoss()
    raise ValueError(f"no loss {name!r}. Known: cross_entropy, softmax_bce, mse.")


class SoftmaxBCE(nn.Module):
    """Binary cross-entropy of the softmax, averaged over examples and classes.

    This is the loss of the authors' code; their figures call it binary cross-entropy. It adds a
    term ``log(1 - p)`` for every other class to the cross-entropy, and its gradient is smaller by
    a factor of about the number of classes.

    Args:
        label_smoothing: share of the target that is spread evenly over the classes.
        reduction: ``"mean"``, or ``"none"`` for one loss per example.
    """

    def __init__(self, *, label_smoothing: float = 0.0, reduction: str = "mean") -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.reduction = reduction

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits ``(n, classes)`` for labels ``(n,)`` or ``(n, classes)``."""
        log_p = logits.float().log_softmax(1)
        classes = logits.shape[1]
        probabilities = target if target.is_floating_point() else F.one_hot(target, classes)
        probabilities = (
            probabilities.float() * (1 - self.label_smoothing) + self.label_smoothing / classes
        )
        # As in torch's binary_cross_entropy, logarithms are clamped at -100.
        gain = probabilities * log_p.clamp_min(-100) + (1 - probabilities) * _log1mexp(log_p)
        each = -gain.mean(1)
        return each if self.reduction == "none" else each.mean()


def _log1mexp(log_p: Tensor) -> Tensor:
    """Return ``log(1 - exp(log_p))`` for ``log_p <= 0``, accurate at both ends and -100 at 0.

    M. Mächler, Accurately computing log(1 - exp(-|a|)), 2012.
    """
    near, at_zero = log_p > -math.log(2), log_p > -1e-37
    # A branch that is not taken gets a harmless argument, so that its gradient is not 0 · inf.
    small = torch.where(near & ~at_zero, log_p, -1.0)
    large = torch.where(near, -1.0, log_p)
    value = torch.where(near, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))
    return torch.where(at_zero, -100.0, value)
