"""Error, likelihood, Brier score and calibration from logits, and the errors of numbers."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


def error(logits: Tensor, y: Tensor) -> float:
    """Return the classification error in percent."""
    return 100 * (logits.argmax(1) != y).double().mean().item()


def top_error(logits: Tensor, y: Tensor, *, k: int = 5) -> float:
    """Return the top-k error in percent: the label is not among the ``k`` greatest logits.

    It is 0 with ``k`` classes or fewer.

    Examples:
        >>> logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
        >>> top_error(logits, torch.tensor([1, 2]), k=2)
        50.0
    """
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return 100 * (best != y[:, None]).all(1).double().mean().item()


def nll(logits: Tensor, y: Tensor) -> float:
    """Return the mean negative log-likelihood of the labels, in nats."""
    return F.cross_entropy(logits.double(), y).item()


def brier(logits: Tensor, y: Tensor) -> float:
    """Return the mean squared distance of the probabilities to the one-hot label, from 0 to 2.

    This is Brier's definition of 1950, the sum over all classes. Others halve it, or divide it by
    the number of classes.

    Examples:
        >>> brier(torch.zeros(1, 2), torch.tensor([0]))
        0.5
    """
    gap = logits.double().softmax(1)
    gap[torch.arange(len(y), device=y.device), y] -= 1
    return gap.square().sum(1).mean().item()


def mse(predictions: Tensor, y: Tensor) -> float:
    """Return the mean squared error of predicted numbers."""
    return (predictions.double() - y.double()).square().mean().item()


def rmse(predictions: Tensor, y: Tensor) -> float:
    """Return the root mean squared error of predicted numbers, in their units.

    Examples:
        >>> rmse(torch.tensor([1.0, 5.0]), torch.tensor([4.0, 1.0]))
        3.5355339059327378
    """
    return math.sqrt(mse(predictions, y))


def r2(predictions: Tensor, y: Tensor) -> float:
    """Return the share of the variance that is explained, R², at most 1.

    Examples:
        >>> r2(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 3.0]))
        0.0
    """
    return 1 - mse(predictions, y) / y.double().var(correction=0).item()


@dataclass(frozen=True)
class Reliability:
    """Predictions in bins of equal width by confidence.

    Attributes:
        count: number of examples in each bin.
        confidence: mean confidence in each bin; 0 in an empty bin.
        accuracy: accuracy in each bin; 0 in an empty bin.
    """

    count: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]

    @property
    def ece(self) -> float:
        """The expected calibration error in percent: the mean of |confidence - accuracy|."""
        bins = zip(self.count, self.confidence, self.accuracy, strict=True)
        gaps = sum(count * abs(confidence - accuracy) for count, confidence, accuracy in bins)
        return 100 * gaps / sum(self.count)


def reliability(logits: Tensor, y: Tensor, *, bins: int = 15) -> Reliability:
    """Put predictions into the bins ``(k/bins, (k+1)/bins]`` by confidence.

    Examples:
        >>> logits = torch.tensor([[0.0, 60.0], [0.0, 0.0]])
        >>> reliability(logits, torch.tensor([1, 1]), bins=2)
        Reliability(count=(1, 1), confidence=(0.5, 1.0), accuracy=(0.0, 1.0))
    """
    confidence, label = logits.double().softmax(1).max(1)
    right = (label == y).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=logits.device)
    index = torch.bucketize(confidence, edges[1:-1])
    count = index.bincount(minlength=bins)

    def mean(values: Tensor) -> tuple[float, ...]:
        total = torch.zeros_like(edges[1:]).index_add(0, index, values)
        return tuple((total / count.clamp_min(1)).tolist())

    return Reliability(tuple(count.tolist()), mean(confidence), mean(right))
