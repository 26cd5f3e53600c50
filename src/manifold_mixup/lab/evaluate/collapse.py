"""Neural collapse: how far the states of a layer are from one point per class, on a simplex.

Papyan, Han and Donoho, Prevalence of neural collapse during the terminal phase of deep learning
training, PNAS 117 (40), 2020 (arXiv 2008.08186), name four properties of the last layer's inputs.
Each number here is 0 for full collapse. Every class counts alike: the global mean is the mean of
the class means, as it is in their balanced data sets. All is computed in double precision.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_FLAT = 1e-6
"""Where class means differ by less than this share of their greatest difference, it is noise."""


@dataclass(frozen=True)
class Means:
    """The means of the classes at a layer.

    Attributes:
        labels: the classes that have examples, ``(classes,)``, ascending.
        of_class: their means, ``(classes, dim)``, double.
    """

    labels: Tensor
    of_class: Tensor

    @property
    def centred(self) -> Tensor:
        """The means without the global mean, ``(classes, dim)``."""
        return self.of_class - self.of_class.mean(0)


def class_means(states: Tensor, y: Tensor) -> Means:
    """Return the mean of each class that has examples.

    Args:
        states: hidden states, ``(n, dim)``.
        y: labels, ``(n,)``.

    Raises:
        ValueError: there are fewer than two classes.
    """
    labels = y.unique()
    if len(labels) < 2:
        raise ValueError("all examples are of one class. Neural collapse is about several.")
    return Means(labels, torch.stack([states[y == label].double().mean(0) for label in labels]))


def within_between(states: Tensor, y: Tensor, means: Means) -> float:
    """Return NC1, ``tr(Σ_W Σ_B⁺) / C``: the variance within classes against that between them.

    Σ_W is the mean over the classes of the covariance of a class, Σ_B that of the class means, and
    ⁺ the pseudo-inverse. Its inverse directions are those in which the class means differ, at most
    C - 1. The result is ``nan`` if all class means are equal.
    """
    _, values, directions = torch.linalg.svd(means.centred, full_matrices=False)
    nonzero = values > _FLAT * values[0]
    if not nonzero.any():
        return float("nan")
    count = len(means.labels)
    inverse = directions[nonzero].T * (count**0.5 / values[nonzero])  # a square root of Σ_B⁺
    traces = [
        ((states[y == label].double() - mean) @ inverse).square().sum(1).mean()
        for label, mean in zip(means.labels, means.of_class, strict=True)
    ]
    return float(torch.stack(traces).mean() / count)


def norm_spread(means: Means) -> float:
    """Return the first part of NC2: the standard deviation of ``|μ_c - μ|`` over its mean."""
    norms = means.centred.norm(dim=1)
    return float(norms.std(correction=0) / norms.mean())


def angles(means: Means) -> tuple[float, float]:
    """Return the other parts of NC2, about the cosines between two centred class means.

    The first is their standard deviation over all pairs, the second the mean distance to
    ``-1 / (C - 1)``, the cosine of the greatest angle that C vectors can have with each other.
    """
    unit = means.centred / means.centred.norm(dim=1, keepdim=True)
    count = len(unit)
    cosines = (unit @ unit.T)[~torch.eye(count, dtype=torch.bool, device=unit.device)]
    distance = (cosines + 1 / (count - 1)).abs().mean()
    return float(cosines.std(correction=0)), float(distance)


def duality(weight: Tensor, means: Means) -> float:
    """Return NC3, ``|W / |W| - M / |M||²`` with Frobenius norms, from 0 to 4.

    Args:
        weight: the weights W of the last linear layer, ``(classes, dim)``, of all classes.
        means: the class means of its input, whose centred rows are M.
    """
    rows = weight[means.labels].double()
    centred = means.centred
    return float((rows / rows.norm() - centred / centred.norm()).square().sum())


def nearest_mismatch(states: Tensor, means: Means, decided: Tensor) -> float:
    """Return NC4: the share of examples for which the nearest class mean is not the decision, in %.

    Args:
        states: hidden states, ``(n, dim)``.
        means: the class means of the training set.
        decided: the class that the network decides for, ``(n,)``.
    """
    nearest = [
        means.labels[torch.cdist(part.double(), means.of_class).argmin(1)]
        for part in states.split(1000)
    ]
    return 100 * (torch.cat(nearest) != decided).double().mean().item()


def measured(states: Tensor, y: Tensor, weight: Tensor | None) -> dict[str, float | None]:
    """Return NC1 to NC3 of states and their own class means; NC3 is ``None`` without weights."""
    means = class_means(states, y)
    deviation, distance = angles(means)
    return {
        "nc1": within_between(states, y, means),
        "nc2_norms": norm_spread(means),
        "nc2_angles": deviation,
        "nc2_maximal": distance,
        "nc3": None if weight is None else duality(weight, means),
    }
