"""Error, likelihood, Brier score and calibration, from logits and labels."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


def error(logits: Tensor, y: Tensor) -> float:
    """Return the share of examples whose greatest logit is not the label's, in percent."""
    return 100 * (logits.argmax(1) != y).double().mean().item()


def top_error(logits: Tensor, y: Tensor, *, k: int = 5) -> float:
    """Return the share of examples whose label is not among the ``k`` greatest logits, in percent.

    With ``k`` classes or fewer it is 0.

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

    That is Brier's own definition of 1950, the sum over all classes; some halve it or divide it by
    their number.

    Examples:
        >>> brier(torch.zeros(1, 2), torch.tensor([0]))
        0.5
    """
    gap = logits.double().softmax(1)
    gap[torch.arange(len(y), device=y.device), y] -= 1
    return gap.square().sum(1).mean().item()


@dataclass(frozen=True)
class Reliability:
    """Examples sorted by confidence into bins of equal width.

    Attributes:
        count: examples in each bin.
        confidence: their mean confidence; 0 in an empty bin.
        accuracy: the share of them that was right; 0 in an empty bin.
    """

    count: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]

    @property
    def ece(self) -> float:
        """The expected calibration error in percent: |confidence - accuracy|, bin by bin."""
        bins = zip(self.count, self.confidence, self.accuracy, strict=True)
        gaps = sum(count * abs(confidence - accuracy) for count, confidence, accuracy in bins)
        return 100 * gaps / sum(self.count)


def reliability(logits: Tensor, y: Tensor, *, bins: int = 15) -> Reliability:
    """Sort predictions by confidence into bins ``(k/bins, (k+1)/bins]``, 1.0 into the last.

    Examples:
        >>> logits = torch.tensor([[0.0, 60.0], [0.0, 0.0]])
        >>> reliability(logits, torch.tensor([1, 1]), bins=2)
        Reliability(count=(1, 1), confidence=(0.5, 1.0), accuracy=(0.0, 1.0))
    """
    confidence, label = logits.double().softmax(1).max(1)
    right = (label == y).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=logits.device)
    place = torch.bucketize(confidence, edges[1:-1])
    count = place.bincount(minlength=bins)

    def mean(values: Tensor) -> tuple[float, ...]:
        total = torch.zeros_like(edges[1:]).index_add(0, place, values)
        return tuple((total / count.clamp_min(1)).tolist())

    return Reliability(tuple(count.tolist()), mean(confidence), mean(right))
