"""Manifold Mixup in training scripts of timm: its arguments, its losses."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from manifold_mixup import ManifoldMixup
from manifold_mixup.integrations._loaders import refuse_mixed

_PER_SAMPLE = {"batch": False, "elem": True}
# They compare parts of the batch, or round targets to 0 and 1.
_UNMIXABLE = ("JsdCrossEntropy", "TwoWayLoss", "ZlprLoss")


def create_mixup(
    model: nn.Module,
    layers: str | nn.Module | Iterable[str | nn.Module] | None = None,
    *,
    loader: Any,
    loss: nn.Module | None = None,
    mixup_alpha: float | Callable[[int], float | None] = 1.0,
    mixup_prob: float = 1.0,
    mixup_mode: str = "batch",
    mixup_off_epoch: int = 0,
    smoothing: float = 0.0,
    multi_label: bool = False,
    **options: Any,
) -> tuple[ManifoldMixup, nn.Module]:
    """Attach to a model, and make the training criterion: in the place of `timm.data.Mixup`.

    Args:
        model: the model that is trained. An EMA copy of it does not mix.
        layers: the eligible layers, as of `ManifoldMixup`; None needs ``example=``.
        loader: of the training data; its length is the number of forward passes of an epoch.
        loss: a loss of timm or torch, as for training without mixing; None is
            `SoftTargetCrossEntropy` with ``smoothing``, or `BinaryCrossEntropy` if ``multi_label``.
        mixup_alpha: λ ~ Beta(mixup_alpha, mixup_alpha); above 0, or a callable of the step as of
            `ManifoldMixup`.
        mixup_prob: share of the batches that are mixed.
        mixup_mode: ``"batch"`` for one λ, ``"elem"`` for a λ for every example.
        mixup_off_epoch: the first epoch, from 0, that does not mix any more; 0 for none.
        smoothing: of the labels of `SoftTargetCrossEntropy`. Other losses have their own.
        multi_label: whether targets are ``(batch, classes)`` of 0 and 1 in floating point.
        options: ``seed`` and all else that `ManifoldMixup` takes.

    Returns:
        The attachment, and the criterion to call with the output and the loader's targets.

    Raises:
        ValueError: an argument is out of range, the loss has no mixed targets, or the loader's
            batches are mixed already.

    Examples:
        >>> loader = [(torch.randn(8, 4), torch.randint(3, (8,)))]
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> mixup, criterion = create_mixup(model, ["1"], loader=loader, smoothing=0.1, seed=0)
        >>> criterion(model(loader[0][0]), loader[0][1]).backward()
        >>> mixup.plan.layer
        '1'
    """
    if mixup_mode not in _PER_SAMPLE:
        raise ValueError(
            f"mixup_mode must be 'batch' or 'elem', but is {mixup_mode!r}. Partners are drawn as a "
            f"permutation of the batch, of which 'pair' would be none."
        )
    refuse_mixed(loader)
    if loss is None:
        loss = BinaryCrossEntropy(smoothing=0.0) if multi_label else SoftTargetCrossEntropy()
    plain, label_smoothing = _as_mixed(loss, smoothing, multi_label)
    alpha: Any = mixup_alpha
    if mixup_off_epoch:
        off = mixup_off_epoch * len(loader)

        def alpha(step: int) -> float | None:
            if step >= off:
                return None
            return mixup_alpha(step) if callable(mixup_alpha) else mixup_alpha

    per_sample = _PER_SAMPLE[mixup_mode]
    mixup = ManifoldMixup(
        model, layers, alpha=alpha, p=mixup_prob, per_sample=per_sample, **options
    )
    return mixup, _Criterion(mixup.wrap(plain), label_smoothing, multi_label)


def _as_mixed(
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


class _Criterion(nn.Module):
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
