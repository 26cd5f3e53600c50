"""Calibration errors: the plug-in estimate, what is left without its bias, and other bins.

The plug-in ECE is above zero for calibrated models too, since accuracies in bins are random. Beside
it stand the value that calibrated predictions would get, and a debiased error with an interval.
"""

import math
from dataclasses import dataclass

import torch
from scipy.special import ndtri
from torch import Tensor

from manifold_mixup.lab.evaluate.metrics import Reliability, nll, reliability

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """The calibration of predicted classes, in percent; the NLL in nats.

    Attributes:
        nll: the mean negative log-likelihood.
        ece: the plug-in ECE, in bins of equal width.
        ece_if_calibrated: see `ece_if_calibrated`.
        rms_gap: see `Gap`.
        rms_low: the low end of its interval.
        rms_high: the high end.
        adaptive_ece: the plug-in ECE in bins of equal mass.
        classwise_ece: see `classwise_ece`.
        reliability: the bins of ``ece``.
    """

    nll: float
    ece: float
    ece_if_calibrated: float
    rms_gap: float
    rms_low: float
    rms_high: float
    adaptive_ece: float
    classwise_ece: float
    reliability: Reliability


@dataclass(frozen=True)
class Gap:
    """The root mean square of the gaps between confidence and accuracy in bins, in percent.

    Attributes:
        rms: the root of the debiased mean square; negative if that is, which says that no error can
            be seen.
        low: the low end of a 95 % interval.
        high: the high end.
    """

    rms: float
    low: float
    high: float


def calibration(logits: Tensor, y: Tensor, *, generator: torch.Generator) -> Calibration:
    """Return all calibration errors of logits ``(n, classes)`` for labels ``(n,)``.

    ``generator`` is a CPU generator; it draws the labels for ``ece_if_calibrated``.
    """
    logits, y = logits.double().cpu(), y.cpu()
    probabilities = logits.softmax(1)
    confidence, label = probabilities.max(1)
    right, bins = label == y, reliability(logits, y, bins=BINS)
    gap = debiased_gap(confidence, right)
    return Calibration(
        nll=nll(logits, y),
        ece=bins.ece,
        ece_if_calibrated=ece_if_calibrated(confidence, generator=generator),
        rms_gap=gap.rms,
        rms_low=gap.low,
        rms_high=gap.high,
        adaptive_ece=adaptive_ece(confidence, right),
        classwise_ece=classwise_ece(probabilities, y),
        reliability=bins,
    )


def debiased_gap(
    confidence: Tensor, right: Tensor, *, bins: int = BINS, level: float = 0.95
) -> Gap:
    """Estimate the root mean square gap between confidence and accuracy without the usual bias.

    In bin b with n_b of n examples, let m_b be the mean of d = confidence - right, and v_b the
    sample variance of d, divided by n_b. The estimate is E = Σ_b n_b/n (m_b² - v_b): that of Kumar
    et al. (2019), "Verified Uncertainty Calibration", in which v_b is
    a_b (1 - a_b) / (n_b - 1) with the accuracy a_b, the same if the confidences in a bin are equal.
    It is unbiased for the square of the gaps in these bins, which have equal mass.

    The interval contains each θ with (E - θ)² ≤ z² (2 Σ_b (n_b/n)² v_b² + 4 w θ), where w is the
    mean of (n_b/n) v_b, weighted by each bin's part in the square. The first term is the variance
    of E for a calibrated model, the second what gaps add: the two cases of Sun et al. (2024), "A
    Confidence Interval for the ℓ2 Expected Calibration Error". Solving for θ is ours; with the
    variance at E instead, the coverage was 91 to 100 % in simulations. The v_b of the interval are
    at least those of an accuracy with one more right and one more wrong prediction, so that a bin
    without mistakes is not taken for certain.

    Args:
        confidence: the greatest probabilities, ``(n,)``.
        right: whether the predictions are right, ``(n,)``.
        bins: the number of bins; equal confidences stay together. Bins with a single example have
            no variance and are left out.
        level: the coverage of the interval.
    """
    gap = confidence.double() - right.double()
    index = _equal_mass(confidence, bins)
    count = index.bincount().double()
    mean = _sums(index, gap) / count
    spread = _sums(index, (gap - mean[index]).square()) / (count * (count - 1))
    smooth = (_sums(index, right.double()) + 1) / (count + 2)
    usable = count > 1
    if not usable.any() or not gap.isfinite().all():
        return Gap(math.nan, math.nan, math.nan)
    count, mean, spread, smooth = (values[usable] for values in (count, mean, spread, smooth))
    share = count / count.sum()
    square = (share * (mean.square() - spread)).sum().item()
    low, high = _interval(
        square, share, mean, torch.maximum(spread, smooth * (1 - smooth) / count), level
    )
    return Gap(_percent_root(square), _percent_root(low), _percent_root(high))


def _interval(
    square: float, share: Tensor, mean: Tensor, variance: Tensor, level: float
) -> tuple[float, float]:
    """Solve (E - θ)² ≤ z² (null + 4wθ), see `debiased_gap`, for θ ≥ 0."""
    z2 = ndtri((1 + level) / 2) ** 2
    null = 2 * (share * variance).square().sum().item()
    part = share * (mean.square() + variance)
    w = ((part * share * variance).sum() / part.sum()).item()
    middle = square + 2 * z2 * w
    half = math.sqrt(max(0.0, middle**2 - square**2 + z2 * null))
    return max(0.0, middle - half), max(0.0, middle + half)


def _percent_root(square: float) -> float:
    return 100 * math.copysign(math.sqrt(abs(square)), square)


def adaptive_ece(confidence: Tensor, right: Tensor, *, bins: int = BINS) -> float:
    """Return the plug-in ECE in bins of equal mass, in percent.

    The adaptive bins are those of Nguyen and O'Connor (2015), "Posterior calibration and
    exploratory analysis for natural language processing models". Equal confidences are in one bin,
    so that the order of the examples does not matter.
    """
    gap = confidence.double() - right.double()
    return 100 * _sums(_equal_mass(confidence, bins), gap).abs().sum().item() / len(gap)


def classwise_ece(probabilities: Tensor, y: Tensor, *, bins: int = BINS) -> float:
    """Return the plug-in error of the probability of each class, averaged over classes, in percent.

    For each class, all examples are in bins of equal width by its probability, and the gap is that
    between its mean probability and its frequency (Kull et al., 2019, "Beyond temperature
    scaling"). It is at most 200 / classes: compare it for one number of classes only.
    """
    total = 0.0
    for k, of_class in enumerate(probabilities.double().T.contiguous()):
        gap = of_class - (y == k).double()
        total += _sums(_equal_width(of_class, bins), gap).abs().sum().item()
    return 100 * total / probabilities.numel()


def ece_if_calibrated(
    confidence: Tensor, *, generator: torch.Generator, bins: int = BINS, draws: int = 100
) -> float:
    """Return the mean plug-in ECE if the same confidences were calibrated, in percent.

    Each prediction is drawn as right with a probability equal to its confidence: the consistency
    resampling of Bröcker and Smith (2007), "Increasing the reliability of reliability diagrams". An
    ECE near this value is no evidence of miscalibration.
    """
    confidence = confidence.double().cpu()
    index, total = _equal_width(confidence, bins), 0.0
    for _ in range(draws):
        simulated = (
            torch.rand(confidence.shape, generator=generator, dtype=torch.float64) < confidence
        )
        total += _sums(index, confidence - simulated.double()).abs().sum().item()
    return 100 * total / (draws * len(confidence))


def _equal_width(values: Tensor, bins: int) -> Tensor:
    """Return the bin ``(k/bins, (k+1)/bins]`` of each probability, as `reliability` has them."""
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=values.device)
    return torch.bucketize(values.double(), edges[1:-1])


def _equal_mass(values: Tensor, bins: int) -> Tensor:
    """Return the bin of each value, with as equal numbers as ties permit and no empty bin."""
    ends = torch.arange(1, bins, device=values.device) * len(values) // bins
    edges = values.sort().values[(ends - 1).clamp_min(0)].unique()
    index: Tensor = torch.bucketize(values, edges).unique(return_inverse=True)[1]
    return index


def _sums(index: Tensor, values: Tensor) -> Tensor:
    """Return the sum of the values in each bin."""
    sums: Tensor = values.new_zeros(int(index.max()) + 1).index_add(0, index, values)
    return sums
