"""Telling unknown inputs from the test set by how sure the model is.

Following Hendrycks and Gimpel (2017): every input gets a score, and the further the test set's
scores lie above those of inputs from elsewhere, the better the model knows what it does not know.
Inputs of the test set are the positives, classified rightly or not.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Separation:
    """How far one score tells two sets of inputs apart, in percent.

    Attributes:
        auroc: how often a known input has the greater score of a random pair, ties half; 50 is
            guessing.
        fpr95: how many unknown inputs pass the threshold that 95 % of the known ones pass.
    """

    auroc: float
    fpr95: float


def confidence(logits: Tensor) -> Tensor:
    """Return the greatest probability of each row, ``(n,)``; higher where the model is sure."""
    return logits.double().softmax(1).amax(1)


def negative_entropy(logits: Tensor) -> Tensor:
    """Return minus the entropy of each row in nats, ``(n,)``; higher where the model is sure."""
    log_p = logits.double().log_softmax(1)
    return (log_p.exp() * log_p).sum(1)


SCORES = {"confidence": confidence, "entropy": negative_entropy}


def separation(known: Tensor, unknown: Tensor) -> Separation:
    """Compare the scores of known inputs with those of unknown ones.

    Examples:
        >>> separation(torch.tensor([3.0, 2.0]), torch.tensor([2.0, 1.0]))
        Separation(auroc=87.5, fpr95=50.0)
    """
    return Separation(auroc(known, unknown), fpr_at_tpr(known, unknown))


def auroc(known: Tensor, unknown: Tensor) -> float:
    """Return P(known > unknown) + P(known = unknown) / 2 over all pairs, in percent.

    That is the area under the ROC curve, and Mann and Whitney's U over the number of pairs.
    """
    order = unknown.sort().values
    below = torch.searchsorted(order, known, side="left")
    up_to = torch.searchsorted(order, known, side="right")
    return 100 * (0.5 * (below + up_to).double() / len(unknown)).mean().item()


def fpr_at_tpr(known: Tensor, unknown: Tensor, *, tpr: float = 0.95) -> float:
    """Return the share of ``unknown`` at or above the threshold, in percent.

    The threshold is the greatest score that at least a share ``tpr`` of ``known`` reaches.
    """
    needed = max(1, math.ceil(tpr * len(known) - 1e-9))  # 0.07 * 100 is above 7 in floats
    threshold = known.sort(descending=True).values[needed - 1]
    return 100 * (unknown >= threshold).double().mean().item()


def noise(
    like: Tensor,
    *,
    generator: torch.Generator,
    bounds: tuple[float, float] | None = None,
) -> dict[str, Tensor]:
    """Draw uniform and Gaussian noise shaped like a test set.

    Within bounds, uniform noise fills them and Gaussian noise has its mean in their middle and
    their distance for deviation, clamped: for pixels U(0, 1) and N(0.5, 1), as Liang et al. (2018)
    do. Without bounds, the ends, the mean and the deviation are those of the test set.

    Args:
        like: the inputs as models take them, floating point.
        generator: a CPU generator.
        bounds: the least and greatest value of the data.
    """
    low, high = (like.min().item(), like.max().item()) if bounds is None else bounds
    uniform = low + (high - low) * torch.rand(like.shape, generator=generator)
    normal = torch.randn(like.shape, generator=generator)
    if bounds is None:
        gaussian = like.mean().item() + like.std().item() * normal
    else:
        gaussian = ((low + high) / 2 + (high - low) * normal).clamp(low, high)
    return {"uniform noise": uniform, "Gaussian noise": gaussian}
