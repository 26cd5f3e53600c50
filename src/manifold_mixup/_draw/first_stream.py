"""The first stream of plans, with which runs go on that began before the second one."""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from manifold_mixup._draw.beta import beta_from_uniforms
from manifold_mixup._draw.draws import Draws, uniforms


def step_generator(seed: int, rank: int, step: int) -> torch.Generator:
    """Return the generator of one step of the first stream, by (seed, rank, step) alone.

    The three are hashed, so that streams never coincide systematically (seed 0 on rank 1 is not
    seed 1 on rank 0). PyTorch's CPU generator keeps 32 bits of its seed, so among n steps about
    n²/2³³ pairs get the same plan, far apart and for different examples.
    """
    digest = hashlib.blake2b(f"{seed}/{rank}/{step}".encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest))


class FirstDraws(Draws):
    """The random numbers of a plan.

    Args:
        generator: for everything.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__((), generator)

    def layer(self, layers: Sequence[str]) -> str:
        """Draw one of the layers."""
        number = torch.randint(len(layers), (), generator=self.generator, device="cpu")
        return layers[int(number)]

    def lam(self, alpha: float, own_alpha: float | None, batch: int | None) -> Tensor:
        """Draw λ; see `Draws.lam`.

        `_first_beta` and `beta_from_uniforms` may differ in the last bit of float64, so each is
        used for the draws for which the first stream used it.
        """
        if batch is None and own_alpha is not None:
            value = beta_from_uniforms(own_alpha, *uniforms(2, self.generator))
            return torch.tensor(value, dtype=torch.float32, device="cpu")
        lam = _first_beta(
            alpha if own_alpha is None else own_alpha, batch or 1, self.generator
        ).float()
        return lam if batch else lam[0]


def _first_beta(alpha: float, n: int, generator: torch.Generator) -> Tensor:
    """Draw what `symmetric_beta` drew in the first stream, to the last bit."""
    numbers = torch.rand(2, n, dtype=torch.float64, generator=generator, device="cpu")
    u, v = numbers.unbind()
    cosine = v.mul_(2 * math.pi).cos_()
    t = u.log_().div_(-float(alpha)).expm1_().mul_(cosine.square())
    smaller = t.reciprocal().add_(1).rsqrt_().add_(1).mul_(t.add_(1)).reciprocal_().mul_(0.5)
    return torch.where(cosine < 0, smaller, 1 - smaller)
