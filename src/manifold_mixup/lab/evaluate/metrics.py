"""Error, negative log-likelihood and calibration, from logits and labels."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


def error(logits: Tensor, y: Tensor) -> float:
    """Return the share of examples whose greatest logit is not the label's, in percent."""
    return 100 * (logits.argmax(1) != y).double().mean().item()


def nll(logits: Tensor, y: Tensor) -> float:
    """Return the mean negative log-likelihood of the labels, in nats."""
    return F.cross_entropy(logits.double(), y).item()


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

    Example:
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
