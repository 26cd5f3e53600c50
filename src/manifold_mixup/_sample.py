"""Draw the plans: every random number of the library comes from here."""

import hashlib
import math
import operator
from collections.abc import Callable, Sequence
from numbers import Real
from typing import SupportsIndex

import torch
from torch import Tensor

from manifold_mixup._plan import MixPlan, unchecked

Alpha = float | Callable[[int], float | None]


def sample_plan(
    batch: int,
    *,
    layers: Sequence[str],
    alpha: float,
    per_sample: bool = False,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> MixPlan:
    """Draw the layer, λ and the pairs of one training step (paper, section 2).

    The layer is uniform over ``layers``, λ ~ Beta(alpha, alpha) and the pairs are a uniform
    permutation of the batch.

    Args:
        batch: number of examples, at least 1.
        layers: the eligible layers S, at least one.
        alpha: both parameters of the Beta distribution, above 0 and finite.
        per_sample: draw one λ per example instead of one for the batch.
        generator: a CPU generator; None takes a fresh one seeded by the operating system. The
            global generator is neither read nor advanced.
        device: device of the plan; None is the CPU. Drawing never waits for the device.

    Raises:
        TypeError: ``alpha`` is not a number, or ``layers`` is a single name.
        ValueError: ``batch``, ``layers`` or ``alpha`` is out of range.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> sample_plan(4, layers=["input", "fc1"], alpha=2.0, generator=generator).layer
        'input'
    """
    check_alpha(alpha)
    if batch < 1:
        raise ValueError(f"batch must be at least 1, but is {batch}.")
    if isinstance(layers, str):
        raise TypeError(f"layers must be a list of names, but is the single name {layers!r}.")
    if len(layers) == 0:
        raise ValueError("layers must name at least one eligible layer.")
    if generator is None:
        generator = torch.Generator("cpu")
        generator.seed()
    # Always draw on the CPU, whatever torch.set_default_device says.
    layer = layers[int(torch.randint(len(layers), (), generator=generator, device="cpu"))]
    lam = symmetric_beta(alpha, batch if per_sample else 1, generator).float()
    perm = torch.randperm(batch, generator=generator, device="cpu")
    plan = unchecked(layer, lam if per_sample else lam[0], perm)
    return plan if device is None else plan.to(device)


def symmetric_beta(alpha: float, n: int, generator: torch.Generator) -> Tensor:
    """Draw ``n`` values of Beta(alpha, alpha) in float64, for any alpha above 0.

    This needs two uniforms and no rejection (L. Devroye, Random variate generation in one line of
    code, 1996). The smaller of the two shares is computed directly, to keep its relative precision
    near 0, where nearly all of the mass lies if alpha is small.
    """
    u, v = torch.rand(2, n, dtype=torch.float64, generator=generator, device="cpu")
    cosine = torch.cos(2 * math.pi * v)
    t = torch.expm1(-torch.log(u) / alpha) * cosine.square()
    smaller = 0.5 / ((1 + t) * (1 + torch.rsqrt(1 + 1 / t)))
    return torch.where(cosine < 0, smaller, 1 - smaller)


class Stream:
    """The plans of a training run, one per step: a function of (seed, rank, step) alone.

    Args:
        alpha: a number above 0, or a callable of the step that may return None for no mixing.
        p: probability that a batch is mixed.
        per_sample: draw one λ per example.
        seed: an integer shared by all ranks.
    """

    def __init__(self, alpha: Alpha, *, p: float, per_sample: bool, seed: SupportsIndex) -> None:
        if not callable(alpha):
            check_alpha(alpha)
        if not _is_number(p) or not 0 <= p <= 1:
            raise ValueError(f"p must be a fraction of the batches, 0 to 1, but is {p!r}.")
        self.alpha = alpha
        self.p = p
        self.per_sample = per_sample
        if isinstance(seed, bool) or not isinstance(seed, SupportsIndex):
            raise TypeError(f"seed must be an integer, but is a {type(seed).__name__}.")
        self.seed = operator.index(seed)  # turns NumPy's integers into int
        self.step = 0

    def draw(self, layers: Sequence[str], batch: int, device: torch.device) -> MixPlan | None:
        """Draw the plan of the next step; None leaves the batch unmixed."""
        alpha = self.alpha(self.step) if callable(self.alpha) else self.alpha
        if alpha is not None:
            check_alpha(alpha)
        generator = step_generator(self.seed, _rank(), self.step)
        self.step += 1
        # The first number always decides whether to mix, so that changing p changes nothing else.
        if alpha is None or _uniform(generator) >= self.p:
            return None
        return sample_plan(
            batch,
            layers=layers,
            alpha=alpha,
            per_sample=self.per_sample,
            generator=generator,
            device=device,
        )


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), dtype=torch.float64, generator=generator, device="cpu"))


def _rank() -> int:
    distributed = torch.distributed
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_rank() if ready else 0


def step_generator(seed: int, rank: int, step: int) -> torch.Generator:
    """Return the generator of one step: a function of (seed, rank, step) alone.

    The three are hashed, so that streams never coincide systematically (seed 0 on rank 1 is not
    seed 1 on rank 0). PyTorch's CPU generator keeps 32 bits of its seed, so among n steps about
    n²/2³³ pairs get the same plan, far apart and for different examples.
    """
    digest = hashlib.blake2b(f"{seed}/{rank}/{step}".encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest))


def check_alpha(alpha: float) -> None:
    """Raise unless ``alpha`` is a finite number above 0."""
    if not _is_number(alpha):
        raise TypeError(
            f"alpha must be a number above 0 or a callable of the step, but is a "
            f"{type(alpha).__name__}."
        )
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(
            f"alpha must be above 0 and finite, but is {alpha}. To turn mixing off, return None "
            f"from a callable alpha, or call paused() or remove()."
        )


def _is_number(value: object) -> bool:
    """Return whether a value is a real number; NumPy's are, bools and tensors are not."""
    return isinstance(value, Real) and not isinstance(value, bool)
