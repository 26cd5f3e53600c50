"""Outlier detection: separating unknown inputs from the test set by a model's outputs.

As in Hendrycks and Gimpel (2017), every input gets a score. The higher the test set's scores are
compared to those of other inputs, the better the model detects outliers. Inputs of the test set are
the positives, whether classified correctly or not.
"""

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor


@dataclass(frozen=True)
class Separation:
    """How well a score separates two sets of inputs, in percent.

    Attributes:
        auroc: how often the known input of a random pair has the greater score; ties count half.
            Guessing gives 50.
        fpr95: the share of unknown inputs above the threshold that 95 % of the known inputs reach.
    """

    auroc: float
    fpr95: float


def confidence(logits: Tensor) -> Tensor:
    """Return the greatest probability of each row, ``(n,)``."""
    return logits.double().softmax(1).amax(1)


def negative_entropy(logits: Tensor) -> Tensor:
    """Return the negative entropy of each row in nats, ``(n,)``."""
    log_p = logits.double().log_softmax(1)
    return (log_p.exp() * log_p).sum(1)


def negative_energy(logits: Tensor) -> Tensor:
    """Return the negative energy of each row, ``log Σ exp(z)``, ``(n,)``.

    Liu et al. (2020), "Energy-based Out-of-distribution Detection", at temperature 1. Unlike
    probabilities, it depends on the common level of the logits, which the loss leaves free.
    """
    return logits.double().logsumexp(1)


SCORES = {"confidence": confidence, "entropy": negative_entropy, "energy": negative_energy}

Kind = Literal["near", "far", "shifted"]

# The near and far sets of OpenOOD 1.5 (Zhang et al., 2023), as far as data sets of the lab go.
_FAR = dict.fromkeys(("svhn", "mnist"), "far")
_SETS = {
    "CIFAR-10": {"cifar-100": "near", "tiny-imagenet": "near", **_FAR},
    "CIFAR-100": {"cifar-10": "near", "tiny-imagenet": "near", **_FAR},
}


def kind(known: str, unknown: str) -> Kind | None:
    """Return whether a set of outliers is near to a data set or far, ``None`` if that is not known.

    Args:
        known: the name of the data set, as in `Data`.
        unknown: the name of the outliers, as in ``--unknown``.

    Examples:
        >>> kind("CIFAR-10", "cifar-100"), kind("CIFAR-10", "svhn"), kind("mine", "svhn")
        ('near', 'far', None)
    """
    whole, _, _ = known.partition(",")  # without ", long tail 1:100"
    return cast(Kind | None, _SETS.get(whole, {}).get(unknown))


def separation(known: Tensor, unknown: Tensor) -> Separation:
    """Compare the scores of known inputs with those of unknown ones; NaN if one of them is NaN.

    Examples:
        >>> separation(torch.tensor([3.0, 2.0]), torch.tensor([2.0, 1.0]))
        Separation(auroc=87.5, fpr95=50.0)
    """
    if known.isnan().any() or unknown.isnan().any():
        return Separation(math.nan, math.nan)
    return Separation(auroc(known, unknown), fpr_at_tpr(known, unknown))


def auroc(known: Tensor, unknown: Tensor) -> float:
    """Return P(known > unknown) + P(known = unknown) / 2 over all pairs, in percent.

    This is the area under the ROC curve, or Mann-Whitney's U divided by the number of pairs.
    """
    order = unknown.sort().values
    below = torch.searchsorted(order, known, side="left")
    up_to = torch.searchsorted(order, known, side="right")
    return 100 * (0.5 * (below + up_to).double() / len(unknown)).mean().item()


def fpr_at_tpr(known: Tensor, unknown: Tensor, *, tpr: float = 0.95) -> float:
    """Return the share of ``unknown`` at or above the threshold, in percent.

    The threshold is the greatest score that at least a share ``tpr`` of ``known`` reaches.
    """
    needed = max(1, math.ceil(tpr * len(known) - 1e-9))  # in floats, 0.07 * 100 is above 7
    threshold = known.sort(descending=True).values[needed - 1]
    return 100 * (unknown >= threshold).double().mean().item()


def noise(
    like: Tensor,
    *,
    generator: torch.Generator,
    bounds: tuple[float, float] | None = None,
) -> dict[str, Tensor]:
    """Draw uniform and Gaussian noise with the shape of a test set.

    With bounds, uniform noise covers them. Gaussian noise has its mean in their middle and their
    distance as standard deviation, and is clamped. For pixels, this is U(0, 1) and N(0.5, 1), as in
    Liang et al. (2018). Without bounds, range, mean and standard deviation are those of the test
    set.

    Args:
        like: the test inputs, floating point.
        generator: a CPU generator.
        bounds: the minimal and maximal value of the data.
    """
    low, high = (like.min().item(), like.max().item()) if bounds is None else bounds
    uniform = low + (high - low) * torch.rand(like.shape, generator=generator)
    normal = torch.randn(like.shape, generator=generator)
    if bounds is None:
        gaussian = like.mean().item() + like.std().item() * normal
    else:
        gaussian = ((low + high) / 2 + (high - low) * normal).clamp(low, high)
    return {"uniform noise": uniform.to(like.dtype), "Gaussian noise": gaussian.to(like.dtype)}
