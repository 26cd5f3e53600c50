"""Draw λ ~ Beta(α, α)."""

import math
from numbers import Real

import torch
from torch import Tensor


def symmetric_beta(alpha: float, n: int, generator: torch.Generator) -> Tensor:
    """Draw ``n`` values of Beta(alpha, alpha) in float64, for any alpha above 0.

    This needs two uniforms and no rejection (L. Devroye, Random variate generation in one line of
    code, 1996): with ``t = cos(2πv) sqrt(u^(-1/alpha) - 1)``, half of ``1 + t / sqrt(1 + t²)``. By
    the inverse of sinh, that is a sigmoid, which keeps its relative precision near 0, where nearly
    all of the mass lies if alpha is small.
    """
    numbers = torch.rand(2, n, dtype=torch.float64, generator=generator, device="cpu")
    u, v = numbers.unbind()
    scale = u.log_().div_(-float(alpha)).expm1_().sqrt_()
    return v.mul_(2 * math.pi).cos_().mul_(scale).asinh_().mul_(2).sigmoid_()


def beta_from_uniforms(alpha: float, u: float, v: float) -> float:
    """Return what `symmetric_beta` makes of two uniforms, up to rounding, in Python."""
    cosine = math.cos(2 * math.pi * v)
    exponent = -math.log(u) / float(alpha) if u else math.inf
    t = math.expm1(min(exponent, 700.0)) * cosine * cosine  # beyond, floats overflow
    smaller = 0.5 / ((1 + t) * (1 + math.sqrt(t / (1 + t))))
    return smaller if cosine < 0 else 1 - smaller


def check_alpha(alpha: float) -> None:
    """Raise unless ``alpha`` is a finite number above 0."""
    if not is_number(alpha):
        raise TypeError(
            f"alpha must be a number above 0 or a callable of the step, but is a "
            f"{type(alpha).__name__}."
        )
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(
            f"alpha must be above 0 and finite, but is {alpha}. To turn mixing off, return None "
            f"from a callable alpha, or call paused() or remove()."
        )


def is_number(value: object) -> bool:
    """Return whether a value is a real number; NumPy's are, bools and tensors are not."""
    # The first is much faster than to ask an abstract class.
    return type(value) is float or (isinstance(value, Real) and not isinstance(value, bool))
