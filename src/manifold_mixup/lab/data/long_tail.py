"""Long-tailed versions of labelled data sets."""

import math
from dataclasses import replace

import torch

from manifold_mixup.lab.data.arrays import Data, shuffled


def long_tailed(data: Data, imbalance: float, *, seed: int = 0) -> Data:
    """Keep a random subset whose classes get rarer and rarer; the test set stays.

    If the data have unlabelled examples, the others are added to them.

    Of class ``k`` of ``K``, ``n_0 · imbalance^(-k / (K - 1))`` training examples are kept, rounded
    down (Cao et al., 2019). ``n_0`` is the size of the first class, or less if a later class is too
    small for that profile.

    Args:
        data: the data, with classes as labels.
        imbalance: how many times more examples the first class has than the last, at least 1.
        seed: the seed of the subset.

    Raises:
        ValueError: ``imbalance`` is less than 1, the labels are no classes, or a class would have
            no example left.
    """
    if not 1 <= imbalance < math.inf:
        raise ValueError(f"imbalance is {imbalance}. Expected a finite number, 1 or more.")
    if data.y.is_floating_point() or data.classes < 2:
        raise ValueError(
            f"imbalance is {imbalance:g}, but {data.name} has no classes as labels. Leave it at 1."
        )
    counts = profile(data.y.bincount(minlength=data.classes).tolist(), imbalance)
    if min(counts) < 1:
        rare = counts.index(min(counts))
        raise ValueError(
            f"imbalance {imbalance:g} leaves no example of class {rare} of {data.name}, whose "
            f"first class has {counts[0]}. Give a smaller imbalance, or more training examples."
        )
    rows = shuffled(len(data.x), seed)
    selected = torch.cat([rows[data.y[rows] == k][:count] for k, count in enumerate(counts)])
    selected = selected.sort().values
    name = f"{data.name}, long tail 1:{imbalance:g}"
    unlabelled = data.unlabelled
    if unlabelled is not None:
        dropped = torch.ones(len(data.x), dtype=torch.bool)
        dropped[selected] = False
        unlabelled = torch.cat([unlabelled, data.x[dropped]])
    return replace(data, name=name, x=data.x[selected], y=data.y[selected], unlabelled=unlabelled)


def profile(counts: list[int], imbalance: float) -> list[int]:
    """Return how many examples of each class a long tail keeps.

    Examples:
        >>> profile([1000, 1000, 1000], 100)
        [1000, 100, 10]
    """
    shares = [imbalance ** (-k / (len(counts) - 1)) for k in range(len(counts))]
    first = min(count / share for count, share in zip(counts, shares, strict=True))
    # A little more, so that rounding errors do not take an example away.
    return [math.floor(first * share * (1 + 1e-12)) for share in shares]
