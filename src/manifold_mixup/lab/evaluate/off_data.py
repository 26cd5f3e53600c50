"""Inputs off the data, and the confidence of a model there.

The paper claims (section 1, Figure 1) that with manifold mixup a network is less confident off the
data. Its figure shows that for the plane of two spirals; this is the same for inputs of any shape.
"""

import torch
from torch import Tensor

from manifold_mixup.lab.data import Data, as_input
from manifold_mixup.lab.data.arrays import shuffled

COUNT = 1000
"""The number of inputs off the data, if so many are found."""
MARGIN = 0.1
"""The share of its width by which the box of the data is extended on each side."""
_NEAR = 0.99  # test inputs whose distance to the training inputs is not yet off the data
_KNOWN, _TESTED = 5000, 1000  # inputs between which distances are measured, for speed
_ROUNDS = 20


def off_data(data: Data, *, generator: torch.Generator, count: int = COUNT) -> Tensor:
    """Draw inputs off the data: uniform in the box of the training inputs, and far from them.

    The box has the range of each feature, a tenth wider on each side, within the bounds of the
    data. An input is kept if its nearest training input is farther away than that of 99 % of the
    test inputs. Distances are Euclidean, with the width of the box as the unit of each feature, to
    5,000 training inputs drawn at random if there are more.

    Args:
        data: the data.
        generator: a CPU generator.
        count: the number of inputs.

    Returns:
        ``(n, …)``, floating point; fewer than ``count``, or none, if the data fill their box.
    """
    low, high = _box(data)
    scale = (high - low).where(high > low, 1).reciprocal()  # a constant feature adds no distance
    training = _subset(data.x, _KNOWN) * scale
    threshold = _nearest_distance(_subset(data.x_test, _TESTED) * scale, training).quantile(_NEAR)
    accepted, left = [low.new_empty(0, len(low))], count
    for _ in range(_ROUNDS):
        candidates = low + (high - low) * torch.rand(count, len(low), generator=generator)
        accepted.append(
            candidates[_nearest_distance(candidates * scale, training) > threshold][:left]
        )
        left -= len(accepted[-1])
        if not left:
            break
    return torch.cat(accepted).view(-1, *data.x.shape[1:]).to(as_input(data.x[:1]).dtype)


def greatest(logits: Tensor) -> float:
    """Return the mean of the greatest softmax, 0 to 1; ``nan`` without inputs."""
    return logits.double().softmax(1).amax(1).mean().item()


def _box(data: Data) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest value of each feature, each ``(features,)``."""
    parts = [as_input(part).float().flatten(1).aminmax(dim=0) for part in data.x.split(_KNOWN)]
    low = torch.stack([part.min for part in parts]).amin(0)
    high = torch.stack([part.max for part in parts]).amax(0)
    margin = MARGIN * (high - low)
    low, high = low - margin, high + margin
    return (
        (low, high) if data.bounds is None else (low.clamp(*data.bounds), high.clamp(*data.bounds))
    )


def _subset(x: Tensor, most: int) -> Tensor:
    rows = shuffled(len(x), 0)[:most]
    return as_input(x[rows]).float().flatten(1)


def _nearest_distance(x: Tensor, known: Tensor) -> Tensor:
    """Return the distance of each row of ``x`` to the nearest of ``known``."""
    return torch.cat([torch.cdist(part, known).amin(1) for part in x.split(500)])
