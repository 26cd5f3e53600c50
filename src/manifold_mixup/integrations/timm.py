"""Manifold Mixup in timm training scripts: with timm's arguments and losses."""

from collections.abc import Callable, Iterable
from typing import Any

from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from manifold_mixup import Cut, Interpolate, ManifoldMixup, OneOf
from manifold_mixup.integrations._loaders import refuse_mixed
from manifold_mixup.integrations._timm_losses import TimmCriterion, as_mixed

_PER_SAMPLE = {"batch": False, "elem": True}


def create_mixup(
    model: nn.Module,
    layers: str | nn.Module | Iterable[str | nn.Module] | None = None,
    *,
    loader: Any,
    loss: nn.Module | None = None,
    mixup_alpha: float | Callable[[int], float | None] = 1.0,
    cutmix_alpha: float = 0.0,
    mixup_prob: float = 1.0,
    mixup_switch_prob: float = 0.5,
    mixup_mode: str = "batch",
    mixup_off_epoch: int = 0,
    smoothing: float = 0.0,
    multi_label: bool = False,
    **options: Any,
) -> tuple[ManifoldMixup, nn.Module]:
    """Attach to a model, and create the training criterion, in place of `timm.data.Mixup`.

    Args:
        model: the model to train. An EMA copy of it does not mix.
        layers: the eligible layers, see `ManifoldMixup`; None needs ``example=``.
        loader: loader of the training data; its length is the number of forward passes per epoch.
        loss: a loss of timm or PyTorch, as for training without mixing; None is
            `SoftTargetCrossEntropy` with ``smoothing``, or `BinaryCrossEntropy` if ``multi_label``.
        mixup_alpha: λ ~ Beta(mixup_alpha, mixup_alpha). A number above 0, or a callable of the
            step, see `ManifoldMixup`. 0 with a ``cutmix_alpha`` means CutMix alone.
        cutmix_alpha: λ ~ Beta(cutmix_alpha, cutmix_alpha) of CutMix, at any of the layers; 0 means
            no CutMix.
        mixup_prob: fraction of the batches that are mixed.
        mixup_switch_prob: probability of CutMix where both alphas are above 0.
        mixup_mode: ``"batch"`` for one λ per batch, ``"elem"`` for one λ per example.
        mixup_off_epoch: the first epoch, counted from 0, without mixing; 0 means never.
        smoothing: label smoothing of `SoftTargetCrossEntropy`. Other losses have their own.
        multi_label: whether targets are ``(batch, classes)`` of 0 and 1 in floating point.
        options: ``seed`` and all other options of `ManifoldMixup`.

    Returns:
        The attachment, and the criterion to call with the output and the loader's targets.

    Raises:
        TypeError: an option is one of `timm.data.Mixup`, which has another name here.
        ValueError: an argument is out of range, the loss has no mixed targets, the loader's batches
            are already mixed, or a layer has no positions to cut.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> loader = [(torch.randn(8, 4), torch.randint(3, (8,)))]
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> mixup, criterion = create_mixup(model, ["1"], loader=loader, smoothing=0.1, seed=0)
        >>> criterion(model(loader[0][0]), loader[0][1]).backward()
        >>> mixup.plan.layer
        '1'
    """
    if mixup_mode not in _PER_SAMPLE:
        raise ValueError(
            f"mixup_mode must be 'batch' or 'elem', but is {mixup_mode!r}. Partners are a random "
            f"permutation of the batch, so 'pair' is not supported."
        )
    _refuse_names_of_timm(options)
    refuse_mixed(loader)
    if loss is None:
        loss = BinaryCrossEntropy(smoothing=0.0) if multi_label else SoftTargetCrossEntropy()
    plain, label_smoothing = as_mixed(loss, smoothing, multi_label)
    if cutmix_alpha:
        _refuse_two_ways(options)
        options["blend"] = _cutmix(mixup_alpha, cutmix_alpha, mixup_switch_prob)
        mixup_alpha = mixup_alpha or cutmix_alpha
    alpha: Any = mixup_alpha
    if mixup_off_epoch:
        alpha = _alpha_until(mixup_off_epoch * len(loader), mixup_alpha)
    per_sample = _PER_SAMPLE[mixup_mode]
    mixup = ManifoldMixup(
        model, layers, alpha=alpha, p=mixup_prob, per_sample=per_sample, **options
    )
    return mixup, TimmCriterion(mixup.wrap(plain, targets="mix"), label_smoothing, multi_label)


def _alpha_until(
    off: int, mixup_alpha: float | Callable[[int], float | None]
) -> Callable[[int], float | None]:
    """Return alpha by step, None from the step ``off`` on."""

    def alpha(step: int) -> float | None:
        if step >= off:
            return None
        return mixup_alpha(step) if callable(mixup_alpha) else mixup_alpha

    return alpha


def _refuse_names_of_timm(options: dict[str, Any]) -> None:
    for name, here in _HERE.items():
        if name in options:
            raise TypeError(f"create_mixup has no {name}=, an argument of timm.data.Mixup: {here}.")


_HERE = {
    "prob": "use mixup_prob=",
    "switch_prob": "use mixup_switch_prob=",
    "mode": 'use mixup_mode=, "batch" or "elem"',
    "label_smoothing": "use smoothing=",
    "num_classes": "leave it out, the model's output has as many scores",
    "correct_lam": "leave it out, labels always have the share that the box leaves",
    "cutmix_minmax": "leave it out, the boxes of CutMix have the share λ ~ Beta(cutmix_alpha)",
}


def _refuse_two_ways(options: dict[str, Any]) -> None:
    if "blend" in options:
        raise ValueError(
            f"cutmix_alpha and blend={options['blend']!r} both say how states are mixed. Leave one "
            f"of them out."
        )


def _cutmix(mixup_alpha: Any, cutmix_alpha: float, switch: float) -> Cut | Interpolate | OneOf:
    """Return CutMix, or it and interpolation in turn, as timm's Mixup does."""
    if not mixup_alpha or switch == 1:
        return Cut(cutmix_alpha)
    if not 0 <= switch <= 1:
        raise ValueError(f"mixup_switch_prob must be between 0 and 1, but is {switch!r}.")
    if switch == 0:
        return Interpolate()
    return OneOf((Interpolate(), 1 - switch), (Cut(cutmix_alpha), switch))
