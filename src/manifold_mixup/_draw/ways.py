"""Draw what a way of mixing needs besides λ and partners: boxes, holes, noise."""

import torch
from torch import Tensor

from manifold_mixup._blend import Align, Cut, PatchUp, SimilarityKernel, Way
from manifold_mixup._box import AXES, Box
from manifold_mixup._draw.draws import uniform
from manifold_mixup._holes import Holes
from manifold_mixup._noise import DrawnNoise, Noise
from manifold_mixup._plan import Weight
from manifold_mixup._transport import Aligned


def weight_of(way: Way, lam: Tensor, generator: torch.Generator) -> Weight | None:
    """Draw how positions are weighed; None if all by λ."""
    if isinstance(way, Cut):
        centre = torch.rand(
            *lam.shape, AXES, dtype=torch.float64, generator=generator, device="cpu"
        )
        if lam.ndim:
            return Box(centre, 1 - lam.double())
        return Box.unchecked(centre.tolist(), 1 - lam.item())
    if isinstance(way, PatchUp):
        return Holes(way.block, way.rate, way.soft, _random_key(generator))
    if isinstance(way, Align):
        return Aligned(uniform(generator) < 0.5, way.epsilon, way.rounds)
    return way if isinstance(way, SimilarityKernel) else None


def drawn_noise(noise: Noise, generator: torch.Generator) -> DrawnNoise:
    """Draw the levels of noise of a batch, and the key of its random numbers."""
    numbers = torch.rand(2, 6, dtype=torch.float64, generator=generator, device="cpu")
    add, multiply = numbers.sort().values[:, 1].float()  # Beta(2, 5), an order statistic
    return DrawnNoise(noise.add * add, noise.multiply * multiply, _random_key(generator))


def _random_key(generator: torch.Generator) -> Tensor:
    return torch.randint(2**62, (), generator=generator, dtype=torch.int64, device="cpu")
