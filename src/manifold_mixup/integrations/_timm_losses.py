"""The losses of timm for mixed targets."""

from typing import Any

import torch
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

# They compare parts of the batch, or round targets to 0 and 1.
_UNMIXABLE = ("JsdCrossEntropy", "TwoWayLoss", "ZlprLoss")


def as_mixed(
    loss: nn.Module, smoothing: float, multi_label: bool
) -> tuple[nn.Module, float | None]:
    """Return a loss for mixed targets, and its label smoothing (None without soft labels)."""
    kind = type(loss).__name__
    if kind in _UNMIXABLE:
        raise ValueError(
            f"{kind} has no mixed targets: it compares parts of the batch with each other, or "
            f"rounds every target to 0 or 1. Use another loss."
        )
    if isinstance(loss, SoftTargetCrossEntropy) and not multi_label:
        return loss, smoothing
    if smoothing:
        raise ValueError(
            f"smoothing={smoothing} applies to SoftTargetCrossEntropy only. Pass the smoothing to "
            f"{kind} itself."
        )
    if multi_label:
        return loss, None
    if type(loss) is LabelSmoothingCrossEntropy:  # its equivalent for soft labels
        return SoftTargetCrossEntropy(), loss.smoothing
    if isinstance(loss, BinaryCrossEntropy):  # its threshold applies to mixed targets
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
                f"{tuple(target.shape)}. Remove timm's Mixup, which makes labels soft; for "
                f"multi-label targets, set multi_label=True."
            )
        if self.smoothing is not None:
            classes = output.shape[-1]
            hard = nn.functional.one_hot(target.long(), classes).to(torch.float32)
            target = hard * (1 - self.smoothing) + self.smoothing / classes
        return self.mixed(output, target)
