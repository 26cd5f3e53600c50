"""Selective prediction: the error among predictions that the model is most confident of.

Geifman and El-Yaniv (2017), "Selective Classification for Deep Neural Networks"; the area and its
excess are those of Geifman, Uziel and El-Yaniv (2019), "Bias-Reduced Uncertainty Estimation for
Deep Neural Classifiers".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

COVERAGES = tuple(k / 20 for k in range(1, 21))


@dataclass(frozen=True)
class RiskCoverage:
    """The error in percent if only the most confident predictions are made.

    Attributes:
        aurc: the area under the risk-coverage curve: the mean of the error among the k most
            confident predictions over all k.
        best_aurc: that of the best order of the same predictions, with all wrong ones last.
        excess_aurc: their difference, which measures the order alone.
        coverage: shares of predictions that are made.
        risk: the error among each of them.
    """

    aurc: float
    best_aurc: float
    excess_aurc: float
    coverage: tuple[float, ...]
    risk: tuple[float, ...]


def risk_coverage(
    confidence: Tensor, wrong: Tensor, *, coverage: Sequence[float] = COVERAGES
) -> RiskCoverage:
    """Return the risk-coverage curve and the area under it.

    Equal confidences are in random order: the risk is its mean over all their orders, so that the
    order of the examples does not matter. If a confidence is NaN, there is no order, and all
    numbers are NaN.

    Args:
        confidence: the confidence in each prediction, ``(n,)``.
        wrong: whether the prediction is wrong, ``(n,)``.
        coverage: the shares to return the risk for; a share of n examples is rounded up.

    Examples:
        >>> of = risk_coverage(torch.tensor([0.9, 0.8, 0.7]), torch.tensor([False, True, False]))
        >>> round(of.aurc, 2), round(of.best_aurc, 2)  # (0 + 1/2 + 1/3) / 3 and (0 + 0 + 1/3) / 3
        (27.78, 11.11)
    """
    risk = _risk(confidence.double(), wrong.double())
    best = _risk(-wrong.double(), wrong.double())
    aurc, lowest = 100 * risk.mean().item(), 100 * best.mean().item()
    # In floats, 0.07 * 100 is above 7.
    needed = [max(1, math.ceil(share * len(risk) - 1e-9)) for share in coverage]
    risk_at = tuple((100 * risk[[k - 1 for k in needed]]).tolist())
    return RiskCoverage(aurc, lowest, aurc - lowest, tuple(coverage), risk_at)


def _risk(confidence: Tensor, wrong: Tensor) -> Tensor:
    """Return the error among the k most confident predictions for each k, ``(n,)``."""
    _, index, count = torch.unique(-confidence, return_inverse=True, return_counts=True)
    # Each of some equally confident predictions counts as wrong by the share that is wrong.
    share = torch.zeros_like(count, dtype=wrong.dtype).index_add(0, index, wrong) / count
    if confidence.isnan().any():
        share = torch.full_like(share, math.nan)
    predictions = torch.arange(1, len(wrong) + 1, device=wrong.device)
    risk: Tensor = share.repeat_interleave(count).cumsum(0) / predictions
    return risk
