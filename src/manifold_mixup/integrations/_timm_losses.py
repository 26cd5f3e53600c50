"""The losses of timm on targets that are mixed."""

from typing import Any

import torch
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

# They compare parts of the batch, or round targets to 0 and 1.
_UNMIXABLE = ("JsdCrossEntropy", "TwoWayLoss", "ZlprLoss")


def as_mixed(
    loss: nn.Module, smoothing: float, multi_label: bool
) -> tuple[nn.Module, float | None]:
    """Return a loss for mixed targets, and the smoothing of its soft labels; None for no such."""
    kind = type(loss).__name__
    if kind in _UNMIXABLE:
        raise ValueError(
            f"{kind} has no mixed targets: it compares parts of the batch with each other, or "
            f"rounds every target to 0 or 1. Take another loss."
        )
    if isinstance(loss, SoftTargetCrossEntropy) and not multi_label:
        return loss, smoothing
    if smoothing:
        raise ValueError(
            f"smoothing={smoothing} is for SoftTargetCrossEntropy; {kind} smooths labels by an "
            f"argument of its own. Give it there."
        )
    if multi_label:
        return loss, None
    if type(loss) is LabelSmoothingCrossEntropy:  # the same of soft labels, and for mode "elem"
        return SoftTargetCrossEntropy(), loss.smoothing
    if isinstance(loss, BinaryCrossEntropy):  # its threshold is one of mixed targets
        return loss, 0.0 if getattr(loss, "smooth_dense", False) else loss.smoothing
    return loss, None


class TimmCriterion(nn.Module):
    """Call as ``criterion(output, target)``, mixed if the output's forward pass was."""

    def __init__(self, mixed: nn.Module, smoothing: float | None, multi_label: bool) -> None:
        super().__init__()
        self.mixed = mixed
        self.smoothing = smoothing
        self.multi_label = multi_label

    def forward(self, output: Tensor, target: Tensor) -> Any:
        """Return the loss."""
        if target.is_floating_point() != self.multi_label or target.ndim != 1 + self.multi_label:
            wanted = (
                "(batch, classes) in floating point" if self.multi_label else "(batch,) classes"
            )
            raise ValueError(
                f"targets must be {wanted}, but are {target.dtype} of shape "
                f"{tuple(target.shape)}. Leave out timm's Mixup, which makes labels soft; for "
                f"multi-label targets say multi_label=True."
            )
        if self.smoothing is not None:
            classes = output.shape[-1]
            hard = nn.functional.one_hot(target.long(), classes).to(torch.float32)
            target = hard * (1 - self.smoothing) + self.smoothing / classes
        return self.mixed(output, target)
