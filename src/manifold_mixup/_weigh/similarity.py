"""The share of each pair by the distance of its states (Similarity Kernel Mixup)."""

import math

import torch
from torch import Tensor

from manifold_mixup._blend import SimilarityKernel

# From here on, Beta(τ, τ) is so narrow that the normal distribution has its values to 1e-5.
_NARROW = 2000.0
_LEAST = 3e-3  # the smallest τ, at which λ' is nearly ½ but at the ends
_REACH = 10.0  # in standard deviations; the mass beyond is less than 1e-20


def _node(index: int, count: int) -> tuple[float, float]:
    """Return a node of Gauss and Legendre in 0 to 1, and its weight, by Newton's method."""
    x = math.cos(math.pi * (index + 0.75) / (count + 0.5))
    slope = 1.0
    for _ in range(6):
        before, value = 1.0, x
        for degree in range(2, count + 1):
            before, value = value, ((2 * degree - 1) * x * value - (degree - 1) * before) / degree
        slope = count * (x * value - before) / (x * x - 1)
        x -= value / slope
    return (x + 1) / 2, 1 / ((1 - x * x) * slope * slope)


_NODES, _WEIGHTS = map(list, zip(*[_node(index, 32) for index in range(32)], strict=True))


def share_of_pairs(kernel: SimilarityKernel, lam: Tensor, x: Tensor, perm: Tensor) -> Tensor:
    """Return λ of each pair by the distance of its states, float32 ``(batch,)``.

    Args:
        kernel: the rule.
        lam: λ before, ``()`` or ``(batch,)``.
        x: the states, ``(batch, *features)``.
        perm: the partners.
    """
    states = x.detach().flatten(1)
    states = torch.view_as_real(states).flatten(1) if states.is_complex() else states
    exact = states.to(torch.promote_types(states.dtype, torch.float32))
    most = torch.float32 if x.device.type == "mps" else torch.float64  # which Apple's GPUs lack
    gap = exact - exact[perm]
    # Only ratios of distances matter, and the squares of large states would be infinite.
    greatest = torch.linalg.vector_norm(gap, ord=math.inf)
    gap = gap / torch.where(greatest > 0, greatest, torch.ones_like(greatest))
    squared = gap.square().sum(1).to(most)
    mean = squared.mean()
    ratio = torch.where(mean > 0, squared / mean, torch.ones_like(squared))
    tau = torch.exp((ratio - 1) / (2 * kernel.tau_std**2)) / kernel.tau_max
    return beta_cdf(lam.to(most).expand(len(tau)), tau).to(torch.float32)


def beta_cdf(x: Tensor, a: Tensor) -> Tensor:
    """Return the distribution function of Beta(a, a) at x, with an error below 1e-5 in float64.

    By Gaussian quadrature of the density, and for large ``a`` by a normal distribution of a
    transformed variable (Peizer and Pratt, 1968).
    """
    a = a.clamp(_LEAST, 1e12)
    lower = torch.minimum(x, 1 - x)  # it is symmetric
    small, middle = a.clamp(max=1), a.clamp(1, _NARROW)
    below = torch.where(a < 1, _of_small(lower, small), _of_middle(lower, middle))
    below = torch.where(a > _NARROW, _by_normal(lower, a), below)
    below = torch.where(lower > 0, below, torch.zeros_like(below)).clamp(0, 0.5)
    return torch.where(x <= 0.5, below, 1 - below)


def _of_small(x: Tensor, a: Tensor) -> Tensor:
    """Integrate over ``s = (u / x)^a``, in which the density of ``a`` up to 1 has no pole."""
    nodes, weights = x.new_tensor(_NODES), x.new_tensor(_WEIGHTS)
    inner = x[:, None] * nodes ** (1 / a[:, None])
    total = (torch.exp((a[:, None] - 1) * torch.log1p(-inner)) * weights).sum(1)
    return torch.exp(a * x.clamp(min=torch.finfo(x.dtype).tiny).log() - _log_beta(a)) / a * total


def _of_middle(x: Tensor, a: Tensor) -> Tensor:
    """Integrate the density of ``a`` from 1 on over where it is not negligible."""
    nodes, weights = x.new_tensor(_NODES), x.new_tensor(_WEIGHTS)
    least = (0.5 - _REACH / (8 * a + 4).sqrt()).clamp(min=0)
    width = (x - least).clamp(min=0)
    # in the square root of the distance, whose density is smooth at 0 for every a
    u = least[:, None] + width[:, None] * nodes.square()
    density = (a[:, None] - 1) * (
        u.clamp(min=torch.finfo(x.dtype).tiny).log() + torch.log1p(-u)
    ) - _log_beta(a)[:, None]
    return 2 * width * (density.exp() * nodes * weights).sum(1)


def _log_beta(a: Tensor) -> Tensor:
    return 2 * torch.lgamma(a) - torch.lgamma(2 * a)


def _by_normal(x: Tensor, a: Tensor) -> Tensor:
    """Return the distribution function by the transformation of Peizer and Pratt for equal a."""
    inner = x.clamp(torch.finfo(x.dtype).tiny, 0.5)
    n = 2 * a - 1
    # z² / 2 is the deviance of a binomial with n trials, with their correction.
    deviance = (a - 0.5) * (torch.log(0.5 / inner) + torch.log(0.5 / (1 - inner)))
    z = -(2 * deviance.clamp(min=0)).sqrt() * ((n + 1 / 3) / (n + 1 / 6)).sqrt()
    return torch.special.ndtr(z)  # type: ignore[no-any-return]
