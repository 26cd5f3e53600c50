"""Draw the plans: every random number of the library comes from here."""

import hashlib
import math
import operator
import struct
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from manifold_mixup import _autograd
from manifold_mixup._blend import (
    Align,
    Blend,
    Cut,
    Interpolate,
    OneOf,
    PatchUp,
    SimilarityKernel,
    Way,
    at_layer,
    check_blend,
    ways_of,
)
from manifold_mixup._box import AXES, Box
from manifold_mixup._holes import Holes
from manifold_mixup._noise import DrawnNoise, Noise
from manifold_mixup._pairs import Near, Pairs, check_pairs, check_partners, check_targets
from manifold_mixup._plan import MixPlan, Weight, check_share, is_permutation, unchecked
from manifold_mixup._remix import LabelRule, check_rule
from manifold_mixup._transport import Aligned
from manifold_mixup._tree import map_leaves

VERSION = 2
"""The stream of plans that new runs draw; runs that began with the first stream go on with it."""

_PLAIN = Interpolate()
Alpha = float | Callable[[int], float | None]


def sample_plan(
    batch: int,
    *,
    layers: Sequence[str],
    alpha: float,
    per_sample: bool = False,
    pairs: Pairs = "any",
    label: LabelRule | None = None,
    blend: Blend = _PLAIN,
    noise: Noise | None = None,
    y: Any = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> MixPlan:
    """Draw the layer, λ and the pairs of one training step (paper, section 2).

    The layer is uniform over ``layers``, λ ~ Beta(alpha, alpha) and the pairs are a uniform
    permutation of the batch, unless ``pairs`` or ``label`` makes them depend on the targets.

    Args:
        batch: number of examples, at least 1.
        layers: the eligible layers S, at least one.
        alpha: both parameters of the Beta distribution, above 0 and finite; `Cut`, `PatchUp`
            and `Align` have their own.
        per_sample: draw one λ, or one box, per example instead of one for the batch.
        pairs: who is mixed with whom; see `ManifoldMixup`.
        label: how much each target counts; see `ManifoldMixup`.
        blend: how a state is mixed with its partner; see `ManifoldMixup`.
        noise: noise on the mixed state; see `ManifoldMixup`.
        y: the targets of the batch, if ``pairs`` or ``label`` depends on them.
        generator: a CPU generator; None takes a fresh one seeded by the operating system. The
            global generator is neither read nor advanced.
        device: device of the plan; None is the CPU. Drawing never waits for the device.

    Raises:
        TypeError: ``alpha`` is not a number, ``layers`` is a single name, or ``pairs`` or ``label``
            cannot use ``y``.
        ValueError: ``batch``, ``layers`` or ``alpha`` is out of range, or ``y`` is missing.

    Examples:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> sample_plan(4, layers=["input", "fc1"], alpha=2.0, generator=generator).layer
        'fc1'
    """
    check_alpha(alpha)
    _check_batch(batch)
    if isinstance(layers, str):
        raise TypeError(f"layers must be a list of names, but is the single name {layers!r}.")
    if len(layers) == 0:
        raise ValueError("layers must name at least one eligible layer.")
    check_pairs(pairs)
    check_rule(label)
    check_ways(blend, noise, label)
    y = targets_for(pairs, label, y, batch)
    if generator is None:
        generator = torch.Generator("cpu")
        generator.seed()
    return _draw_plan(
        batch,
        layers=layers,
        alpha=alpha,
        per_sample=per_sample,
        pairs=pairs,
        label=label,
        blend=blend,
        noise=noise,
        y=y,
        draws=Draws(_uniforms(3, generator), generator),
        device=device,
    )


class Draws:
    """The random numbers of a plan, of the second stream.

    Args:
        numbers: three uniform numbers, for the layer and for one λ of the batch.
        generator: for everything else.
        draw_each: draws a λ for each example, from α and their number; None takes the generator.
    """

    def __init__(
        self,
        numbers: Sequence[float],
        generator: torch.Generator,
        draw_each: Callable[[float, int], Tensor] | None = None,
    ) -> None:
        self.numbers = numbers
        self.generator = generator
        self.draw_each = draw_each

    def layer(self, layers: Sequence[str]) -> str:
        """Draw one of the layers."""
        return layers[int(self.numbers[0] * len(layers))]

    def lam(self, alpha: float, own_alpha: float | None, batch: int | None) -> Tensor:
        """Draw λ.

        Args:
            alpha: α of the run.
            own_alpha: α of the way of mixing, if it has its own.
            batch: the number of examples, each with its λ; None for one λ.
        """
        alpha = alpha if own_alpha is None else own_alpha
        if batch is not None:
            if self.draw_each is not None:
                return self.draw_each(alpha, batch)
            return symmetric_beta(alpha, batch, self.generator).float()
        value = _beta_from_uniforms(alpha, *self.numbers[1:])
        return torch.scalar_tensor(value, dtype=torch.float32, device="cpu")


class FirstDraws:
    """The random numbers of a plan, of the first stream, with which old runs go on.

    Args:
        generator: for everything.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def layer(self, layers: Sequence[str]) -> str:
        """Draw one of the layers."""
        number = torch.randint(len(layers), (), generator=self.generator, device="cpu")
        return layers[int(number)]

    def lam(self, alpha: float, own_alpha: float | None, batch: int | None) -> Tensor:
        """Draw λ; see `Draws.lam`.

        `_first_beta` and `_beta_from_uniforms` may differ in the last bit of float64, so each is
        used for the draws for which the first stream used it.
        """
        if batch is None and own_alpha is not None:
            value = _beta_from_uniforms(own_alpha, *_uniforms(2, self.generator))
            return torch.tensor(value, dtype=torch.float32, device="cpu")
        lam = _first_beta(
            alpha if own_alpha is None else own_alpha, batch or 1, self.generator
        ).float()
        return lam if batch else lam[0]


def _draw_plan(
    batch: int,
    *,
    layers: Sequence[str],
    alpha: float,
    per_sample: bool,
    pairs: Pairs,
    label: LabelRule | None,
    blend: Blend,
    noise: Noise | None,
    y: Any,
    draws: Draws | FirstDraws,
    device: torch.device | str | None,
) -> MixPlan:
    """Draw a plan from settings that were checked, on the CPU whatever the default device is."""
    generator, own_alpha, weight = draws.generator, None, None
    layer = draws.layer(layers)
    plain = blend is _PLAIN
    if not plain:
        one = at_layer(blend, layer)
        way = one.at(_uniform(generator)) if isinstance(one, OneOf) else one
        own_alpha = way.alpha if isinstance(way, Cut | PatchUp | Align) else None
    lam = draws.lam(alpha, own_alpha, batch if per_sample else None)
    perm = _partners(pairs, y, batch, generator)
    if _autograd.in_transform():  # the plan outlives it
        lam, perm = map(_autograd.without_gradients, (lam, perm))
    if not plain:
        weight = _weight(way, lam, generator)
    plan = unchecked(
        layer,
        lam,
        perm,
        weight=weight,
        label=None if label is None else _label_share(label, lam, y, perm),
        noise=None if noise is None else _drawn_noise(noise, generator),
        repeats=pairs not in _PERMUTED and not is_permutation(perm),
    )
    return plan if device is None or device == perm.device else plan.to(device)


def targets_for(pairs: Pairs, label: LabelRule | None, y: Any, batch: int) -> Any:
    """Return the targets that a plan depends on, on the CPU; None if on none.

    Raises:
        TypeError: ``pairs`` cannot use them.
        ValueError: there are none, or another number of them.
    """
    if not needs_targets(pairs, label):
        return None
    if y is None:
        raise ValueError("pairs and label depend on the targets: pass y.")
    y = map_leaves(lambda _, leaf: leaf.detach().cpu(), y)
    check_targets(pairs, y, batch)
    return y


def needs_targets(pairs: Pairs, label: LabelRule | None) -> bool:
    """Return whether a plan depends on the targets."""
    return pairs != "any" or label is not None


_PERMUTED = ("any", "same_class")  # the rules whose partners are a permutation


def _partners(pairs: Pairs, y: Any, batch: int, generator: torch.Generator) -> Tensor:
    """Draw the partners, int64 ``(batch,)``."""
    if pairs == "any":
        return torch.randperm(batch, generator=generator, device="cpu")
    if pairs == "same_class":
        return _partners_of_same_class(y, generator)
    if pairs == "other_class":
        return _partners_of_other_class(y, generator)
    if isinstance(pairs, Near):
        return torch.multinomial(pairs.weights(y), 1, generator=generator)[:, 0]
    return check_partners(pairs(y, generator), batch)


def _partners_of_same_class(y: Tensor, generator: torch.Generator) -> Tensor:
    """Permute the rows of each class, uniformly."""
    rows, partners = (_shuffled_by_class(y, generator) for _ in range(2))
    perm = torch.empty_like(rows)
    perm[rows] = partners
    return perm


def _shuffled_by_class(y: Tensor, generator: torch.Generator) -> Tensor:
    """Return all rows sorted by class, those of each class in random order."""
    order = torch.randperm(len(y), generator=generator, device="cpu")
    return order[y[order].long().argsort(stable=True)]


def _partners_of_other_class(y: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a row of another class for each row; a row keeps itself if there is none."""
    order = y.long().argsort(stable=True)
    _, inverse, counts = y.long().unique(return_inverse=True, return_counts=True)
    first = (counts.cumsum(0) - counts)[inverse]
    same_class = counts[inverse]
    others = len(y) - same_class
    drawn = torch.rand(len(y), dtype=torch.float64, generator=generator, device="cpu")
    place = (drawn * others).long().clamp(max=len(y) - 1)
    place = torch.where(place < first, place, place + same_class)  # skips the own class
    rows = torch.arange(len(y), device="cpu")
    return torch.where(others == 0, rows, order[place.clamp(max=len(y) - 1)])


def _label_share(label: LabelRule, lam: Tensor, y: Any, perm: Tensor) -> Tensor:
    """Return the share of each target by a rule.

    Raises:
        TypeError: the rule returns no tensor.
        ValueError: a share lies outside 0 to 1, or there is not one for each row.
    """
    lam = lam.expand(len(perm))
    share = label(lam, y, map_leaves(lambda _, leaf: leaf[perm], y))
    if not isinstance(share, Tensor):
        raise TypeError(f"the rule label must return a tensor, but gave a {type(share).__name__}.")
    share = share.detach().to("cpu", torch.float32)
    check_share("label", share, perm)
    return share


def _weight(way: Way, lam: Tensor, generator: torch.Generator) -> Weight | None:
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
        return Aligned(_uniform(generator) < 0.5, way.epsilon, way.rounds)
    return way if isinstance(way, SimilarityKernel) else None


def _drawn_noise(noise: Noise, generator: torch.Generator) -> DrawnNoise:
    numbers = torch.rand(2, 6, dtype=torch.float64, generator=generator, device="cpu")
    add, multiply = numbers.sort().values[:, 1].float()  # Beta(2, 5), an order statistic
    return DrawnNoise(noise.add * add, noise.multiply * multiply, _random_key(generator))


def _random_key(generator: torch.Generator) -> Tensor:
    return torch.randint(2**62, (), generator=generator, dtype=torch.int64, device="cpu")


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


def _beta_from_uniforms(alpha: float, u: float, v: float) -> float:
    """Return what `symmetric_beta` makes of two uniforms, up to rounding, in Python."""
    cosine = math.cos(2 * math.pi * v)
    exponent = -math.log(u) / float(alpha) if u else math.inf
    t = math.expm1(min(exponent, 700.0)) * cosine * cosine  # beyond, floats overflow
    smaller = 0.5 / ((1 + t) * (1 + math.sqrt(t / (1 + t))))
    return smaller if cosine < 0 else 1 - smaller


def _first_beta(alpha: float, n: int, generator: torch.Generator) -> Tensor:
    """Draw what `symmetric_beta` drew in the first stream, to the last bit."""
    numbers = torch.rand(2, n, dtype=torch.float64, generator=generator, device="cpu")
    u, v = numbers.unbind()
    cosine = v.mul_(2 * math.pi).cos_()
    t = u.log_().div_(-float(alpha)).expm1_().mul_(cosine.square())
    smaller = t.reciprocal().add_(1).rsqrt_().add_(1).mul_(t.add_(1)).reciprocal_().mul_(0.5)
    return torch.where(cosine < 0, smaller, 1 - smaller)


class Stream:
    """The plans of a training run, one per step: a function of (seed, rank, step) alone.

    Args:
        alpha: a number above 0, or a callable of the step that may return None for no mixing.
        p: probability that a batch is mixed.
        per_sample: draw one λ per example.
        seed: an integer shared by all ranks.
        pairs: who is mixed with whom.
        label: how much each target counts.
        blend: how a state is mixed with its partner.
        noise: noise on the mixed state.
    """

    def __init__(
        self,
        alpha: Alpha,
        *,
        p: float,
        per_sample: bool,
        seed: SupportsIndex,
        pairs: Pairs = "any",
        label: LabelRule | None = None,
        blend: Blend = _PLAIN,
        noise: Noise | None = None,
    ) -> None:
        check_pairs(pairs)
        check_rule(label)
        check_ways(blend, noise, label)
        self.pairs, self.label, self.noise = pairs, label, noise
        self.blend = _PLAIN if type(blend) is Interpolate else blend
        self.needs_targets = needs_targets(pairs, label)  # whether the plans depend on the targets
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
        self.version = VERSION
        self._generator = torch.Generator("cpu")
        if per_sample:
            from manifold_mixup._prefetch import (
                PrefetchedLambdas,
            )  # few need it, and an import takes time

            self._prefetched = PrefetchedLambdas(symmetric_beta)

    def draw(
        self, layers: Sequence[str], batch: int, device: torch.device, y: Any = None
    ) -> MixPlan | None:
        """Draw the plan of the next step; None leaves the batch unmixed."""
        if batch < 1:
            _check_batch(batch)
        alpha: float | None
        if callable(self.alpha):
            alpha = self.alpha(self.step)
            if alpha is not None:
                check_alpha(alpha)
        else:
            alpha = self.alpha
        plan = None
        if alpha is not None:
            gate, draws = self._draws()
            if gate < self.p:
                if self.needs_targets:
                    y = targets_for(self.pairs, self.label, y, batch)
                plan = _draw_plan(
                    batch,
                    layers=layers,
                    alpha=alpha,
                    per_sample=self.per_sample,
                    pairs=self.pairs,
                    label=self.label,
                    blend=self.blend,
                    noise=self.noise,
                    y=y,
                    draws=draws,
                    device=device,
                )
        self.step += 1  # not if the targets were refused
        return plan

    def _draws(self) -> tuple[float, Draws | FirstDraws]:
        """Return the number that decides whether to mix, and those of the plan.

        The former is always drawn, before the others, so that changing p changes nothing else.
        """
        place = self.seed, _rank(), self.step
        if self.version == 1:
            generator = step_generator(*place)
            return _uniform(generator), FirstDraws(generator)
        seed, gate, *numbers = _numbers_of_step(*place)
        self._generator.manual_seed(seed)
        draw_each = partial(self._prefetched.lam, place) if self.per_sample else None
        return gate, Draws(numbers, self._generator, draw_each)


def _uniforms(count: int, generator: torch.Generator) -> list[float]:
    numbers = torch.rand(count, dtype=torch.float64, generator=generator, device="cpu")
    return numbers.tolist()


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), dtype=torch.float64, generator=generator, device="cpu"))


def _rank() -> int:
    distributed = torch.distributed
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_rank() if ready else 0


def step_generator(seed: int, rank: int, step: int) -> torch.Generator:
    """Return the generator of one step of the first stream, by (seed, rank, step) alone.

    The three are hashed, so that streams never coincide systematically (seed 0 on rank 1 is not
    seed 1 on rank 0). PyTorch's CPU generator keeps 32 bits of its seed, so among n steps about
    n²/2³³ pairs get the same plan, far apart and for different examples.
    """
    digest = hashlib.blake2b(f"{seed}/{rank}/{step}".encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest))


def _numbers_of_step(seed: int, rank: int, step: int) -> tuple[int, float, float, float, float]:
    """Return a number of 64 bits and four in [0, 1), a function of (seed, rank, step) alone.

    As with `step_generator`, streams never coincide systematically. The layer, one λ for the batch
    and whether to mix have all their bits from the hash; what a generator draws has 32.
    """
    digest = hashlib.blake2b(f"{seed}/{rank}/{step}".encode(), digest_size=40).digest()
    number, gate, layer, u, v = struct.unpack("<5Q", digest)
    # The 53 high bits of each are the fraction of a float.
    return number, (gate >> 11) * _ULP, (layer >> 11) * _ULP, (u >> 11) * _ULP, (v >> 11) * _ULP


_ULP = 2.0**-53


def check_ways(blend: Blend, noise: object, label: LabelRule | None) -> None:
    """Raise unless ``blend`` and ``noise`` are what they should be, and agree with ``label``.

    Raises:
        TypeError: one is of another kind.
        ValueError: both ``blend`` and ``label`` say how much a target counts.
    """
    check_blend(blend)
    if not isinstance(noise, Noise | None):
        given = f"the class {noise.__name__}" if isinstance(noise, type) else repr(noise)
        raise TypeError(f"noise must be Noise(add=, multiply=) or None, but is {given}.")
    others = [way for way in ways_of(blend) if not isinstance(way, Interpolate)]
    if label is not None and others:
        raise ValueError(
            f"blend={others[0]!r} says itself how much each target counts, from the state, and so "
            f"does label. Use label with Interpolate()."
        )


def _check_batch(batch: int) -> None:
    if batch < 1:
        raise ValueError(f"batch must be at least 1, but is {batch}.")


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
    # The first is much faster than to ask an abstract class.
    return type(value) is float or (isinstance(value, Real) and not isinstance(value, bool))
